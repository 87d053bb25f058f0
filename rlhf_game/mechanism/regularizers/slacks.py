"""The slacks of a separable optimum: one number per row, solved for, and what a pair pays when rows are hard.

The search for a number takes Newton steps on a mean of slacks (see ``roots``). A pair that leaves is solved for here on
its own, in whatever way loses no digit; ``departures`` does it for many pairs at once where nothing is hard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array, blocks
from rlhf_game.mechanism.regularizers.links import Link
from rlhf_game.mechanism.regularizers.optimum import WHOLE, Block, Score

LARGE_SHARE = 0.5
"""Shares up to this (in units of the slack, relatively) are solved from differences; larger ones anew."""
POLISHES = 3
"""Newton steps that settle a shift which is known up to rounding."""
NOISE = 1e-13
"""Steps below this, relatively, that stop shrinking are rounding."""
SLACKER = 1e-6
"""A root may be an end: searches look this much beyond, relatively."""
MOST_STEPS = 200
PATIENCE = 20
"""After so many Newton steps every third one is a bisection."""
EPSILON = 2.0**-52
SHORT = 64
"""Rows of fewer outcomes are worked on outcome after outcome: numpy sums over long inner loops."""
PIECE = 2**15
"""Entries that are worked on at a time: with what is made of them they stay in cache."""

Indices: TypeAlias = NDArray[np.intp]
Evaluate: TypeAlias = Callable[[Indices, Array], tuple[Array, Array, Array]]
"""Of some searches at unknowns y: F(y), G(y) and the slack of the outcome that is best off, [P] each."""


@final
@dataclass(frozen=True, eq=False)
class Slacks:
    """The slacks z of every row: the anchor's, and by the score those of all others."""

    link: Link
    strength: float
    """What multiplies sum q f(p / q), already times the scale of the divergence."""
    reference: Array
    """q: [B, m]."""
    score: Score
    anchor: Array
    """[B]."""

    @staticmethod
    def of(link: Link, strength: float, reference: Array, score: Score) -> "Slacks":
        """Return the slacks of the optimum."""
        return Slacks(link, strength, reference, score, solved(link, strength, reference, score.relative))

    def at(self, block: Block = WHOLE) -> Array:
        """Return z on a block; that of the anchor where the reference is 0."""
        return (
            fall(self.link, self.strength, self.reference[block], self.score.relative[block])
            + self.anchor[block[0], None]
        )

    def rows(self, which: Indices, weight: Array, reward: Array) -> "tuple[Slacks, Array]":
        """Return the slacks of some rows, and a reward there."""
        place, summed = self.score.position(weight, reward), self.score.rows(which)
        part = Slacks(self.link, self.strength, self.reference[which], summed, self.anchor[which])
        return part, reward[which] if place is None else summed.rewards[place]

    def externality(self, weight: Array, reward: Array) -> Array:
        """Return one pair's payment on every row, with care: [B]."""
        link, q, z = self.link, self.reference, self.at()
        share, typical = self._centred(weight, reward, q > 0)
        span = abs(link.slope) * np.abs(share).max(axis=1)
        if (span > LARGE_SHARE * self.anchor / 2).any():
            h, other = self._moves(weight, reward)
        else:
            h = link.slope * (self._shift(share, typical)[:, None] - share)
            other = z + h
        out: Array = self.strength * (q * link.bregman(z, other, h)).sum(axis=1)
        return out

    def _centred(self, weight: Array, reward: Array, kept: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return w r / strength less its mean [B, m], and its typical size [B], as the kept outcomes feel it."""
        feeling = self.reference * self.link.density(self.at()) * np.abs(self.link.log_derivative(self.at()))
        feeling = np.where(kept, feeling, 0.0)
        total = np.maximum(feeling.sum(axis=1), np.finfo(float).tiny)
        centre = (feeling * reward).sum(axis=1) / total
        share = np.where(self.reference > 0, reward - centre[:, None], 0.0) * (weight / self.strength)[:, None]
        return share, (feeling * np.abs(share)).sum(axis=1) / total

    def _moves(self, weight: Array, reward: Array) -> tuple[Array, Array]:
        """Return how far the slacks move without a pair, and where to, when some move far: [B, m] each.

        Those that move far are solved anew. For the others that would cancel: they share one shift, which makes up for
        the mass that the far ones win or lose.
        """
        link, q, z = self.link, self.reference, self.at()
        other = self._resolve(weight, reward)
        h = other - z
        near = (q > 0) & (z > 0) & (np.abs(h) < z / 2) & (np.abs(h * link.log_derivative(z)) < 0.5)
        share, _ = self._centred(weight, reward, near)
        feeling = np.where(near, q * link.density(z) * link.log_derivative(z) * link.slope, 0.0)
        total = feeling.sum(axis=1)
        total = np.where(total > 0, total, 1.0)
        gained, held = q * link.density(other), q * link.density(z)
        won = np.where(near, 0.0, gained - held).sum(axis=1)
        shift = (feeling * (h / link.slope + share)).sum(axis=1) / total
        for _ in range(POLISHES):
            moved = np.where(near, link.slope * (shift[:, None] - share), 0.0)
            shift = shift - ((q * link.change(z, moved)).sum(axis=1) + won) / total
        moved = link.slope * (shift[:, None] - share)
        uncertain = abs(link.slope) * np.where(near, 0.0, gained + held).sum(axis=1) / total
        better = near & (uncertain[:, None] < z)  # than a difference, which is uncertain by a rounding of z
        return np.where(better, moved, h), np.where(better, z + moved, other)

    def _resolve(self, weight: Array, reward: Array) -> Array:
        """Return the slacks without a pair, solved from the sum of the others: [B, m]."""
        others = self.score.leave_one_out(weight[None], [reward], (slice(0, len(reward)), slice(0, reward.shape[1])))[0]
        others -= potential(self.reference, others).max(axis=1)[:, None]
        anchor = solved(self.link, self.strength, self.reference, others)
        return anchor[:, None] + fall(self.link, self.strength, self.reference, others)

    def _shift(self, share: Array, typical: Array) -> Array:
        """Return the shift with sum q [u(z + k (shift - share)) - u(z)] = 0: [B]. typical: size of a share, [B]."""
        link, q = self.link, self.reference

        def residual(shift: Array) -> tuple[Array, Array]:
            h = link.slope * (shift[:, None] - share)
            moved = self.at() + h
            slope = q * link.density(moved) * link.log_derivative(moved) * link.slope
            return (q * link.change(self.at(), h)).sum(axis=1), slope.sum(axis=1)

        held = np.where(q > 0, share, np.nan)
        return _root(residual, np.nanmin(held, axis=1), np.nanmax(held, axis=1), scale=typical, rising=True)


def potential(q: Array, s: Array) -> Array:
    """Return what an anchor has most of: the score, where the reference is not 0."""
    return s if q.min() > 0 else np.where(q > 0, s, -np.inf)


def fall(link: Link, strength: float, reference: Array, relative: Array) -> Array:
    """Return z - z[anchor] for a score relative to the anchor: 0 where the reference is 0."""
    moved: Array = relative * (link.slope / strength)
    return moved if reference.min() > 0 else np.where(reference > 0, moved, 0.0)


def solved(link: Link, strength: float, reference: Array, relative: Array) -> Array:
    """Return the slack of the anchor on every row, for a score whose largest entry per row is 0: [B]."""
    rows, width = relative.shape
    top, middle = np.zeros(rows), np.zeros(rows)
    for block in blocks(relative.shape, 1, [reference], PIECE):
        q = reference[block]
        at_top = np.where(potential(q, relative[block]) == 0, q, 0.0).max(axis=1)
        top[block[0]] = np.maximum(top[block[0]], at_top)
        middle[block[0]] += total(q, fall(link, strength, q, relative[block]))
    with np.errstate(over="ignore"):  # an optimum that is lost this way does not sum to 1, and is refused
        ends = np.sort([np.full(rows, link.unit), link.inverse(1 / top)], axis=0)
    out: Array = np.clip(link.unit - middle, *ends)
    for shelf, _ in groupby(blocks((rows, width), 1, (), PIECE), itemgetter(0)):
        q, moved = (
            array[shelf] if width >= SHORT else np.asfortranarray(array[shelf]) for array in (reference, relative)
        )

        def evaluate(which: Indices, y: Array, q: Array = q, moved: Array = moved) -> tuple[Array, Array, Array]:
            mass, slope = np.full(len(y), -1.0), np.zeros(len(y))
            for _, columns in blocks((1, width), len(y), (), PIECE):
                some = some_rows(q[:, columns], which)
                z = y[:, None] + fall(link, strength, some, some_rows(moved[:, columns], which))
                density = link.density(z)
                mass += total(some, density)
                density *= link.log_derivative(z)
                slope += total(some, density)
            return mass, slope, y

        def is_last(which: Indices, step: Array, before: Array, hot: Array) -> NDArray[np.bool_]:
            return np.asarray((step <= EPSILON * hot) | ((step < NOISE * hot) & (step >= before / 2)))

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            out[shelf] = roots(link, evaluate, out[shelf], (ends[0][shelf], ends[1][shelf]), is_last)
    return out


def total(q: Array, values: Array) -> Array:
    """Return sum_x q_x values_x of each row: [P]; q may be one row for all."""
    if len(q) == 1:
        return np.asarray(values @ q[0])
    return np.asarray((q * values).sum(axis=1))


def some_rows(array: Array, which: Indices) -> Array:
    """Return some rows, in the order of memory of the array."""
    if len(which) == len(array):
        return array
    found: Array = array[which] if array.flags.c_contiguous else array.T[:, which].T
    return found


def hottest(link: Link, slacks: Array) -> Array:
    """Return the slack of the outcome that is best off in each row: [P]."""
    return np.asarray(slacks.max(axis=1) if link.slope > 0 else slacks.min(axis=1))


def roots(
    link: Link, evaluate: Evaluate, y: Array, ends: tuple[Array, Array], is_last: Callable[..., NDArray[np.bool_]]
) -> Array:
    """Return the roots of F, one for each of P searches that begin at ``y``.

    ends: between which the slack of the outcome that is best off must be at the root, both > 0: [P] each.
    is_last(which, step, before, hot): whether a step [P] is the last. Newton steps, and bisection of the logarithm of
    that slack where one would leave what is left. A search that does not end is where it came to.
    """
    found, active, at = y.copy(), np.arange(len(y)), y
    least, most = ends[0] * (1 - SLACKER), ends[1] * (1 + SLACKER)
    low, high, before = np.full(len(y), -np.inf), np.full(len(y), np.inf), np.full(len(y), np.inf)
    for count in range(MOST_STEPS):
        excess, slope, hot = evaluate(active, at)
        if link.slope < 0:  # no slack is negative there: y is too small
            excess = np.where(hot <= 0, np.inf, excess)
        above = (excess > 0) == (link.slope > 0)
        low, high = np.where(above, low, at), np.where(above, at, high)
        first, final = at + (least - hot), at + (most - hot)
        bottom, top = np.maximum(low, first), np.minimum(high, final)
        step = link.mean_step(excess) / slope
        moved, size = at + step, np.abs(step)
        is_newton = (moved >= bottom) & (moved <= top) & (count < PATIENCE or count % 3 > 0)
        ended = is_last(active, size, before, hot) & is_newton
        ended |= top - bottom <= 2 * EPSILON * np.maximum(np.abs(at), np.abs(hot))
        if not is_newton.all():
            reach = np.maximum(bottom - at + hot, np.finfo(float).tiny), np.maximum(top - at + hot, 0)
            middle = at + (np.sqrt(reach[0]) * np.sqrt(reach[1]) - hot)
            if count < PATIENCE:  # at an end that is new, the mean of slacks may be a line
                far = SLACKER * np.abs(hot)
                middle = np.where((moved < bottom) & (first > low + far), first, middle)
                middle = np.where((moved > top) & (final < high - far), final, middle)
            moved = np.where(is_newton, moved, middle)
        is_root = excess == 0
        at = np.where(is_root, at, moved)
        ended |= is_root
        if ended.any():
            found[active[ended]] = at[ended]
            rest = ~ended
            if not rest.any():
                return found
            active, at, least, most, low, high, size = (
                array[rest] for array in (active, at, least, most, low, high, size)
            )
        before = size
    found[active] = at
    return found


def _root(
    residual: Callable[[Array], tuple[Array, Array]], low: Array, high: Array, *, scale: Array | None, rising: bool
) -> Array:
    """Return the roots in [low, high] of a monotone function that gives its value and derivative, one per row.

    scale: what steps are measured against; None measures them against the unknown, which is then > 0, and steps on its
    logarithm (the derivative is by it). Newton steps, bisection whenever a step leaves the bracket, and now and then
    once there have been many. A row is settled when its step is below
    rounding, or small and no longer shrinking: what is left then is the rounding of the value itself.
    """
    settled, before = np.zeros(len(low), dtype=bool), np.full(len(low), np.inf)
    x = np.sqrt(low) * np.sqrt(high) if scale is None else (low + high) / 2
    for count in range(MOST_STEPS):
        value, derivative = residual(x)
        above = (value > 0) == rising
        low, high = np.where(above, low, x), np.where(above, x, high)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = -value / derivative
            moved = x * np.exp(step) if scale is None else x + step
        middle = np.sqrt(low) * np.sqrt(high) if scale is None else (low + high) / 2
        size, reach = np.abs(moved - x), np.abs(x) if scale is None else scale
        stalled = (size < NOISE * reach) & (size >= before / 2)
        settled |= (value == 0) | (np.minimum(size, high - low) <= 2e-16 * reach) | stalled
        if settled.all():
            break
        before = size
        newton = (moved > low) & (moved < high) & (count < PATIENCE or count % 3 > 0)
        x = np.where(settled, x, np.where(newton, moved, middle))
    return x
