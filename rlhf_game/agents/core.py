r"""The core: whether a coalition of groups and the provider would do better by a model of their own.

With u_i the groups' utilities and the provider's surplus, revenue - strength * D(p || q), the settlement is in the core
when no set S of groups can share more with the provider than it has: surplus + sum_S u_i >= Omega*(s_S) for every S
(Omega*(s_S) is the best affine welfare of S alone; Ausubel and Milgrom 2002 for auctions). Affine payments need not be:
they may leave the provider less than some coalition would offer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism, read_profile
from rlhf_game.mechanism.regret import TOLERANCE
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

MOST: Final = 12
"""Groups; every set of them is looked at."""


@final
@dataclass(frozen=True, eq=False)
class Core:
    """How a truthful settlement stands to the core."""

    worst_gain: float
    """The most that a set of groups and the provider have to gain together by themselves; <= 0: the core holds it."""
    blocking: tuple[str, ...]
    """The groups of that set."""
    least_revenue: float
    """The least revenue of payments that are in the core (with no group's utility below 0), by a linear programme."""
    tolerance: float

    @property
    def is_in(self) -> bool:
        """Whether no set gains, beyond rounding."""
        return self.worst_gain <= self.tolerance


def core(mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]) -> Core:
    """Return how the truthful settlement stands to the core; 2^n trainings and a linear programme.

    Raises CombinationError unless social welfare is maximised with equal weights and without a boost (utilities could
    not be added up otherwise), InputError with more than MOST groups, RunError when the programme is not solved.
    """
    rule = mechanism.training
    count = len(groups)
    if not rule.is_plain(count):
        raise CombinationError("the core needs a rule that maximises social welfare, without weights and boosts")
    if count > MOST:
        raise InputError(f"groups must be at most {MOST} for the core, got {count}")
    profile = read_profile([Report(group.reward, group.size) for group in groups], space)
    settlement = mechanism.settle_profile(profile, space)
    inside = (np.arange(1 << count)[:, None] >> np.arange(count) & 1).astype(np.float64)
    reached = np.array([space.maximize(row * profile.sizes, profile.rewards).welfare for row in inside[1:]])
    surplus = settlement.revenue - (settlement.social_welfare - settlement.affine_social_welfare)
    gains = reached - inside[1:] @ settlement.utilities - surplus
    worst = int(gains[:-1].argmax()) if count > 1 else 0
    values = profile.sizes * settlement.values
    least = _least_revenue(inside[1:], reached, values, settlement.affine_social_welfare)
    scale = float(np.abs(values).sum() + np.abs(settlement.payments).sum())
    names = tuple(group.name for i, group in enumerate(groups) if inside[1 + worst, i])
    return Core(float(gains[worst]), names, least, TOLERANCE * scale)


def _least_revenue(inside: Array, reached: Array, values: Array, welfare: float) -> float:
    """Return the least sum of payments, each at most the group's value, with which no set S gains.

    revenue - cost + sum_S (values - pay) >= Omega*(s_S), with W = sum values - cost, says of the payments outside S
    that their sum is at least Omega*(s_S) - W + the values outside S.
    """
    from scipy.optimize import linprog

    outside = 1 - inside
    needed = reached - welfare + outside @ values
    bounds = [(None, float(value)) for value in values]
    found = linprog(np.ones(len(values)), A_ub=-outside, b_ub=-needed, bounds=bounds, method="highs")
    if not found.success:
        raise RunError(f"the core's linear programme was not solved: {found.message}")
    return float(found.fun)
