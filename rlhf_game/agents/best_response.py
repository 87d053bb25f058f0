"""The best response: the report with the largest utility, over the whole domain and all sizes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final, final

import numpy as np

from rlhf_game.agents.search import STEPS, SearchProblem, all_starts, refine, search, search_problem, size_grid, starts
from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Coordinates, Domain
from rlhf_game.mechanism.regret import World
from rlhf_game.mechanism.reports import Group, Report

MOST_ON_A_CHAIN: Final = 8
"""Starts on an automaton, where every policy is a recursion; regularisers without a closed form get a quarter."""
WAYS: Final = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)
"""How far from the truth towards a candidate an unknown payment rule is tried."""
FEW: Final = 4
"""Reports, the best of those that were tried under an unknown rule, that are tried at every size."""
POLISHES: Final = (60, 20, 20)
"""Random moves that are tried from the best reports under an unknown rule."""


@final
@dataclass(frozen=True)
class BestResponse:
    """The report that gains most against what the others say. Uses the mechanism and all reports.

    On tables and automata with an affine-maximising training rule and payments of this package: projected gradient
    ascent from many starts, for every size up to the limit (a refined grid beyond 16). On menus: every entry that any
    report can reach, so nothing is missed. Under any other rule: all those reports at many sizes, points between them
    and the truth, and random moves, each settled; a weaker search. In every case the result is a lower bound on what
    there is.

    starts: rewards to start from, for each prompt and size. steps: of the ascent from the best of them; what is
    spent before is in proportion.
    """

    starts: int = 64
    steps: int = field(default=STEPS, repr=False)
    uses: ClassVar[str] = "the mechanism and the reports of all groups"

    def __post_init__(self) -> None:
        for name, number in (("starts", self.starts), ("steps", self.steps)):
            if number < 1:
                raise InputError(f"{name} must be an integer >= 1, got {number!r}")

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the best report found, the truth if none is better."""
        truth = Report(group.reward, group.size)
        system = world.space.coordinates(group.reward)
        if system.entries:
            return _best(group, world, [truth, *_pushes(group, world, system)])
        if system.solver(0) is None:
            return self._tried(group, world, system, rng)
        if world.mechanism.moves is not None:
            return _best(group, world, [truth, *self._climbed(group, world, system, rng)])
        return self._groped(group, world, system, rng)

    def _climbed(self, group: Group, world: World, system: Coordinates, rng: np.random.Generator) -> list[Report]:
        stage = _stage(group, world).shortened(self.steps / STEPS)
        grid = size_grid(group.size, world.largest_size)
        count = affordable(system, self.starts)
        if system.pace == "whole":
            grid = sorted({1, min(group.size, world.largest_size), world.largest_size})
        try:
            found = search(stage, np.array(grid)[:, None], count, rng)
            if system.pace != "whole":
                found.append(refine(stage, found[0], grid))
        except InputError:  # a size so large that the regulariser refuses its numbers
            found = search(stage, np.array([[group.size]]), count, rng)
        return [stage.reports(one.rewards, one.sizes)[0] for one in found]

    def _tried(self, group: Group, world: World, system: Coordinates, rng: np.random.Generator) -> Report:
        """Return the best of simple lies at a few sizes, and of random moves from there: nothing else is known."""
        truth = system.sheets(group.reward)
        domains = system.domains(truth)
        zeros = tuple(np.zeros_like(sheet) for sheet in truth)
        begun = [
            starts(sheet, other, domain, self.starts, rng)
            for sheet, other, domain in zip(truth, zeros, domains, strict=True)
        ]
        lies = [tuple(sheet[s] for sheet in begun) for s in range(min(map(len, begun)))]
        sizes = size_grid(group.size, world.largest_size)
        reports = [Report(system.reward(lie), size) for lie in lies for size in sizes]
        return _settled(group, world, system, domains, reports, rng)

    def _groped(self, group: Group, world: World, system: Coordinates, rng: np.random.Generator) -> Report:
        """Return the best report where no gradient is known: of starts, stand-ins' answers, and points on the way."""
        stage = _stage(group, world)
        sizes = sorted({1, group.size, world.largest_size})
        own = (group.size,)
        begun = all_starts(stage, self.starts, rng)
        reports = [
            stage.reports([sheet[s] for sheet in begun], own)[0] for s in range(min(len(sheet) for sheet in begun))
        ]
        for is_paid in (False, True):
            stand_in = _stage(group, world, is_paid=is_paid)
            found = search(stand_in, np.array(sizes)[:, None], self.starts, rng)
            reports += [stand_in.reports(one.rewards, one.sizes)[0] for one in found]
        reports += [Report(group.reward, size) for size in sizes]
        reports.append(_best(group, world, reports))
        truth = stage.truths[0]

        def between(report: Report, way: float) -> Report:
            said = system.sheets(report.reward)
            moved = [mine + way * (other - mine) for mine, other in zip(truth, said, strict=True)]
            return _projected(system, stage.domains[0], moved, report.size)

        tried = [between(report, way) for report in reports for way in WAYS]
        few = affordable(system, self.starts)
        tried += [
            stage.reports([sheet[s] for sheet in begun], (size,))[0]
            for s in range(min(few, *(len(sheet) for sheet in begun)))
            for size in size_grid(group.size, world.largest_size)
            if size != group.size
        ]
        return _settled(group, world, system, stage.domains[0], [*reports, *tried], rng)


