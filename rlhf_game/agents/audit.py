"""The audit of a mechanism: for each group a bracket of what a lie can gain, and a witness."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from rlhf_game.agents.best_response import BestResponse
from rlhf_game.agents.misreports import Blend, Indifferent, Noisy, Polarize, RaiseAndLower, Resize
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.mechanism import Mechanism, Settlement
from rlhf_game.mechanism.regret import ROUNDING, SIZES, Regrets, Strategy, World, measure
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

STARTS: Final = 64
"""Of the search for a best response."""
PROVED_STARTS: Final = 8
PROVED_STEPS: Final = 12
"""What it makes do with where a proof says that no lie gains."""


def audit(
    mechanism: Mechanism | Settlement,
    groups: Sequence[Group | Report] | None = None,
    space: PolicySpace[Any] | None = None,
    strategies: Sequence[Strategy] | None = None,
    *,
    rng: np.random.Generator | int | None = None,
    size_limit: int | None = None,
    types: Sequence[Report] | None = None,
) -> Regrets:
    """Return for each group what the strategies gained while all other groups say the truth, and the bound there is.

    mechanism: with the groups (a Report stands for the truth of a group without a name) and the space; or a settlement
    alone, which brings them along: what was said there is taken for the truth. strategies: default
    ``standard_strategies``, which search less where no lie gains by proof (``is_proved``). rng: a generator or a seed,
    default 0; every group and strategy has its own stream.
    size_limit: the largest size that may be reported, default 4 times the largest true one. types: a finite set of
    everything that a group may say; it is tried whole instead of the strategies, and then what is found is a proof.

    Raises InputError when there is no group, no strategy, or an empty set of types; RunError when a search finds more
    than what is proved.
    """
    rules, truths, place = _game(mechanism, groups, space)
    chosen = strategies
    if chosen is None:
        chosen = standard_strategies(len(truths), is_proved=is_proved(rules, truths, place))
    if not chosen or (types is not None and not types):
        raise InputError("strategies and types must not be empty")
    limit = SIZES * max(group.size for group in truths) if size_limit is None else size_limit
    said = [Report(group.reward, group.size) for group in truths]
    streams = _generator(rng).spawn(len(truths))
    regrets = Regrets()
    for at, (group, stream) in enumerate(zip(truths, streams, strict=True)):
        world = World(rules, place, (*said[:at], *said[at + 1 :]), at, limit)
        if types is not None:
            reports = [(f"types[{k}]", report) for k, report in enumerate(types)]
        else:
            pairs = zip(chosen, stream.spawn(len(chosen)), strict=True)
            reports = [(_name(strategy), strategy(group, world, own)) for strategy, own in pairs]
        least = _least_value(group, place)
        regrets.append(measure(group, world, reports, exhaustive=types is not None, least_value=least))
    return regrets


def _game(
    mechanism: Mechanism | Settlement, groups: Sequence[Group | Report] | None, space: PolicySpace[Any] | None
) -> tuple[Mechanism, list[Group], PolicySpace[Any]]:
    """Return the rules, the truths and the space of an audit."""
    if isinstance(mechanism, Settlement):
        if groups is not None or space is not None:
            raise InputError("groups and space must be left out with a settlement, which brings them along")
        settlement = mechanism
        mechanism, groups, space = settlement.mechanism, settlement.reports, settlement.space.running
    if not groups or space is None:
        raise InputError("groups must hold at least one group, and space the space that they report on")
    for i, group in enumerate(groups):
        if not isinstance(group, Group | Report):
            raise InputError(f"groups[{i}] must be a Group, such as Group('legal', [1, 0, 0], size=2), got {group!r}")
    truths = [
        one if isinstance(one, Group) else Group(f"group {i}", one.reward, one.size) for i, one in enumerate(groups)
    ]
    return mechanism.fitted(space), truths, space


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None or (isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0):
        return np.random.default_rng(0 if rng is None else rng)
    raise InputError(f"rng must be a generator, or a seed >= 0, got {rng!r}")


def is_proved(mechanism: Mechanism, groups: Sequence[Group], space: PolicySpace[Any]) -> bool:
    """Return whether the payment rule proves of every group that no lie gains, beyond rounding.

    A search then can only find that the computation is wrong, and a short one tells that as well.
    """
    bounds = mechanism.payment.own("regret_bounds")
    if bounds is None:
        return False
    settlement = mechanism.settle([Report(group.reward, group.size) for group in groups], space)
    proved = bounds(settlement.trained)
    return proved is not None and bool((proved <= ROUNDING * np.abs(settlement.sizes * settlement.values)).all())


def standard_strategies(groups: int, starts: int | None = None, *, is_proved: bool = False) -> list[Strategy]:
    """Return the strategies of an audit: simple lies, then the best response; for a number of groups.

    starts: of the best response, with all its steps; default 64, or where no lie gains by proof 8 with few steps.
    """
    lies: list[Strategy] = [RaiseAndLower(0.1), Polarize(4.0), Indifferent(), Noisy(0.1), Resize(2.0), Resize(0.5)]
    blends: list[Strategy] = [Blend(share, other) for other in range(min(groups - 1, 3)) for share in (0.5, -0.5)]
    if starts is None and is_proved:
        return [*lies, *blends, BestResponse(PROVED_STARTS, PROVED_STEPS)]
    return [*lies, *blends, BestResponse(STARTS if starts is None else starts)]


def _name(strategy: Strategy) -> str:
    text = repr(strategy)
    return type(strategy).__name__ if text.startswith("<") else text


def _least_value(group: Group, space: PolicySpace[Any]) -> float | None:
    try:
        return space.coordinates(group.reward).least_value(group.reward)
    except CombinationError:
        return None
