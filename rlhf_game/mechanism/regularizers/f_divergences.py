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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, scalar
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.links import JensenShannonLink, Link, PowerLink
from rlhf_game.mechanism.regularizers.optimum import WHOLE, Block, Optimum, Score, by_row, gain, score

LARGE_SHARE = 0.5
"""Shares up to this (in units of the slack, relatively) are solved from differences; larger ones anew."""
LARGEST_LOSS = 1e-9
"""How far the optimum may be from summing to 1 before it is refused."""
MOST_STEPS = 200
MOST_HALVINGS = 64
POLISHES = 3
"""Newton steps that settle a shift which is known up to rounding."""
NOISE = 1e-13
"""Steps below this, relatively, that stop shrinking are rounding."""
PATIENCE = 20
"""After so many Newton steps every third one is a bisection."""


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
        summed = score(weights, rewards, reference, unit, _potential)
        return DualOptimum(self.link(), unit, self.scale, reference, summed)

    @final
    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return strength * f'(p / q), up to a constant: [B, m]; at p = 0 its limit."""
        link = self.link()
        there = (policy > 0) & (reference > 0)
        slack = link.inverse(np.where(there, policy / np.where(reference > 0, reference, 1.0), 1.0))
        least = 0.0 if link.slope > 0 else np.inf
        return np.asarray(self.strength * self.scale / link.slope * np.where(there, slack, least))


