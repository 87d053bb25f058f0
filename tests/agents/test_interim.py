"""Interim regret: a rule that is truthful on average and not in every case, and one that is neither; by enumeration."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.foreign import foreign
from rlhf_game.agents.interim import Interim, interim_regret
from rlhf_game.errors import InputError
from rlhf_game.mechanism.mechanism import Mechanism

Q, STRENGTH = np.array([0.5, 0.5]), 0.3
TYPES = np.array([[1.0, 0.0], [0.3, 1.0]])
"""Of the other group, equally likely; sizes are 1."""
TRUTH = rg.Group("me", [1.0, 0.6], 1)
REPORTS = [*([1.0, y] for y in np.linspace(0, 1, 401)), *([x, 1.0] for x in np.linspace(0, 1, 401))]
SPACE = rg.Table(Q, rg.KL(STRENGTH), normalization="max")


def policy(score: np.ndarray) -> np.ndarray:
    p = Q * np.exp((score - score.max()) / STRENGTH)
    return p / p.sum()


def expected_externality(rewards: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d'Aspremont and Gerard-Varet 1979: each is paid what its report is worth to the others, on average over them."""

    def worth_to_others(i: int) -> float:
        out = []
        for other in TYPES:
            p = policy(sizes[i] * rewards[i] + other)
            out.append(p @ other - STRENGTH * np.sum(p * np.log(p / Q)))
        return float(np.mean(out))

    return policy(sizes @ rewards), np.array([-worth_to_others(0), -worth_to_others(1)])


def pay_as_bid(rewards: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = policy(sizes @ rewards)
    return p, sizes * (rewards @ p)


def draw(rng: np.random.Generator) -> list[rg.Report]:
    return [rg.Report(TYPES[rng.integers(2)], 1)]


def found_of(mechanism: Mechanism, seed: int = 0, samples: int = 40) -> Interim:
    rng = np.random.default_rng(seed)
    return interim_regret(mechanism, TRUTH, 0, SPACE, draw, size_limit=1, samples=samples, rng=rng)


def exact(function: object) -> float:
    """The interim regret over a grid of all reports, the mean over the two types taken exactly."""
    truth = np.asarray(TRUTH.reward)

    def mean(said: object) -> float:
        utilities = []
        for other in TYPES:
            p, paid = function(np.array([said, other]), np.ones(2))  # type: ignore[operator]
            utilities.append(p @ truth - paid[0])
        return float(np.mean(utilities))

    return max(map(mean, REPORTS)) - mean(TRUTH.reward)


def test_expected_externality_is_truthful_on_average_and_not_in_every_case() -> None:
    assert exact(expected_externality) == pytest.approx(0, abs=1e-9)
    found = found_of(foreign(expected_externality))
    assert float(found.regret.high) < 0.01  # what is left is that the two types are not drawn equally often
    world = rg.World(foreign(expected_externality), SPACE, (rg.Report(TYPES[0], 1),), 0, 1)
    honest = world.utility(TRUTH, rg.Report(TRUTH.reward, 1))
    assert max(world.utility(TRUTH, rg.Report(said, 1)) for said in REPORTS[::20]) > honest + 0.01


def test_pay_as_bid_is_neither_and_the_interval_holds_its_interim_regret() -> None:
    known = exact(pay_as_bid)
    assert known > 0.02
    covered = [found_of(foreign(pay_as_bid), seed, 30).regret.contains(known, slack=1e-3) for seed in range(2)]
    assert any(covered)


def test_affine_payments_leave_nothing_and_no_payments_do() -> None:
    paid = found_of(rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()))
    assert (float(paid.regret.low), float(paid.regret.high)) == (0.0, 0.0)
    np.testing.assert_array_equal(paid.report.reward, TRUTH.reward)
    free = found_of(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()))
    assert float(free.regret.low) > 0.02


def test_one_sample_is_no_mean() -> None:
    with pytest.raises(InputError, match="samples must be an integer >= 2"):
        found_of(foreign(pay_as_bid), samples=1)
