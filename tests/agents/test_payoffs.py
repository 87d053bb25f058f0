"""Payoffs of joint reports against settlements, and their gradients against differences."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.search import search_problem
from rlhf_game.mechanism.spaces.chain import Chain
from tests.strategies import regularizer

AUTOMATON = Chain(
    [[0, 1, -1], [0, 1, -1]], [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2]], rg.KL(0.7), horizon=4, normalization="none"
)


def game(space: object, payment: object, members: int, rng: np.random.Generator) -> tuple:
    shape = space.shape if isinstance(space, Chain) else np.shape(space.reference[0])
    groups = [rg.Group(f"g{i}", rng.random(shape), int(rng.integers(1, 4))) for i in range(3)]
    boost = rng.random(shape) / 3
    mechanism = rg.Mechanism(rg.AffineWelfare([1.0, 2.5, 0.4], boost), payment)
    inside = list(range(members))
    others = [(at, rg.Report(groups[at].reward, groups[at].size)) for at in range(members, 3)]
    stage = search_problem(mechanism, space, [(at, groups[at]) for at in inside], others, [groups[at] for at in inside])
    return mechanism, groups, stage


def shares_of(stage: object, space: object, said: list[np.ndarray], sizes: np.ndarray) -> np.ndarray:
    rows = np.stack([space.coordinates(reward).sheets(reward)[0] for reward in said])
    return (stage.multipliers * sizes)[:, None, None] * rows


@pytest.mark.parametrize("payment", [rg.NoPayments(), rg.AffinePayments()])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", ["kl", "l2", "js", "alpha:3", "automaton"])
def test_a_payoff_is_what_the_settlement_says(name: str, members: int, payment: object) -> None:
    """Up to what no report changes: the difference between two joint reports is the same."""
    rng = np.random.default_rng(4)
    space = AUTOMATON if name == "automaton" else rg.Table(rng.dirichlet(np.ones(4), 1), regularizer(name, 0.6))
    mechanism, groups, stage = game(space, payment, members, rng)
    differences = []
    for _ in range(2):
        said, sizes = [rng.random(np.shape(g.reward)) for g in groups[:members]], rng.integers(1, 5, members)
        reports = [rg.Report(reward, int(size)) for reward, size in zip(said, sizes, strict=True)]
        reports += [rg.Report(g.reward, g.size) for g in groups[members:]]
        settlement = mechanism.settle(reports, space)
        values = settlement.policy.values([space.read(g.reward) for g in groups[:members]])
        money = values @ [g.size for g in groups[:members]] - settlement.payments[:members].sum()
        differences.append(money - stage.payoffs[0].at(shares_of(stage, space, said, sizes))[0][0])
    assert differences[0] == pytest.approx(differences[1], abs=1e-11)


@pytest.mark.parametrize("payment", [rg.NoPayments(), rg.AffinePayments()])
@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("name", ["kl", "l2", "js", "alpha:3", "automaton"])
def test_the_gradient_is_that_of_the_payoff(name: str, members: int, payment: object) -> None:
    rng = np.random.default_rng(6)
    space = AUTOMATON if name == "automaton" else rg.Table(rng.dirichlet(np.ones(4), 1), regularizer(name, 1.0))
    _, groups, stage = game(space, payment, members, rng)
    shares = shares_of(stage, space, [rng.random(np.shape(g.reward)) for g in groups[:members]], np.ones(members))
    payoff = stage.payoffs[0]
    _, gradient = payoff.at(shares)
    step = 1e-5
    for at in np.ndindex(shares.shape):
        move = np.zeros_like(shares)
        move[at] = step
        difference = (payoff.at(shares + move)[0][0] - payoff.at(shares - move)[0][0]) / (2 * step)
        assert gradient[at] == pytest.approx(difference, abs=2e-8)


def test_the_gradient_is_zero_at_the_truth_with_affine_payments() -> None:
    rng = np.random.default_rng(9)
    space = rg.Table(rng.dirichlet(np.ones(5), 1), rg.KL(0.3))
    _, groups, stage = game(space, rg.AffinePayments(), 1, rng)
    truth = shares_of(stage, space, [groups[0].reward], np.array([groups[0].size]))
    np.testing.assert_allclose(stage.payoffs[0].at(truth)[1], 0, atol=1e-14)
