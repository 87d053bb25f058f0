"""Training rules that are no affine maximisers: fair welfares, the median of the groups' policies, equal say.

A fair welfare W is concave in the values v_i(p) = <p, r_i>. Its policy argmax_p W(v(p)) - strength * D(p || q) is
found through the dual (derived from Sion's minimax theorem): with the concave conjugate W_*(mu) = inf_v <mu, v> - W(v),

    max_p W(v(p)) - strength * D(p || q) = min_{mu >= 0} Omega*(sum_i mu_i r_i) - W_*(mu),

where Omega* is the welfare that the table's own exact solver reaches. So there are n unknowns, one weight per group,
whatever the number of outcomes, the policy is an exact maximiser for the weights mu, and the difference between the two
sides bounds how far it is from the optimum. The tests compare with a conic solver over the outcomes.

The weights mu depend on the reports: that is why affine payments do not make these rules truthful, and Mechanism
refuses the pair.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.given import GivenPolicy
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import TrainingRule

TOLERANCE = 1e-8
"""The largest duality gap that counts as solved, relative to the welfare's own scale."""
LARGEST_STEP = 40.0
"""Bound on how far a weight moves from its start, about on a logarithmic scale."""


def table_of(space: PolicySpace[Any], of: type) -> Table:
    """Return a space's enumerated outcomes; raise CombinationError that names what asks for them."""
    try:
        table: Table = space.enumeration
    except CombinationError:
        raise CombinationError(
            f"{of.__name__} needs a Table, not {type(space).__name__}; SocialWelfare trains on any space"
        ) from None
    return table


class TableRule(TrainingRule):
    """A rule that needs enumerated outcomes, and whose policy is judged like any given policy."""

    @final
    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the policy, as a GivenPolicy whose welfare and gap are those of affine social welfare.

        Raises CombinationError for spaces other than Table, InputError when the rewards do not suit the rule, and
        RunError when the solver does not converge.
        """
        return space.each(self._train, profile)

    def _train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        table, rewards, sizes = table_of(space, type(self)), list[Any](profile.rewards), profile.sizes
        if table.games:
            rows = [
                self._present(sizes[:, b], [(sheet[b : b + 1],) for (sheet,) in rewards], table.game(b))[0]
                for b in range(sizes.shape[1])
            ]
            sheets: Sheets = (np.concatenate(rows),)
        else:
            sheets = self._present(sizes, rewards, table)
        policy: Any = GivenPolicy(table, sheets, sizes, rewards)
        return policy  # type: ignore[no-any-return]

    def _present(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the sheets for those who are there: a size of 0 stays away, and nobody leaves the reference as it is.

        sizes: [n]. A rule that counts groups, or looks at the worst off, must not see who is not there.
        """
        there = np.flatnonzero(sizes > 0)
        if not there.size:
            return tuple(space.reference)
        return self.sheets(sizes[there], [rewards[i] for i in there.tolist()], space)

    @abstractmethod
    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the probabilities on every sheet. sizes: > 0, [n]."""


class FairRule(TableRule):
    """argmax_p W(v(p)) - strength * D(p || q) for a concave, increasing W."""

    @abstractmethod
    def welfare(self, values: Array, sizes: Array) -> float:
        """Return W(v)."""

    @abstractmethod
    def conjugate(self, weights: Array, sizes: Array) -> float:
        """Return -W_*(mu)."""

    @abstractmethod
    def solve(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Array:
        """Return the weights mu that minimise the dual."""

    @final
    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the probabilities of the maximiser for the best weights; raise RunError if the gap stays open."""
        weights = self.solve(sizes, rewards, space)
        best = space.maximize(weights, rewards)
        values = best.values(rewards)
        scale = max(1e-300, float(weights @ np.abs(values)))
        gap = float(weights @ values) + self.conjugate(weights, sizes) - self.welfare(values, sizes)
        if not gap <= TOLERANCE * scale:
            raise RunError(
                f"{type(self).__name__} is solved to {gap:.2g} only, more than {TOLERANCE:g} of its scale {scale:.2g}; "
                "a larger strength makes it easier"
            )
        return tuple(optimum.probabilities() for optimum in best.optima)


