"""Learned mechanisms: weights and a boost of the affine maximiser, chosen by gradient over a prior of profiles.

Whatever weights mu > 0 and boost b are chosen, as long as they do not depend on the reports that are settled with them,
affine payments keep truth dominant and utilities >= 0: the search can only be good or bad for revenue, never break the
incentives (Roberts 1979; automated mechanism design over affine maximisers, Curry et al. 2023, "AMenuNet").

On one profile, with S = sum_j mu_j w_j r_j + b and F = max ASW as a function of S,

    revenue = sum_i w_i v_i(p) - (1 / mu_i) [F(S) - F(S - mu_i w_i r_i)],

and dF/dS = p. Under KL, dp/dS is (diag p - p p^T) / strength, so the gradient is exact. A menu's argmax is replaced by
a softmax of falling temperature while searching; what is returned and evaluated is the menu itself.

The product of the weights stays 1: larger weights for all are a smaller strength in disguise, and revenue alone would
always ask for that. The strength is the provider's own choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen
from rlhf_game.mechanism.mechanism import Mechanism, Settlement, settle_games
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineWelfare, TrainingRule

WIDEST_WEIGHT = 20.0
"""Weights are searched between 1 / WIDEST_WEIGHT and WIDEST_WEIGHT."""
SCHEDULES = ((0.1, 0.03, 0.01, 0.003), (0.03, 0.01, 0.003), (0.015, 0.005, 0.0015))
"""Temperatures of the softmax in place of a menu's argmax, in units of the largest reward times size.

A search that begins too hot sells everything together, one that begins too cold stays where it is: all are tried.
"""
HELD_OUT = 0.2
"""The share of the profiles on which the best of several searches is chosen."""


@final
@dataclass(frozen=True, eq=False)
class Prior:
    """S profiles of n groups over m outcomes, drawn from what is believed about the groups.

    rewards: [S, n, m]. sizes: [S, n], default ones. Raises InputError on wrong shapes or negative rewards.
    """

    rewards: Array
    sizes: Array | None = None

    def __post_init__(self) -> None:
        rewards = finite(self.rewards, "rewards")
        if rewards.ndim != 3 or rewards.size == 0 or rewards.min() < 0:
            raise InputError(
                f"must be [profiles, groups, outcomes] and >= 0, got shape {rewards.shape}", field="rewards"
            )
        sizes = np.ones(rewards.shape[:2]) if self.sizes is None else finite(self.sizes, "sizes")
        if sizes.shape != rewards.shape[:2] or sizes.min() <= 0:
            raise InputError(f"must be {rewards.shape[:2]} numbers > 0, got shape {sizes.shape}", field="sizes")
        object.__setattr__(self, "rewards", frozen(rewards))
        object.__setattr__(self, "sizes", frozen(sizes))

    def part(self, which: slice) -> "Prior":
        """Return some of the profiles."""
        return Prior(self.rewards[which], None if self.sizes is None else self.sizes[which])

    @property
    def shares(self) -> Array:
        """w r: [S, n, m]."""
        assert self.sizes is not None
        out: Array = self.rewards * self.sizes[:, :, None]
        return out


def outcomes(rule: AffineWelfare, space: PolicySpace[Any], prior: Prior) -> Settlement:
    """Return what every profile is settled to under a rule with affine payments, all at once; arrays are [S, n]."""
    assert prior.sizes is not None
    count = len(prior.rewards)
    mechanism = Mechanism(rule.many(count), AffinePayments())
    return settle_games(mechanism, prior.rewards, prior.sizes, space.many(count))


def learn(
    space: PolicySpace[Any],
    prior: Prior,
    *,
    welfare_share: float = 0.0,
    cooling: Sequence[float] | None = None,
    starts: int = 1,
    rng: np.random.Generator | int | None = 0,
) -> AffineWelfare:
    """Return the weights and the boost that maximise expected revenue over the profiles, found by quasi-Newton ascent.

    space: a Menu, or a Table with one prompt and KL. welfare_share: in [0, 1), how much sum_i w_i v_i - strength * D
    counts beside revenue, which counts 1 - welfare_share. A local maximum; evaluate it on profiles it has not seen.
    cooling: temperatures, for a menu; default all of SCHEDULES. starts: how many weights and boosts each search begins
    at, the first of them plain and the others drawn by ``rng``. Of several searches the best is kept, by what each
    brings under the space's own optimum on HELD_OUT of the profiles. Raises CombinationError for other spaces.
    """
    if not (isinstance(starts, int) and starts >= 1):
        raise InputError(f"must be an integer >= 1, got {starts!r}", field="starts")
    count = len(prior.rewards) - round(HELD_OUT * len(prior.rewards))
    ways = SCHEDULES if space.softmax()[1] == 0 and cooling is None else (SCHEDULES[0] if cooling is None else cooling,)
    unknown = sum(prior.rewards.shape[1:])
    drawn = np.random.default_rng(rng).uniform(-1, 1, (starts - 1, unknown))
    if starts * len(ways) == 1 or not 0 < count < len(prior.rewards):
        return _searched(space, prior, welfare_share, ways[0], np.zeros(unknown))
    seen, unseen = prior.part(slice(count)), prior.part(slice(count, None))
    searched = [
        _searched(space, seen, welfare_share, way, start) for start in (np.zeros(unknown), *drawn) for way in ways
    ]
    return max(searched, key=lambda rule: _worth(rule, space, unseen, welfare_share))


def _worth(rule: AffineWelfare, space: PolicySpace[Any], prior: Prior, welfare_share: float) -> float:
    """Return the mean objective under the space's own optimum."""
    found = outcomes(rule, space, prior)
    welfare = found.social_welfare - space.strength * found.policy.divergence
    return float(((1 - welfare_share) * found.revenue + welfare_share * welfare).mean())


