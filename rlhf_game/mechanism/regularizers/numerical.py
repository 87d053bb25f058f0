"""The optimum of a regulariser that says only its divergence and its argmax, or its conjugate: the rest, numerically.

What is exact elsewhere is a difference of two maxima here, and loses digits as differences do: payments are right to
about 1e-12 of the welfare, and nothing is proved about a training gap (``Optimum.is_exact`` is False).
"""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.optimum import WHOLE, Block, Optimum, by_row, score

STEP: Final = 1e-5
"""Step of differences, as a share of the strength."""
MOST_STEPS: Final = 500
CLOSE: Final = 1e-12
"""A duality gap of the least gain, relative to the multiplier, that is small enough."""


def slope(regularizer: Any, scores: Array, reference: Array) -> Array:
    """Return the gradient of the conjugate by central differences, brought back to sum 1: [B, m]."""
    step = STEP * regularizer.strength
    columns = []
    for unit in np.eye(scores.shape[1]):
        ahead, behind = (regularizer.conjugate(scores + sign * step * unit, reference) for sign in (1, -1))
        columns.append((ahead - behind) / (2 * step))
    p = np.maximum(np.stack(columns, axis=1), 0.0)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def cost_slope(regularizer: Any, policy: Array, reference: Array) -> Array:
    """Return differences of strength * D(p || q) by p, one-sided where p = 0: [B, m]."""
    step = np.where(policy > 0, np.minimum(STEP, policy / 2), 0.0)
    columns = []
    for x, unit in enumerate(np.eye(policy.shape[1])):
        behind = step[:, x]
        ends = [regularizer.divergence(policy + by[:, None] * unit, reference) for by in (STEP + 0 * behind, -behind)]
        columns.append((ends[0] - ends[1]) / (STEP + behind))
    return np.asarray(regularizer.strength * np.stack(columns, axis=1))


@final
class NumericalOptimum(Optimum):
    """argmax on every row of s = sum_i weights_i r_i, and differences of it."""

    is_exact = False

    def __init__(self, regularizer: Any, weights: Array, rewards: Sequence[Array], reference: Array) -> None:
        """regularizer: one that says ``divergence`` and ``argmax``, or ``conjugate``."""
        self.regularizer, self.reference = regularizer, reference
        self.score = score(weights, rewards, reference, regularizer.strength, lambda q, s: np.where(q > 0, s, -np.inf))
        self._p = np.asarray(regularizer.argmax(self.score.relative, reference), dtype=np.float64)
        self.divergence = np.asarray(regularizer.divergence(self._p, reference), dtype=np.float64)
        self._height = np.vecdot(self._p, self.score.relative) - regularizer.strength * self.divergence
        self.welfare = self.score.offset + self._height

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        return np.array(self._p[block])

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        return np.array([np.vecdot(self._p, reward) for reward in rewards]).reshape(len(rewards), -1)

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return max ASW(s - w r) - ASW(s - w r)(p), as a difference: [k, B]."""
        shares = by_row(weights, len(self.reference))
        out = np.empty((len(rewards), len(self.reference)))
        whole = (slice(0, len(self.reference)), slice(0, self.reference.shape[1]))
        for k, others in enumerate(self.score.leave_one_out(shares, rewards, whole)):
            out[k] = self._lead(others, self.regularizer.argmax(others, self.reference))
        return out

    def shortfall(self, policy: Array) -> Array:
        """Return max ASW(s) - ASW(s)(p), as a difference: [B]."""
        return np.asarray(np.maximum(self._height - self._worth(self.score.relative, policy), 0.0))

    def sensitivity(self, direction: Array) -> Array:
        """Return a central difference of the argmax: [B, m]."""
        top = np.abs(direction).max(axis=1, keepdims=True)
        step = STEP * self.regularizer.strength / np.where(top > 0, top, 1.0)
        ahead, behind = (
            self.regularizer.argmax(self.score.relative + sign * step * direction, self.reference) for sign in (1, -1)
        )
        return np.asarray((ahead - behind) / (2 * step))

    def least_gain(self, multiplier: float, *, is_sum: bool) -> Array:
        """Return the infimum over r of max ASW(s + multiplier r) - max ASW(s), from below: [B], >= 0.

        The gain is convex in r and grows with it. With maximum 1 the best r stands on one outcome, and every one is
        tried. With sum 1 it is looked for by conditional gradients, whose duality gap is taken off.
        """
        count = self.reference.shape[1]
        if not is_sum:
            units = [np.broadcast_to(unit, self._p.shape) for unit in np.eye(count)]
            return np.asarray(np.min([self._gained(multiplier, unit)[0] for unit in units], axis=0))
        reward = np.full(self._p.shape, 1.0 / count)
        best = np.zeros(len(reward))
        for k in range(MOST_STEPS):
            gained, p = self._gained(multiplier, reward)
            gap = multiplier * np.vecdot(p - p.min(axis=1, keepdims=True), reward)
            best = np.asarray(np.maximum(best, gained - gap))
            if (gap <= CLOSE * multiplier).all():
                break
            reward += 2 / (k + 3) * (np.eye(count)[p.argmin(axis=1)] - reward)
        return best

    def _gained(self, multiplier: float, reward: Array) -> tuple[Array, Array]:
        raised = self.score.relative + multiplier * reward
        p = self.regularizer.argmax(raised, self.reference)
        return np.maximum(self._worth(raised, p) - self._height, 0.0), p

    def _lead(self, scores: Array, best: Array) -> Array:
        """Return how much more welfare the best policy has for a score than this one, >= 0: [B]."""
        return np.asarray(np.maximum(self._worth(scores, best) - self._worth(scores, self._p), 0.0))

    def _worth(self, scores: Array, policy: Array) -> Array:
        cost = self.regularizer.strength * self.regularizer.divergence(policy, self.reference)
        return np.asarray(np.vecdot(policy, scores) - cost)
