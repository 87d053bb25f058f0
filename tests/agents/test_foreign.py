"""Mechanisms that are not ours: audited as any other, and every way to be wrong is one line."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.audit import audit, standard_strategies
from rlhf_game.agents.foreign import foreign
from rlhf_game.errors import CombinationError, RunError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Q = np.array([0.7, 0.2, 0.1])
SPACE = rg.Table(Q, rg.KL(0.5), normalization="sum")
GROUPS = [rg.Group("a", [0.6, 0.3, 0.1], 3), rg.Group("b", [0.1, 0.2, 0.7], 2)]


def clarke(rewards: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Affine payments, written down once more."""
    score = sizes @ rewards

    def policy(s: np.ndarray) -> np.ndarray:
        p = Q * np.exp((s - s.max()) / 0.5)
        return p / p.sum()

    p, pay = policy(score), []
    for i in range(len(sizes)):
        without = policy(score - sizes[i] * rewards[i])
        pay.append(0.5 * np.sum(p * np.log(p / without)))
    return p, np.array(pay)


def pay_as_bid(rewards: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, _ = clarke(rewards, sizes)
    return p, sizes * (rewards @ p)


def test_our_own_rule_as_a_function_has_nothing_to_gain() -> None:
    settled = foreign(clarke).settle([rg.Report(g.reward, g.size) for g in GROUPS], SPACE)
    ours = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    np.testing.assert_allclose(
        settled.payments, ours.settle([rg.Report(g.reward, g.size) for g in GROUPS], SPACE).payments
    )
    for regret in audit(foreign(clarke), GROUPS, SPACE, standard_strategies(2, 4), size_limit=12):
        assert regret.found == 0
        assert regret.bound is None  # a function proves nothing


def test_pay_as_bid_is_beaten_by_a_lie_with_its_witness() -> None:
    mechanism = foreign(pay_as_bid)
    for at, regret in enumerate(audit(mechanism, GROUPS, SPACE, standard_strategies(2, 4), size_limit=12)):
        assert regret.found > 0.1
        said = [rg.Report(g.reward, g.size) for g in GROUPS]
        said[at] = regret.report
        settled = mechanism.settle(said, SPACE)
        truth = np.asarray(GROUPS[at].reward)
        gained = GROUPS[at].size * settled.policy.probabilities @ truth - settled.payments[at]  # type: ignore[attr-defined]
        assert gained - regret.truthful_utility == pytest.approx(regret.found)


def test_an_audit_finds_more_than_a_learned_network_does_of_its_own_regret() -> None:
    """The network's own misreports in this game gain .187, at a size between the true one and the least."""
    learned = runpy.run_path(str(EXAMPLES / "learned_network.py"))
    drawn, rng = learned["drawn"], np.random.default_rng(2)
    rewards, sizes = drawn(rng, 20_000, 2)
    truth, size = rewards[1], sizes[1]
    space = rg.Table(learned["REFERENCE"], rg.KL(learned["STRENGTH"]), normalization="sum")
    groups = [rg.Group(str(i), r, int(w)) for i, (r, w) in enumerate(zip(truth, size, strict=True))]
    for at, regret in enumerate(audit(foreign(learned["mechanism"]), groups, space, size_limit=learned["LARGEST"])):
        order = [at, 1 - at]
        own = learned["own_estimate"](truth[order][None], size[order][None])[0]
        lies, claims = drawn(rng, 4_000)

        def utility(said: np.ndarray, claim: float, at: int = at) -> float:
            reports, told = truth.copy(), size.astype(float)
            reports[at], told[at] = said, claim
            p, paid = learned["mechanism"](reports, told)
            return float(size[at] * p @ truth[at] - paid[at])

        many = max(map(utility, lies, claims)) - utility(truth[at], size[at])
        assert regret.found > max(own, many, 0.05)
    means = [learned["own_estimate"](rewards[:, order], sizes[:, order]).mean() for order in ([0, 1], [1, 0])]
    assert max(means) < 0.03


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda r, w: ([0.5, 0.5], [0, 0]), "theirs must return 3 probabilities that sum to 1, found shape .2."),
        (lambda r, w: ([0.5, 0.5, 0.5], [0, 0]), "theirs must return 3 probabilities"),
        (lambda r, w: ([0.5, 0.6, -0.1], [0, 0]), "probabilities that sum to 1, found shape .3."),
        (lambda r, w: ([1, 0, 0], [0]), "theirs must return 2 payments, one per group"),
        (lambda r, w: ([1, 0, 0], [0, np.nan]), "theirs must return 2 payments"),
        (lambda r, w: 3, "theirs failed: TypeError"),
        (lambda r, w: 1 / 0, "theirs failed: ZeroDivisionError"),
    ],
)
def test_what_is_no_mechanism_is_said(function: Any, message: str) -> None:
    with pytest.raises(RunError, match=message):
        foreign(function, "theirs").settle([rg.Report(g.reward, g.size) for g in GROUPS], SPACE)


def test_it_needs_a_table_for_one_prompt() -> None:
    with pytest.raises(CombinationError, match="need a Table, not Menu"):
        foreign(clarke, "theirs").settle([rg.Report([1.0, 0.0])], rg.Menu([0.0, 0.0], 1.0))
