"""The audit: brackets, witnesses, certificates, and wrong payments that it catches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.audit import standard_strategies
from rlhf_game.agents.misreports import Truthful
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regret import measure
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import Trained
from tests.mechanism.wrong import WithoutTheRegularizer
from tests.strategies import regularizer

PAYMENTS = {"none": rg.NoPayments(), "affine": rg.AffinePayments(), "revenue": rg.RevenueOptimal()}


def game(seed: int, outcomes: int = 4, prompts: int | None = None) -> tuple[Any, list[rg.Group]]:
    rng = np.random.default_rng(seed)
    shape = (outcomes,) if prompts is None else (prompts, outcomes)
    rows = shape[:-1] or None
    reference = rng.dirichlet(np.ones(outcomes), rows)
    groups = [rg.Group(f"g{i}", rng.dirichlet(np.ones(outcomes), rows), int(rng.integers(1, 4))) for i in range(3)]
    return reference, groups


@pytest.mark.parametrize(
    ("name", "payment", "prompts"),
    [
        *((name, payment, prompts) for name in ("kl", "l2") for payment in PAYMENTS for prompts in (None, 2)),
        ("hellinger", "none", None),
        ("hellinger", "affine", None),
    ],
)
def test_every_number_can_be_settled_again(name: str, payment: str, prompts: int | None) -> None:
    reference, groups = game(8, prompts=prompts)
    space = rg.Table(reference, regularizer(name, 0.6), normalization="sum")
    mechanism = rg.Mechanism(rg.SocialWelfare(), PAYMENTS[payment])
    truth = [rg.Report(group.reward, group.size) for group in groups]
    honest = mechanism.settle(truth, space)
    strategies = standard_strategies(3, starts=16)
    for at, regret in enumerate(rg.audit(mechanism, groups, space, strategies)):
        assert regret.truthful_utility == pytest.approx(honest.utilities[at], abs=1e-15)
        assert len(regret.trials) == len(strategies)
        for trial in regret.trials:
            said = [*truth[:at], trial.report, *truth[at + 1 :]]
            settlement = mechanism.settle(said, space)
            value = settlement.policy.values([space.read(groups[at].reward)])[0]
            again = groups[at].size * value - settlement.payments[at] - regret.truthful_utility
            assert trial.gain == pytest.approx(again, abs=1e-15)
        assert regret.gain == max(trial.gain for trial in regret.trials)
        if payment == "none":
            assert regret.bound is None
            assert regret.found == regret.gain > 0.01
        else:
            assert regret.bound == 0
            assert regret.found == 0
            assert regret.is_proved
            assert regret.gain <= regret.best.tolerance < 1e-8
            assert min(trial.gain for trial in regret.trials) < -1e-4  # signed: some lies lose
        assert regret.is_rational
        assert regret.ir_bound is not None
        assert regret.ir_margin >= regret.ir_bound - 1e-12


def test_the_same_seed_gives_the_same_audit() -> None:
    reference, groups = game(5)
    space = rg.Table(reference, rg.KL(0.3), normalization="sum")
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    one, two = (rg.audit(mechanism, groups, space, rng=np.random.default_rng(4)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert [trial.gain for trial in a.trials] == [trial.gain for trial in b.trials]


def test_a_bound_is_in_the_money_of_the_group() -> None:
    """An affine maximiser's payments are divided by mu, and so is the certificate."""
    reference, groups = game(6)
    space = Blunt(rg.Table(reference, rg.KL(0.3), normalization="sum"))
    mechanism = rg.Mechanism(rg.AffineWelfare([0.5, 1.0, 4.0]), rg.AffinePayments())
    regrets = rg.audit(mechanism, groups, space, [rg.Resize(2)])
    gap = mechanism.settle([rg.Report(g.reward, g.size) for g in groups], space).policy.gap
    assert gap > 0
    assert [regret.bound for regret in regrets] == [pytest.approx(gap / mu) for mu in (0.5, 1.0, 4.0)]


# ---- an inexact space: the measured gap is a bound that holds ------------------------------------------------------


@final
class Blunt(PolicySpace[Any]):
    """Trains only half of the way: the optimum for half of the score."""

    def __init__(self, table: rg.Table) -> None:
        self.table = table

    def read(self, reward: Any) -> Any:
        return self.table.read(reward)

    def maximize(self, weights: Array, rewards: Sequence[Any]) -> "BluntPolicy":
        return BluntPolicy(self.table, weights, tuple(rewards))


@final
class BluntPolicy(Policy[Any]):
    """Payments are what Policy defines at whatever was trained: max ASW_-i - ASW_-i(p)."""

    def __init__(self, table: rg.Table, weights: Array, rewards: tuple[Any, ...]) -> None:
        self.table, self.weights, self.rewards = table, weights, rewards
        self.trained = table.maximize(weights / 2, rewards)
        self.divergence = self.trained.divergence
        self.welfare = self._welfare(weights)
        self.gap = table.maximize(weights, rewards).welfare - self.welfare

    def _welfare(self, weights: Array) -> float:
        return float(weights @ self.values(self.rewards)) - self.table.regularizer.strength * self.divergence

    def values(self, rewards: Sequence[Any]) -> Array:
        return self.trained.values(rewards)

    def externalities(self, weights: Array, rewards: Sequence[Any]) -> Array:
        out = []
        for i in range(len(rewards)):
            without = np.where(np.arange(len(self.weights)) == i, 0.0, self.weights)
            out.append(self.table.maximize(without, self.rewards).welfare - self._welfare(without))
        return np.array(out)


