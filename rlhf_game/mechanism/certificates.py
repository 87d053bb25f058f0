"""How far from truthful an imperfect training can be, from samples: epsilon-DSIC with confidence (theory section 5).

With payments whose leave-one-out term does not depend on the group's own report, no misreport gains more than
gap = max ASW - ASW(p^) for the delivered policy p^ (derived). Under KL max ASW = strength * log E_q[exp(s / strength)],
so the gap is bounded by an upper confidence bound on a mean over the reference and a lower one on a mean over p^. All
bounds here hold for every number of samples: they need known bounds on what is averaged, and are as loose as those.

Scores are s = sum_i w_i r_i of independent samples, [N], or [B, N] with N for each of B prompts.
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.estimates import Estimate

SLACK = 1e-9
"""How far, relative to their length, a sample may be outside its declared bounds (rounding)."""

Bounds = tuple[float, float]


def mean_interval(samples: ArrayLike, bounds: Bounds, level: float) -> Estimate:
    """Return an interval for the mean of independent numbers in known bounds: [...] of [..., N].

    Each side is the better of Hoeffding (1963) and the empirical Bernstein bound of Maurer and Pontil (2009, Thm 4),
    each at half of that side's share of 1 - level. Valid for every N. Raises InputError when a sample is out of bounds.
    """
    array = finite(samples, "samples")
    low, high = bounds
    length = high - low
    if array.ndim == 0 or array.shape[-1] < 2:
        raise InputError("samples must be at least two")
    if not length >= 0 or not np.isfinite(length):
        raise InputError(f"bounds must be two finite numbers, the lower first, got {bounds}")
    if array.min() < low - SLACK * length or array.max() > high + SLACK * length:
        raise InputError(f"samples must be within {bounds}, got {array.min():.6g} to {array.max():.6g}")
    count = array.shape[-1]
    log_miss = np.log(4 / (1 - level))
    hoeffding = np.full(array.shape[:-1], length * np.sqrt(log_miss / (2 * count)))
    log_miss += np.log(2)
    variance = array.var(axis=-1, ddof=1)
    bernstein = np.sqrt(2 * variance * log_miss / count) + 7 * length * log_miss / (3 * (count - 1))
    reach = np.minimum(hoeffding, bernstein)
    mean = array.mean(axis=-1)
    return Estimate(mean, np.maximum(mean - reach, low), np.minimum(mean + reach, high), level)


def max_welfare(
    scores: ArrayLike,
    strength: float,
    bounds: Bounds,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> Estimate:
    """Return an interval for max ASW = mean over prompts of strength * log E_q[exp(s / strength)], under KL.

    scores: of samples of the reference, [N] or [B, N]. bounds: of s over all outcomes. The bound is on the mean of
    exp((s - s_max) / strength) in (0, 1], so it is useless where the bounds are many strengths apart and few samples
    come near the top: N has to be of the order exp((s_max - max ASW) / strength).
    """
    array = np.atleast_2d(finite(scores, "scores"))
    low, high = bounds
    with np.errstate(under="ignore"):
        powers = np.exp((array - high) / strength)
    least = float(np.exp((low - high) / strength))
    means = mean_interval(powers, (least, 1.0), _shared(level, len(array)))
    value, bottom, top = (high + strength * _log(end) for end in (means.value, means.low, means.high))
    return _mean(Estimate(value, bottom, top), prompt_weights, level)


def delivered_welfare(
    scores: ArrayLike,
    log_ratios: ArrayLike,
    strength: float,
    bounds: Bounds,
    ratio_bounds: Bounds,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> Estimate:
    """Return an interval for ASW(p^) = E_p^[s - strength * log(p^ / q)], under KL.

    scores, log_ratios: s and log p^ - log q of samples of the delivered policy, [N] or [B, N]. ratio_bounds: of
    log(p^ / q) over all outcomes; no valid bound exists without them.
    """
    worth = np.atleast_2d(finite(scores, "scores") - strength * finite(log_ratios, "log_ratios"))
    span = (bounds[0] - strength * ratio_bounds[1], bounds[1] - strength * ratio_bounds[0])
    return _mean(mean_interval(worth, span, _shared(level, len(worth))), prompt_weights, level)


def certified_gap(
    reference_scores: ArrayLike,
    scores: ArrayLike,
    log_ratios: ArrayLike,
    strength: float,
    bounds: Bounds,
    ratio_bounds: Bounds,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> Estimate:
    """Return gap = max ASW - ASW(p^) in [0, high] with confidence ``level``: high is the epsilon of epsilon-DSIC.

    reference_scores: s of samples of the reference; the rest as for ``max_welfare`` and ``delivered_welfare``.
    """
    # Only one side of each interval is used, so each may miss by as much as the certificate may.
    best = max_welfare(reference_scores, strength, bounds, level=level, prompt_weights=prompt_weights)
    held = delivered_welfare(
        scores, log_ratios, strength, bounds, ratio_bounds, level=level, prompt_weights=prompt_weights
    )
    return _gap(best.value - held.value, best.high - held.low, level)


def certified_gap_of_samples(
    scores: ArrayLike,
    log_ratios: ArrayLike,
    strength: float,
    bounds: Bounds,
    ratio_bounds: Bounds,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> Estimate:
    """Return the same gap from samples of the delivered policy alone, with confidence ``level``.

    gap = strength * (log E_p^[exp(x)] - E_p^[x]) with x = s / strength - log(p^ / q) (derived: E_p^[exp(x)] = Z). At
    the optimum x is constant, so the bound closes like 1 / N. It needs q to be zero wherever p^ is.
    """
    x = np.atleast_2d(finite(scores, "scores") / strength - finite(log_ratios, "log_ratios"))
    low, high = bounds[0] / strength - ratio_bounds[1], bounds[1] / strength - ratio_bounds[0]
    shared = _shared(level, len(x))
    powers = mean_interval(np.exp(x - high), (float(np.exp(low - high)), 1.0), shared)
    middle = mean_interval(x, (low, high), shared)
    value = strength * (high + _log(powers.value) - middle.value)
    top = strength * (high + _log(powers.high) - middle.low)
    both = _mean(Estimate(value, np.minimum(value, top), top), prompt_weights, level)
    return _gap(both.value, both.high, level)


def certified_payments(
    rewards: ArrayLike,
    weights: ArrayLike,
    strength: float,
    bounds: Bounds,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> Estimate:
    """Return intervals for w E_p[r] + strength * log E_p[exp(-w r / strength)] that are valid for every N: [n].

    It is what ``sampled_payments`` estimates (the payments where the policy is optimal). rewards: [n, N] or
    [n, B, N]; weights: [n]; bounds: of r over all outcomes. Wide, but not misled by what the samples have missed.
    """
    array, by = finite(rewards, "rewards"), finite(weights, "weights")
    array = array[:, None, :] if array.ndim == 2 else array
    if array.ndim != 3 or by.shape != array.shape[:1]:
        raise InputError("rewards must be [groups, samples] or [groups, prompts, samples], and weights one per group")
    halved = _shared((1 + level) / 2, array.shape[1])
    ends = []
    for reward, weight in zip(array, by, strict=True):
        share = weight / strength
        middle = mean_interval(reward, bounds, halved).scaled(share)
        lowest = float(np.exp(share * (bounds[0] - bounds[1])))
        powers = mean_interval(np.exp(share * (bounds[0] - reward)), (lowest, 1.0), halved)
        logs = [strength * (m + _log(p) - share * bounds[0]) for m, p in zip(_ends(middle), _ends(powers), strict=True)]
        value, low, high = (np.maximum(end, 0.0) for end in logs)
        ends.append(_ends(_mean(Estimate(value, low, high), prompt_weights, level)))
    value, low, high = np.transpose(ends)
    return Estimate(value, low, high, level)


def _ends(estimate: Estimate) -> tuple[Array, Array, Array]:
    return estimate.value, estimate.low, estimate.high


def _gap(value: Array, high: Array, level: float) -> Estimate:
    zero = np.zeros_like(value)
    return Estimate(np.maximum(value, 0.0), zero, np.maximum(high, 0.0), level)


def _shared(level: float, prompts: int) -> float:
    """Return the level that every prompt needs for all of them to hold together."""
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1, got {level!r}")
    return 1 - (1 - level) / prompts


def _mean(rows: Estimate, prompt_weights: ArrayLike | None, level: float) -> Estimate:
    """Return the weighted mean over prompts: [] of [B]."""
    count = len(rows.value)
    weights = np.full(count, 1.0) if prompt_weights is None else finite(prompt_weights, "prompt_weights")
    if weights.shape != (count,) or (weights < 0).any() or weights.sum() <= 0:
        raise InputError(f"prompt_weights must be {count} numbers >= 0 with a sum > 0, got {weights.tolist()}")
    weights = weights / weights.sum()
    value, low, high = (np.asarray(weights @ end) for end in (rows.value, rows.low, rows.high))
    return Estimate(value, low, high, level)


def _log(mean: Array) -> Array:
    with np.errstate(divide="ignore"):
        out: Array = np.log(mean)
    return out
