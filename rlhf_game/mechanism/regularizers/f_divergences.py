r"""Separable f-divergences sum q f(p / q), through one safeguarded one-dimensional dual solve.

The optimum is p_x = q_x u(z_x), where u is the inverse of f' and z a rescaled dual slack: z_x = z_anchor - k d_x with
d_x = (s_anchor - s_x) / strength >= 0 and one unknown z_anchor per row, fixed by sum p = 1. u grows with z if k > 0
(then u = 0 for z <= 0) and falls with z if k < 0 (then z > 0 always): in both cases z is a sum of terms of one sign
where it matters, so nothing cancels however strong the rewards.

The payment of a group is strength * sum_x q_x B(z_x, z'_x) (derived from Fenchel duality): z' are the slacks without
the group and B >= 0 is the Bregman divergence of the conjugate f* between them. If the group's share a = w r / strength
is small, z' - z = k (shift - a) is solved from differences of u that do not cancel. D(p || q) is the same sum for the
removal of the whole score, which leads back to q.

f is normalised so that f'(1) = 0, which adds a multiple of sum (p - q) = 0: reverse KL is t - 1 - log t, the limit of
alpha:A at A = 0.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, blocks, scalar, stack
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.departures import Pairs, left
from rlhf_game.mechanism.regularizers.links import JensenShannonLink, Link, PowerLink
from rlhf_game.mechanism.regularizers.optimum import WHOLE, Block, Optimum, by_row, expectation, gain, score
from rlhf_game.mechanism.regularizers.slacks import PIECE, Slacks, potential

LARGEST_LOSS = 1e-9
"""How far the optimum may be from summing to 1 before it is refused."""
MOST_HALVINGS = 64


class Separable(Regularizer):
    """strength * scale * sum q f(p / q) for the f of a link. Zero probabilities of the reference stay zero."""

    scale: ClassVar[float] = 1.0

    @abstractmethod
    def link(self) -> Link:
        """Return the inverse of f'."""

    @final
    def maximize(self, weights: Array, rewards: Sequence[Array], reference: Array) -> "DualOptimum":
        """Return the optimum of every row."""
        unit = self.strength * self.scale
        summed = score(weights, rewards, reference, unit, potential)
        return DualOptimum(Slacks.of(self.link(), unit, reference, summed), self.scale)

    @final
    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return strength * f'(p / q), up to a constant: [B, m]; at p = 0 its limit."""
        link = self.link()
        there = (policy > 0) & (reference > 0)
        slack = link.inverse(np.where(there, policy / np.where(reference > 0, reference, 1.0), 1.0))
        least = 0.0 if link.slope > 0 else np.inf
        return np.asarray(self.strength * self.scale / link.slope * np.where(there, slack, least))


@final
@dataclass(frozen=True)
class ReverseKL(Separable):
    """D(p || q) = -sum q log(p / q)."""

    name: ClassVar[str] = "reverse_kl"

    def link(self) -> Link:
        """Return the power link of order 0."""
        return PowerLink(0.0)


@final
@dataclass(frozen=True)
class PearsonChi2(Separable):
    """D(p || q) = sum q (p / q - 1)^2: twice the alpha divergence of order 2."""

    name: ClassVar[str] = "chi2"
    scale: ClassVar[float] = 2.0

    def link(self) -> Link:
        """Return the power link of order 2."""
        return PowerLink(2.0)


@final
@dataclass(frozen=True)
class Hellinger(Separable):
    """D(p || q) = sum q (sqrt(p / q) - 1)^2 / 2: a quarter of the alpha divergence of order 1/2."""

    name: ClassVar[str] = "hellinger"
    scale: ClassVar[float] = 0.25

    def link(self) -> Link:
        """Return the power link of order 1/2."""
        return PowerLink(0.5)


@final
@dataclass(frozen=True)
class JensenShannon(Separable):
    """D(p || q) = sum q (t log t - (t + 1) log((t + 1) / 2)) / 2 with t = p / q."""

    name: ClassVar[str] = "js"

    def link(self) -> Link:
        """Return the Jensen-Shannon link."""
        return JensenShannonLink()