def test_the_gap_of_an_inexact_space_bounds_every_gain_and_some_lie_uses_it() -> None:
    reference, groups = game(7)
    table = rg.Table(reference, rg.KL(0.2), normalization="sum")
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    lies = [_Says(report) for report in _reports(400, groups)]
    for regret in rg.audit(mechanism, groups, Blunt(table), [*lies, rg.Resize(2), rg.Resize(4)], size_limit=12):
        assert regret.bound is not None
        assert 0 < regret.found <= regret.bound  # whoever says double is trained on rightly
        assert not regret.is_proved


@final
@dataclass(frozen=True, eq=False)
class _Says:
    report: rg.Report

    def __call__(self, group: rg.Group, world: rg.World, rng: np.random.Generator) -> rg.Report:
        return self.report


def _reports(count: int, groups: list[rg.Group]) -> list[rg.Report]:
    rng = np.random.default_rng(0)
    outcomes = len(groups[0].reward)
    return [rg.Report(rng.dirichlet(np.ones(outcomes) * 0.5), int(rng.integers(1, 12))) for _ in range(count)]


# ---- negative controls ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["kl", "l2"])
def test_payments_without_the_regularizer_term_are_caught(name: str, seed: int) -> None:
    reference, groups = game(seed)
    space = rg.Table(reference, regularizer(name, 2.0), normalization="sum")
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), WithoutTheRegularizer()), groups, space)
    assert any(regret.is_refuted and regret.found > 1e-4 for regret in regrets)
    assert all(regret.bound is None for regret in regrets)


@final
@dataclass(frozen=True)
class Flat(rg.PaymentRule[rg.AffineRule]):
    """Everybody owes the same, whatever it says."""

    amount: float

    def charge(self, optimum: Trained[rg.AffineRule]) -> Array:
        return np.full(len(optimum.rewards), self.amount)


def test_payments_that_take_more_than_a_group_has_are_caught() -> None:
    reference, groups = game(1)
    space = rg.Table(reference, rg.KL(0.3), normalization="sum")
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), Flat(5.0)), groups, space, [Truthful()])
    assert not any(regret.is_rational for regret in regrets)
    assert all(regret.ir_bound is None for regret in regrets)


def test_negative_rewards_can_make_a_truthful_group_lose() -> None:
    """IR needs rewards >= 0: one outcome, so nothing can be moved and nothing is charged."""
    (regret,) = rg.audit(
        rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()), [rg.Group("one", [-0.25], 2)], rg.Table([1.0], rg.KL(1))
    )
    assert regret.ir_margin == -0.5
    assert regret.ir_bound == -0.5
    assert not regret.is_rational


# ---- finite type sets, and what is refused -------------------------------------------------------------------------


def test_a_finite_set_of_types_is_tried_whole() -> None:
    menu = rg.Menu([0, 0, 0], normalization="max")
    types = [rg.Report(row, size) for row in ([1, 0, 0], [0, 1, 0], [0.2, 0.6, 1]) for size in (1, 2)]
    groups = [rg.Group("one", [0.2, 0.6, 1]), rg.Group("two", [0, 1, 0]), rg.Group("three", [1, 0, 0])]
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), groups, menu, types=types)
    assert [len(regret.trials) for regret in regrets] == [6, 6, 6]
    # by hand: sums are (1.2, 1.6, 1), entry 1 is chosen; only "three" can gain, with size 2 for its entry
    assert [regret.found for regret in regrets] == [0, 0, 1]
    assert [regret.bound for regret in regrets] == [0, 0, 1]
    assert regrets[2].report.size == 2


def test_nothing_found_is_no_proof() -> None:
    reference, groups = game(1)
    space = rg.Table(reference, rg.KL(0.3), normalization="sum")
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), groups, space, [Truthful()])
    assert all(regret.found == 0 and not regret.is_proved and not regret.is_refuted for regret in regrets)


def test_wrong_arguments_are_named() -> None:
    reference, groups = game(1)
    space = rg.Table(reference, rg.KL(0.3), normalization="sum")
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    with pytest.raises(rg.InputError, match="at least one group"):
        rg.audit(mechanism, [], space)
    with pytest.raises(rg.InputError, match="must not be empty"):
        rg.audit(mechanism, groups, space, types=[])
    with pytest.raises(rg.InputError, match="position must be from 0 to 0"):
        rg.World(mechanism, space, (), 1)
    with pytest.raises(rg.CombinationError, match="misreports of rewards on a Blunt need rewards that are arrays"):
        rg.audit(mechanism, [rg.Group("one", len)], Blunt(space), [rg.Polarize(2)])


def test_a_world_keeps_the_order_of_reports() -> None:
    reference, groups = game(2)
    space = rg.Table(reference, rg.KL(0.3), normalization="sum")
    mechanism = rg.Mechanism(rg.AffineWelfare([1, 2, 3]), rg.AffinePayments())
    truth = [rg.Report(group.reward, group.size) for group in groups]
    world = rg.World(mechanism, space, (truth[0], truth[2]), 1)
    np.testing.assert_array_equal(world.settle(truth[1]).payments, mechanism.settle(truth, space).payments)
    assert world.largest_size == 4 * max(truth[0].size, truth[2].size)
    assert measure(groups[1], world, [("truth", truth[1])]).gain == 0
