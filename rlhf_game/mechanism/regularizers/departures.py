r"""What happens to separable optima when pairs of a weight and a reward leave: one search for all of them at once.

Without a pair the slacks are z + h with h_x = y - k a_x, where a = w r / strength and y is one number, fixed by
F(y) = sum q [u(z + h) - u(z)] = 0. Derived here, with G = F' = sum q u'(z + h):

* The payment P(y) = sum q B(z, z + h) has P' = F / k and P'' = G / k >= 0: it is least at the root. So an error of y
  counts twice as little as its digits, and P - F^2 / (2 k G) is right up to its third power. Nothing but P is summed to
  the last digit, and that from differences h.
* The mean of slacks M(y) = u^{-1}(sum q u(z + h)) is a line in y both where one outcome holds all mass and where all
  slacks move little. Newton steps on it rarely number more than four.

What rounding does is estimated: of z + h where most of z cancels, and of a shift y that is large beside what it leaves.
Pairs for which that matters are left to the careful way (test_pairs_that_leave_at_once_are_as_exact_as_one_by_one).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array, blocks
from rlhf_game.mechanism.regularizers.links import Link
from rlhf_game.mechanism.regularizers.optimum import Block, expectation
from rlhf_game.mechanism.regularizers.slacks import (
    EPSILON,
    PIECE,
    SHORT,
    Indices,
    Slacks,
    hottest,
    roots,
    some_rows,
    total,
)

NEAR = 1e-6
"""A squared step up to this, in squares of the distance over which slacks matter, is the last one before payments."""
NEAR_KINKS = 1e-5
"""The same of a step, where outcomes may leave the support."""
LARGEST_STEP = 1e-3
"""A step that is left when payments are made must not be larger, in slacks of the outcome that is best off."""
ROUNDING = 1e-12
"""Payments that rounding, or the powers of a step that are left out, may change by more than this are not sure."""
FAR = 1e300
"""The slack of an outcome that the reference excludes, from where none comes back."""


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Some outcomes of P pairs. q, z and density u(z): [P, w], or [1, w] of pairs that share a row."""

    q: Array
    z: Array
    density: Array
    share: Array
    """k a: [P, w]."""

    def of(self, which: Indices) -> "Part":
        """Return some of the pairs."""
        if len(self.q) == 1:
            return Part(self.q, self.z, self.density, self.share[which])
        return Part(*(some_rows(array, which) for array in (self.q, self.z, self.density, self.share)))


Parts: TypeAlias = Callable[[Indices], Iterable[Part]]
"""The outcomes of some pairs, part after part."""


def room(count: int, rows: int, width: int) -> Array:
    """Return memory for the outcomes of some rows, [count, rows, width], outcome after outcome where rows are short."""
    return np.empty((width, count, rows)).transpose(1, 2, 0) if width < SHORT else np.empty((count, rows, width))


@final
class Pairs:
    """k pairs on b rows, group after group: P = k b searches. A single row may be long, and is then cut into parts."""

    def __init__(self, slacks: Slacks, rows: slice, weights: Array, rewards: Sequence[Array]) -> None:
        """weights: [k, b] of these rows; rewards: k of [B, m]."""
        self.slacks, self.rewards = slacks, rewards
        self.top, self.bottom = rows.start, rows.stop
        self.scales = weights * (slacks.link.slope / slacks.strength)
        """k w / strength, [k, b]."""
        self.whole: Part | None = None
        felt, shares, least = np.zeros(weights.shape[1]), np.zeros(weights.shape), np.full(weights.shape[1], np.inf)
        for block in self.blocks():
            q, feeling, said = self.felt(block)
            felt += feeling.sum(axis=1)
            shares += expectation(feeling, said)
            least = np.minimum(least, np.where(q > 0, q, np.inf).min(axis=1))
        felt = np.maximum(felt, np.finfo(float).tiny)
        self.centres = shares / felt
        """What each reward is measured from: its mean as the outcomes feel it, [k, b]."""
        typical = np.zeros(weights.shape)
        for block in self.blocks():
            _, feeling, said = self.felt(block)
            said -= self.centres[:, :, None]
            typical += expectation(feeling, np.abs(said, out=said))
        self.typical = (np.abs(self.scales) * typical / felt).ravel()
        """The size of k a as the outcomes feel it: [P]."""
        link = slacks.link
        ends = np.sort([np.full(len(least), link.unit), link.inverse(1 / least)], axis=0)
        self.ends = np.tile(ends[0], len(rewards)), np.tile(ends[1], len(rewards))

    def blocks(self) -> Iterator[Block]:
        """Cut the rows into blocks: one, or parts of a single row."""
        rows, width = slice(self.top, self.bottom), self.slacks.reference.shape[1]
        count = len(self.rewards) * (self.bottom - self.top)
        reading = [array[rows] for array in (self.slacks.reference, *self.rewards)]
        entries = PIECE if self.bottom - self.top == 1 else count * width
        for _, columns in blocks((1, width), count, reading, entries):
            yield rows, columns

    def felt(self, block: Block) -> tuple[Array, Array, Array]:
        """Return q, q |u'(z)| and the rewards of a block: [b, w], [b, w] and [k, b, w]."""
        q, z, link = self.slacks.reference[block], self.slacks.at(block), self.slacks.link
        said = room(len(self.rewards), *q.shape)
        for out, reward in zip(said, self.rewards, strict=True):
            out[...] = reward[block]
        feeling = room(1, *q.shape)[0]
        np.multiply(link.density(z), q, out=feeling)
        feeling *= np.abs(link.log_derivative(z))
        return q, feeling, said

    def parts(self, which: Indices) -> Iterator[Part]:
        """Yield the outcomes of some pairs, part after part."""
        if self.bottom - self.top == 1:
            for block in self.blocks():
                yield self.part(block, which)
            return
        if self.whole is None:
            (block,) = self.blocks()
            self.whole = self.part(block, range(len(self.rewards)))
        yield self.whole.of(which) if len(which) < len(self.typical) else self.whole

    def part(self, block: Block, groups: Sequence[int] | Indices) -> Part:
        """Return the outcomes of all pairs of some groups on a block."""
        q, z = self.slacks.reference[block], self.slacks.at(block)
        count, (rows, width) = len(groups), q.shape
        share = room(count, rows, width)
        for out, i in zip(share, groups, strict=True):
            np.subtract(self.rewards[i][block], self.centres[i, :, None], out=out)
            out *= self.scales[i, :, None]
        if q.min() <= 0:
            z = np.where(q > 0, z, -np.sign(self.slacks.link.slope) * FAR)
            share *= q > 0
        density = self.slacks.link.density(z)
        if rows > 1:
            q, z, density = (np.tile(array.T, count).T for array in (q, z, density))
        return Part(q, z, density, share.reshape(count * rows, width))