@final
@dataclass(frozen=True)
class NashWelfare(FairRule):
    """argmax_p sum_i w_i log v_i(p) - strength * D(p || q): log has no unit, so strength has none here either.

    Rewards must be >= 0, with one > 0 that the policy can reach. Optimality: mu_i = w_i / v_i.
    """

    def welfare(self, values: Array, sizes: Array) -> float:
        """Return sum_i w_i log v_i."""
        return _power_welfare(values, sizes, 1.0)

    def conjugate(self, weights: Array, sizes: Array) -> float:
        """Return sum_i w_i (log(w_i / mu_i) - 1)."""
        return float(sizes @ (np.log(sizes / weights) - 1))

    def solve(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Array:
        """Return mu with mu_i v_i = w_i."""
        return _power_weights(1.0, sizes, rewards, space)


@final
@dataclass(frozen=True)
class AlphaFair(FairRule):
    """argmax_p sum_i w_i v_i(p)^(1 - alpha) / (1 - alpha) - strength * D(p || q): CES, or alpha-fair, welfare.

    alpha: the aversion to inequality, > 0. Towards 0 it is social welfare, towards infinity the egalitarian rule; 1 is
    NashWelfare. Rewards must be >= 0, with one > 0 that the policy can reach. Optimality: mu_i = w_i v_i^-alpha.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.alpha) or self.alpha <= 0 or self.alpha == 1:
            raise InputError(
                f"must be a number > 0 other than 1 (that is NashWelfare), got {self.alpha!r}", field="alpha"
            )

    def welfare(self, values: Array, sizes: Array) -> float:
        """Return sum_i w_i v_i^(1 - alpha) / (1 - alpha)."""
        return _power_welfare(values, sizes, self.alpha)

    def conjugate(self, weights: Array, sizes: Array) -> float:
        """Return sum_i alpha / (1 - alpha) w_i^(1 / alpha) mu_i^(1 - 1 / alpha)."""
        a = self.alpha
        return float((a / (1 - a)) * (weights * (sizes / weights) ** (1 / a)).sum())

    def solve(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Array:
        """Return mu with mu_i v_i^alpha = w_i."""
        return _power_weights(self.alpha, sizes, rewards, space)


@final
@dataclass(frozen=True)
class Egalitarian(FairRule):
    """argmax_p min_i v_i(p) - strength * D(p || q), per member: sizes have no effect."""

    def welfare(self, values: Array, sizes: Array) -> float:
        """Return min_i v_i."""
        return float(values.min())

    def conjugate(self, weights: Array, sizes: Array) -> float:
        """Return 0: the weights sum to 1."""
        return 0.0

    def solve(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Array:
        """Return mu >= 0 with sum 1 that stands only on the groups with the least value."""
        from scipy.optimize import minimize, root

        count = len(sizes)
        if count == 1:
            return np.ones(1)

        def dual(weights: Array) -> tuple[float, Array]:
            best = space.maximize(weights, rewards)
            return best.welfare, best.values(rewards)

        start = np.full(count, 1 / count)
        found = minimize(
            dual, start, jac=True, method="SLSQP", bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda mu: mu.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-15, "maxiter": 500},
        )  # fmt: skip
        weights = _on_simplex(found.x)

        def unequal(weights: Array, held: Any) -> Array:
            full = np.zeros(count)
            full[held] = weights
            values = dual(full)[1][held]
            return np.append(values[:-1] - values[-1], weights.sum() - 1)

        def gap(weights: Array) -> float:
            values = dual(weights)[1]
            return float(weights @ values - values.min())

        held = np.flatnonzero(weights > 1e-6)
        polished = np.zeros(count)
        polished[held] = root(unequal, weights[held], args=(held,), tol=1e-14).x
        polished = _on_simplex(polished)
        return polished if gap(polished) < gap(weights) else weights


@final
@dataclass(frozen=True)
class EqualSay(TableRule):
    """argmax_p sum_i v_i(p) - strength * D(p || q): every group counts once, whatever its size."""

    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the maximiser for equal weights."""
        return tuple(optimum.probabilities() for optimum in space.maximize(np.ones(len(sizes)), rewards).optima)


@final
@dataclass(frozen=True)
class PolicyMedian(TableRule):
    """The median of the policies that each group would train alone, argmax_p w_i v_i(p) - strength * D(p || q).

    argmin_p sum_i w_i sum_x |p_x - p_i,x| over the policies p: on every prompt the groups' weighted quantiles of each
    outcome, at the one level at which they sum to 1 (derived: the optimality condition of the linear programme). Where
    many p are best, every outcome stands equally far between its lower and its upper quantile.
    """

    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the median on every sheet."""
        alone = [space.maximize(sizes[i : i + 1], [reward]).optima for i, reward in enumerate(rewards)]
        return tuple(
            _median(np.stack([optima[k].probabilities() for optima in alone]), sizes)
            for k in range(len(space.reference))
        )


def _median(policies: Array, sizes: Array) -> Array:
    """Return argmin_p sum_i w_i |p - p_i|_1 with sum p = 1 on every row: [B, m] of policies [n, B, m]."""
    order = np.argsort(policies, axis=0)
    ranked = np.take_along_axis(policies, order, axis=0)
    reached = np.cumsum(sizes[order], axis=0)
    out = np.empty(policies.shape[1:])
    for b in range(policies.shape[1]):
        levels = np.unique(reached[:, b])
        low, high = 0, len(levels) - 1
        while low < high:  # the first level whose upper quantiles reach 1 in sum
            middle = (low + high) // 2
            if _quantiles(ranked[:, b], reached[:, b], levels[middle])[1].sum() >= 1:
                high = middle
            else:
                low = middle + 1
        lower, upper = _quantiles(ranked[:, b], reached[:, b], levels[low])
        span = upper.sum() - lower.sum()
        share = 0.0 if span <= 0 else np.clip((1 - lower.sum()) / span, 0, 1)
        row = lower + share * (upper - lower)
        out[b] = row / row.sum()
    return out


def _quantiles(ranked: Array, reached: Array, level: float) -> tuple[Array, Array]:
    """Return the lower and the upper quantile of each outcome: [m] of [n, m]; level: in units of size."""
    last = len(ranked) - 1
    first = np.minimum((reached < level).sum(axis=0), last)
    second = np.minimum((reached <= level).sum(axis=0), last)
    columns = np.arange(ranked.shape[1])
    return ranked[first, columns], ranked[second, columns]


def _power_welfare(values: Array, sizes: Array, aversion: float) -> float:
    if (values <= 0).any():
        return -np.inf
    if aversion == 1:
        return float(sizes @ np.log(values))
    return float(sizes @ values ** (1 - aversion)) / (1 - aversion)


def _power_weights(aversion: float, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Array:
    """Return mu with mu_i v_i^aversion = w_i: the minimum of a smooth dual, polished by a root finder.

    The unknown t_i moves the weight from its start mu_0 = w / v_0^aversion: mu = mu_0 exp(aversion t) for aversion
    <= 1 and mu_0 (1 + kappa t)^(1 / kappa), kappa = 1 - 1 / aversion, beyond; the dual is convex in t for both.
    """
    from scipy.optimize import minimize, root

    _check_positive(rewards, space)
    first = space.maximize(sizes, rewards).values(rewards)
    first = np.maximum(first, 1e-3 * first.max())
    start = sizes * first**-aversion
    kappa = 1 - 1 / aversion
    floor = -LARGEST_STEP if kappa <= 0 else -(1 - 1e-9) / kappa

    def moved(t: Array) -> tuple[Array, Array, Array]:
        """The weights, their derivative, and the values that they are right for, (w / mu)^(1 / aversion)."""
        t = np.clip(t, floor, LARGEST_STEP)
        if kappa <= 0:
            weights = start * np.exp(aversion * t)
            return weights, aversion * weights, first * np.exp(-t)
        growth = 1 + kappa * t
        weights = start * growth ** (1 / kappa)
        return weights, weights / growth, first * growth ** (-1 / (aversion * kappa))

    def penalty(t: Array, weights: Array, wanted: Array) -> float:
        """The integral of the wanted values by the weights."""
        if aversion == 1:
            return float(sizes @ t)
        return float(weights @ wanted) / kappa

    def dual(t: Array) -> tuple[float, Array]:
        weights, slope, wanted = moved(t)
        best = space.maximize(weights, rewards)
        return best.welfare - penalty(t, weights, wanted), slope * (best.values(rewards) - wanted)

    def mismatch(t: Array) -> Array:
        weights, _, wanted = moved(t)
        return np.asarray(space.maximize(weights, rewards).values(rewards) / wanted - 1)

    bounds = [(floor, LARGEST_STEP)] * len(sizes)
    options = {"ftol": 1e-15, "gtol": 1e-12}
    found = minimize(dual, np.zeros(len(sizes)), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    polished = root(mismatch, found, tol=1e-14).x
    better = np.abs(mismatch(polished)).max() < np.abs(mismatch(found)).max()
    return moved(polished if better else found)[0]


def _check_positive(rewards: Sequence[Sheets], space: Table) -> None:
    for i, reward in enumerate(rewards):
        if any((sheet < 0).any() for sheet in reward):
            raise InputError(f"report {i}: a fair welfare needs rewards >= 0")
        held = [(sheet * (reference > 0)).any() for sheet, reference in zip(reward, space.reference, strict=True)]
        if not any(held):
            raise InputError(f"report {i}: a fair welfare needs a reward > 0 on some outcome that the reference allows")


def _on_simplex(weights: Array) -> Array:
    clipped: Array = np.maximum(weights, 0.0)
    clipped /= clipped.sum()
    return clipped
