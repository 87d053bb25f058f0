"""Interim (Bayesian) regret: what a lie gains on average over the others' types, before they are known.

A rule can be truthful on average (Bayesian incentive compatible) without being truthful in every case, and the other
way a lie that loses in most cases can gain on average. The mean over the others' types is taken before the maximum over
the reports of one type. The report is searched on one sample of the others, and what it gains is measured on another,
so that the mean is unbiased; as a search may miss a better report, regret may be larger.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.regret import TOLERANCE, World
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.spaces.base import PolicySpace

LEVEL: Final = 0.95
WAYS: Final = (0.25, 0.5, 1.0, 1.5)
"""How far from the truth towards a single outcome a report is tried, 1 being all of it."""
TOPS: Final = 3
"""Favourites that are tried."""
MOVES: Final = 40
"""Random moves from the best of these."""


@final
@dataclass(frozen=True, eq=False)
class Interim:
    """What one type of one group gains on average by the best report that was found."""

    group: str
    report: Report
    regret: Estimate
    """The mean gain, 0 where the truth is best, with its interval by Student's t."""


def interim_regret(
    mechanism: Mechanism,
    group: Group,
    position: int,
    space: PolicySpace[Any],
    draw: Callable[[np.random.Generator], Sequence[Report]],
    *,
    size_limit: int,
    samples: int,
    rng: np.random.Generator,
) -> Interim:
    """Return the interim regret of a group's type. draw: the reports of the others, true to a random type each.

    samples: >= 2, of the others' types, to search on and as many to measure on.
    """
    if samples < 2:
        raise InputError(f"samples must be an integer >= 2, got {samples}")
    search, measure, moves = rng.spawn(3)

    def worlds(stream: np.random.Generator) -> tuple[list[World], list[int]]:
        """Return the worlds that were drawn, each once, and how often."""
        drawn = Counter(tuple(draw(stream)) for _ in range(samples))
        return [World(mechanism, space, others, position, size_limit) for others in drawn], list(drawn.values())

    seen, times = worlds(search)
    truth = Report(group.reward, group.size)

    def mean(report: Report) -> float:
        try:
            return float(np.average([world.utility(group, report) for world in seen], weights=times))
        except InputError:  # no report of this domain
            return -np.inf

    tried = [truth, *_reports(group, space, size_limit)]
    worth = [mean(report) for report in tried]
    best, reached = tried[int(np.argmax(worth))], max(worth)
    best, reached = _moved(group, space, best, reached, mean, moves)
    if reached - worth[0] <= TOLERANCE * max(abs(reached), abs(worth[0])):
        zero = np.zeros(())
        return Interim(group.name, truth, Estimate(zero, zero, zero, LEVEL))
    fresh, times = worlds(measure)
    gains = np.array([world.utility(group, best) - world.utility(group, truth) for world in fresh])
    return Interim(group.name, best, _mean(np.repeat(gains, times)))


def _reports(group: Group, space: PolicySpace[Any], size_limit: int) -> list[Report]:
    """Return reports between the truth and single outcomes, favourites and the least, and beyond, at several sizes."""
    system = space.coordinates(group.reward)
    truth = system.sheets(group.reward)
    domains = system.domains(truth)
    sizes = sorted({1, max(1, group.size // 2), group.size, min(2 * group.size, size_limit), size_limit})
    shapes = []
    orders = [np.argsort(-sheet, axis=-1, kind="stable") for sheet in truth]
    for place in [*range(min(TOPS, *(order.shape[-1] for order in orders))), -1]:
        for way in WAYS:
            moved = []
            for sheet, domain, order in zip(truth, domains, orders, strict=True):
                single = np.zeros_like(sheet)
                np.put_along_axis(single, order[:, [place]], 1.0, axis=-1)
                moved.append(domain.project(sheet + way * (domain.shaped(single) - sheet)))
            shapes.append(system.reward(tuple(moved)))
    return [Report(shape, size) for shape in [group.reward, *shapes] for size in sizes]


def _moved(
    group: Group,
    space: PolicySpace[Any],
    best: Report,
    reached: float,
    mean: Callable[[Report], float],
    rng: np.random.Generator,
) -> tuple[Report, float]:
    """Return the report after random moves of shrinking length, kept where they raise the mean."""
    system = space.coordinates(group.reward)
    domains = system.domains(system.sheets(group.reward))
    length = 0.3
    for _ in range(MOVES):
        said = system.sheets(best.reward)
        width = [max(float(np.ptp(sheet)), 1e-12) for sheet in said]
        steps = [length * w * rng.standard_normal(sheet.shape) for w, sheet in zip(width, said, strict=True)]
        moved = tuple(domain.project(s + d) for domain, s, d in zip(domains, said, steps, strict=True))
        report = Report(system.reward(moved), best.size)
        value = mean(report)
        best, reached, length = (report, value, 1.5 * length) if value > reached else (best, reached, 0.9 * length)
    return best, reached


def _mean(gains: Array) -> Estimate:
    """Return the mean gain; one below 0 is the gain of a report that nobody with this type would choose: 0."""
    from scipy.special import stdtrit

    mean = float(gains.mean())
    half = float(stdtrit(len(gains) - 1, (1 + LEVEL) / 2) * gains.std(ddof=1) / np.sqrt(len(gains)))
    low, middle, high = (np.asarray(max(0.0, end)) for end in (mean - half, mean, mean + half))
    return Estimate(middle, low, high, LEVEL)
