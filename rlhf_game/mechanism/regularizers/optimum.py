"""The exact optimum of B independent tables at once, and the score that it is the optimum of.

Everything here works on a sheet: B problems (prompts, or whole games) with m outcomes each. A reward is [B, m], a
reference q is [B, m] with rows that sum to 1, weights are [n] or [n, B]. Rewards, strength and payments share a unit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import BLOCK, DOT, SMALL, TEMPORARIES, Array, blocks, leave_one_out_sums, stack

Block = tuple[slice, slice]
"""Rows and columns of a sheet."""
WHOLE: Block = (slice(None), slice(None))
TOGETHER, PIECE = 17, 2**9
"""Rows and columns of a matrix that BLAS multiplies at once: on one thread, and what is multiplied stays in cache."""
KEPT = 2**22
"""Entries of all groups (32 MiB) up to which the sums without each group are kept."""
RECOMPUTE = 1e3
"""A score more than this many times its own scale is summed again around its anchor, where it loses no digit."""


class Optimum(ABC):
    """argmax_p <p, s> - strength * D(p || q) on every row, and what can be read off it."""

    welfare: Array
    """<p, s> - strength * D(p || q): [B]."""
    divergence: Array
    """D(p || q): [B]."""
    is_exact: ClassVar[bool] = True
    """Whether it is the maximum up to rounding, as a proof of its kind shows; False where it was found numerically."""

    @abstractmethod
    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m] (a new array)."""

    @abstractmethod
    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r> for k rewards: [k, B]."""

    @abstractmethod
    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return the Bregman divergence of max ASW from s to s - w r, for k pairs: [k, B], >= 0, without cancellation.

        A pair that the optimum was solved for (the same array with the same weight) is left out of the sum of the
        others; any other pair is subtracted from the score.
        """

    @abstractmethod
    def shortfall(self, policy: Array) -> Array:
        """Return max ASW(s) - ASW(s) of any other policy p [B, m], >= 0, without cancellation: [B].

        Infinite where p holds mass that the regulariser forbids.
        """

    @abstractmethod
    def sensitivity(self, direction: Array) -> Array:
        """Return dp/dt for the score s + t direction: [B, m] from [B, m], in 1 / unit of reward.

        It is the Hessian of max ASW times the direction, so it is symmetric: the gradient of <p, r> by s is
        sensitivity(r). Where an outcome is about to enter or to leave the support it is a one-sided derivative.
        """

    @abstractmethod
    def least_gain(self, multiplier: float, *, is_sum: bool) -> Array:
        """Return the infimum over r of max ASW(s + multiplier r) - max ASW(s): [B], >= 0.

        r ranges over non-negative rewards that sum to 1 (is_sum), else over those with maximum 1.
        """


@final
class Settled(NamedTuple):
    """An optimum, with what the rewards that it was solved for have under it and what they cost all others."""

    optimum: Optimum
    values: Array
    """<p, r>: [n, B]."""
    externalities: Array
    """[n, B]."""


@final
@dataclass(frozen=True, eq=False)
class Score:
    """s = sum_i weights_i r_i, kept relative to one outcome per row, its anchor, so that large scores lose no digit."""

    weights: Array
    """[n, B]."""
    rewards: tuple[Array, ...]
    relative: Array
    """s - s[anchor]: [B, m]."""
    anchor: Any
    """The outcome with the largest potential: [B] integers."""
    offset: Array
    """s[anchor]: [B]."""

    def rows(self, which: NDArray[np.intp]) -> "Score":
        """Return the score of some rows."""
        rewards = tuple(reward.take(which, axis=0) for reward in self.rewards)
        relative = self.relative.take(which, axis=0)
        return Score(self.weights[:, which], rewards, relative, self.anchor[which], self.offset[which])

    def leave_one_out(self, weights: Array, rewards: Sequence[Array], block: Block) -> Array:
        """Return s - w r relative to the anchor, for k pairs, on one block: [k, rows, columns].

        A pair of this score is left out of the sum of the others, so that a weight of 1e6 beside 1 costs no digit.
        """
        rows, relative = block[0], self.relative[block]
        where = [self.position(weight, reward) for weight, reward in zip(weights, rewards, strict=True)]
        if any(i is not None for i in where):
            own = stack(self.rewards, block) - at(self.rewards, self.anchor)[:, rows, None]
            own *= self.weights[:, rows, None]
            others = leave_one_out_sums(own)
        out = np.empty((len(rewards), *relative.shape))
        for k, reward in enumerate(rewards):
            if where[k] is not None:
                out[k] = others[where[k]]
            else:
                gone = reward[block] - at([reward], self.anchor)[0, rows, None]
                out[k] = relative - weights[k, rows, None] * gone
        return out

    def without_each(self, rows: Any, columns: Any) -> Array:
        """Return s - w r relative to the anchor, for each of its own pairs, at outcomes (rows, columns): [n, j]."""
        terms, anchor = np.empty((len(self.rewards), len(rows))), self.anchor[rows]
        for weight, reward, term in zip(self.weights, self.rewards, terms, strict=True):
            np.subtract(reward[rows, columns], reward[rows, anchor], out=term)
            term *= weight[rows]
        return leave_one_out_sums(terms)

    @cached_property
    def _places(self) -> dict[Any, list[int]]:
        """The rewards by where they are in memory."""
        found: dict[Any, list[int]] = {}
        for i, reward in enumerate(self.rewards):
            found.setdefault(_memory(reward), []).append(i)
        return found

    def position(self, weight: Array, reward: Array) -> int | None:
        """Return which of its pairs this is, the same array with the same weight [B]; None if none is."""
        for i in self._places.get(_memory(reward), ()):
            if np.array_equal(self.weights[i], weight):
                return i
        return None


