"""The search for the best reports of one group, of a coalition, or of one group under several names.

Given the sizes that are said, the payoff separates by prompt, so the search runs on rows: every prompt, every size and
every start at once. It is a search: what it finds is a lower bound on what there is.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import reduce
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.agents.ascent import ascend
from rlhf_game.agents.misreports import Blend, Indifferent, Polarize, RaiseAndLower
from rlhf_game.agents.payoffs import Payoff
from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Coordinates, Domain, Sheets
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

Sizes = NDArray[np.int64]

FEW_SIZES: Final = 16
"""Up to this size limit every size is tried; beyond, a geometric grid that is refined around the best."""
ENTRIES: Final = 200_000
"""Entries (rows times outcomes) that are worked on at once."""
LARGE: Final = 1_000_000
"""Entries beyond which the search makes do with fewer sizes and starts."""
REFINED: Final = 12
"""Sizes that are tried at a time between two sizes of the grid."""


@final
@dataclass(frozen=True)
class SearchBudget:
    """How long the search goes on. kept: starts for each size and prompt that survive the first steps.

    finalists: combinations of sizes that go on to the last steps.
    """

    kept: int
    first_steps: int
    next_steps: int
    last_steps: int
    finalists: int

    def times(self, share: float) -> "SearchBudget":
        """Return this share of the budget, at least one of everything."""
        return SearchBudget(*(max(1, round(share * count)) for count in astuple(self)))


STEPS: Final = 250
"""The last steps of a search on tables."""
ON_TABLES: Final = SearchBudget(6, 10, 60, STEPS, 3)
ON_CHAINS: Final = SearchBudget(2, 6, 20, 60, 1)
"""On an automaton every policy is a recursion of its own."""


@final
@dataclass(frozen=True, eq=False)
class SearchProblem:
    """C reports to be chosen, and what they earn together.

    truths, domains: of each report, by sheet. payoffs and others (the score of all other reports), by sheet.
    prompt_weights: of the rows of each sheet. multipliers: mu, [C].
    """

    coordinates: Coordinates
    truths: tuple[Sheets, ...]
    domains: tuple[tuple[Domain, ...], ...]
    payoffs: tuple[Payoff, ...]
    others: Sheets
    prompt_weights: Sheets
    multipliers: Array
    effort: SearchBudget

    def shortened(self, share: float) -> "SearchProblem":
        """Return the same problem with this share of its budget."""
        return replace(self, effort=self.effort.times(share))

    def reports(self, rewards: Sequence[Array], sizes: Sequence[int]) -> tuple[Report, ...]:
        """Return reports from rewards [C, B, m], one array for each sheet, and sizes."""
        return tuple(
            Report(self.coordinates.reward(tuple(sheet[c] for sheet in rewards)), int(size))
            for c, size in enumerate(sizes)
        )


def search_problem(
    mechanism: Mechanism,
    space: PolicySpace[Any],
    members: Sequence[tuple[int, Group]],
    others: Sequence[tuple[int, Report]],
    stakes: Sequence[Group],
    *,
    is_paid: bool | None = None,
) -> SearchProblem:
    """Return the search for the members' reports; both come with the position of the group that they belong to.

    stakes: the groups whose payoff counts (each once, also under several names). is_paid: whether affine payments are
    due; default whether the mechanism has payments at all. For another training rule than an affine maximiser the
    search is that of social welfare, a stand-in. Raises CombinationError on a space that cannot say how its policies
    move.
    """
    system = space.coordinates(stakes[0].reward)
    training = mechanism.training
    mu = training.multipliers(1 + max(position for position, _ in [*members, *others]))
    truths = tuple(system.sheets(group.reward) for _, group in members)
    zeros = tuple(np.zeros_like(sheet) for sheet in truths[0])
    parts = [(mu[at] * report.size, system.sheets(report.reward)) for at, report in others]
    parts += [(1.0, system.sheets(boost)) for boost in training.boosts()]
    score = _sum(zeros, parts)
    stake = _sum(zeros, [(float(group.size), system.sheets(group.reward)) for group in stakes])
    multipliers = mu[[at for at, _ in members]]
    paid = mechanism.moves != "free" if is_paid is None else is_paid
    payoffs = []
    for k, sheet in enumerate(zip(score, stake, strict=True)):
        solver = system.solver(k)
        if solver is None:
            raise CombinationError(f"a search by gradient needs to know how policies of a {type(space).__name__} move")
        payoffs.append(Payoff(solver, *sheet, multipliers, paid))
    domains = tuple(system.domains(truth) for truth in truths)
    effort = ON_CHAINS if system.pace == "whole" else ON_TABLES
    weights = system.prompt_weights()
    return SearchProblem(system, truths, domains, tuple(payoffs), score, weights, multipliers, effort)


def _sum(zeros: Sheets, parts: Sequence[tuple[float, Sheets]]) -> Sheets:
    def add(total: Sheets, part: tuple[float, Sheets]) -> Sheets:
        return tuple(a + part[0] * b for a, b in zip(total, part[1], strict=True))

    return reduce(add, parts, zeros)


def all_starts(stage: SearchProblem, count: int, rng: np.random.Generator) -> list[Array]:
    """Return where the search begins: for each sheet about ``count`` rewards of each report, [S, C, B, m]."""
    out = []
    for k, others in enumerate(stage.others):
        each = [
            starts(truth[k], others, domain[k], count, rng)
            for truth, domain in zip(stage.truths, stage.domains, strict=True)
        ]
        aligned = np.stack(each, axis=1)
        if len(each) > 1:
            shuffled = [rng.permutation(one)[: max(1, count // 2)] for one in each]
            aligned = np.concatenate([aligned, np.stack(shuffled, axis=1)])
        out.append(aligned)
    return out


def starts(truth: Array, others: Array, domain: Domain, count: int, rng: np.random.Generator) -> Array:
    """Return about ``count`` rewards [S, B, m]: the truth, simple lies, vertices, favourites alike, random ones."""
    outcomes = truth.shape[-1]
    lies = [Polarize(4.0), Polarize(16.0), Indifferent(), RaiseAndLower(0.1), RaiseAndLower(0.01), Polarize(0.5)]
    simple = [truth, *(lie.distort(truth, domain, rng) for lie in lies)]
    simple += [Blend(share).distort(truth, others, domain) for share in (0.5, -0.5)]
    order = np.argsort(-truth, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    most = max(2, count // 3)
    if outcomes <= most:
        chosen = np.arange(outcomes)
    else:  # the favourites and the least favourites
        chosen = np.concatenate([np.arange(most - most // 4), outcomes - 1 - np.arange(most // 4)])
    vertices = [domain.shaped((rank == j).astype(np.float64)) for j in chosen]
    tops = np.unique(np.geomspace(2, max(2, outcomes - 1), max(1, count // 6)).round().astype(int))
    favourites = [domain.shaped((rank < k).astype(np.float64)) for k in tops if k < outcomes]
    fixed = np.stack([*simple, *vertices, *favourites])
    drawn = domain.draw(rng, max(4, count - len(fixed)), outcomes)
    return np.concatenate([fixed[: max(4, count)], drawn[: max(4, count - len(fixed))]])


def size_grid(own: int, limit: int) -> list[int]:
    """Return the sizes to try from 1 to ``limit``: all of them if they are few."""
    if limit <= FEW_SIZES:
        return list(range(1, limit + 1))
    grid = np.geomspace(1, limit, FEW_SIZES - 1).round().astype(int).tolist()
    return sorted({*grid, min(own, limit), limit})


@final
@dataclass(frozen=True, eq=False)
class SearchResult:
    """Joint reports: what they earn, rewards [C, B, m] for each sheet, and sizes."""

    payoff: float
    rewards: tuple[Array, ...]
    sizes: tuple[int, ...]


def search(stage: SearchProblem, sizes: Sizes, count: int, rng: np.random.Generator) -> list[SearchResult]:
    """Return the best joint reports of a few combinations of sizes, best first.

    sizes: the combinations to try, [Z, C]. count: starts for each prompt and combination; fewer on large tables.
    """
    entries = sum(sheet.size for sheet in stage.others) * len(stage.truths)
    room = max(4, LARGE // entries)
    sizes = sizes[_spread(len(sizes), max(3, room // 8))]
    begun = all_starts(stage, max(4, min(count, room // len(sizes))), rng)
    climbed = [_climb(stage, k, sizes, begun[k]) for k in range(len(begun))]
    best = np.argsort(-_mean(stage, [values for values, _ in climbed]), kind="stable")[: stage.effort.finalists]
    finals = [_finish(stage, k, sizes[best], rewards[best]) for k, (_, rewards) in enumerate(climbed)]
    totals = _mean(stage, [values for values, _ in finals])
    out = [
        SearchResult(float(totals[place]), tuple(rewards[place] for _, rewards in finals), tuple(sizes[z].tolist()))
        for place, z in enumerate(best)
    ]
    return sorted(out, key=lambda one: -one.payoff)


def _mean(stage: SearchProblem, values: Sequence[Array]) -> Array:
    """Return the mean over prompts of payoffs [Z, B], one array for each sheet: [Z]."""
    return np.asarray(sum(each @ weights for each, weights in zip(values, stage.prompt_weights, strict=True)))


def _spread(count: int, most: int) -> NDArray[np.intp]:
    """Return at most ``most`` positions spread over ``count``, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.intp))


