"""Draws that are known before the reports can be lied about; draws that are made afterwards cannot."""

import numpy as np
import pytest

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.sampled_settlement import (
    ByReference,
    PolicySamples,
    SampledGame,
    SampledSettlement,
    least_cap,
    settle_samples,
)

OUTCOMES, DRAWS, STRENGTH = 30_000, 2_000, 1.0
SIZES = np.array([2.0, 1.0])
TRUTH = np.full((2, OUTCOMES), 0.5)
"""Nobody minds what is said, so the reference is the optimum, and truth costs nothing."""
Q = np.full(OUTCOMES, 1 / OUTCOMES)
KNOWN = 7


def uniforms(seed: int) -> Array:
    return np.random.default_rng(seed).random(DRAWS)


def settle(report: Array, seed: int) -> tuple[Array, SampledSettlement]:
    """The optimum for a report of the first group, its draws by the inverse of its distribution, and the settlement."""
    rewards = np.stack([report, TRUTH[1]])
    p = Q * np.exp(SIZES @ rewards / STRENGTH)
    p /= p.sum()
    picked = np.searchsorted(np.cumsum(p), uniforms(seed)).clip(max=OUTCOMES - 1)
    other = np.random.default_rng([seed, 1]).integers(OUTCOMES, size=DRAWS)
    delivered = PolicySamples(rewards[:, None, picked], np.log(p / Q)[None, picked])
    reference = PolicySamples(rewards[:, None, other], np.zeros((1, DRAWS)))
    game = SampledGame(SIZES, np.ones(2), STRENGTH, 0.95, least_cap(SIZES, STRENGTH))
    return p, settle_samples(game, delivered, reference, ByReference(reference))


def utility(report: Array, seed: int) -> float:
    """What the first group is left with: its true value of the policy minus what it is charged."""
    p, settled = settle(report, seed)
    return float(SIZES[0] * p @ TRUTH[0] - settled.payments.value[0])


def lie_for(seed: int) -> Array:
    """A report for draws that are known: in each pair of outcomes that is hit, the one that is hit is made rare.

    The pairs keep their probability, so each draw still falls into its pair, and there on the outcome of which the
    policy moved away from the reference: the provider seems to have paid little for the policy.
    """
    report = TRUTH[0].copy()
    pairs = OUTCOMES // 2
    found = uniforms(seed) * pairs
    pair, place = found.astype(int), found % 1
    once = np.bincount(pair, minlength=pairs)[pair] == 1
    pair, place = pair[once], place[once]
    is_left = place < 0.5
    rare = np.clip(np.where(is_left, place, 1 - place) + 1e-3, 0.2, 0.499)
    by_share = np.stack([np.where(is_left, rare, 1 - rare), np.where(is_left, 1 - rare, rare)])
    moved = np.log(2 * by_share) * STRENGTH / SIZES[0]  # two outcomes of one pair then have these shares of it
    report[2 * pair], report[2 * pair + 1] = 0.5 + moved
    return report.clip(0.0, 1.0)


def test_who_knows_the_draws_gains_far_more_than_is_certified() -> None:
    """The negative control, and the reason why a declared ``settlement_seed`` certifies nothing."""
    bound = settle(TRUTH[0], KNOWN)[1].certificate.regret_bounds
    assert bound is not None
    gain = utility(lie_for(KNOWN), KNOWN) - utility(TRUTH[0], KNOWN)
    assert gain > 0.5
    assert gain > 2 * bound[0]


def test_the_same_lie_loses_with_draws_that_were_made_after_the_reports() -> None:
    lie, seeds = lie_for(KNOWN), range(100, 160)
    gains = np.array([utility(lie, seed) - utility(TRUTH[0], seed) for seed in seeds])
    assert gains.mean() + 3 * gains.std() / len(gains) ** 0.5 < 0
    p, settled = settle(TRUTH[0], KNOWN)
    assert settled.certificate.gap.value == pytest.approx(0, abs=1e-12)
    assert p == pytest.approx(Q, rel=1e-12)
