"""How far the bill depends on which member of a group's ensemble is its reward: a spread, no confidence interval."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any, Final

import numpy as np

from rlhf_game.files.build import build, settle
from rlhf_game.files.games import Game
from rlhf_game.files.tables import Table
from rlhf_game.mechanism.arrays import Array

MOST_COMBINATIONS: Final = 256
"""Choices of a member for every group that are settled; of more, as many are drawn."""
SAID: Final = "a spread over the members of ensembles, not a confidence interval"


def over_members(game: Game, members: Mapping[str, Sequence[Table]], seed: int) -> dict[str, Any]:
    """Return the bills of a game under the members of its groups' ensembles: least, median and largest.

    members: of each group with an ensemble its M members' rewards, shaped like the group's own in the game. ``groups``
    says of each the bills with its own reward exchanged for each member; ``joint`` the bills of all groups with every
    group's exchanged at once, over all combinations, or where there are more than MOST_COMBINATIONS over so many drawn
    by the seed. ``error`` is the most that a member is away from the reported reward on any outcome; where the truth is
    no further away, no report had gained the group more than ``regret_bound`` = 2 size error (Thm 4.9 of
    arXiv:2405.16276), which is known where a report moves its payment as under affine ones. Raises InputError when a
    member is not in the domain.
    """
    names = [group.name for group in game.fields.groups]
    places = {names.index(name): tables for name, tables in members.items()}
    is_bounded = build(game)[1].moves == "affine"
    groups = []
    for i, tables in places.items():
        bills = [_payments(game, {i: table})[i] for table in tables]
        error = max(_apart(table, game.rewards[i]) for table in tables)
        bound = 2 * game.fields.groups[i].size * error if is_bounded else None
        own = {"payment": _spread(bills), "error": error, "regret_bound": bound}
        groups.append({"name": names[i], "members": len(tables), **own})
    count = prod(map(len, places.values()))
    drawn = list(_combinations(list(places.values()), count, np.random.default_rng(seed)))
    together = np.array([_payments(game, dict(zip(places, tables, strict=True))) for tables in drawn])
    payments = [{"name": name, "payment": _spread(together[:, i])} for i, name in enumerate(names)]
    joint = {"combinations": len(drawn), "of": count, "groups": payments}
    return {"what": SAID, "groups": groups, "joint": joint}


def _payments(game: Game, changed: Mapping[int, Table]) -> Array:
    rewards = tuple(changed.get(i, reward) for i, reward in enumerate(game.rewards))
    return np.asarray(settle(replace(game, rewards=rewards)).payments)


def _combinations(
    members: Sequence[Sequence[Table]], count: int, rng: np.random.Generator
) -> Iterable[Sequence[Table]]:
    if count <= MOST_COMBINATIONS:
        return product(*members)
    return [[tables[int(rng.integers(len(tables)))] for tables in members] for _ in range(MOST_COMBINATIONS)]


def _apart(one: Table, other: Table) -> float:
    rows = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in rows)


def _spread(bills: Sequence[float] | Array) -> dict[str, float]:
    return {"min": float(np.min(bills)), "median": float(np.median(bills)), "max": float(np.max(bills))}
