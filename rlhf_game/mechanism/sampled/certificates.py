"""How far from truthful an imperfect training can be, from samples: epsilon-DSIC with confidence (theory section 5).

With payments whose leave-one-out term does not depend on the group's own report, no misreport gains more than
gap = max ASW - ASW(p^) for the delivered policy p^ (derived). Under KL max ASW = strength * log E_q[exp(s / strength)],
so the gap is bounded by an upper confidence bound on a mean over the reference and a lower one on a mean over p^. All
bounds here hold for every number of samples: they need known bounds on what is averaged, and are as loose as those.
They hold in expectation over draws that are made after the reports.

Scores are s = sum_i w_i r_i of independent samples, [N], or [B, N] with N for each of B prompts. Prompts are pooled
(see ``betting``), so more of them narrow every interval.

Means of logarithms of means, K_b = log m_b with m_b = E exp(-z_b), are bounded through log m <= m / c - 1 + log c, with
equality at c = m. So the numbers X_b(c) = kappa z_b + exp(-z_b) / c - 1 + log c have means of at least
theta_b = kappa E z_b + K_b, and theta = sum_b rho_b theta_b is bounded by one capital over all draws of all prompts
(derived):

* From above: whoever bets that theta is less may use any c that is fixed before a draw; here the mean of exp(-z) over
  the draws before it. What that adds falls like log N / N of one prompt.
* From below: at c_b = m_b the capital of whoever bets on more is a supermartingale (see ``betting``), and the capital
  of the worst c is no larger. So theta is refuted where every c within a range of each prompt refutes it. The ranges
  are betting intervals of m_b that all hold at once, and decide nothing but where the worst is looked for.

The worst c is looked for on a lattice that is fixed by what is declared. A point next to m_b has a mean that is more
than theta_b by at most the slack exp(g) - 1 - g, where g is half of the gap between points, which is subtracted. Points
below exp(-z) of every draw or above all of them are left out: X rises from there on, for every draw.
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.regularizers.moments import LARGEST_EXPONENT, phi
from rlhf_game.mechanism.sampled.betting import SLACK, bets, betting_interval, lower_end, pooled_interval
from rlhf_game.mechanism.sampled.estimates import Estimate, prompt_shares

BOXES = 0.1
"""Share of the misses of a lower end that goes to the ranges in which pivots are looked for."""
LATTICE, DEPTH = 6.0, 5.0
"""Points of the lattice lie the range of z, or DEPTH if that is less, over LATTICE (B N)^(1/4) apart: their slack falls
like one over the root of all draws, as an interval does."""
MOST_NUMBERS = 2**22
"""A lower end is looked for among so many numbers, or 16 points of each draw."""
LEAST_RANGE = 1e-100
"""Of z: below it nothing is said but that."""

Bounds = tuple[float, float]


def cumulant(
    z: Array,
    bounds: tuple[ArrayLike, ArrayLike],
    level: float,
    *,
    kappa: float = 0.0,
    weights: ArrayLike | None = None,
) -> Estimate:
    """Return mean_b (kappa E z_b + log E exp(-z_b)) with an interval: [...] of [..., B, N]. kappa: 0 or 1.

    bounds: of z, one pair or one for each row. Half of the misses are above. The first sqrt(B N) draws of a prompt, a
    quarter at most, only find pivots of the upper end: about as many as lose there what they save.
    """
    by, count = prompt_shares(weights, z.shape[-2]), z.shape[-1]
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), z.shape[:-2]) for end in bounds)
    value = kappa * z.mean(axis=-1) @ by + _log_mean(-z) @ by
    known = (np.zeros_like(low), high - low) if kappa else (-high, -low)
    if count == 1:
        return _inside(value, *known, known, level)
    is_known = high - low < LEAST_RANGE
    high = np.where(is_known, low + 1, high)
    rho, miss, pilot = len(by) * by, 1 - level, max(1, int(min(count / 4, (len(by) * count) ** 0.5)))
    target, pivots = np.log(2 / miss), _means_before(z, low, high, miss)
    sides = np.stack([_tangents(end[..., None, None], pivots[..., pilot:], kappa) for end in (low, high)])
    most, least = sides.max(axis=(0, -2)), np.zeros_like(low) if kappa else sides.min(axis=(0, -2, -1))
    numbers, length = _tangents(z, pivots, kappa), (most[..., 0] - least)[..., None]
    stakes = bets(numbers / length[..., None], target) / length
    reach = (-np.minimum(most.min(axis=-1), high - low if kappa else -low), -least)
    top = -lower_end(-numbers[..., None, pilot:], stakes[..., pilot:], rho, target, reach, -most)
    bottom = _worst(z, (low, high), miss, kappa, stakes, rho)
    bottom, top = (np.where(is_known, end, found) for end, found in zip(known, (bottom, top), strict=True))
    return _inside(value, bottom, top, known, level)


def _worst(z: Array, bounds: tuple[Array, Array], miss: float, kappa: float, stakes: Array, rho: Array) -> Array:
    """Return the lower end, by the worst pivots: [...]; minus infinity where they are too many to be looked at."""
    low, high = bounds
    size = z.shape[-2] * z.shape[-1]
    gap = np.minimum(high - low, DEPTH) / (LATTICE * size**0.25)
    slack = phi(-gap / 2)
    first, last = _lattice_ranges(z, bounds, BOXES * miss / 2, gap)
    counts = (last - first).max(axis=-1) + 1
    is_beyond = counts > max(MOST_NUMBERS / size, 16)
    steps = np.arange(int(counts[~is_beyond].max(initial=1)))
    points = np.minimum(first[..., None] + steps, last[..., None])
    pivots = -low[..., None, None] - gap[..., None, None] * points
    numbers = _tangents(z[..., None, :], pivots[..., None], kappa) - slack[..., None, None, None]
    floor, most = (-slack, high - low) if kappa else (-high - slack, -low)
    reach = (floor, np.minimum(numbers.max(axis=(-3, -2, -1)), most))
    found = lower_end(numbers, stakes, rho, np.log(2 / (miss * (1 - BOXES))), reach, floor[..., None])
    return np.asarray(np.where(is_beyond, -np.inf, found))


def _lattice_ranges(z: Array, bounds: tuple[Array, Array], miss: float, gap: Array) -> tuple[Array, Array]:
    """Return the first and the last point of the lattice -low, -low - gap, ... that each prompt needs: [..., B] both.

    All prompts together may miss with probability ``miss``.
    """
    low, length = bounds[0][..., None], (bounds[1] - bounds[0])[..., None]
    powers, least = np.exp(low[..., None] - z), np.broadcast_to(np.exp(-length), z.shape[:-1])
    found = betting_interval(powers, (least, np.ones_like(least)), 1 - miss / z.shape[-2])
    above, below = (np.minimum(-np.log(np.maximum(end, 5e-324)), length) for end in (found.high, found.low))
    above = np.maximum(above, z.min(axis=-1) - low)
    below = np.maximum(np.minimum(below, z.max(axis=-1) - low), above)
    return np.floor(above / gap[..., None]), np.ceil(below / gap[..., None])


def _tangents(z: Array, pivots: Array, kappa: float) -> Array:
    """Return kappa z + exp(-z) / c - 1 + log c, or less where that overflows; log c: ``pivots``."""
    moved = np.maximum(z + pivots, -LARGEST_EXPONENT)
    return phi(moved) if kappa else np.asarray(np.expm1(-moved) + pivots)


def _means_before(z: Array, low: Array, high: Array, miss: float) -> Array:
    """Return the log of the mean of exp(-z) over the draws before each, not lower than can be seen: [..., B, N]."""
    low, high, count = low[..., None, None], high[..., None, None], z.shape[-1]
    means: Array = np.logaddexp.accumulate(-z, axis=-1) - np.log(np.arange(1, count + 1))
    before = np.concatenate([np.broadcast_to(-(low + high) / 2, (*z.shape[:-1], 1)), means[..., :-1]], axis=-1)
    return np.asarray(np.clip(before, np.maximum(-high, min(0.0, np.log(np.log(4 / miss) / count)) - low), -low))


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
    rows = np.stack([_rows(reward, bounds, "rewards", level) for reward in array])
    shares = by / strength
    z = shares[:, None, None] * (rows - bounds[0])
    found = cumulant(z, (0.0 * shares, shares * (bounds[1] - bounds[0])), level, kappa=1.0, weights=prompt_weights)
    return found.scaled(strength)


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


def _inside(
    value: ArrayLike, low: ArrayLike, high: ArrayLike, known: tuple[ArrayLike, ArrayLike], level: float
) -> Estimate:
    """Return an estimate that keeps to what is known, its value to its interval."""
    bottom = np.clip(low, *known)
    top = np.clip(high, bottom, known[1])
    return Estimate(np.clip(value, bottom, top), bottom, top, level)


def _log_mean(logs: Array) -> Array:
    """Return the log of the mean of exp: [...] of [..., N]."""
    return np.asarray(np.logaddexp.reduce(logs, axis=-1) - np.log(logs.shape[-1]))