def whole(optimum: Optimum, reference: Array) -> Array:
    """Return p on all rows: of a large sheet block by block, so that what it is made with stays in cache."""
    if reference.size <= BLOCK:
        return optimum.probabilities()
    out = np.empty(reference.shape)
    for block in blocks(reference.shape, TEMPORARIES, [reference]):
        out[block] = optimum.probabilities(block)
    return out


def _memory(array: Array) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Return where the numbers of an array are."""
    return array.__array_interface__["data"][0], array.shape, array.strides


def at(rewards: Sequence[Array], anchor: Any) -> Array:
    """Return each reward at one outcome per row: [k, B]."""
    if len(anchor) == 1 and rewards:
        (column,) = anchor.tolist()
        return np.array([reward[0, column] for reward in rewards])[:, None]
    rows = np.arange(len(anchor))
    return (
        np.stack([np.asarray(reward[rows, anchor]) for reward in rewards]) if len(rewards) else np.empty((0, len(rows)))
    )


def by_row(weights: Array, rows: int) -> Array:
    """Return weights as [n, B], from [n] or [n, B]."""
    array = np.asarray(weights, dtype=np.float64)
    if array.ndim == 2:
        return array
    return array[:, None] if rows == 1 else np.broadcast_to(array[:, None], (len(array), rows))


def _accumulate(total: Array, weights: Array, rewards: Sequence[Array], held: Array | None) -> None:
    """Add sum_i weights_i (r_i - held_i) to ``total`` [B, m], block by block. weights, held: [n, B]."""
    widest = min(total.size, max(BLOCK // TEMPORARIES, 1))  # entries of a block
    workspace = np.empty(max(min(TEMPORARIES * BLOCK, len(rewards) * widest), 1))
    for block in blocks(total.shape, TEMPORARIES, rewards):
        rows, target = block[0], total[block]
        step = max(1, workspace.size // target.size)
        for start in range(0, len(rewards), step):
            some = slice(start, start + step)
            parts = workspace[: len(rewards[some]) * target.size].reshape(-1, *target.shape)
            scales = weights[some, rows, None]
            if held is None:
                scaled(rewards[some], scales, block, parts)
            else:
                stack(rewards[some], block, parts)
                parts -= held[some, rows, None]
                parts *= scales
            target += added(parts, np.empty_like(target))


def scaled(rewards: Sequence[Array], scales: Array, block: Block, out: Array) -> None:
    """Put each reward on a block, times its scale, into ``out``: [k, rows, columns]; scales: [k, rows, 1]."""
    if out[0].size <= SMALL and out.flags.c_contiguous:  # few entries of each: fewer calls
        stack(rewards, block, out)
        out *= scales
        return
    for reward, scale, one in zip(rewards, scales, out, strict=True):
        np.multiply(reward[block], scale, out=one)


def expectation(policy: Array, stacked: Array) -> Array:
    """Return <p, r> of each row: [k, rows] from [rows, columns] and [k, rows, columns]."""
    if stacked.shape[1] > 1:
        return np.asarray(np.einsum("kbm,bm->kb", stacked, policy))
    if stacked.shape[2] <= DOT:
        return np.asarray(np.vecdot(stacked, policy))
    found = np.empty((len(stacked), 1))
    for start in range(0, len(stacked), TOGETHER):
        some = slice(start, start + TOGETHER)
        whole, rest = _pieces(stacked[some, 0])
        head = whole.shape[0] * PIECE
        found[some] = (whole @ policy[0, :head].reshape(-1, PIECE, 1)).sum(axis=0)
        found[some, 0] += np.vecdot(rest, policy[0, head:])
    return found


def added(terms: Array, out: Array) -> Array:
    """Return the sum of k terms, as ``out``: [rows, columns] of [k, rows, columns]."""
    if out.shape[0] > 1 or out.shape[1] <= DOT or len(terms) > TOGETHER:
        return np.asarray(np.add.reduce(terms, axis=0, out=out))
    whole, rest = _pieces(terms[:, 0])
    head = whole.shape[0] * PIECE
    np.matmul(np.ones((1, len(terms))), whole, out=out[0, :head].reshape(-1, 1, PIECE))
    np.add.reduce(rest, axis=0, out=out[0, head:])
    return out


def _pieces(rows: Array) -> tuple[Array, Array]:
    """Cut a few long rows [k, m] into matrices [pieces, k, PIECE], and what is left over, [k, rest]."""
    head = rows.shape[1] // PIECE * PIECE
    return rows[:, :head].reshape(len(rows), -1, PIECE).transpose(1, 0, 2), rows[:, head:]


def dots(a: Array, b: Array) -> Array:
    """Return the sums of products along the last axis, in pieces short enough that BLAS takes one thread for each."""
    head = a.shape[-1] // DOT * DOT
    if a.shape[-1] <= DOT:
        return np.asarray(np.vecdot(a, b))
    cut = [c[..., :head].reshape(*c.shape[:-1], -1, DOT) for c in (a, b)]
    return np.asarray(np.vecdot(*cut).sum(axis=-1) + np.vecdot(a[..., head:], b[..., head:]))


def score(
    weights: Array,
    rewards: Sequence[Array],
    reference: Array,
    scale: float,
    potential: Callable[[Array, Array], Array],
) -> Score:
    """Aggregate the rewards in one reading (two when the numbers are large beside ``scale`` or their own range).

    scale: what the score is divided by before it matters (the strength), in units of reward.
    potential(q, s): increasing in s; the anchor of a row is the outcome where it is largest.
    """
    by = by_row(weights, len(reference))
    total = np.zeros(reference.shape)
    _accumulate(total, by, rewards, None)
    anchor = _argmax(total, reference, potential)
    low, high = total.min(axis=1), total.max(axis=1)
    if (np.maximum(-low, high) > RECOMPUTE * np.minimum(scale, high - low)).any():
        held = at(rewards, anchor)
        total[:] = 0.0
        _accumulate(total, by, rewards, held)
        offset = np.einsum("nb,nb->b", by, held)
    else:
        offset = total[np.arange(len(total)), anchor].copy()
        total -= offset[:, None]
    return Score(by, tuple(rewards), total, anchor, offset)


def _argmax(total: Array, reference: Array, potential: Callable[[Array, Array], Array]) -> Any:
    best = np.full(len(total), -np.inf)
    anchor = np.zeros(len(total), dtype=np.intp)
    for rows, columns in blocks(total.shape, 1, [reference]):
        height = potential(reference[rows, columns], total[rows, columns])
        peak = height.argmax(axis=1)
        value = height[np.arange(len(peak)), peak]
        higher = value > best[rows]
        best[rows] = np.where(higher, value, best[rows])
        anchor[rows] = np.where(higher, peak + columns.start, anchor[rows])
    return anchor


def simplex_thresholds(heights: Array, rows: NDArray[np.intp], count: int) -> Array:
    """Return for each of ``count`` rows the tau with sum max(0, height - tau) = 1: [count].

    heights and rows list the entries that may be above tau; a row lists at least its largest. Michelot's method: Newton
    steps on a convex piecewise linear function, finite and monotone.
    """
    while True:
        held = np.bincount(rows, minlength=count)
        tau = (np.bincount(rows, weights=heights, minlength=count) - 1) / held
        above = heights > tau[rows]
        above |= held[rows] == 1
        if above.all():
            return tau
        heights, rows = heights[above], rows[above]


def gain(raised: Optimum, multiplier: float, reward: Array) -> Array:
    """Return max ASW(s) - max ASW(s - multiplier r) for an optimum ``raised`` of s: [B]."""
    weights = np.full((1, len(reward)), multiplier)
    out: Array = multiplier * raised.values([reward])[0] - raised.externalities(weights, [reward])[0]
    return np.maximum(out, 0.0)
