"""How many misreports a second, 3 groups and 10 outcomes, and how long an audit takes; on one core."""

from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.misreports import Noisy, RaiseAndLower, RewardMisreport
from rlhf_game.agents.payoffs import Payoff
from rlhf_game.mechanism.domains import FixedSum
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.spaces.table import TableSolver

COUNT, GROUPS, OUTCOMES = 100_000, 3, 10


def utilities(payoff: Payoff, lie: RewardMisreport, truths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The first group's utility in many games at once, up to what it cannot change: [COUNT]."""
    domain = FixedSum(np.zeros(len(truths)), np.ones(len(truths)))
    said = lie.distort(truths, domain, np.random.default_rng(0))
    return payoff.at(sizes[None, :, None] * said[None])[0]


@pytest.mark.parametrize("lie", [RaiseAndLower(0.01), Noisy(0.1)], ids=lambda lie: type(lie).__name__)
@pytest.mark.parametrize("regularizer", [rg.KL(0.2), rg.SquaredL2(1.0)], ids=lambda rule: rule.name)
def test_misreports_per_second(benchmark: Any, regularizer: Regularizer, lie: RewardMisreport) -> None:
    """Every misreport in a game of its own: made, trained on, paid for, with the gradient by the report."""
    rng = np.random.default_rng(1)
    rewards = rng.random((GROUPS, COUNT, OUTCOMES))
    rewards /= rewards.sum(axis=2, keepdims=True)
    sizes = rng.integers(1, 11, (GROUPS, COUNT)).astype(float)
    others = (sizes[1:, :, None] * rewards[1:]).sum(axis=0)
    stake = sizes[0][:, None] * rewards[0]
    payoff = Payoff(
        TableSolver(regularizer, np.full(stake.shape, 1 / OUTCOMES)), others, stake, np.ones(1), is_paid=True
    )
    args = (payoff, lie, rewards[0], sizes[0])
    found = benchmark.pedantic(utilities, args=args, rounds=3, warmup_rounds=1)
    assert (found <= payoff.at(stake[None])[0] + 1e-12).all()  # none gains
    if benchmark.stats is None:  # benchmarks are switched off
        return
    rate = COUNT / benchmark.stats.stats.median
    benchmark.extra_info["misreports per second"] = round(rate)
    assert rate >= 100_000


def test_an_audit_of_the_demo_s_size(benchmark: Any) -> None:
    """6 prompts, 12 candidates, 3 groups, no payments (the longest search): well under 30 seconds."""
    rng = np.random.default_rng(2)
    space = rg.Table(rng.dirichlet(np.ones(12), 6), rg.KL(0.2), normalization="max")
    rewards = rng.random((3, 6, 12))
    rewards /= rewards.max(axis=2, keepdims=True)
    groups = [rg.Group(f"g{i}", reward, size) for i, (reward, size) in enumerate(zip(rewards, (4, 2, 1), strict=True))]
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    regrets = benchmark.pedantic(rg.audit, args=(mechanism, groups, space), rounds=1)
    assert all(regret.is_refuted for regret in regrets)
    assert benchmark.stats is None or benchmark.stats.stats.max < 30