def _climb(stage: SearchProblem, k: int, sizes: Sizes, begun: Array) -> tuple[Array, Array]:
    """Return the best payoffs [Z, B] and rewards [Z, C, B, m] of one sheet, from starts [S, C, B, m]."""
    rewards = np.broadcast_to(begun, (len(sizes), *begun.shape))
    values, rewards = _run(stage, k, sizes, rewards, stage.effort.first_steps)
    kept = np.argsort(-values, axis=1, kind="stable")[:, : stage.effort.kept]
    rewards = np.take_along_axis(rewards, kept[:, :, None, :, None], axis=1)
    values, rewards = _run(stage, k, sizes, rewards, stage.effort.next_steps)
    return _best(values, rewards)


def _finish(stage: SearchProblem, k: int, sizes: Sizes, rewards: Array) -> tuple[Array, Array]:
    """Return payoffs [Z, B] and rewards [Z, C, B, m] after more steps from one start."""
    return _best(*_run(stage, k, sizes, rewards[:, None], stage.effort.last_steps))


def _best(values: Array, rewards: Array) -> tuple[Array, Array]:
    """Return the best start for each size and prompt: [Z, B], [Z, C, B, m]."""
    top = values.argmax(axis=1)[:, None]
    chosen = np.take_along_axis(rewards, top[:, :, None, :, None], axis=1)[:, 0]
    return np.take_along_axis(values, top, axis=1)[:, 0], chosen