def affordable(system: Coordinates, starts: int) -> int:
    """Return how many starts to make do with where a policy takes many steps to solve."""
    match system.pace:
        case "whole":
            return min(starts, MOST_ON_A_CHAIN)
        case "iterated":
            return max(min(starts, MOST_ON_A_CHAIN), starts // 4)
    return starts


def _stage(group: Group, world: World, is_paid: bool | None = None) -> SearchProblem:
    places = [at for at in range(len(world.others) + 1) if at != world.position]
    others = list(zip(places, world.others, strict=True))
    return search_problem(world.mechanism, world.space, [(world.position, group)], others, [group], is_paid=is_paid)


def _best(group: Group, world: World, reports: Sequence[Report]) -> Report:
    """Return the first report with the largest utility, each of them settled; reports that are refused gain nothing."""
    return reports[int(np.argmax([_utility(group, world, report) for report in reports]))]


def _utility(group: Group, world: World, report: Report) -> float:
    try:
        reached = world.utility(group, report)
    except (InputError, RunError):
        return -np.inf
    return reached if np.isfinite(reached) else -np.inf


def _pushes(group: Group, world: World, system: Coordinates) -> list[Report]:
    """Return the reports that reach every entry of a menu that any report can reach.

    All reward on one entry at the largest size raises that entry over each other one by the most that the domain
    allows; once an entry is chosen, no payment that makes truth dominant depends on how it was reached.
    """
    truth = system.sheets(group.reward)
    (domain,) = system.domains(truth)
    vertices = domain.shaped(np.eye(truth[0].shape[1])[:, None, :])
    sizes = sorted({1, min(group.size, world.largest_size), world.largest_size})
    return [Report(system.reward((vertex,)), size) for size in reversed(sizes) for vertex in vertices]


def _projected(system: Coordinates, domains: Sequence[Domain], rewards: Sequence[Array], size: int) -> Report:
    sheets = tuple(domain.project(sheet) for domain, sheet in zip(domains, rewards, strict=True))
    return Report(system.reward(sheets), size)


def _settled(
    group: Group,
    world: World,
    system: Coordinates,
    domains: Sequence[Domain],
    reports: Sequence[Report],
    rng: np.random.Generator,
) -> Report:
    """Return the best of the truth, of these reports, of the best of them at other sizes, and of moves from those."""

    def ranked(those: Sequence[Report]) -> list[Report]:
        worth = np.array([_utility(group, world, report) for report in those])
        return [those[k] for k in np.argsort(-worth, kind="stable")]

    first = ranked([Report(group.reward, group.size), *reports])[:FEW]
    sizes = size_grid(group.size, world.largest_size)
    resized = [Report(report.reward, size) for report in first for size in sizes if size != report.size]
    best = ranked([*first, *resized])
    moved = [
        _polished(group, world, system, domains, report, moves, rng)
        for report, moves in zip(best, POLISHES, strict=False)
    ]
    return _best(group, world, moved)


def _polished(
    group: Group,
    world: World,
    system: Coordinates,
    domains: Sequence[Domain],
    best: Report,
    moves: int,
    rng: np.random.Generator,
) -> Report:
    """Return the report after random moves of shrinking length, taken when they raise the utility."""
    reached = _utility(group, world, best)
    length = 0.3
    for _ in range(moves):
        said = system.sheets(best.reward)
        moved = [sheet + length * np.ptp(sheet) * rng.standard_normal(sheet.shape) for sheet in said]
        report = _projected(system, domains, moved, best.size)
        value = _utility(group, world, report)
        if value > reached:
            best, reached, length = report, value, length * 1.5
        else:
            length *= 0.9
    return best