@final
@dataclass(frozen=True)
class Alpha(Separable):
    """D(p || q) = sum q (t^A - 1 - A (t - 1)) / (A (A - 1)) with t = p / q; order: A, finite, not 0 or 1."""

    order: float = 2.0
    name: ClassVar[str] = "alpha"

    def __post_init__(self) -> None:
        super().__post_init__()
        if scalar(self.order, "order of alpha") in (0.0, 1.0):
            raise InputError(f"order of alpha must be a finite number other than 0 and 1, got {self.order!r}")

    def link(self) -> Link:
        """Return the power link of this order."""
        return PowerLink(float(self.order))


@final
class DualOptimum(Optimum):
    """q u(z) on every row."""

    def __init__(self, slacks: Slacks, scale: float) -> None:
        """slacks: solved for strength * scale, the scale of the divergence."""
        self.slacks = slacks
        self.link, self.strength, self.reference = slacks.link, slacks.strength, slacks.reference
        relative = slacks.score.relative
        mass, mean = np.zeros((2, len(relative)))
        with np.errstate(over="ignore", invalid="ignore"):
            for block in blocks(relative.shape, 1, [self.reference], PIECE):
                p = self.probabilities(block)
                mass[block[0]] += p.sum(axis=1)
                mean[block[0]] += np.vecdot(p, relative[block])
        if not (np.abs(mass - 1) < LARGEST_LOSS).all():
            raise InputError(
                f"must not be so small where the rewards are largest: "
                f"{np.min(self.reference[self.reference > 0])} leads to slacks outside double precision under this "
                "divergence",
                field="reference",
            )
        whole = self.externalities(np.ones(1), [relative])[0]
        self.divergence: Array = scale * whole / self.strength
        dual = -self.strength * (slacks.anchor - self.link.unit) / self.link.slope
        mean -= dual * (mass - 1)  # what p misses to 1 would be worth the dual
        self.welfare: Array = slacks.score.offset + mean - whole

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        p = self.link.density(self.slacks.at(block))
        p *= self.reference[block]
        return p

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        out = np.zeros((len(rewards), len(self.reference)))
        for block in blocks(self.reference.shape, max(len(rewards), 1), [self.reference, *rewards]):
            out[:, block[0]] += expectation(self.probabilities(block), stack(rewards, block))
        return out

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength * sum q B(z, z'): [k, B]; all pairs at once, and with care the rows where that is hard."""
        by, (count, width) = by_row(weights, len(self.reference)), self.reference.shape
        out, sure = np.empty(by.shape), np.empty(by.shape, dtype=bool)
        step = max(1, PIECE // (max(len(rewards), 1) * width))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, count, step):
                rows = slice(start, min(start + step, count))
                pairs = Pairs(self.slacks, rows, by[:, rows], rewards)
                paid, is_sure = left(self.link, pairs.parts, pairs.typical, pairs.ends)
                out[:, rows], sure[:, rows] = paid.reshape(len(by), -1), is_sure.reshape(len(by), -1)
        out *= self.strength
        for i, reward in enumerate(rewards):
            rest = np.flatnonzero(~sure[i])
            if rest.size:
                slacks, own = (self.slacks, reward) if rest.size == count else self.slacks.rows(rest, by[i], reward)
                out[i, rest] = slacks.externality(by[i, rest], own)
        return out

    def shortfall(self, policy: Array) -> Array:
        """Return strength * sum q B(z_p, z), where z_p is the slack at which q u = p: [B]."""
        link, q, z = self.link, self.reference, self.slacks.at()
        positive = (policy > 0) & (q > 0)
        own = link.inverse(np.where(positive, policy / np.where(q > 0, q, 1.0), 1.0))
        other = np.where(positive, z, link.unit)
        terms = np.where(positive, link.bregman(own, other, other - own), link.from_zero(z))
        total = (np.where(q > 0, q, 0.0) * np.where(q > 0, terms, 0.0)).sum(axis=1)
        return np.where(((policy > 0) & (q == 0)).any(axis=1), np.inf, self.strength * total)

    def sensitivity(self, direction: Array) -> Array:
        """Return h (direction - its mean under h) / strength with h = q k u'(z) >= 0: [B, m]."""
        link = self.link
        h = self.probabilities() * link.log_derivative(self.slacks.at()) * link.slope
        mean = (h * direction).sum(axis=1) / h.sum(axis=1)
        return np.asarray(h * (direction - mean[:, None]) / self.strength)

    def least_gain(self, multiplier: float, *, is_sum: bool) -> Array:
        """Return the infimum over r of max ASW(s + multiplier r) - max ASW(s): [B].

        With sum 1 the best r stands where the raised policy is least (water-filling; derived from the saddle point
        max_p min_r). The gain is convex in r with gradient multiplier * p, so where the search for r ends it is at most
        multiplier * (<p, r> - min p) above the infimum, which is taken off. With maximum 1 the best r stands on one
        outcome, and every one is tried: O(m^2).
        """
        if is_sum:
            reward = self._fill(multiplier)
            raised = self._raised(multiplier, reward)
            p = raised.probabilities()
            above = multiplier * np.einsum("bm,bm->b", p - p.min(axis=1, keepdims=True), reward)
            least = np.maximum(gain(raised, multiplier, reward) - above, 0.0)
        else:
            rewards = [np.broadcast_to(row, self.reference.shape) for row in np.eye(self.reference.shape[1])]
            least = np.min([gain(self._raised(multiplier, one), multiplier, one) for one in rewards], axis=0)
        return np.where((self.reference == 0).any(axis=1), 0.0, least)

    def _raised(self, multiplier: float, reward: Array) -> "DualOptimum":
        """Return the optimum when a reward [B, m] is added."""
        pair = np.array([1.0, multiplier])
        summed = score(pair, [self.slacks.score.relative, reward], self.reference, self.strength, potential)
        return DualOptimum(Slacks.of(self.link, self.strength, self.reference, summed), 1.0)

    def _fill(self, multiplier: float) -> Array:
        """Return the reward of sum 1 that raises the policy to a floor: [B, m]."""
        link, q = self.link, self.reference
        support = q > 0
        fall = self.slacks.at() - self.slacks.anchor[:, None]
        low, high = np.full(len(q), np.finfo(float).tiny), 1 / support.sum(axis=1)
        reward = np.zeros_like(q)
        for _ in range(MOST_HALVINGS):
            floor = np.sqrt(low) * np.sqrt(high)  # it may be 1e-16 as well as 0.1
            at_floor = link.inverse(np.where(support, floor[:, None] / np.where(support, q, 1.0), 1.0))
            anchor = self._anchor_under(floor, fall)
            rise = (at_floor - anchor[:, None] - fall) / link.slope
            reward = np.where(support, np.maximum(rise, 0), 0.0) * self.strength / multiplier
            over = reward.sum(axis=1) > 1
            low, high = np.where(over, low, floor), np.where(over, floor, high)
        reward = np.where(reward > 0, reward, 0.0)
        short = 1 - reward.sum(axis=1)
        return np.asarray(np.maximum(reward + short[:, None] / q.shape[1], 0))

    def _anchor_under(self, floor: Array, fall: Array) -> Array:
        """Return the anchor's slack with sum max(floor, q u) = 1 over the support: [B]."""
        link, q = self.link, self.reference
        support = q > 0
        held = np.where(support, floor[:, None], 0.0)
        at_floor = link.inverse(np.where(support, floor[:, None] / np.where(support, q, 1.0), 1.0)) - fall
        if link.slope > 0:
            low, high = np.where(support, at_floor, np.inf).min(axis=1), self.slacks.anchor
        else:
            low, high = self.slacks.anchor, np.where(support, at_floor, -np.inf).max(axis=1)
        for _ in range(MOST_HALVINGS):
            both = np.maximum(low, 0), np.maximum(high, 0)
            middle = np.where(low > 0, np.sqrt(both[0]) * np.sqrt(both[1]), (low + high) / 2)
            mass = np.maximum(held, q * link.density(middle[:, None] + fall)).sum(axis=1)
            above = (mass > 1) == (link.slope > 0)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.asarray(low + high) / 2
