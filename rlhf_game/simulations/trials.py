"""One chunk of a study: its games, each a pure function of the specification and its own seeds, as a table of rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np

from rlhf_game.errors import RlhfGameError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.simulations.batches import Batch
from rlhf_game.simulations.populations import Population

FAILURES: Final = (RlhfGameError, ArithmeticError, ValueError)
"""What a game may die of without stopping the others: numbers that do not fit. Anything else is a bug and stops all."""

Measured: TypeAlias = Mapping[str, Array]
"""For B games with K rows each: scalars [B, K], and amounts of each group [B, K, n]."""
Measure: TypeAlias = Callable[["Games"], Measured]


@final
@dataclass(frozen=True)
class Trial:
    """One game of a study, by its place: which point of the sweep, which game there."""

    seed: int
    point: int
    game: int

    def stream(self, part: int) -> np.random.Generator:
        """Return a stream of random numbers that no other part of any other game shares."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.point, self.game, part)))


@final
@dataclass(frozen=True, eq=False)
class Games:
    """Games of one shape, with where they come from."""

    trials: tuple[Trial, ...]
    batch: Batch


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """What the rows of every game are. keys: columns with the same K entries in every game.

    scalars and lists: the columns that are measured, one number, and one number for each group.
    """

    keys: Mapping[str, Sequence[Any]]
    scalars: tuple[str, ...]
    lists: tuple[str, ...]

    @property
    def rows(self) -> int:
        """K, the rows of each game."""
        return len(next(iter(self.keys.values())))


def draw(
    trials: Sequence[Trial], one: Callable[[Trial], Population]
) -> tuple[dict[Trial, Population], dict[Trial, str]]:
    """Return the populations of the trials, and of those that fail what they say."""
    drawn: dict[Trial, Population] = {}
    errors: dict[Trial, str] = {}
    for trial in trials:
        try:
            drawn[trial] = one(trial)
        except FAILURES as error:
            errors[trial] = _said(error)
    return drawn, errors


def by_shape(drawn: Mapping[Trial, Population]) -> list[list[Trial]]:
    """Return the trials in groups of one number of groups and outcomes, in order of their first game."""
    found: dict[tuple[int, ...], list[Trial]] = {}
    for trial, population in drawn.items():
        found.setdefault(population.rewards.shape, []).append(trial)
    return list(found.values())


def measure_all(
    groups: Sequence[Sequence[Trial]], games_of: Callable[[Sequence[Trial]], Games], measure: Measure
) -> tuple[list[tuple[Sequence[Trial], Measured]], dict[Trial, str]]:
    """Return what is measured of each group of games, and what the games that fail say.

    Where a group fails as a whole, its games are measured one by one, and only those that fail alone are given up.
    """
    done: list[tuple[Sequence[Trial], Measured]] = []
    errors: dict[Trial, str] = {}
    for group in groups:
        try:
            with np.errstate(all="ignore"):  # what comes out of an overflow is not finite, and refused
                done.append((group, _finite(measure(games_of(group)))))
        except FAILURES as error:
            if len(group) == 1:
                errors[group[0]] = _said(error)
                continue
            alone, failed = measure_all([[trial] for trial in group], games_of, measure)
            done += alone
            errors |= failed
    return done, errors


def table(
    layout: Layout,
    trials: Sequence[Trial],
    done: Sequence[tuple[Sequence[Trial], Measured]],
    errors: Mapping[Trial, str],
    values: Mapping[str, Any],
) -> Any:
    """Return the rows as a pyarrow table: K rows for each trial, in order; those of a failed game hold its error.

    values: what the point of the sweep sets, a column for each field.
    """
    import pyarrow

    blocks = [_block(layout, group, measured) for group, measured in done]
    blocks += [_failed(layout, trial, error) for trial, error in errors.items()]
    joined = pyarrow.concat_tables(blocks)
    order = np.argsort(joined.column("game").to_numpy(), kind="stable")
    if not (order == np.arange(len(order))).all():
        joined = joined.take(order)
    for place, (field, value) in enumerate(values.items()):
        plain = value if isinstance(value, bool | int | float | str) else json.dumps(value)
        joined = joined.add_column(place, field, pyarrow.repeat(pyarrow.scalar(plain), len(joined)))
    point = np.full(len(joined), trials[0].point, dtype=np.int32)
    return joined.add_column(0, "point", pyarrow.array(point)).combine_chunks()


def _finite(measured: Measured) -> Measured:
    with_holes = [name for name, array in measured.items() if not np.isfinite(array).all()]
    if with_holes:
        raise RunError(f"{with_holes[0]} has values that float64 cannot hold")
    return measured


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _block(layout: Layout, trials: Sequence[Trial], measured: Measured) -> Any:
    import pyarrow

    columns = _keys(layout, trials)
    for name in layout.scalars:
        columns[name] = pyarrow.array(np.ascontiguousarray(measured[name], dtype=np.float64).ravel())
    for name in layout.lists:
        array = np.ascontiguousarray(measured[name], dtype=np.float64)
        offsets = np.arange(0, array.size + 1, array.shape[-1], dtype=np.int32)
        columns[name] = pyarrow.ListArray.from_arrays(offsets, array.ravel())
    columns["error"] = pyarrow.nulls(len(trials) * layout.rows, pyarrow.string())
    return pyarrow.table(columns)


def _failed(layout: Layout, trial: Trial, error: str) -> Any:
    import pyarrow

    columns = _keys(layout, [trial])
    columns |= {name: pyarrow.nulls(layout.rows, pyarrow.float64()) for name in layout.scalars}
    columns |= {name: pyarrow.nulls(layout.rows, pyarrow.list_(pyarrow.float64())) for name in layout.lists}
    columns["error"] = pyarrow.array([error] * layout.rows)
    return pyarrow.table(columns)


def _keys(layout: Layout, trials: Sequence[Trial]) -> dict[str, Any]:
    import pyarrow

    games = np.array([trial.game for trial in trials], dtype=np.int64)
    columns: dict[str, Any] = {"game": pyarrow.array(np.repeat(games, layout.rows))}
    repeated = np.tile(np.arange(layout.rows), len(trials))
    for name, entries in layout.keys.items():
        columns[name] = pyarrow.array(list(entries)).take(pyarrow.array(repeated))
    return columns
