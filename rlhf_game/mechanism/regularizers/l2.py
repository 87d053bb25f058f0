r"""The squared L2 regulariser: projections onto the simplex, and payments as sums of squares.

With y = q + s / (2 strength) and slack z = y - tau, p = max(0, z). Taking away a share delta = w r / (2 strength) moves
the slacks to z' = z - delta + shift, where the shift restores sum max(0, z') = 1. The payment (derived from theory
section 3: strength ||p - p'||^2 + <nu, p>, nu = 2 strength max(0, -z')) is strength times the sum of

    (shift - delta)^2      where both policies put mass,
    z^2 + 2 z |z'|         where only p does,
    z'^2                   where only the policy without the group does,

and the shift itself is solved from differences, so nothing cancels however small the share. D(p || q) is the same sum
for the whole score (its removal leads back to q).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import BLOCK, Array, blocks, places, row_minima
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.optimum import (
    KEPT,
    WHOLE,
    Block,
    Optimum,
    Score,
    at,
    by_row,
    dots,
    gain,
    score,
    simplex_thresholds,
)

Index = NDArray[np.intp]

ROUNDING = 1e-12
"""What a large share may lose when survivors are looked for."""
MOST_PASSES = 20
"""Bound on the passes that settle which outcomes hold mass; two are the rule."""
SETTLED = 1e-13
"""A threshold that moves by less than this, relatively, has settled."""
FEW = 8
"""Where at most one outcome in so many holds mass, they are looked up one by one."""
CANCELLATION = 0.1
"""A slack that is this small beside the share that was taken from it has lost a digit."""


@final
@dataclass(frozen=True)
class SquaredL2(Regularizer):
    """D(p || q) = sum (p - q)^2. Outcomes that the reference excludes can come in."""

    name: ClassVar[str] = "l2"
    is_closed: ClassVar[bool] = True

    def maximize(self, weights: Array, rewards: Sequence[Array], reference: Array) -> "Projection":
        """Return the projection of q + s / (2 strength) onto the simplex, for every row."""

        def potential(q: Array, s: Array) -> Array:
            out: Array = q + s / (2 * self.strength)
            return out

        summed = score(weights, rewards, reference, 2 * self.strength, potential)
        floor = reference[np.arange(len(reference)), summed.anchor] - 1
        rows, heights = [], []
        for block in blocks(reference.shape, 1, [reference]):
            height = potential(reference[block], summed.relative[block])
            b, x = places(height > floor[block[0], None])
            rows.append(b + block[0].start)
            heights.append(height[b, x])
        threshold = simplex_thresholds(np.concatenate(heights), np.concatenate(rows), len(reference))
        return Projection(self.strength, reference, summed, self._polish(summed, reference, threshold))

    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return 2 strength (p - q): [B, m]."""
        return np.asarray(2 * self.strength * (policy - reference))

    def _polish(self, summed: Score, reference: Array, threshold: Array) -> Array:
        """Return tau from the same support as [sum over it of s / (2 strength) - sum outside it of q] / its size.

        Equal to (sum over the support of y - 1) / its size because q sums to 1, but small where the score is small.
        """
        for _ in range(MOST_PASSES):
            total, held = np.zeros(len(reference)), np.zeros(len(reference))
            for block in blocks(reference.shape, 1, [reference]):
                rows, q = block[0], reference[block]
                moved = summed.relative[block] / (2 * self.strength)
                inside = moved - threshold[rows, None] + q > 0
                total[rows] += np.where(inside, moved, -q).sum(axis=1)
                held[rows] += inside.sum(axis=1)
            before, threshold = threshold, np.where(held > 0, total / np.maximum(held, 1), threshold)
            if (np.abs(threshold - before) <= SETTLED * np.abs(threshold)).all():
                break
        return threshold