def _searched(
    space: PolicySpace[Any], prior: Prior, welfare_share: float, cooling: Sequence[float], start: Array
) -> AffineWelfare:
    """Return where one search ends. start: [groups + entries], logarithms of weights, then boosts by their scale."""
    from scipy.optimize import minimize

    if not 0 <= welfare_share < 1:
        raise InputError(f"must be in [0, 1), got {welfare_share!r}", field="welfare_share")
    shares = prior.shares
    groups, entries = shares.shape[1:]
    scale = float(shares.max())
    base, temperature = space.softmax()
    temperatures = [temperature] if temperature else [part * scale for part in cooling]
    if base.size != entries:
        raise InputError(f"must have {base.size} outcomes like the space, got {entries}", field="rewards")
    found = start * np.where(np.arange(len(start)) < groups, 1.0, scale)
    reach = float(np.log(WIDEST_WEIGHT))
    bounds = [(-reach, reach)] * groups + [(-WIDEST_WEIGHT * scale, WIDEST_WEIGHT * scale)] * entries
    for warm in temperatures:
        smooth = SmoothedRevenue(base.ravel(), warm, temperature > 0, welfare_share)

        def loss(unknown: Array, smooth: SmoothedRevenue = smooth) -> tuple[float, Array]:
            weights = _weights(unknown[:groups])
            value, slope = smooth.objective(weights, unknown[groups:], shares)
            slope[:groups] *= weights
            slope[:groups] -= slope[:groups].mean()
            return -value, -slope

        found = minimize(loss, found, jac=True, method="L-BFGS-B", bounds=bounds).x
    boost = found[groups:]
    return AffineWelfare(_weights(found[:groups]), (boost - boost.min()).reshape(base.shape))


@final
@dataclass(frozen=True)
class LearnedWelfare(TrainingRule):
    """The affine maximiser that ``learn`` finds on a space for a prior, before any report is heard.

    profiles: rewards of the prior's profiles, [S][n][m]; sizes: [S][n], default ones. welfare_share: see ``learn``.
    """

    profiles: list[list[list[float]]]
    sizes: list[list[float]] | None = None
    welfare_share: float = 0.0

    def fitted(self, space: PolicySpace[Any]) -> AffineWelfare:
        """Return the affine maximiser; raise CombinationError for a space on which nothing is learned."""
        sizes = None if self.sizes is None else finite(self.sizes, "sizes")
        return learn(space, Prior(finite(self.profiles, "profiles"), sizes), welfare_share=self.welfare_share)

    @property
    def fitted_class(self) -> type[AffineWelfare]:
        """An affine maximiser is what is learned."""
        return AffineWelfare

    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the policy of the affine maximiser, which is learned anew: ``fitted`` learns it once."""
        return self.fitted(space).train(profile, space)


@final
@dataclass(frozen=True, eq=False)
class SmoothedRevenue:
    """Expected revenue under p = softmax((S + base) / temperature), with its exact gradient.

    base: [m], in units of reward, -inf where the reference is 0. is_entropic: the softmax is the KL optimum itself and
    its divergence counts as a cost to welfare; otherwise it stands in for an argmax.
    """

    base: Array
    temperature: float
    is_entropic: bool
    welfare_share: float

    def objective(self, weights: Array, boost: Array, shares: Array) -> tuple[float, Array]:
        """Return the mean objective and its gradient by (weights, boost): [n + m]. shares: w r, [S, n, m]."""
        parts = weights[:, None] * shares
        score = parts.sum(axis=1) + boost
        p, best = self._softmax(score)
        q, without = self._softmax(score[:, None] - parts)
        gains = best[:, None] - without
        welfare = np.einsum("snm,sm->sn", shares, p)
        finite_base = np.where(np.isfinite(self.base), self.base, 0.0)
        t = self.welfare_share
        if self.is_entropic:  # max ASW = F, so sum w v - strength * D = F - <p, S - sum w r>
            extra = -score
            worth = welfare.sum(axis=1) + best - np.einsum("sm,sm->s", p, score)
        else:
            extra = np.broadcast_to(finite_base, score.shape)
            worth = welfare.sum(axis=1) + p @ finite_base
        value = (1 - t) * (welfare.sum(axis=1) - gains @ (1 / weights)) + t * worth
        direction = shares.sum(axis=1) + t * extra
        centred = direction - np.einsum("sm,sm->s", p, direction)[:, None]
        by_score = p * centred / self.temperature
        # besides the motion of p, F - <p, S> moves by p - p = 0
        own = np.einsum("snm,sm->sn", shares, p)[:, :, None] - np.einsum("sjm,sim->sji", shares, q)
        own[:, np.arange(len(weights)), np.arange(len(weights))] = welfare
        by_weight = np.einsum("snm,sm->sn", shares, by_score) - (1 - t) * own @ (1 / weights)
        by_weight += (1 - t) * gains / weights**2
        by_boost = by_score - (1 - t) * np.einsum("sim,i->sm", p[:, None] - q, 1 / weights)
        return float(value.mean()), np.append(by_weight.mean(axis=0), by_boost.mean(axis=0))

    def _softmax(self, score: Array) -> tuple[Array, Array]:
        """Return p and temperature * log sum exp of the scores: [..., m] and [...]."""
        height = score + self.base
        top = height.max(axis=-1, keepdims=True)
        p = np.exp((height - top) / self.temperature)
        total = p.sum(axis=-1, keepdims=True)
        return p / total, (top + self.temperature * np.log(total))[..., 0]


def _weights(logarithms: Array) -> Array:
    """Return weights with product 1."""
    return np.asarray(np.exp(logarithms - logarithms.mean()))