def _potential(q: Array, s: Array) -> Array:
    return np.where(q > 0, s, -np.inf)


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

    def __init__(self, link: Link, strength: float, scale: float, reference: Array, summed: Score) -> None:
        """strength: what multiplies sum q f(p / q), already times the scale of the divergence."""
        self.link = link
        self.strength = strength
        self.reference = reference
        self.score = summed
        self.slack, self.anchor_slack = self._solve(summed.relative)
        with np.errstate(over="ignore", invalid="ignore"):
            mass = self.probabilities().sum(axis=1)
        if not (np.abs(mass - 1) < LARGEST_LOSS).all():
            raise InputError(
                f"reference must not be so small where the rewards are largest: {np.min(reference[reference > 0])} "
                "leads to slacks outside double precision under this divergence"
            )
        whole = self._externality(np.ones(len(reference)), summed.relative)
        self.divergence: Array = scale * whole / strength
        dual = -strength * (self.anchor_slack - link.unit) / link.slope
        mean = self.values([summed.relative])[0] - dual * (mass - 1)  # what p misses to 1 would be worth the dual
        self.welfare: Array = summed.offset + mean - whole

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        return self.reference[block] * self.link.density(self.slack[block])

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        p = self.probabilities()
        return np.array([np.einsum("bm,bm->b", p, reward) for reward in rewards]).reshape(len(rewards), len(p))

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength * sum q B(z, z'): [k, B]."""
        pairs = zip(by_row(weights, len(self.reference)), rewards, strict=True)
        return np.stack([self._externality(weight, reward) for weight, reward in pairs])

    def shortfall(self, policy: Array) -> Array:
        """Return strength * sum q B(z_p, z), where z_p is the slack at which q u = p: [B]."""
        link, q, z = self.link, self.reference, self.slack
        positive = (policy > 0) & (q > 0)
        own = link.inverse(np.where(positive, policy / np.where(q > 0, q, 1.0), 1.0))
        other = np.where(positive, z, link.unit)
        terms = np.where(positive, link.bregman(own, other, other - own), link.from_zero(z))
        total = (np.where(q > 0, q, 0.0) * np.where(q > 0, terms, 0.0)).sum(axis=1)
        return np.where(((policy > 0) & (q == 0)).any(axis=1), np.inf, self.strength * total)

    def sensitivity(self, direction: Array) -> Array:
        """Return h (direction - its mean under h) / strength with h = q k u'(z) >= 0: [B, m]."""
        link = self.link
        h = self.probabilities() * link.log_derivative(self.slack) * link.slope
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
        summed = score(pair, [self.score.relative, reward], self.reference, self.strength, _potential)
        return DualOptimum(self.link, self.strength, 1.0, self.reference, summed)

    def _fill(self, multiplier: float) -> Array:
        """Return the reward of sum 1 that raises the policy to a floor: [B, m]."""
        link, q = self.link, self.reference
        support = q > 0
        fall = self.slack - self.anchor_slack[:, None]
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
            low, high = np.where(support, at_floor, np.inf).min(axis=1), self.anchor_slack
        else:
            low, high = self.anchor_slack, np.where(support, at_floor, -np.inf).max(axis=1)
        for _ in range(MOST_HALVINGS):
            both = np.maximum(low, 0), np.maximum(high, 0)
            middle = np.where(low > 0, np.sqrt(both[0]) * np.sqrt(both[1]), (low + high) / 2)
            mass = np.maximum(held, q * link.density(middle[:, None] + fall)).sum(axis=1)
            above = (mass > 1) == (link.slope > 0)
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.asarray(low + high) / 2

    def _solve(self, relative: Array) -> tuple[Array, Array]:
        """Return the slacks z [B, m] and that of the anchor [B] for a score whose largest entry per row is 0."""
        link, q = self.link, self.reference
        fall = link.slope * np.where(q > 0, relative, 0.0) / self.strength
        top = np.where(_potential(q, relative) == 0, q, 0.0).max(axis=1)
        with np.errstate(over="ignore"):  # an optimum that is lost this way does not sum to 1, and is refused
            ends = np.stack([np.full(len(q), link.unit), link.inverse(1 / top)])

        def residual(z: Array) -> tuple[Array, Array]:
            slack = z[:, None] + fall
            p = q * link.density(slack)
            total = p.sum(axis=1)
            return np.log(total), z * (p * link.log_derivative(slack)).sum(axis=1) / total

        rising = link.slope > 0
        low, high = ends.min(axis=0), ends.max(axis=0)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            z = _root(residual, low, high, scale=None, rising=rising)
        return z[:, None] + fall, z

    def _externality(self, weight: Array, reward: Array) -> Array:
        """Return one pair's payment on every row: [B]."""
        link, q, z = self.link, self.reference, self.slack
        share, typical = self._centred(weight, reward, q > 0)
        span = abs(link.slope) * np.abs(share).max(axis=1)
        if (span > LARGE_SHARE * self.anchor_slack / 2).any():
            h, other = self._moves(weight, reward)
        else:
            h = link.slope * (self._shift(share, typical)[:, None] - share)
            other = z + h
        out: Array = self.strength * (q * link.bregman(z, other, h)).sum(axis=1)
        return out

    def _centred(self, weight: Array, reward: Array, kept: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return w r / strength less its mean [B, m], and its typical size [B], as the kept outcomes feel it."""
        feeling = self.reference * self.link.density(self.slack) * np.abs(self.link.log_derivative(self.slack))
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
        link, q, z = self.link, self.reference, self.slack
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
        others -= _potential(self.reference, others).max(axis=1)[:, None]
        return self._solve(others)[0]

    def _shift(self, share: Array, typical: Array) -> Array:
        """Return the shift with sum q [u(z + k (shift - share)) - u(z)] = 0: [B]. typical: size of a share, [B]."""
        link, q = self.link, self.reference

        def residual(shift: Array) -> tuple[Array, Array]:
            h = link.slope * (shift[:, None] - share)
            moved = self.slack + h
            slope = q * link.density(moved) * link.log_derivative(moved) * link.slope
            return (q * link.change(self.slack, h)).sum(axis=1), slope.sum(axis=1)

        held = np.where(q > 0, share, np.nan)
        return _root(residual, np.nanmin(held, axis=1), np.nanmax(held, axis=1), scale=typical, rising=True)


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