def left(link: Link, parts: Parts, typical: Array, ends: tuple[Array, Array]) -> tuple[Array, NDArray[np.bool_]]:
    """Return what each pair pays in units of the strength, and whether that is sure: [P] each.

    typical: the size of a share k a as the outcomes feel it, [P]. ends: as for ``roots``.
    """

    def evaluate(which: Indices, y: Array) -> tuple[Array, Array, Array]:
        excess, slope, hot = np.zeros(len(y)), np.zeros(len(y)), np.full(len(y), -np.inf * np.sign(link.slope))
        best = np.maximum if link.slope > 0 else np.minimum
        for part in parts(which):
            h = y[:, None] - part.share
            other = part.z + h
            change, steepness = link.response(part.z, part.density, other, h)
            excess += total(part.q, change)
            slope += total(part.q, steepness)
            hot = best(hot, hottest(link, other))
        return excess, slope, hot

    def is_last(which: Indices, step: Array, before: Array, hot: Array) -> NDArray[np.bool_]:
        near = np.minimum(typical[which], np.abs(hot))
        if link.slope > 0:
            return np.asarray((step <= NEAR_KINKS * near) | ((step <= EPSILON * np.abs(hot)) & (step >= before / 2)))
        return np.asarray(step * step <= NEAR * np.abs(hot) * near)

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        y = roots(link, evaluate, np.zeros(len(typical)), ends, is_last)
        return _payments(link, parts, y)


def _payments(link: Link, parts: Parts, y: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return the payments at roots y, and where they are right to rounding: [N] each.

    What is left of the excess at y is taken off to second order (a Newton step); ``sure`` is where the step, its third
    order and what was lost to cancellation, also in taking it off, are below rounding.
    """
    paid, excess, slope, moved, lost = np.zeros((5, len(y)))
    hot = np.full(len(y), -np.inf * np.sign(link.slope))
    best = np.maximum if link.slope > 0 else np.minimum
    for part in parts(np.arange(len(y))):
        h = y[:, None] - part.share
        other = part.z + h
        change, steepness = link.response(part.z, part.density, other, h)
        excess += total(part.q, change)
        slope += total(part.q, steepness)
        hot = best(hot, hottest(link, other))
        paid += total(part.q, link.bregman(part.z, other, h))
        np.abs(change, out=change)
        moved += total(part.q, change)
        size = np.abs(part.z)
        cancels = np.abs(other) < size / 8
        if cancels.any():
            change *= size
            lost += total(part.q, np.where(cancels, change, 0.0))
    step = np.where(excess == 0, 0.0, excess / slope)
    gained = excess * step / link.slope / 2
    uncertain = EPSILON * (np.abs(y) * moved + lost) / abs(link.slope)
    third = gained if link.slope > 0 else gained * np.abs(step) / hot  # beyond a kink the second power is not known
    paid -= gained
    wrong = np.maximum.reduce([third, uncertain, EPSILON * gained])  # the last: where little of what is summed is left
    return paid, (np.abs(step) <= LARGEST_STEP * hot) & (wrong <= ROUNDING * paid)
