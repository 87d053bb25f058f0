"""The ascent itself: it never goes down, and from anywhere it arrives at the truth where truth is best."""

import numpy as np
import pytest

from rlhf_game.agents.ascent import ascend
from rlhf_game.agents.payoffs import Payoff
from rlhf_game.mechanism.domains import Domain, FixedSum, MaxOne
from rlhf_game.mechanism.spaces.table import TableSolver
from tests.strategies import regularizer

GAMES, OUTCOMES = 60, 4


def drawn(name: str, *, is_paid: bool) -> tuple[Payoff, np.ndarray, np.ndarray]:
    """A payoff of many games, the true rewards (sum 1), and rewards to start from: [1, GAMES, OUTCOMES]."""
    rng = np.random.default_rng(0)
    truth, others = rng.dirichlet(np.ones(OUTCOMES), (2, GAMES))
    reference = rng.dirichlet(np.full(OUTCOMES, 5.0), GAMES)
    strength = 6.0 if name == "l2" else 1.0  # weaker, L2 policies stand on faces, where a start can be flat
    payoff = Payoff(TableSolver(regularizer(name, strength), reference), 2 * others, 3 * truth, np.ones(1), is_paid)
    return payoff, truth[None], rng.dirichlet(np.ones(OUTCOMES), (1, GAMES))


@pytest.mark.parametrize("is_paid", [False, True])
@pytest.mark.parametrize("name", ["kl", "l2", "js"])
@pytest.mark.parametrize(
    "domain", [FixedSum(np.zeros(GAMES), np.ones(GAMES)), MaxOne(np.zeros(GAMES))], ids=["sum", "max"]
)
def test_no_payoff_ever_falls(name: str, is_paid: bool, domain: Domain) -> None:
    payoff, _, begun = drawn(name, is_paid=is_paid)
    begun = domain.project(begun)
    scales = np.full((1, GAMES), 3.0)
    before = payoff.at(3.0 * begun)[0]
    values = [ascend(payoff, domain, scales, begun, steps)[0] for steps in (0, 1, 3, 10, 30)]
    np.testing.assert_array_equal(values[0], before)
    for less, more in zip(values[:-1], values[1:], strict=True):
        assert (more >= less).all()
    assert (values[-1] > before + 1e-6).mean() > 0.8


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
def test_with_affine_payments_every_start_arrives_at_a_payoff_of_the_truth(name: str) -> None:
    payoff, truth, begun = drawn(name, is_paid=True)
    domain = FixedSum(np.zeros(GAMES), np.ones(GAMES))
    value, reached = ascend(payoff, domain, np.full((1, GAMES), 3.0), begun, 300)
    honest = payoff.at(3.0 * truth)[0]
    assert (value <= honest + 1e-12).all()
    np.testing.assert_allclose(value, honest, atol=1e-9)
    np.testing.assert_allclose(payoff.at(3.0 * reached)[0], value, atol=1e-15)
