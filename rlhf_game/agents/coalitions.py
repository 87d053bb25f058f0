"""Coalitions: groups that choose their reports together, and share what that brings among themselves.

They may pay each other, so what counts is the sum of their utilities. Affine-maximiser payments make every single group
truthful, not coalitions: each member's exaggeration lowers what the other one is charged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Final, final

import numpy as np

from rlhf_game.agents.best_response import BestResponse, affordable
from rlhf_game.agents.search import SearchProblem, Sizes, search, search_problem
from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.regret import TOLERANCE, World
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

FEW_STARTS: Final = 4
"""Starts of a joint search on an automaton."""


@final
@dataclass(frozen=True, eq=False)
class Deviation:
    """Joint reports and what they gain together over the truth (signed, in units of reward)."""

    members: tuple[str, ...]
    """The groups that share the gain; one, if it reports under several names."""
    reports: tuple[Report, ...]
    """The witness: one report for each member, or for each name."""
    truthful_utility: float
    """The members' utilities at the truth, summed."""
    gain: float
    tolerance: float
    """A gain up to this is rounding."""

    @property
    def found(self) -> float:
        """The gain, 0 when it is only rounding."""
        return self.gain if self.gain > self.tolerance else 0.0


@final
@dataclass(frozen=True)
class Coalition:
    """The best joint reports of two or more groups with transfers. Uses the mechanism and the reports of all groups.

    members: their positions. starts: joint rewards to start from, for each prompt and combination of sizes; sizes are
    1, the true one and the limit. What is found is a lower bound on what there is.
    """

    members: tuple[int, ...]
    starts: int = 32
    uses: ClassVar[str] = "the mechanism and the reports of all groups"

    def __post_init__(self) -> None:
        if len(set(self.members)) != len(self.members) or len(self.members) < 2:
            raise InputError(f"members must be two or more different positions, got {list(self.members)}")

    def deviate(
        self,
        mechanism: Mechanism,
        groups: Sequence[Group],
        space: PolicySpace[Any],
        size_limit: int,
        rng: np.random.Generator,
    ) -> Deviation:
        """Return the best joint reports found while all others say the truth; the truth if none is better."""
        if not all(0 <= at < len(groups) for at in self.members):
            raise InputError(f"members must be positions of the {len(groups)} groups, got {list(self.members)}")
        own = [groups[at] for at in self.members]
        others = [(at, _truth(group)) for at, group in enumerate(groups) if at not in self.members]

        def stage(is_paid: bool | None) -> SearchProblem:
            return search_problem(
                mechanism, space, list(zip(self.members, own, strict=True)), others, own, is_paid=is_paid
            )

        choices = [sorted({1, min(group.size, size_limit), size_limit}) for group in own]
        if space.coordinates(own[0].reward).pace == "whole":
            choices = [sorted({min(group.size, size_limit), size_limit}) for group in own]
        tried = joint_reports(mechanism, space, own, stage, np.array(list(product(*choices))), self.starts, rng)
        if mechanism.moves is None:  # nothing is known of the rule: what is best for each one alone is tried as well
            tried.append(self._alone(mechanism, groups, space, size_limit, rng))

        def earns(reports: Sequence[Report]) -> tuple[float, float]:
            said = dict(zip(self.members, reports, strict=True))
            everyone = [said.get(at, _truth(group)) for at, group in enumerate(groups)]
            return earned(mechanism, space, everyone, dict(zip(self.members, own, strict=True)))

        return best_of(own, tuple(map(_truth, own)), tried, earns)

    def _alone(
        self,
        mechanism: Mechanism,
        groups: Sequence[Group],
        space: PolicySpace[Any],
        size_limit: int,
        rng: np.random.Generator,
    ) -> tuple[Report, ...]:
        """Return each member's best response to the truth of all others."""
        truths = [_truth(group) for group in groups]
        found = []
        for at in self.members:
            world = World(mechanism, space, (*truths[:at], *truths[at + 1 :]), at, size_limit)
            found.append(BestResponse(self.starts)(groups[at], world, rng))
        return tuple(found)


def joint_reports(
    mechanism: Mechanism,
    space: PolicySpace[Any],
    truths: Sequence[Group],
    stage: Callable[[bool | None], SearchProblem],
    sizes: Sizes,
    starts: int,
    rng: np.random.Generator,
) -> list[tuple[Report, ...]]:
    """Return joint reports to try: on a menu all on the same entry, elsewhere the best of a joint search.

    truths: whose domain each report is in. stage: the search, for payments as they are (None) or as stand-ins.
    """
    system = space.coordinates(truths[0].reward)
    if system.entries:
        domains = [system.domains(system.sheets(group.reward))[0] for group in truths]
        entries = np.eye(system.sheets(truths[0].reward)[0].shape[1])
        return [
            tuple(
                Report(system.reward((domain.shaped(entry[None]),)), int(size))
                for domain, size in zip(domains, row, strict=True)
            )
            for entry in entries
            for row in sizes
        ]
    count = FEW_STARTS if system.pace == "whole" else affordable(system, starts)
    ways: tuple[bool | None, ...] = (None,) if mechanism.moves is not None else (True, False)
    out = []
    for way in ways:
        here = stage(way)
        out += [here.reports(one.rewards, one.sizes) for one in search(here, sizes, count, rng)]
    return out


def earned(
    mechanism: Mechanism, space: PolicySpace[Any], reports: Sequence[Report], members: Mapping[int, Group]
) -> tuple[float, float]:
    """Return values minus payments of the groups that really stand at some positions, and the sum of their sizes.

    members: what each of them is, at its position among the reports. Each is served by its own position's model.
    """
    settlement = mechanism.settle(reports, space)
    worth = sum(
        group.size * float(settlement.policy.model_of(at).values([space.read(group.reward)])[0])
        for at, group in members.items()
    )
    due = float(settlement.payments[list(members)].sum())
    return worth - due, abs(worth) + abs(due)


def best_of(
    owners: Sequence[Group],
    truth: tuple[Report, ...],
    tried: Sequence[tuple[Report, ...]],
    earns: Callable[[Sequence[Report]], tuple[float, float]],
) -> Deviation:
    """Return the joint reports that gain most over ``truth``, each of them settled."""
    base, size = earns(truth)
    best, gain, tolerance = truth, 0.0, TOLERANCE * size
    for reports in tried:
        try:
            payoff, scale = earns(reports)
        except (InputError, RunError):  # numbers that the regulariser refuses
            continue
        if payoff - base > gain:
            best, gain, tolerance = reports, payoff - base, TOLERANCE * (size + scale)
    return Deviation(tuple(group.name for group in owners), best, base, gain, tolerance)


def _truth(group: Group) -> Report:
    return Report(group.reward, group.size)
