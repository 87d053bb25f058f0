"""False names: one group that appears as several.

Affine-maximiser payments are not proof against it: a group that splits moves the model as much as before, but each part
is only charged for its own share of the move, and the sum of these is less than the charge for the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Final, final

import numpy as np

from rlhf_game.agents.coalitions import Deviation, best_of, earned, joint_reports
from rlhf_game.agents.search import SearchProblem, search_problem
from rlhf_game.errors import InputError
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

MOST_PARTS: Final = 24
"""Ways to cut a size that are tried."""


@final
@dataclass(frozen=True)
class FalseNames:
    """The best reports of one group under several names. Uses the mechanism and the reports of all groups.

    group: its position. names: how many, 2 or more. starts: joint rewards to start from, for each prompt and
    combination of sizes. The sizes of the names add up to the group's own: its members are real, its names are not.
    An affine maximiser gives every name the weight of the group. What is found is a lower bound on what there is.
    """

    group: int
    names: int = 2
    starts: int = 32
    uses: ClassVar[str] = "the mechanism and the reports of all groups"

    def __post_init__(self) -> None:
        if self.names < 2:
            raise InputError(f"names must be an integer >= 2, got {self.names!r}")

    def deviate(
        self,
        mechanism: Mechanism,
        groups: Sequence[Group],
        space: PolicySpace[Any],
        size_limit: int,
        rng: np.random.Generator,
    ) -> Deviation:
        """Return the best reports found while all others say the truth; the single truth if none is better."""
        if not 0 <= self.group < len(groups):
            raise InputError(f"group must be one of the {len(groups)} positions, got {self.group}")
        owner = groups[self.group]
        before = [Report(group.reward, group.size) for group in groups[: self.group]]
        after = [Report(group.reward, group.size) for group in groups[self.group + 1 :]]
        places = range(self.group, self.group + self.names)
        several = split(mechanism, len(groups), self.group, self.names)
        others = [*enumerate(before), *enumerate(after, start=self.group + self.names)]

        def stage(is_paid: bool | None) -> SearchProblem:
            return search_problem(several, space, [(at, owner) for at in places], others, [owner], is_paid=is_paid)

        sizes = np.array(parts_of(owner.size, self.names))  # none where there are fewer members than names
        plain = [tuple(Report(owner.reward, int(size)) for size in row) for row in sizes]
        tried = plain
        if plain:
            tried += joint_reports(several, space, [owner] * self.names, stage, sizes, self.starts, rng)

        def earns(reports: Sequence[Report]) -> tuple[float, float]:
            rules = mechanism if len(reports) == 1 else several
            named = [owner] if len(reports) == 1 else [replace(owner, size=report.size) for report in reports]
            return earned(rules, space, [*before, *reports, *after], dict(enumerate(named, start=self.group)))

        return best_of([owner], (Report(owner.reward, owner.size),), tried, earns)


def parts_of(size: int, names: int) -> list[tuple[int, ...]]:
    """Return ways to cut a size into so many parts, each >= 1, smallest first: all, or where there are many some.

    Those are the most even one and those with the largest last parts. None where there are fewer members than names.
    """
    if size < names:
        return []
    even = tuple(sorted(size // names + (k < size % names) for k in range(names)))
    return list(dict.fromkeys([even, *islice(_partitions(size, names, 1), MOST_PARTS)]))


def _partitions(size: int, names: int, least: int) -> Iterator[tuple[int, ...]]:
    if names == 1:
        yield (size,)
        return
    for first in range(least, size // names + 1):
        for rest in _partitions(size - first, names - 1, first):
            yield (first, *rest)


def split(mechanism: Mechanism, count: int, group: int, names: int) -> Mechanism:
    """Return the mechanism when one of ``count`` groups appears under several names, each with its weight mu."""
    who = [*range(group), *[group] * names, *range(group + 1, count)]
    return Mechanism(mechanism.training.among(count, who), mechanism.payment)
