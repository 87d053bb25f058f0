"""How far from truthful an imperfect training can be, from samples: epsilon-DSIC with confidence (theory section 5).

With payments whose leave-one-out term does not depend on the group's own report, no misreport gains more than
gap = max ASW - ASW(p^) for the delivered policy p^ (derived). Under KL max ASW = strength * log E_q[exp(s / strength)],
so the gap is bounded by an upper confidence bound on a mean over the reference and a lower one on a mean over p^. All
bounds here hold for every number of samples: they need known bounds on what is averaged, and are as loose as those.
They hold in expectation over draws that are made after the reports.

Scores are s = sum_i w_i r_i of independent samples, [N], or [B, N] with N for each of B prompts. Prompts are pooled
(see ``betting``), so more of them narrow every interval.

Means of logarithms of means are linearised. With K_b = log E exp(-z_b), and any a_b that the samples in use did not
decide, log m <= m / c - 1 + log c at c = exp(-a) gives (derived)

    mean_b (kappa E z_b + K_b) = mean_b E[kappa z_b + exp(a_b - z_b) - 1 - a_b] - mean_b T_b,
    T_b = x_b - 1 - log x_b >= 0,   x_b = E exp(a_b - z_b).

The first term is one mean. T_b is of second order, and bounded by an interval of x_b for each prompt.
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.regularizers.moments import phi
from rlhf_game.mechanism.sampled.betting import SLACK, betting_interval, pooled_interval
from rlhf_game.mechanism.sampled.estimates import Estimate, prompt_shares

PILOT = 5
"""One sample in so many, the first, decides where a logarithm is linearised."""

Bounds = tuple[float, float]


def cumulant(
    z: Array, bounds: Bounds, level: float, *, kappa: float = 0.0, weights: ArrayLike | None = None
) -> Estimate:
    """Return mean_b (kappa E z_b + log E exp(-z_b)) with an interval: [] of [B, N]. kappa: 0 or 1. bounds: of z.

    Half of the misses are above. Of those below half are of the mean, half of the second order, shared by the prompts.
    """
    low, high = bounds
    by, miss, count = prompt_shares(weights, len(z)), 1 - level, z.shape[1]
    ends = (0.0, high - low) if kappa else (-high, -low)
    pilot = max(1, count // PILOT)
    least = -low + np.log(np.log(4 / miss) / count) if count > 1 else -high
    pivots = np.clip(_log_mean(-z[:, :pilot]), max(-high, min(least, -low)), -low)  # log c, not lower than can be seen
    moved = z[:, pilot:] + pivots[:, None]
    if moved.shape[1] == 0:
        return _inside(kappa * float(by @ z.mean(axis=1)) + float(by @ _log_mean(-z)), ends[0], ends[1], ends, level)
    sides = np.array([low, high])[:, None] + pivots
    if kappa:
        tangent, corners, lowest = phi(moved), phi(sides), 0.0
    else:
        tangent, corners = np.expm1(-moved) + pivots[:, None], np.expm1(-sides) + pivots
        lowest = float(corners.min())
    span = (lowest, float(corners.max()))
    top = float(pooled_interval(tangent, span, level, by).high)
    bottom = float(pooled_interval(tangent, span, 1 - miss / 2, by).low) - float(
        by @ _second_order(z, pivots, bounds, miss)
    )
    value = kappa * float(by @ z.mean(axis=1)) + float(by @ _log_mean(-z))
    return _inside(value, bottom, top, ends, level)


def _second_order(z: Array, pivots: Array, bounds: Bounds, miss: float) -> Array:
    """Return an upper bound on T of each prompt, all of them together wrong with probability miss / 4: [B]."""
    low, high = bounds
    least = float(np.exp(low - high))
    found = betting_interval(np.exp(low - z), (least, 1.0), 1 - miss / (4 * len(z)))
    logs = np.stack([np.log(np.maximum(end, 5e-324)) for end in (found.low, found.high)])
    x = np.maximum(logs, low - high) - low - pivots  # log x at both ends
    return np.asarray((np.expm1(x) - x).max(axis=0))


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
    array = _rows(finite(scores, "scores"), bounds, "scores", level)
    low, high = bounds
    z = (high - array) / strength
    found = cumulant(z, (0.0, (high - low) / strength), level, weights=prompt_weights)
    value, bottom, top = (high + strength * end for end in (found.value, found.low, found.high))
    return Estimate(value, bottom, top, level)


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
    span = (bounds[0] - strength * ratio_bounds[1], bounds[1] - strength * ratio_bounds[0])
    worth = finite(scores, "scores") - strength * finite(log_ratios, "log_ratios")
    rows = _rows(worth, span, "samples", level)
    return pooled_interval(rows, span, level, prompt_shares(prompt_weights, len(rows)))


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
    high = max(0.0, float(best.high - held.low))
    return _inside(float(best.value - held.value), 0.0, high, (0.0, high), level)


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
    span = (bounds[0] / strength - ratio_bounds[1], bounds[1] / strength - ratio_bounds[0])
    x = _rows(finite(scores, "scores") / strength - finite(log_ratios, "log_ratios"), span, "samples", level)
    found = cumulant(-x, (-span[1], -span[0]), level, kappa=1.0, weights=prompt_weights)
    high = strength * float(found.high)
    return _inside(strength * float(found.value), 0.0, high, (0.0, high), level)


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
    [n, B, N]; weights: [n]; bounds: of r over all outcomes. Not misled by what the samples have missed.
    """
    array, by = finite(rewards, "rewards"), finite(weights, "weights")
    array = array[:, None, :] if array.ndim == 2 else array
    if array.ndim != 3 or by.shape != array.shape[:1]:
        raise InputError(
            "must be [groups, samples] or [groups, prompts, samples], and weights one per group", field="rewards"
        )
    found = []
    for reward, weight in zip(array, by, strict=True):
        z = weight / strength * (_rows(reward, bounds, "rewards", level) - bounds[0])
        top = weight / strength * (bounds[1] - bounds[0])
        found.append(cumulant(z, (0.0, top), level, kappa=1.0, weights=prompt_weights).scaled(strength))
    value, low, high = (np.array([getattr(one, end) for one in found]) for end in ("value", "low", "high"))
    return Estimate(value, low, high, level)


def _rows(samples: Array, bounds: Bounds, name: str, level: float) -> Array:
    """Return samples as [B, N], cut to bounds that they keep to but for rounding; refuse what breaks them."""
    rows = np.atleast_2d(samples)
    if rows.ndim != 2 or rows.shape[1] < 2:
        raise InputError("must be at least two", field=name)
    betting_interval(rows.ravel()[:1], bounds, level)  # what is wrong with bounds or level is said in one place
    slack = SLACK * (bounds[1] - bounds[0])
    if rows.min() < bounds[0] - slack or rows.max() > bounds[1] + slack:
        raise InputError(f"must be within {bounds}, got {rows.min():.6g} to {rows.max():.6g}", field=name)
    return np.clip(rows, *bounds)


def _inside(value: float, low: float, high: float, known: Bounds, level: float) -> Estimate:
    """Return an estimate that keeps to what is known, its value to its interval."""
    bottom = min(max(low, known[0]), known[1])
    top = max(min(high, known[1]), bottom)
    return Estimate(np.array(min(max(value, bottom), top)), np.array(bottom), np.array(top), level)


def _log_mean(logs: Array) -> Array:
    """Return the log of the mean of exp: [B] of [B, N]."""
    return np.asarray(np.logaddexp.reduce(logs, axis=1) - np.log(logs.shape[1]))
