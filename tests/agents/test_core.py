"""The core: by every coalition, the classic public good that is not in it, and the least revenue that is."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.core import coalitional_rationality, core
from rlhf_game.errors import CombinationError, InputError

AFFINE = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())


def groups_of(rewards: np.ndarray, sizes: np.ndarray) -> list[rg.Group]:
    return [rg.Group(str(i), r, int(w)) for i, (r, w) in enumerate(zip(rewards, sizes, strict=True))]


def by_hand(groups: list[rg.Group], space: rg.Table, payments: np.ndarray, rule: rg.Mechanism = AFFINE) -> float:
    """The most that any set of groups and the provider gain, one after the other."""
    settled = rule.settle([rg.Report(g.reward, g.size) for g in groups], space)
    worth = settled.sizes * settled.values
    cost = worth.sum() - settled.affine_social_welfare
    alone = rule.settle([rg.Report(np.zeros(len(np.asarray(groups[0].reward))), 1)], space).affine_social_welfare
    gains = [alone - (payments.sum() - cost)]
    for size in range(1, len(groups)):
        for some in combinations(range(len(groups)), size):
            alone = rule.settle([rg.Report(groups[i].reward, groups[i].size) for i in some], space)
            has = payments.sum() - cost + sum(worth[i] - payments[i] for i in some)
            gains.append(alone.affine_social_welfare - has)
    return max(gains)


def test_the_worst_gain_is_that_of_every_coalition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        groups = groups_of(rng.dirichlet(np.ones(4), 4), rng.integers(1, 5, 4))
        space = rg.Table(rng.dirichlet(np.ones(4)), rg.KL(0.3))
        found = core(AFFINE, groups, space)
        payments = AFFINE.settle([rg.Report(g.reward, g.size) for g in groups], space).payments
        assert found.worst_gain == pytest.approx(by_hand(groups, space, payments), abs=1e-12)
        assert found.least_revenue >= payments.sum() - 1e-9  # affine payments are the least that are truthful


def test_a_boost_is_the_provider_s_own_reward() -> None:
    rng = np.random.default_rng(1)
    blocked = set()
    for _ in range(10):
        groups = groups_of(rng.dirichlet(np.ones(3), 3), rng.integers(1, 5, 3))
        space = rg.Table(rng.dirichlet(np.ones(3)), rg.KL(0.3))
        rule = rg.Mechanism(rg.AffineWelfare(boost=3 * rng.random(3)), rg.AffinePayments())
        found = core(rule, groups, space)
        payments = rule.settle([rg.Report(g.reward, g.size) for g in groups], space).payments
        assert found.worst_gain == pytest.approx(by_hand(groups, space, payments, rule), abs=1e-12)
        blocked.add(found.blocking)
    assert len(blocked) > 1


def test_a_provider_that_pays_more_than_it_earns_would_rather_train_nothing() -> None:
    """Ten groups that want the same pay next to nothing each, and moving the model costs all that it costs."""
    groups = groups_of(np.tile([1.0, 0.0], (10, 1)), np.ones(10))
    space = rg.Table([0.5, 0.5], rg.KL(1.0))
    settled = AFFINE.settle([rg.Report(g.reward, g.size) for g in groups], space)
    found = core(AFFINE, groups, space)
    assert found.blocking == ()
    assert found.worst_gain == pytest.approx(settled.policy.divergence - settled.revenue)
    assert found.worst_gain > 0.5
    assert found.least_revenue == pytest.approx(settled.policy.divergence)


def test_a_public_good_is_given_away_and_the_big_group_objects() -> None:
    """Two small groups together outbid the big one, and neither pays: it would have paid for its own outcome."""
    groups = [rg.Group("big", [0.0, 1.0], 10), rg.Group("one", [1.0, 0.0], 10), rg.Group("two", [1.0, 0.0], 10)]
    found = core(AFFINE, groups, rg.Table([0.5, 0.5], rg.KL(0.01)))
    assert not found.is_in
    assert found.blocking == ("big",)
    assert found.worst_gain == pytest.approx(10, abs=0.05)
    assert found.least_revenue == pytest.approx(10, abs=0.05)
    none = core(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), groups[:2], rg.Table([0.5, 0.5], rg.KL(0.01)))
    assert not none.is_in


def test_two_groups_with_affine_payments_are_in_the_core() -> None:
    groups = [rg.Group("a", [0.6, 0.3, 0.1], 3), rg.Group("b", [0.1, 0.2, 0.7], 2)]
    found = core(AFFINE, groups, rg.Table([0.7, 0.2, 0.1], rg.KL(0.5)))
    assert found.is_in
    assert found.least_revenue == pytest.approx(0.373756102268, abs=1e-9)


@dataclass(frozen=True)
class _Surcharge(rg.PaymentRule[rg.AffineRule]):
    """A rule that no set of groups has to accept: the affine payment and so much more of everybody."""

    amount: float

    def charge(self, optimum: Any) -> np.ndarray:
        return np.asarray(optimum.externalities() / optimum.weights + self.amount)


def own_models(groups: list[rg.Group], space: rg.Table, utilities: np.ndarray) -> tuple[float, set[str]]:
    """The most that some groups would have more by a model of their own, one set after the other, and who they are."""
    best: tuple[float, set[str]] = (-np.inf, set())
    free = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    for size in range(1, len(groups) + 1):
        for some in combinations(range(len(groups)), size):
            alone = free.settle([rg.Report(groups[i].reward, groups[i].size) for i in some], space)
            gain = alone.affine_social_welfare - utilities[list(some)].sum()
            best = max(best, (gain, {groups[i].name for i in some}), key=lambda one: one[0])
    return best


def test_sets_of_groups_lose_together_under_a_surcharge_and_by_no_affine_payments() -> None:
    rng, lost = np.random.default_rng(4), 0
    for amount in (0.0, 0.3, 0.6, 1.2):
        groups = groups_of(rng.dirichlet(np.ones(4), 4), rng.integers(1, 4, 4))
        space = rg.Table(rng.dirichlet(np.ones(4)), rg.KL(0.3))
        rule = rg.Mechanism(rg.AffineWelfare(weights=[1.0, 2.0, 1.0, 1.0]), _Surcharge(amount))
        found = coalitional_rationality(rule, groups, space)
        utilities = rule.settle([rg.Report(g.reward, g.size) for g in groups], space).utilities
        sums = {
            some: utilities[list(some)].sum() for size in range(1, 5) for some in combinations(range(4), size)
        }  # fmt: skip
        assert found.least_utility == pytest.approx(min(sums.values()), abs=1e-12)
        assert sum(utilities[int(name)] for name in found.losing) == pytest.approx(found.least_utility, abs=1e-12)
        assert found.is_met == (min(sums.values()) >= -1e-9)
        gain, leaving = own_models(groups, space, utilities)
        assert found.own_gain == pytest.approx(gain, abs=1e-12)
        assert set(found.leaving) == leaving
        lost += not found.is_met
        assert amount > 0 or found.is_met
    assert 0 < lost < 4


def test_a_group_of_the_golden_game_would_have_more_by_a_model_of_its_own() -> None:
    """G3, by the log-partition: b has max ASW - max ASW of a here, and max ASW of b by itself."""
    rewards, sizes, q = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]), np.array([3, 2]), np.array([0.7, 0.2, 0.1])
    groups = [rg.Group(name, r, int(w)) for name, r, w in zip("ab", rewards, sizes, strict=True)]

    def best(*members: int) -> float:
        return float(0.5 * np.log(q @ np.exp(sum(sizes[i] * rewards[i] for i in members) / 0.5)))

    found = coalitional_rationality(AFFINE, groups, rg.Table(q, rg.KL(0.5)))
    assert found.leaving == ("b",)
    assert found.own_gain == pytest.approx(best(1) - (best(0, 1) - best(0)), abs=1e-12)
    assert found.losing == ("b",)
    assert found.least_utility == pytest.approx(best(0, 1) - best(0), abs=1e-12)


def test_what_the_core_says_nothing_of() -> None:
    groups = groups_of(np.eye(2), np.ones(2))
    table = rg.Table([0.5, 0.5], rg.KL(1.0))
    with pytest.raises(CombinationError, match="weights put in units of their own"):
        core(rg.Mechanism(rg.AffineWelfare(weights=[1.0, 2.0]), rg.AffinePayments()), groups, table)
    many = groups_of(np.tile([1.0, 0.0], (13, 1)), np.ones(13))
    with pytest.raises(InputError, match="groups must be at most 12 for all sets of them, got 13"):
        core(AFFINE, many, table)
