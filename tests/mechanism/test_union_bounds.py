"""Several statements of a settlement by draws hold at once: each misses by its share of what all may miss."""

import numpy as np
import pytest

from rlhf_game.mechanism.sampled.betting import pooled_interval
from rlhf_game.mechanism.sampled.certificates import max_welfare
from rlhf_game.mechanism.sampled.sampled_settlement import (
    ByMenu,
    ByReference,
    best_welfare,
    largest_gains,
    settle_samples,
)
from tests.mechanism.test_sampled_settlement import MULTIPLIERS, World, perturbed, the_intervals_of


def test_a_statement_about_two_intervals_gives_each_half_of_its_misses() -> None:
    """The union bound: gap, payments and gains are differences of two intervals, each at half of 1 - level."""
    world = World.make(4)
    level = 1 - (1 - world.game.level) / 2
    best, held, others, reference = the_intervals_of(world, level)
    delivered = world.draw(perturbed(world), 400, np.random.default_rng(11))
    settled = settle_samples(world.game, delivered, reference, ByReference(reference))
    assert settled.certificate.gap.high == pytest.approx(best.high - held.low, rel=1e-12)
    each = [
        max_welfare(np.tensordot(s, reference.rewards, 1), world.game.strength, (0.0, float(s.sum())), level=level)
        for s in world.game.without()
    ]
    high = (np.array([one.high for one in each]) - others.low) / MULTIPLIERS
    for owed in (settled.payments, settled.certificate.affine_payments):
        np.testing.assert_allclose(owed.high, high, rtol=1e-12)
    gains = (held.high - np.array([one.low for one in each])) / MULTIPLIERS
    np.testing.assert_allclose(settled.utilities.high, gains, rtol=1e-12)
    assert settled.payments.level == settled.certificate.level == world.game.level


def test_a_group_cannot_gain_more_than_it_may_want_where_four_statements_hold_at_once() -> None:
    world, rng = World.make(4), np.random.default_rng(12)
    delivered, reference = world.draw(perturbed(world), 400, rng), world.draw(world.q, 400, rng)
    level = 1 - (1 - world.game.level) / 4  # of values, of both ends of a difference, and of the gap beside them
    values = pooled_interval(delivered.rewards, (0.0, 1.0), level)
    held, best = world.game.others_welfare(delivered, level), best_welfare(world.game, reference, level)
    most = world.game.shares * (1 - values.low) + best.high - held.low
    np.testing.assert_allclose(largest_gains(world.game, delivered, reference), most, rtol=1e-12)


def test_the_best_of_a_menu_holds_for_all_of_its_entries_at_once() -> None:
    world = World.make(6)
    rng = np.random.default_rng(13)
    entries = [world.draw(world.trained(world.game.shares, part), 300, rng) for part in (0.0, 0.5, 1.0)]
    level = 0.9
    found = ByMenu(entries).estimate(world.game, level)
    each = 1 - (1 - level) / len(entries)
    rows = [world.game.others_welfare(entry, each) for entry in entries]
    for end in ("low", "high"):
        np.testing.assert_allclose(getattr(found, end), np.max([getattr(row, end) for row in rows], axis=0), rtol=1e-12)
    assert found.level == level
