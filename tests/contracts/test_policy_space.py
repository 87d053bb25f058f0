"""The contract of PolicySpace and Policy, run on every implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.spaces.base import PolicySpace
from tests.contracts.implementations import IMPLEMENTATIONS, Implementation, mix

TIGHT = 1e-9
"""Absolute, for welfares of order 1 to 10: what is left of a difference of two of them."""


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda implementation: implementation.name)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return request.param


def make(
    implementation: Implementation, seed: int, groups: int = 3
) -> tuple[PolicySpace[Any], np.ndarray, list[Any], list[Any]]:
    """Return a space, sizes, and rewards as reported and as read."""
    rng = np.random.default_rng(seed)
    space = implementation.build(implementation.strength)
    reported = [implementation.draw(rng) for _ in range(groups)]
    return space, rng.integers(1, 5, groups).astype(float), reported, [space.read(reward) for reward in reported]


def settle(space: PolicySpace[Any], rewards: list[Any], sizes: Any, payment: Any = None) -> rg.Settlement:
    reports = [rg.Report(reward, size=int(size)) for reward, size in zip(rewards, sizes, strict=True)]
    return rg.Mechanism(rg.SocialWelfare(), payment or rg.AffinePayments()).settle(reports, space)


def test_welfare_is_value_minus_cost(implementation: Implementation) -> None:
    space, sizes, _, rewards = make(implementation, 0)
    policy = space.maximize(sizes, rewards)
    assert space.strength == implementation.strength
    expected = sizes @ policy.values(rewards) - implementation.strength * policy.divergence
    assert policy.welfare == pytest.approx(expected, abs=TIGHT)
    assert policy.gap == 0
    assert policy.divergence >= 0


def test_no_policy_trained_on_other_reports_reaches_more_welfare(implementation: Implementation) -> None:
    space, sizes, _, rewards = make(implementation, 1)
    best = space.maximize(sizes, rewards).welfare
    for seed in range(2, 12):
        _, other_sizes, _, other_rewards = make(implementation, seed)
        other = space.maximize(other_sizes, other_rewards)
        reached = sizes @ other.values(rewards) - implementation.strength * other.divergence
        assert reached <= best + TIGHT
        assert space.shortfall(other, sizes, rewards) == pytest.approx(best - reached, abs=TIGHT)


def test_externality_is_the_difference_of_two_maxima(implementation: Implementation) -> None:
    for seed in range(3):
        space, sizes, _, rewards = make(implementation, seed)
        policy = space.maximize(sizes, rewards)
        values, externalities = policy.values(rewards), policy.externalities(sizes, rewards)
        for i in range(len(rewards)):
            others = np.arange(len(rewards)) != i
            without = space.maximize(sizes[others], [r for j, r in enumerate(rewards) if j != i])
            at_policy = sizes[others] @ values[others] - implementation.strength * policy.divergence
            assert externalities[i] == pytest.approx(without.welfare - at_policy, abs=TIGHT)
            assert externalities[i] >= 0


def test_externality_of_a_pair_that_was_not_trained_on_is_subtracted(implementation: Implementation) -> None:
    space, sizes, _, rewards = make(implementation, 3)
    foreign = space.read(implementation.draw(np.random.default_rng(99)))
    policy = space.maximize(sizes, rewards)
    for weight in (0.5, 2.0):
        without = space.maximize(np.append(sizes, -weight), [*rewards, foreign])
        kept = policy.welfare - weight * policy.values([foreign])[0]
        assert policy.externalities(np.array([weight]), [foreign])[0] == pytest.approx(
            without.welfare - kept, abs=TIGHT
        )


def test_a_group_of_no_weight_changes_nothing_and_pays_nothing(implementation: Implementation) -> None:
    space, sizes, _, rewards = make(implementation, 4)
    weights = sizes.copy()
    weights[1] = 0
    policy = space.maximize(weights, rewards)
    without = space.maximize(sizes[[0, 2]], [rewards[0], rewards[2]])
    assert policy.welfare == pytest.approx(without.welfare, abs=1e-12)
    np.testing.assert_allclose(policy.values(rewards), without.values(rewards), atol=1e-12)
    assert policy.externalities(weights, rewards)[1] == pytest.approx(0, abs=1e-20)


def test_nobody_at_all_leaves_the_reference(implementation: Implementation) -> None:
    space, _, _, rewards = make(implementation, 5)
    constant = space.read(implementation.constant(1.0))
    policy = space.maximize(np.array([1.0]), [constant])
    assert policy.welfare == pytest.approx(1 - implementation.strength * policy.divergence, abs=1e-12)
    if not implementation.name.startswith("Menu"):
        assert policy.divergence == pytest.approx(0, abs=1e-20)
    assert np.isfinite(policy.values(rewards)).all()


def test_a_uniform_report_pays_nothing_and_its_size_changes_nothing(implementation: Implementation) -> None:
    space, sizes, reported, _ = make(implementation, 6)
    settled = [settle(space, [*reported, implementation.constant(1 / 3)], [*sizes, size]) for size in (1, 1_000_000)]
    for one in settled:
        assert one.payments[-1] == pytest.approx(0, abs=1e-20)
        assert one.utilities[-1] == pytest.approx(one.sizes[-1] / 3, rel=1e-12)
    np.testing.assert_allclose(settled[0].payments[:-1], settled[1].payments[:-1], rtol=1e-7, atol=1e-15)
    np.testing.assert_allclose(settled[0].values[:-1], settled[1].values[:-1], rtol=1e-9)


def test_utilities_at_truth_are_not_negative(implementation: Implementation) -> None:
    for seed in range(5):
        space, sizes, reported, _ = make(implementation, seed, groups=4)
        assert settle(space, reported, sizes).utilities.min() >= -1e-13


def test_scaling_rewards_and_strength_scales_money_and_nothing_else(implementation: Implementation) -> None:
    space, sizes, reported, _ = make(implementation, 7)
    before = settle(space, reported, sizes)
    for factor in (1e-3, 7.0, 1e5):
        scaled = [mix(factor, reward, 0, reward) for reward in reported]
        after = settle(implementation.build(implementation.strength * factor), scaled, sizes)
        np.testing.assert_allclose(after.payments, factor * before.payments, rtol=1e-9, atol=1e-15 * factor)
        np.testing.assert_allclose(after.values, factor * before.values, rtol=1e-9)
        assert after.policy.divergence == pytest.approx(before.policy.divergence, rel=1e-9, abs=1e-15)


def test_shifting_a_reward_shifts_its_value_and_nothing_else(implementation: Implementation) -> None:
    space, sizes, reported, _ = make(implementation, 8)
    before = settle(space, reported, sizes)
    for shift in (-0.25, 3.0, 1000.0):
        shifted = [mix(1, reported[0], shift, implementation.constant(1.0)), *reported[1:]]
        after = settle(space, shifted, sizes)
        np.testing.assert_allclose(after.payments, before.payments, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(after.values, before.values + np.array([shift, 0, 0]), atol=1e-9)


def test_no_lie_gains_with_affine_payments(implementation: Implementation) -> None:
    rng = np.random.default_rng(9)
    space, sizes, reported, rewards = make(implementation, 9)
    truthful = settle(space, reported, sizes).utilities[0]
    lies = [(implementation.draw(rng), int(rng.integers(1, 9))) for _ in range(12)]
    lies += [(mix(factor, reported[0], 0, reported[0]), int(sizes[0])) for factor in (0.0, 0.5, 2.0, 10.0)]
    for reward, size in lies:
        told = settle(space, [reward, *reported[1:]], [size, *sizes[1:]])
        assert sizes[0] * told.policy.values([rewards[0]])[0] - told.payments[0] <= truthful + 1e-12


@pytest.mark.parametrize("implementation", [i for i in IMPLEMENTATIONS if i.is_interior], ids=lambda i: i.name)
def test_exaggeration_gains_without_payments(implementation: Implementation) -> None:
    space, sizes, reported, rewards = make(implementation, 10)
    without = rg.NoPayments()
    truthful = settle(space, reported, sizes, without)
    exaggerated = settle(space, [mix(2, reported[0], 0, reported[0]), *reported[1:]], sizes, without)
    assert exaggerated.policy.values([rewards[0]])[0] > truthful.values[0] + 1e-6
    assert (truthful.payments == 0).all()


def test_the_order_of_the_groups_does_not_matter(implementation: Implementation) -> None:
    space, sizes, reported, _ = make(implementation, 11)
    before = settle(space, reported, sizes)
    order = [2, 0, 1]
    after = settle(space, [reported[i] for i in order], sizes[order])
    np.testing.assert_allclose(after.payments, before.payments[order], rtol=1e-9, atol=1e-18)
    np.testing.assert_allclose(after.values, before.values[order], rtol=1e-12)


def test_one_group_is_two_halves_as_far_as_the_policy_goes(implementation: Implementation) -> None:
    space, _, _, rewards = make(implementation, 12, groups=2)
    whole = space.maximize(np.array([4.0, 1.0]), rewards)
    halves = space.maximize(np.array([1.0, 3.0, 1.0]), [rewards[0], rewards[0], rewards[1]])
    assert whole.welfare == pytest.approx(halves.welfare, abs=1e-12)
    np.testing.assert_allclose(whole.values(rewards), halves.values(rewards), rtol=1e-11)


def test_what_was_read_is_not_changed_by_its_author_nor_by_settling(implementation: Implementation) -> None:
    space, sizes, reported, rewards = make(implementation, 13)
    before = space.maximize(sizes, rewards).welfare
    copies = [mix(1, reward, 0, reward) for reward in reported]
    settle(space, reported, sizes)
    for reward, copy in zip(reported, copies, strict=True):
        for row, kept in zip(*((r if isinstance(r, list) else [r]) for r in (reward, copy)), strict=True):
            np.testing.assert_array_equal(row, kept)
            row[...] = -7.0
    assert space.maximize(sizes, rewards).welfare == before


def test_the_same_game_gives_the_same_bits(implementation: Implementation) -> None:
    first, second = ((lambda m: settle(m[0], m[2], m[1]))(make(implementation, 14)) for _ in range(2))
    np.testing.assert_array_equal(first.payments, second.payments)
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize("implementation", [i for i in IMPLEMENTATIONS if "long" not in i.name], ids=lambda i: i.name)
def test_the_rows_of_a_reward_are_the_reward_and_move_the_policy(implementation: Implementation) -> None:
    space, sizes, reported, rewards = make(implementation, 15)
    if isinstance(space, rg.Trie):
        with pytest.raises(rg.CombinationError, match="misreports of rewards on a Trie need rewards that are arrays"):
            space.coordinates(reported[0])
        return
    system = space.coordinates(reported[0])
    rows = [system.sheets(reward) for reward in reported]
    again = [space.read(system.reward(sheets)) for sheets in rows]
    policy = space.maximize(sizes, rewards)
    np.testing.assert_allclose(policy.values(again), policy.values(rewards), rtol=1e-12)
    assert (np.abs(policy.values(rewards)) <= [space.magnitude(reward) for reward in rewards]).all()
    welfare, means = 0.0, np.zeros(len(rewards))
    for k, weights in enumerate(system.prompt_weights()):
        solver = system.solver(k)
        if solver is None:
            assert system.entries
            return
        optimum = solver.maximize([size * sheets[k] for size, sheets in zip(sizes, rows, strict=True)])
        welfare += float(weights @ optimum.welfare)
        p = optimum.probabilities()
        means += [float(weights @ (p * sheets[k]).sum(axis=1)) for sheets in rows]
    assert welfare == pytest.approx(policy.welfare, rel=1e-10)
    np.testing.assert_allclose(means, policy.values(rewards), rtol=1e-9)
