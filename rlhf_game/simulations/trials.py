"""One chunk of a study: its games, each a pure function of the specification and its own seeds, as a table of rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import RlhfGameError, RunError
from rlhf_game.simulations.batches import Batch
from rlhf_game.simulations.populations import Population

LISTS: Final = ("reference", "reward_i", "mixture_i", "always_i")
"""Columns of which a cell is a list of numbers."""
FLAGS: Final = ("lies_i",)
"""Columns of truth values."""
FAILURES: Final = (RlhfGameError, ArithmeticError, ValueError)
"""What a game may die of without stopping the others: numbers that do not fit. Anything else is a bug and stops all."""

Measured: TypeAlias = Mapping[str, NDArray[Any]]
"""For B games with K rows each: numbers [B, K], numbers of each group [B, K, n]; lists have one axis more."""
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

    def one(self, at: int) -> "Games":
        """Return one of the games alone."""
        return Games((self.trials[at],), self.batch.rows(np.array([at])))


@final
@dataclass(frozen=True, eq=False)
class RowLayout:
    """What the rows of every game are. keys: columns with the same K entries in every game.

    scalars: columns of the game; by_group: ``NAME_i``, one column for each group.
    """

    keys: Mapping[str, Sequence[Any]]
    scalars: tuple[str, ...]
    by_group: tuple[str, ...]
    groups: int
    """n, in every game."""
    width: int
    """How many columns each of by_group has: the most groups of any point of the study."""
    table: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    """The scalars and by_group of all points of the study, which are one table; default: as here."""

    def columns(self) -> dict[str, str]:
        """Return every column of the table with the measure that it is of."""
        scalars, by_group = self.table or (self.scalars, self.by_group)
        found = {name: name for name in scalars}
        return found | {column_of(name, i): name for name in by_group for i in range(self.width)}

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
            errors[trial] = _in_one_line(error)
    return drawn, errors


def by_shape(drawn: Mapping[Trial, Population]) -> list[list[Trial]]:
    """Return the trials in groups of one number of groups and outcomes, in order of their first game."""
    found: dict[tuple[int, ...], list[Trial]] = {}
    for trial, population in drawn.items():
        found.setdefault(population.rewards.shape, []).append(trial)
    return list(found.values())


def measure_all(
    groups: Sequence[Games], measure: Measure, optional: Sequence[str]
) -> tuple[list[tuple[Sequence[Trial], Measured]], dict[Trial, str]]:
    """Return what is measured of each group of games, and what the games that fail say.

    optional: the columns that may have no value (NaN). Where a group fails as a whole, its games are measured one by
    one, and only those that fail alone are given up.
    """
    done: list[tuple[Sequence[Trial], Measured]] = []
    errors: dict[Trial, str] = {}
    for games in groups:
        try:
            with np.errstate(all="ignore"):  # what comes out of an overflow is not finite, and refused
                done.append((games.trials, _finite(measure(games), optional)))
        except FAILURES as error:
            if len(games.trials) == 1:
                errors[games.trials[0]] = _in_one_line(error)
                continue
            alone, failed = measure_all([games.one(at) for at in range(len(games.trials))], measure, optional)
            done += alone
            errors |= failed
    return done, errors


def table(
    layout: RowLayout,
    trials: Sequence[Trial],
    done: Sequence[tuple[Sequence[Trial], Measured]],
    errors: Mapping[Trial, str],
    values: Mapping[str, Any],
) -> Any:
    """Return the rows as a pyarrow table: K rows for each trial, in order; those of a failed game hold its error.

    values: what the point of the sweep sets, a column for each field.
    """
    import pyarrow

    blocks = [_block(layout, len(group), measured) for group, measured in done]
    blocks += [_failed(layout, error) for error in errors.values()]
    joined = pyarrow.concat_tables(blocks)
    games = [trial.game for group, _ in done for trial in group] + [trial.game for trial in errors]
    order = np.argsort(np.repeat(games, layout.rows), kind="stable")
    if not (order == np.arange(len(order))).all():
        joined = joined.take(order)
    named = places(layout, trials, values)
    columns = dict(zip(named.column_names + joined.column_names, named.columns + joined.columns, strict=True))
    return pyarrow.table(columns).combine_chunks()


def places(layout: RowLayout, trials: Sequence[Trial], values: Mapping[str, Any]) -> Any:
    """Return the columns of these rows that say which they are: all that is known of them before anything is played."""
    import pyarrow

    count = len(trials) * layout.rows
    columns = {"point": pyarrow.array(np.repeat(np.array([t.point for t in trials], dtype=np.int32), layout.rows))}
    for field, value in values.items():
        plain = value if isinstance(value, bool | int | float | str) else json.dumps(value)
        columns[field] = pyarrow.repeat(pyarrow.scalar(plain), count)
    columns["game"] = pyarrow.array(np.repeat(np.array([t.game for t in trials], dtype=np.int64), layout.rows))
    repeated = pyarrow.array(np.tile(np.arange(layout.rows), len(trials)))
    for name, entries in layout.keys.items():
        columns[name] = pyarrow.array(list(entries)).take(repeated)
    return pyarrow.table(columns)


def _finite(measured: Measured, optional: Sequence[str]) -> Measured:
    def is_whole(name: str, array: NDArray[Any]) -> bool:
        return not (np.isinf(array) if name in optional else ~np.isfinite(array)).any()

    with_holes = [name for name, array in measured.items() if not is_whole(name, array)]
    if with_holes:
        raise RunError(f"{with_holes[0]} has values that float64 cannot hold")
    return measured


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _block(layout: RowLayout, games: int, measured: Measured) -> Any:
    import pyarrow

    count = games * layout.rows
    known = {name: _column(name, measured[name]) for name in layout.scalars}
    known |= {
        column_of(name, i): _column(name, measured[name][:, :, i])
        for name in layout.by_group
        for i in range(layout.groups)
    }
    columns = {
        column: known[column] if column in known else pyarrow.nulls(count, _type(name))
        for column, name in layout.columns().items()
    }
    columns["error"] = pyarrow.nulls(count, pyarrow.string())
    return pyarrow.table(columns)


def _column(name: str, array: NDArray[Any]) -> Any:
    """Return [B, K] numbers, or [B, K, L] lists, as a column."""
    import pyarrow

    flat = np.ascontiguousarray(array).ravel()
    if name not in LISTS:
        return pyarrow.array(flat, _type(name), from_pandas=True)
    offsets = np.arange(0, flat.size + 1, array.shape[-1], dtype=np.int32)
    return pyarrow.ListArray.from_arrays(offsets, flat)


def _failed(layout: RowLayout, error: str) -> Any:
    import pyarrow

    columns = {column: pyarrow.nulls(layout.rows, _type(name)) for column, name in layout.columns().items()}
    columns["error"] = pyarrow.array([error] * layout.rows)
    return pyarrow.table(columns)


def column_of(name: str, group: int) -> str:
    """Return the column of a group: of ``gain_i`` that of group 2 is ``gain_2``."""
    return f"{name[:-1]}{group}"


def _type(name: str) -> Any:
    import pyarrow

    if name in FLAGS:
        return pyarrow.bool_()
    return pyarrow.list_(pyarrow.float64()) if name in LISTS else pyarrow.float64()
