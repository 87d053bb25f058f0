"""Settlements of large arrays without a copy: what was found stays, and a changed array is never gone on from."""

import tracemalloc

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.arrays import DOT, content
from rlhf_game.mechanism.breakdown import take_apart
from rlhf_game.mechanism.prices import response_prices
from rlhf_game.mechanism.spaces import table


@pytest.mark.parametrize("regularizer", [rg.KL(0.3), rg.SquaredL2(0.01), rg.PearsonChi2(1.0)], ids=lambda r: r.name)
def test_a_settlement_views_large_arrays_and_never_goes_on_from_changed_ones(
    regularizer: rg.Regularizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "VIEWED", 10)
    rng = np.random.default_rng(0)
    rewards, reference = rng.random((3, 50)), rng.dirichlet(np.ones(50))
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    space, reports = rg.Table(reference, regularizer), [rg.Report(row) for row in rewards]
    settled = mechanism.settle(reports, space)
    copied = mechanism.settle([rg.Report(row.tolist()) for row in rewards], space)
    np.testing.assert_array_equal(settled.payments, copied.payments)
    assert np.shares_memory(settled.trained.rewards[0][0], rewards)  # no copy was made
    for change in (lambda: rewards[1].sort(), lambda: rewards.__setitem__((1, 7), 0.5)):
        kept = rewards.copy()
        change()
        np.testing.assert_array_equal(settled.trained.values(), settled.values)  # as they were when they were read
        np.testing.assert_allclose(settled.trained.externalities(), settled.payments)
        with pytest.raises(rg.InputError, match="changed in place"):
            assert settled.trained.rewards
        with pytest.raises(rg.InputError, match="changed in place"):
            take_apart(settled)
        again = mechanism.settle(reports, space)  # what the arrays hold now
        np.testing.assert_array_equal(
            again.payments, mechanism.settle([*map(rg.Report, rewards.tolist())], space).payments
        )
        asked = settled.policy.values([space.read(row) for row in rewards])
        np.testing.assert_allclose(asked, rewards @ settled.policy.probabilities)
        rewards[:] = kept
        assert settled.trained.rewards


def test_a_large_array_that_is_no_number_somewhere_is_named_without_a_copy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "VIEWED", 10)
    space, rewards = rg.Table(np.full(50, 0.02), rg.KL(0.3)), np.ones((2, 50))
    rewards[1, 33] = np.inf
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    with pytest.raises(rg.InputError, match=r"report 1: reward must be finite, got inf at \[33\]"):
        mechanism.settle([rg.Report(row) for row in rewards], space)
    assert space.read(np.full(50, 1e308))[0].max() == 1e308


@pytest.mark.parametrize("regularizer", [rg.KL(0.3), rg.SquaredL2(0.3)], ids=lambda r: r.name)
def test_settling_ordinary_arrays_takes_no_copy_of_them(regularizer: rg.Regularizer) -> None:
    rng, outcomes = np.random.default_rng(0), 400_000
    rewards, reference = rng.random((12, outcomes)), np.full(outcomes, 1 / outcomes)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    tracemalloc.start()
    try:
        mechanism.settle([rg.Report(row) for row in rewards], rg.Table(reference, regularizer))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 8 * outcomes + 10 * 2**20 < 8 * rewards.size  # the score, the reference, and blocks


def test_arrays_that_are_viewed_are_checked_for_changes_once_however_many_groups_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(table, "VIEWED", 10)
    rewards, checked = np.random.default_rng(0).dirichlet(np.ones(50), 6), []
    space = rg.Table(np.full(50, 0.02), rg.KL(0.3), normalization="sum")
    settled = rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal()).settle([*map(rg.Report, rewards)], space)
    content = table.content
    monkeypatch.setattr(table, "content", lambda array: checked.append(len(checked)) or content(array))
    for work in (settled.trained.least_gains, lambda: take_apart(settled), lambda: response_prices(settled.trained)):
        checked.clear()
        work()
        assert len(checked) == len(rewards)


def test_what_tells_a_change_is_the_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(5).normal(size=300 * DOT + 77)  # three blocks and a rest
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(content(array))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 301
    array[-1] += 1e-3
    assert content(array)[:300] == found[0][:300]
    assert content(array)[300] != found[0][300]
