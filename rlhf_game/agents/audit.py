"""The audit of a mechanism: for each group a bracket of what a lie can gain, and a witness."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_game.agents.best_response import BestResponse
from rlhf_game.agents.domains import coordinates
from rlhf_game.agents.misreports import Blend, Indifferent, Noisy, Polarize, RaiseAndLower, Resize
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.audit import SIZES, Regret, Strategy, World, measure
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace


def audit(
    mechanism: Mechanism,
    groups: Sequence[Group],
    space: PolicySpace[Any],
    strategies: Sequence[Strategy] | None = None,
    *,
    rng: np.random.Generator | None = None,
    size_limit: int | None = None,
    types: Sequence[Report] | None = None,
) -> list[Regret]:
    """Return for each group what the strategies gained while all other groups say the truth, and the bound there is.

    strategies: default ``standard_strategies``. rng: default a fixed seed; every group and strategy has its own stream.
    size_limit: the largest size that may be reported, default 4 times the largest true one. types: a finite set of
    everything that a group may say; it is tried whole instead of the strategies, and then what is found is a proof.

    Raises InputError when there is no group, no strategy, or an empty set of types.
    """
    if not groups:
        raise InputError("groups must hold at least one group, got none")
    chosen = standard_strategies(len(groups)) if strategies is None else strategies
    if not chosen or (types is not None and not types):
        raise InputError("strategies and types must not be empty")
    limit = SIZES * max(group.size for group in groups) if size_limit is None else size_limit
    truths = [Report(group.reward, group.size) for group in groups]
    streams = (np.random.default_rng(0) if rng is None else rng).spawn(len(groups))
    regrets = []
    for at, (group, stream) in enumerate(zip(groups, streams, strict=True)):
        world = World(mechanism, space, (*truths[:at], *truths[at + 1 :]), at, limit)
        if types is not None:
            reports = [(f"types[{k}]", report) for k, report in enumerate(types)]
        else:
            pairs = zip(chosen, stream.spawn(len(chosen)), strict=True)
            reports = [(_name(strategy), strategy(group, world, own)) for strategy, own in pairs]
        least = _least_value(group, space)
        regrets.append(measure(group, world, reports, exhaustive=types is not None, least_value=least))
    return regrets


def standard_strategies(groups: int, starts: int = 64) -> list[Strategy]:
    """Return the strategies of an audit: simple lies, then the best response; for a number of groups."""
    lies: list[Strategy] = [RaiseAndLower(0.1), Polarize(4.0), Indifferent(), Noisy(0.1), Resize(2.0), Resize(0.5)]
    blends: list[Strategy] = [Blend(share, other) for other in range(min(groups - 1, 3)) for share in (0.5, -0.5)]
    return [*lies, *blends, BestResponse(starts)]


def _name(strategy: Strategy) -> str:
    text = repr(strategy)
    return type(strategy).__name__ if text.startswith("<") else text


def _least_value(group: Group, space: PolicySpace[Any]) -> float | None:
    try:
        return coordinates(space).least_value(group.reward)
    except CombinationError:
        return None
