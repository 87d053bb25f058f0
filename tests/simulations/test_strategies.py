"""Lies on many games at once are the lies of single groups."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

import rlhf_game as rg
from rlhf_game.agents.misreports import Indifferent, Polarize, RaiseAndLower, Resize
from rlhf_game.mechanism.regret import World
from rlhf_game.simulations.batches import Batch, Reports
from rlhf_game.simulations.responses import best_responses, joint_responses
from rlhf_game.simulations.strategies import SomeStrategy, StrategyContext, StudyStrategy
from tests.simulations.test_batches import GAMES, GROUPS, batch

ADAPTER: TypeAdapter[Any] = TypeAdapter(SomeStrategy)


def strategy(kind: str, **fields: Any) -> StudyStrategy:
    made: StudyStrategy = ADAPTER.validate_python({"kind": kind, **fields})
    return made


def reports_under(truth: Batch, lie: StudyStrategy, liars: np.ndarray, *, is_paid: bool = True) -> Reports:
    return lie.reports(StrategyContext(truth, liars, is_paid, lambda game: np.random.default_rng(game)))


def first() -> np.ndarray:
    liars = np.zeros((GROUPS, GAMES), dtype=bool)
    liars[0, :-1] = True
    return liars


@pytest.mark.parametrize("normalization", ["sum", "max", "none"])
@pytest.mark.parametrize(
    ("lie", "alone"),
    [
        (strategy("polarize", temperature=3.0), Polarize(3.0)),
        (strategy("raise_and_lower", epsilon=0.02), RaiseAndLower(0.02)),
        (strategy("indifferent"), Indifferent()),
        (strategy("resize", factor=1.5), Resize(1.5)),
        (strategy("resize", factor=100.0), Resize(100.0)),
        (strategy("resize", factor=0.01), Resize(0.01)),
    ],
    ids=repr,
)
def test_a_lie_in_a_batch_is_that_of_a_single_group(lie: StudyStrategy, alone: Any, normalization: str) -> None:
    truth = batch(normalization=normalization)
    reports = reports_under(truth, lie, first())
    for b in range(GAMES):
        space = rg.Table(truth.reference[b], rg.KL(1.0), normalization=normalization)
        groups = [rg.Group(str(i), truth.rewards[i, b], int(truth.sizes[i, b])) for i in range(GROUPS)]
        others = tuple(rg.Report(group.reward, group.size) for group in groups[1:])
        world = World(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), space, others, 0, int(truth.limit[b]))
        expected = alone(groups[0], world, np.random.default_rng(0))
        if b == GAMES - 1:  # the first group does not lie there
            expected = rg.Report(groups[0].reward, groups[0].size)
        np.testing.assert_allclose(reports.rewards[0, b], expected.reward, atol=1e-15)
        assert reports.sizes[0, b] == expected.size
    np.testing.assert_array_equal(reports.rewards[1:], truth.rewards[1:])
    np.testing.assert_array_equal(reports.sizes[1:], truth.sizes[1:])


def test_noise_is_each_game_s_own() -> None:
    truth = batch()
    everyone = np.ones((GROUPS, GAMES), dtype=bool)
    lie = strategy("noisy", scale=0.2)
    together = reports_under(truth, lie, everyone)
    one = truth.rows(np.array([4]))
    rng = np.random.default_rng(4)
    alone = lie.reports(StrategyContext(one, everyone[:, :1], True, lambda game: rng))
    assert not np.array_equal(together.rewards, truth.rewards)
    np.testing.assert_array_equal(alone.rewards[0, 0], together.rewards[0, 4])
    truth.rules.normalization.check(together.rewards.reshape(-1, truth.rewards.shape[2]))


def test_absent_groups_have_no_size() -> None:
    reports = reports_under(batch(), strategy("absent"), first())
    assert not reports.sizes[0, :-1].any()
    assert reports.sizes[0, -1] > 0


def test_false_names_share_a_size_and_belong_to_one_owner() -> None:
    truth = batch()
    reports = reports_under(truth, strategy("false_names", names=3), first())
    assert reports.owners.tolist() == [0, 1, 2] * 3
    parts = reports.sizes[[0, 3, 6], :-1]
    np.testing.assert_array_equal(parts.sum(axis=0), truth.sizes[0, :-1])
    assert (parts.max(axis=0) - parts.min(axis=0) <= 1).all()
    assert parts[:, truth.sizes[0, :-1] == 4][:, 0].tolist() == [2, 1, 1]
    assert not reports.sizes[3:, -1].any()
    assert not reports.sizes[[4, 5, 7, 8]].any()


def test_labels_say_kind_and_fields_or_the_name_given() -> None:
    assert strategy("polarize", temperature=2.0).label == "polarize(temperature=2.0)"
    assert strategy("absent").label == "absent"
    assert strategy("polarize", name="loud").label == "loud"


@pytest.mark.parametrize("regularizer", ["kl", "l2"])
@pytest.mark.parametrize("normalization", ["sum", "max"])
def test_no_best_response_is_found_against_affine_payments_but_one_without(
    regularizer: str, normalization: str
) -> None:
    truth = batch(regularizer, normalization)
    honest = truth.settle(truth.truth, ["affine", "none"])
    for is_paid, payment in ((True, "affine"), (False, "none")):
        rewards, sizes = best_responses(truth, 1, is_paid=is_paid, starts=5, steps=40)
        truth.rules.normalization.check(rewards)
        assert (sizes <= truth.limit).all()
        all_rewards, all_sizes = truth.rewards.copy(), truth.sizes.copy()
        all_rewards[1], all_sizes[1] = rewards, sizes
        reached = truth.settle(Reports(all_rewards, all_sizes, truth.truth.owners), [payment])[payment]
        gain = reached.utilities[1] - honest[payment].utilities[1]
        if is_paid:
            np.testing.assert_array_equal(rewards, truth.rewards[1])  # the truth, unless something better is found
            np.testing.assert_array_equal(sizes, truth.sizes[1])
        else:
            assert (gain >= 0).all()
            assert (gain > 1e-3).sum() == GAMES - 1
            done = gain <= 1e-3  # there the group has what it wants already
            np.testing.assert_allclose(
                honest["none"].worth[1, done], (truth.sizes * truth.rewards.max(axis=2))[1, done]
            )


def test_the_best_response_in_a_batch_is_as_good_as_the_search_of_an_audit() -> None:
    truth = batch()
    rewards, sizes = best_responses(truth, 0, is_paid=False, starts=8, steps=80)
    for b in range(3):
        space = rg.Table(truth.reference[b], rg.KL(float(truth.strength[b])), normalization="sum")
        groups = [rg.Group(str(i), truth.rewards[i, b], int(truth.sizes[i, b])) for i in range(GROUPS)]
        others = tuple(rg.Report(group.reward, group.size) for group in groups[1:])
        world = World(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), space, others, 0, int(truth.limit[b]))
        searched = rg.BestResponse(32)(groups[0], world, np.random.default_rng(0))
        ours = rg.Report(rewards[b], int(sizes[b]))
        assert world.utility(groups[0], ours) >= world.utility(groups[0], searched) * (1 - 1e-3)


def test_a_coalition_gains_against_affine_payments() -> None:
    truth = batch()
    rewards, sizes = joint_responses(truth, [0, 1], is_paid=True, starts=5, steps=40)
    all_rewards, all_sizes = truth.rewards.copy(), truth.sizes.copy()
    all_rewards[:2], all_sizes[:2] = rewards, sizes
    reached = truth.settle(Reports(all_rewards, all_sizes, truth.truth.owners), ["affine"])["affine"]
    honest = truth.settle(truth.truth, ["affine"])["affine"]
    gain = (reached.utilities - honest.utilities)[:2].sum(axis=0)
    assert (gain >= -1e-12).all()
    assert (gain > 1e-4).sum() >= 5
