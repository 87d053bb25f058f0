"""What the provider could gain: an invented group, a group that is not heard, a strength that is not the declared one.

Payments make groups truthful, not the provider, who hears the reports and trains. Each of these raises what the real
groups pay while every single bill still follows from the policy that is delivered. What is found is a lower bound.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Domain, Sheets
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

MOST_SUBSETS: Final = 8
"""Up to so many groups every set of groups is left out in turn; beyond, every single one."""
STEPS: Final = tuple(0.5 * 0.5**k for k in range(13))
"""What an entry is moved by before the reward is brought back into the domain, in units of its largest entry."""
LEAST: Final = 1e-7
"""What counts as an improvement, relatively."""
FINALISTS: Final = 4
"""Starts that are improved."""
STRENGTHS: Final = tuple(float(x) for x in np.logspace(-2, 2, 33))
"""Multiples of the declared strength that are tried; the best one is refined."""


@final
@dataclass(frozen=True, eq=False)
class ProviderDeviation:
    """One thing that the provider may do. kind: invented (report), withheld (groups) or strength (strength)."""

    kind: str
    revenue: float
    """What the real groups pay then, in units of reward."""
    report: Report | None = None
    groups: tuple[str, ...] = ()
    strength: float | None = None


@final
@dataclass(frozen=True, eq=False)
class ProviderAudit:
    """Honest revenue, and the best that was found of each kind."""

    revenue: float
    cheats: tuple[ProviderDeviation, ...]
    """The best of each kind that was tried."""

    @property
    def best(self) -> ProviderDeviation:
        """The best of all; of kind none where honesty is."""
        return max((ProviderDeviation("none", self.revenue), *self.cheats), key=lambda cheat: cheat.revenue)

    @property
    def gain(self) -> float:
        """What the best one brings over honest revenue, >= 0."""
        return max(0.0, self.best.revenue - self.revenue)


def audit_provider(
    mechanism: Mechanism,
    groups: Sequence[Group],
    space: PolicySpace[Any],
    *,
    size_limit: int,
    rng: np.random.Generator,
    strength: float | None = None,
    at_strength: Callable[[float], PolicySpace[Any]] | None = None,
    starts: int = 32,
) -> ProviderAudit:
    """Return what one invented report, groups left out, or another strength bring the provider from the real groups.

    size_limit: of the invented group. strength, at_strength: the declared strength, and the space at another one; None
    leaves strengths out. starts: random rewards to start from, besides those that want one outcome only.
    Raises CombinationError for a space whose rewards are not finite tables.
    """
    reports = [Report(group.reward, group.size) for group in groups]
    honest = float(mechanism.settle(reports, space).payments.sum())
    found = [_invented(mechanism, reports, space, size_limit, starts, rng)]
    if len(groups) > 1:
        found.append(max(_withheld(mechanism, groups, space), key=lambda cheat: cheat.revenue))
    if at_strength is not None and strength is not None:
        found.append(_shaded(mechanism, reports, strength, at_strength))
    return ProviderAudit(honest, tuple(found))


def _among(mechanism: Mechanism, groups: int, who: Sequence[int | None]) -> Mechanism:
    return Mechanism(mechanism.training.among(groups, who), mechanism.payment)


def _withheld(mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]) -> Iterator[ProviderDeviation]:
    """Yield what the groups that are still heard pay when some are not."""
    count = len(groups)
    for size in range(1, count if count <= MOST_SUBSETS else 2):
        for out in combinations(range(count), size):
            kept = [i for i in range(count) if i not in out]
            heard = [Report(groups[i].reward, groups[i].size) for i in kept]
            if heard:
                revenue = _settled(_among(mechanism, count, kept), heard, space, len(heard))
                yield ProviderDeviation("withheld", revenue, groups=tuple(groups[i].name for i in out))


def _invented(
    mechanism: Mechanism,
    reports: Sequence[Report],
    space: PolicySpace[Any],
    size_limit: int,
    starts: int,
    rng: np.random.Generator,
) -> ProviderDeviation:
    """Return the best invented report that was found: from many starts, entry by entry, at several sizes."""
    system = space.coordinates(reports[0].reward)
    several = _among(mechanism, len(reports), [*range(len(reports)), None])
    sheets = [system.sheets(report.reward) for report in reports]
    richest = max(sheets, key=lambda one: sum(float(sheet.sum()) for sheet in one))
    domains = system.domains(richest)
    sizes = sorted({1, max(1, size_limit // 2), size_limit})

    def revenue(reward: Sheets, size: int) -> float:
        extra = Report(system.reward(reward), size)
        return _settled(several, [*reports, extra], space, len(reports))

    first = [
        (revenue(reward, size), reward, size) for reward in _starts(domains, richest, starts, rng) for size in sizes
    ]
    first.sort(key=lambda one: -one[0])
    best = max((_climbed(revenue, domains, *one) for one in first[:FINALISTS]), key=lambda one: one[0])
    return ProviderDeviation("invented", best[0], report=Report(system.reward(best[1]), best[2]))


def _starts(domains: Sequence[Domain], like: Sheets, count: int, rng: np.random.Generator) -> Iterator[Sheets]:
    """Yield rewards that want one outcome, or all but one, of every prompt; then random ones."""
    widest = max(sheet.shape[1] for sheet in like)
    for x in range(widest):
        for weights in (np.eye(widest)[x], 1 - np.eye(widest)[x]):
            yield tuple(
                domain.shaped(np.broadcast_to(weights[: sheet.shape[1]], sheet.shape).copy())
                for domain, sheet in zip(domains, like, strict=True)
            )
    draws = [domain.draw(rng, count, sheet.shape[1]) for domain, sheet in zip(domains, like, strict=True)]
    for k in range(count):
        yield tuple(draw[k] for draw in draws)


def _climbed(
    revenue: Callable[[Sheets, int], float], domains: Sequence[Domain], reached: float, reward: Sheets, size: int
) -> tuple[float, Sheets, int]:
    for step in STEPS:
        places = [(k, place) for k, sheet in enumerate(reward) for place in np.ndindex(sheet.shape)]
        moves = [(k, place, sign * step) for k, place in places for sign in (1, -1)]
        is_better = True
        while is_better:
            is_better = False
            for k, place, move in moves:
                moved: Array = reward[k].copy()
                moved[place] += move * max(1e-12, float(np.abs(moved).max()))
                other = (*reward[:k], domains[k].project(moved), *reward[k + 1 :])
                found = revenue(other, size)
                if found > reached + LEAST * abs(reached):
                    reached, reward, is_better = found, other, True
    return reached, reward, size


def _shaded(
    mechanism: Mechanism,
    reports: Sequence[Report],
    strength: float,
    at_strength: Callable[[float], PolicySpace[Any]],
) -> ProviderDeviation:
    from scipy.optimize import minimize_scalar

    def revenue(logarithm: float) -> float:
        return _settled(mechanism, reports, at_strength(float(np.exp(logarithm))), len(reports))

    grid = np.log(strength) + np.log(STRENGTHS)
    values = [revenue(x) for x in grid]
    best = int(np.argmax(values))
    low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    fine = minimize_scalar(lambda x: -revenue(x), bounds=(low, high), method="bounded")
    place, value = (float(fine.x), -float(fine.fun)) if -fine.fun > values[best] else (float(grid[best]), values[best])
    return ProviderDeviation("strength", value, strength=float(np.exp(place)))


def _settled(mechanism: Mechanism, reports: Sequence[Report], space: PolicySpace[Any], real: int) -> float:
    """Return what the first ``real`` reports pay; minus infinity where the numbers are refused."""
    try:
        paid = float(mechanism.settle(reports, space).payments[:real].sum())
    except (InputError, RunError):
        return -np.inf
    return paid if np.isfinite(paid) else -np.inf
