"""A batch settles its games as the mechanism settles each of them."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.batches import Batch, Reports, Rules

GAMES, GROUPS, OUTCOMES = 7, 3, 5
MECHANISMS = {"affine": rg.AffinePayments(), "none": rg.NoPayments(), "revenue": rg.RevenueOptimal()}


def batch(regularizer: str = "kl", normalization: str = "sum", noise: float = 0.0, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    rewards = rng.dirichlet(np.ones(OUTCOMES), (GROUPS, GAMES))
    if normalization == "max":
        rewards /= rewards.max(axis=2, keepdims=True)
    return Batch(
        Rules(regularizer, Normalization(normalization)),
        rewards,
        rng.integers(1, 5, (GROUPS, GAMES)).astype(float),
        rng.dirichlet(np.ones(OUTCOMES), GAMES),
        rng.choice([0.1, 0.5, 3.0], GAMES),
        rng.uniform(-noise, noise, rewards.shape) if noise else None,
    )


def lies(truth: Batch, seed: int = 1) -> Reports:
    rng = np.random.default_rng(seed)
    said = batch(normalization=truth.rules.normalization, seed=seed).rewards
    return Reports(said, rng.integers(1, 9, truth.sizes.shape).astype(float), np.arange(GROUPS))


@pytest.mark.parametrize("regularizer", ["kl", "l2", "chi2", "alpha:1.5"])
@pytest.mark.parametrize("normalization", ["sum", "max"])
def test_a_batch_settles_like_the_mechanism(regularizer: str, normalization: str) -> None:
    truth = batch(regularizer, normalization)
    said = lies(truth)
    settled = truth.settle(said, list(MECHANISMS))
    for b in range(GAMES):
        rule = truth.rules.at(float(truth.strength[b]))
        space = rg.Table(truth.reference[b], rule, normalization=normalization)
        reports = [rg.Report(said.rewards[i, b], int(said.sizes[i, b])) for i in range(GROUPS)]
        for payment, mechanism in MECHANISMS.items():
            found = settled[payment]
            expected = rg.Mechanism(rg.SocialWelfare(), mechanism).settle(reports, space)
            worth = truth.sizes[:, b] * expected.policy.values([space.read(r) for r in truth.rewards[:, b]])
            np.testing.assert_allclose(found.worth[:, b], worth, rtol=1e-9)
            np.testing.assert_allclose(found.payments[:, b], expected.payments, rtol=1e-8, atol=1e-12)
            assert found.revenue[b] == pytest.approx(expected.revenue, rel=1e-8, abs=1e-12)
            assert found.divergence[b] == pytest.approx(expected.policy.divergence, rel=1e-8)
            assert found.welfare[b] == pytest.approx(worth.sum(), rel=1e-9)
            affine = worth.sum() - truth.strength[b] * expected.policy.divergence
            assert found.affine_welfare[b] == pytest.approx(affine, rel=1e-8, abs=1e-12)
            best = space.maximize(truth.sizes[:, b], [space.read(r) for r in truth.rewards[:, b]]).welfare
            assert found.loss[b] == pytest.approx(best - affine, rel=1e-6, abs=1e-10)


def test_the_truth_loses_nothing() -> None:
    truth = batch()
    assert (truth.settle(truth.truth, ["affine"])["affine"].loss <= 1e-14).all()


def test_who_stays_away_gets_and_owes_nothing_and_is_not_missed_in_the_policy() -> None:
    truth = batch()
    sizes = truth.sizes.copy()
    sizes[1] = 0
    without = truth.settle(Reports(truth.rewards, sizes, np.arange(GROUPS)), ["affine", "revenue"])
    two = Batch(truth.rules, truth.rewards[[0, 2]], truth.sizes[[0, 2]], truth.reference, truth.strength)
    for payment, settled in two.settle(two.truth, ["affine", "revenue"]).items():
        assert not without[payment].utilities[1].any()
        assert not without[payment].payments[1].any()
        np.testing.assert_allclose(without[payment].payments[[0, 2]], settled.payments, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(without[payment].utilities[[0, 2]], settled.utilities, rtol=1e-9)
        np.testing.assert_allclose(without[payment].loss, 0, atol=1e-14)


def test_a_group_under_two_names_is_charged_for_both() -> None:
    truth = batch()
    parts = np.concatenate([truth.sizes, truth.sizes[:1]])
    parts[0] /= 2
    parts[3] /= 2
    split = Reports(np.concatenate([truth.rewards, truth.rewards[:1]]), parts, np.array([0, 1, 2, 0]))
    settled = truth.settle(split, ["affine"])["affine"]
    whole = truth.settle(truth.truth, ["affine"])["affine"]
    np.testing.assert_allclose(settled.worth, whole.worth, rtol=1e-12)
    np.testing.assert_allclose(settled.payments[1:], whole.payments[1:], rtol=1e-9, atol=1e-13)
    assert (settled.payments[0] < whole.payments[0]).all()


def test_noise_is_what_the_mechanism_hears_and_groups_do_not_feel() -> None:
    noisy = batch(noise=0.05)
    plain = Batch(noisy.rules, noisy.rewards, noisy.sizes, noisy.reference, noisy.strength)
    assert noisy.noise is not None
    heard = Reports(noisy.rewards + noisy.noise, noisy.sizes, np.arange(GROUPS))
    ours = noisy.settle(noisy.truth, ["affine"])["affine"]
    theirs = plain.settle(heard, ["affine"])["affine"]
    np.testing.assert_allclose(ours.worth, theirs.worth, rtol=1e-12)
    np.testing.assert_allclose(ours.payments, theirs.payments, rtol=1e-12)
    assert (ours.loss > 0).all()
    assert (ours.loss <= 2 * 0.05 * noisy.sizes.sum(axis=0)).all()  # Lemma 4.8


def test_rows_and_strengths_can_be_chosen() -> None:
    truth = batch()
    which = np.array([3, 3, 0])
    some = truth.rows(which)
    np.testing.assert_array_equal(some.rewards, truth.rewards[:, which])
    np.testing.assert_allclose(
        some.settle(some.truth, ["affine"])["affine"].payments,
        truth.settle(truth.truth, ["affine"])["affine"].payments[:, which],
        rtol=1e-12,
    )
    assert (truth.with_strength(np.full(GAMES, 9.0)).strength == 9).all()