def _run(stage: SearchProblem, k: int, sizes: Sizes, rewards: Array, steps: int) -> tuple[Array, Array]:
    """Ascend on one sheet from rewards [Z, S, C, B, m]: payoffs [Z, S, B] and rewards, in chunks of rows."""
    z, s, b = (axis.ravel() for axis in np.indices((*rewards.shape[:2], rewards.shape[3])))
    own, *others = [domain[k] for domain in stage.domains]
    domain = own.together(others)
    payoff = stage.payoffs[k]
    values = np.empty((*rewards.shape[:2], rewards.shape[3]))
    out = np.empty(rewards.shape)
    chunk = max(1, ENTRIES // (rewards.shape[2] * rewards.shape[4]))
    for first in range(0, len(z), chunk):
        i, j, row = (axis[first : first + chunk] for axis in (z, s, b))
        scales = stage.multipliers[:, None] * sizes[i].T
        said = np.moveaxis(rewards[i, j, :, row], 1, 0)
        value, reached = ascend(payoff.rows(row), domain.rows(row), scales, said, steps)
        values[i, j, row] = value
        out[i, j, :, row] = np.moveaxis(reached, 0, 1)
    return values, out


def refine(stage: SearchProblem, best: SearchResult, grid: Sequence[int]) -> SearchResult:
    """Return the best of sizes that a grid left out around ``best``, for a search over one report."""
    at = list(grid).index(best.sizes[0])
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    while high - low > 2:
        tried = np.unique(np.linspace(low, high, REFINED).round().astype(np.int64))
        begun = [np.broadcast_to(sheet, (len(tried), 1, *sheet.shape)) for sheet in best.rewards]
        climbed = [
            _best(*_run(stage, k, tried[:, None], sheet, stage.effort.next_steps)) for k, sheet in enumerate(begun)
        ]
        totals = _mean(stage, [values for values, _ in climbed])
        top = int(totals.argmax())
        if totals[top] > best.payoff:
            best = SearchResult(float(totals[top]), tuple(sheet[top] for _, sheet in climbed), (int(tried[top]),))
        low, high = int(tried[max(top - 1, 0)]), int(tried[min(top + 1, len(tried) - 1)])
    return best