@final
class Projection(Optimum):
    """max(0, q + s / (2 strength) - tau) on every row; slacks are made from the score, never stored."""

    def __init__(self, strength: float, reference: Array, summed: Score, threshold: Array) -> None:
        """threshold: tau for the score relative to its anchor, [B]."""
        self.strength = strength
        self.reference = reference
        self.score = summed
        self.threshold = threshold
        self.divergence: Array = self._squared_distance()
        mean = self.values([summed.relative])[0]
        self.welfare: Array = summed.offset + mean - strength * self.divergence

    def _squared_distance(self) -> Array:
        """Return sum (p - q)^2 from p - q = s / (2 strength) - tau inside the support and -q outside: [B]."""
        out = np.zeros(len(self.reference))
        for block in blocks(self.reference.shape, 1, [self.reference]):
            q = self.reference[block]
            moved = self.score.relative[block] / (2 * self.strength)
            moved -= self.threshold[block[0], None]
            moved = np.where(moved + q > 0, moved, q)
            out[block[0]] += np.einsum("bm,bm->b", moved, moved)
        return out

    def slacks(self, block: Block = WHOLE) -> Array:
        """Return q + s / (2 strength) - tau on a block: [rows, columns]."""
        z: Array = self.score.relative[block] / (2 * self.strength)
        z -= self.threshold[block[0], None]
        z += self.reference[block]
        return z

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        z = self.slacks(block)
        return np.maximum(z, 0, out=z)

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        out = np.zeros((len(rewards), len(self.reference)))
        if FEW * len(self._support[0]) <= self.reference.size:
            rows, columns = self._support
            p = self._slack_at(rows, columns)
            for i, reward in enumerate(rewards):
                out[i] = np.bincount(rows, weights=p * reward[rows, columns], minlength=len(self.reference))
            return out
        for block in blocks(self.reference.shape, 1, [self.reference, *rewards]):
            p = np.maximum(self.slacks(block), 0)
            for i, reward in enumerate(rewards):
                out[i, block[0]] += dots(p, reward[block])
        return out

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength ||p - p_-i||^2 + <nu, p>: [k, B]."""
        shares = by_row(weights, len(self.reference))
        floors = self._floors(shares, rewards)
        rows, columns = self._candidates(self._level(shares, rewards, floors))
        step = max(1, BLOCK // len(rows))
        few = len(self.score.rewards) * len(rows) <= KEPT
        others = cache(lambda: self.score.without_each(rows, columns)) if few else None
        paid = []
        for start in range(0, len(rewards), step):
            some = slice(start, start + step)
            found = self._survivors(shares[some], rewards[some], floors[some], rows, columns, others)
            paid.append(self._payments(len(rewards[some]), *found))
        return np.concatenate(paid) if paid else np.empty((0, len(self.reference)))

    def shortfall(self, policy: Array) -> Array:
        """Return strength ||p - p*||^2 + <nu, p>, nu = 2 strength max(0, -z): [B]."""
        z = self.slacks()
        squares = (policy - np.maximum(z, 0)) ** 2 + 2 * np.maximum(-z, 0) * policy
        return np.asarray(self.strength * squares.sum(axis=1))

    def sensitivity(self, direction: Array) -> Array:
        """Return (direction - its mean over the support) / (2 strength) on the support, 0 elsewhere: [B, m]."""
        inside = self.slacks() > 0
        mean = np.where(inside, direction, 0.0).sum(axis=1) / inside.sum(axis=1)
        return np.where(inside, (direction - mean[:, None]) / (2 * self.strength), 0.0)

    def least_gain(self, multiplier: float, *, is_sum: bool) -> Array:
        """Return the infimum over r of max ASW(s + multiplier r) - max ASW(s): [B].

        The best r raises y = q + s / (2 strength) from below: with sum 1 to a floor (water-filling: r stands where the
        raised policy is least, which is the optimality condition; derived), with maximum 1 at the lowest y.
        """
        y = self.slacks()
        unit = 2 * self.strength / multiplier
        reward = np.zeros_like(y)
        if is_sum:
            depth = unit * (y - y.min(axis=1, keepdims=True))
            rows, columns = np.nonzero(depth < 1)
            level = -simplex_thresholds(-depth[rows, columns], rows, len(y))
            reward = np.maximum(level[:, None] - depth, 0)
        else:
            reward[np.arange(len(y)), y.argmin(axis=1)] = 1.0
        raised = SquaredL2(self.strength).maximize(
            np.array([1.0, multiplier]), [self.score.relative, reward], self.reference
        )
        return gain(raised, multiplier, reward)

    def _payments(self, groups: int, problems: Index, z: Array, base: Array, delta: Array) -> Array:
        """Return the payments of some groups on every row, from the outcomes that matter: [k, B] (see _survivors)."""
        count = groups * len(self.reference)
        inside = z > 0
        shift = -simplex_thresholds(base, problems, count)
        after = base + shift[problems] > 0
        for _ in range(MOST_PASSES):
            pieces = np.where(inside, np.where(after, delta, z), np.where(after, -base, 0.0))
            held = np.bincount(problems, weights=after, minlength=count)
            total = np.bincount(problems, weights=pieces, minlength=count)
            shift = np.where(held > 0, total / np.maximum(held, 1), shift)
            before, after = after, base + shift[problems] > 0
            if np.array_equal(before, after):
                break
        own = shift[problems]
        moved = base + own
        left = z**2 + 2 * z * np.maximum(-moved, 0)
        squares = np.where(inside, np.where(after, (own - delta) ** 2, left), np.maximum(moved, 0) ** 2)
        paid = np.bincount(problems, weights=squares, minlength=count)
        return np.asarray(self.strength * paid.reshape(groups, -1))

    def _floors(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return what a slack must exceed to hold mass without a group, at most, beside the anchor's share: [k, B].

        It is the threshold among a few outcomes that hold mass now, which others only raise. weights: [k, B].
        """
        rows, columns = self._support
        most = max(1, BLOCK // max(len(rewards), 1))
        if len(rows) > most and len(self.reference) == 1:
            columns = columns[np.argpartition(-self._slack_at(rows, columns), most - 1)[:most]]
            rows = np.zeros_like(columns)
        elif len(rows) > most:
            rows, columns = np.arange(len(self.reference)), self.score.anchor
        base = self._slack_at(rows, columns) - self._deltas(weights, rewards, rows, columns)
        problems = np.arange(len(rewards))[:, None] * len(self.reference) + rows
        found = simplex_thresholds(base.ravel(), problems.ravel(), weights.size).reshape(weights.shape)
        return np.asarray(found - ROUNDING * (1 + np.abs(found) + self._depth))

    def _level(self, weights: Array, rewards: Sequence[Array], floors: Array) -> Array:
        """Return what a slack must exceed to hold mass without some group, at most: [B].

        No more than share (r - least r) of the anchor is given back beside what the anchor is given back.
        """
        if not len(rewards):
            return np.zeros(len(self.reference))
        shares, kept = weights / (2 * self.strength), at(rewards, self.score.anchor)
        least = np.array([row_minima(reward) for reward in rewards])
        slack = ROUNDING * np.abs(shares) * (np.abs(kept) + np.abs(least))
        level = np.where(shares < 0, -np.inf, floors - shares * (kept - least) - slack)
        return np.asarray(np.minimum(level.min(axis=0), 0.0))

    def _candidates(self, level: Array) -> tuple[Index, Index]:
        """Return (row, outcome) of all whose slack is above ``level`` [B], in order."""
        found = []
        for block in blocks(self.reference.shape, 1, [self.reference]):
            b, x = places(self.slacks(block) > level[block[0], None])
            found.append((b + block[0].start, x + block[1].start))
        return np.concatenate([b for b, _ in found]), np.concatenate([x for _, x in found])

    def _deltas(self, weights: Array, rewards: Sequence[Array], rows: Index, columns: Index) -> Array:
        """Return w r / (2 strength) at outcomes, from the anchor's: [k, j]."""
        out, anchor = np.empty((len(rewards), len(rows))), self.score.anchor[rows]
        for reward, share, delta in zip(rewards, weights / (2 * self.strength), out, strict=True):
            np.subtract(reward[rows, columns], reward[rows, anchor], out=delta)
            delta *= share[rows]
        return out

    def _survivors(
        self,
        weights: Array,
        rewards: Sequence[Array],
        floors: Array,
        rows: Index,
        columns: Index,
        others: Callable[[], Array] | None,
    ) -> tuple[Index, Array, Array, Array]:
        """Return problem (group, row), z, z - delta and delta of candidates that may hold mass: [j] each.

        delta counts from the anchor's. z - delta is made from the other groups' rewards where the subtraction would
        cancel. others: the scores without each group at the candidates, where they are few enough to be kept.
        """
        unit, count = 2 * self.strength, len(self.reference)
        z, q, tau = self._slack_at(rows, columns), self.reference[rows, columns], self.threshold[rows]
        delta = self._deltas(weights, rewards, rows, columns)
        base = z - delta
        survives = base > floors[:, rows]
        survives |= z > 0
        groups, kept = places(survives)
        delta, base, z = delta[groups, kept], base[groups, kept], z[kept]
        lost = np.flatnonzero(np.abs(base) < CANCELLATION * np.abs(delta))
        if lost.size:
            which, place = np.unique(kept[lost], return_inverse=True)
            left = others()[:, which] if others is not None else self.score.without_each(rows[which], columns[which])
            own = [self.score.position(weight, reward) for weight, reward in zip(weights, rewards, strict=True)]
            is_own = np.array([i is not None for i in own])[groups[lost]]
            lost, place = lost[is_own], place[is_own]  # any other pair is subtracted from the score
            mine = np.array([-1 if i is None else i for i in own])[groups[lost]]
            base[lost] = (left[mine, place] / unit - tau[kept[lost]]) + q[kept[lost]]
        return groups * count + rows[kept], z, base, delta

    def _slack_at(self, rows: Index, columns: Index) -> Array:
        """Return slacks at outcomes: [k]."""
        moved = self.score.relative[rows, columns] / (2 * self.strength) - self.threshold[rows]
        return np.asarray(moved + self.reference[rows, columns])

    @cached_property
    def _support(self) -> tuple[Index, Index]:
        """(row, outcome) of all that hold mass."""
        return self._candidates(np.zeros(len(self.reference)))

    @cached_property
    def _depth(self) -> Array:
        """The largest size of a slack: [B]."""
        out = np.zeros(len(self.reference))
        for block in blocks(self.reference.shape, 1, [self.reference]):
            out[block[0]] = np.maximum(out[block[0]], np.abs(self.slacks(block)).max(axis=1))
        return out
