r"""The core: whether a coalition of groups and the provider would do better by a model of their own.

With u_i the groups' utilities and the provider's surplus, revenue - strength * D(p || q) + <b, p>, the settlement is in
the core when no set S of groups can share more with the provider than it has: surplus + sum_S u_i >= Omega*(s_S + b)
for every S, also of nobody (Omega*(s_S + b) is the best affine welfare of S alone, the provider's own boost b with it;
Ausubel and Milgrom 2002 for auctions). Affine payments need not be: they may leave the provider less than some
coalition would offer, or less than what moving the model costs.

Coalitional rationality asks less, of the groups alone: that no set pays more together than the model is worth to it,
sum_S u_i >= 0. A set that does could leave together. Beside it stands what a set would have by a model of its own
without this provider, Omega*(s_S): it pays for moving that model, and charges itself nothing beyond (derived).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism, Settlement, read_profile
from rlhf_game.mechanism.regret import TOLERANCE
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.training import AffineRule, Trained

MOST: Final = 12
"""Groups; every set of them is looked at."""


@final
@dataclass(frozen=True, eq=False)
class Core:
    """How a truthful settlement stands to the core."""

    worst_gain: float
    """The most that a set of groups and the provider have to gain together by themselves; <= 0: the core holds it."""
    blocking: tuple[str, ...]
    """The groups of that set; none where the provider would do better alone."""
    least_revenue: float
    """The least revenue of payments that are in the core (with no group's utility below 0), by a linear programme."""
    tolerance: float

    @property
    def is_in(self) -> bool:
        """Whether no set gains, beyond rounding."""
        return self.worst_gain <= self.tolerance


@final
@dataclass(frozen=True, eq=False)
class CoalitionalRationality:
    """What sets of groups have together at the truth, beside what they could have without the provider."""

    least_utility: float
    """The least sum of utilities of a set of groups; below 0 it pays more than the model is worth to it."""
    losing: tuple[str, ...]
    """The groups of that set."""
    own_gain: float
    """The most that a set would have more by a model of its own at that model's cost; also with nothing to gain."""
    leaving: tuple[str, ...]
    """The groups of that set."""
    tolerance: float

    @property
    def is_met(self) -> bool:
        """Whether no set of groups pays more than the model is worth to it, beyond rounding."""
        return self.least_utility >= -self.tolerance


def coalitional_rationality(
    mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]
) -> CoalitionalRationality:
    """Return whether sets of groups lose together at the truth, by any rule; 2^n trainings without payments.

    Raises InputError with more than MOST groups.
    """
    inside, settlement = _sets(groups)[1:], _at_the_truth(mechanism, groups, space)
    alone, has = _welfare_alone(inside, settlement.trained), inside @ settlement.utilities
    worst, best = int(has.argmin()), int((alone - has).argmax())
    return CoalitionalRationality(
        float(has[worst]),
        _names(groups, inside[worst]),
        float(alone[best] - has[best]),
        _names(groups, inside[best]),
        TOLERANCE * _scale(settlement),
    )


def core(mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]) -> Core:
    """Return how the truthful settlement stands to the core; 2^n trainings and a linear programme.

    Raises CombinationError unless social welfare is maximised with equal weights, InputError with more than MOST
    groups, RunError when the programme is not solved.
    """
    rule = mechanism.training
    count = len(groups)
    if not isinstance(rule, AffineRule):
        raise CombinationError("the core is that of a rule that maximises social welfare, which this one does not")
    if (rule.multipliers(count) != 1).any():
        raise CombinationError("the core adds up utilities, which groups' weights put in units of their own")
    inside, settlement = _sets(groups), _at_the_truth(mechanism, groups, space)
    reached = _welfare_alone(inside, settlement.trained, rule.boosts())
    surplus = settlement.revenue - (settlement.social_welfare - settlement.affine_social_welfare)
    gains = reached - inside @ settlement.utilities - surplus
    worst = int(gains[:-1].argmax())
    values = settlement.sizes * settlement.values
    least = _least_revenue(inside, reached, values, settlement.affine_social_welfare)
    return Core(float(gains[worst]), _names(groups, inside[worst]), least, TOLERANCE * _scale(settlement))


def _sets(groups: Sequence[Group]) -> Array:
    """Return a row of each set of groups, 1 for a member, nobody first and all last: [2^n, n]."""
    count = len(groups)
    if count > MOST:
        raise InputError(f"groups must be at most {MOST} for all sets of them, got {count}")
    return (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(np.float64)


def _at_the_truth(mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]) -> Settlement:
    profile = read_profile([Report(group.reward, group.size) for group in groups], space)
    return mechanism.settle_profile(profile, space)


def _welfare_alone(inside: Array, trained: Trained[Any], boosts: Sequence[Any] = ()) -> Array:
    """Return the best welfare of each set alone, with weights 1 and the boosts beside it: [sets]."""
    space, ones = trained.space, np.ones(len(boosts))
    rewards = [*trained.rewards, *(space.read_boost(boost) for boost in boosts)]
    return np.array([space.maximize(np.append(row * trained.sizes, ones), rewards).welfare for row in inside])


def _names(groups: Sequence[Group], members: Array) -> tuple[str, ...]:
    return tuple(group.name for group, member in zip(groups, members, strict=True) if member)


def _scale(settlement: Settlement) -> float:
    """Return the sum of sizes of what the groups have and owe, for rounding."""
    return float(np.abs(settlement.sizes * settlement.values).sum() + np.abs(settlement.payments).sum())


def _least_revenue(inside: Array, reached: Array, values: Array, welfare: float) -> float:
    """Return the least sum of payments, each at most the group's value, with which no set S gains.

    revenue - cost + sum_S (values - pay) >= Omega*(s_S), with W = sum values - cost, says of the payments outside S
    that their sum is at least Omega*(s_S + b) - W + the values outside S.
    """
    from scipy.optimize import linprog

    outside = 1 - inside
    needed = reached - welfare + outside @ values
    bounds = [(None, float(value)) for value in values]
    found = linprog(np.ones(len(values)), A_ub=-outside, b_ub=-needed, bounds=bounds, method="highs")
    if not found.success:
        raise RunError(f"the core's linear programme was not solved: {found.message}")
    return float(found.fun)
