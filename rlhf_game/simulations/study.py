"""A study: a specification with what it sweeps, cut into chunks that any process can play."""

import hashlib
import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any, Final, final

from pydantic import ValidationError

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json, read_text, shown
from rlhf_game.files.games import Game, parse_game
from rlhf_game.files.parts import moved
from rlhf_game.files.schema import explain, parse_model
from rlhf_game.files.settings import changed, steps
from rlhf_game.outcomes.run_config import hash_of, read_document
from rlhf_game.simulations.contents import parquet_bytes
from rlhf_game.simulations.equilibria import EquilibriumStudy
from rlhf_game.simulations.fields import StudyFields
from rlhf_game.simulations.game_study import GamesStudy
from rlhf_game.simulations.market import MarketStudy
from rlhf_game.simulations.populations import PopulationSource
from rlhf_game.simulations.trials import RowLayout, Trial
from rlhf_game.tabular import Tabular

KINDS: Final[Mapping[str, type[StudyFields]]] = {
    "games": GamesStudy,
    "market": MarketStudy,
    "equilibrium": EquilibriumStudy,
}
FIXED: Final = ("kind", "seed", "games", "payments", "chunk", "sweep")
"""What a sweep cannot change: the rows of all points are one table."""
SOURCE: Final = "source.json"
"""Says of a study's folder where, from there, the files are that the study names."""
MOST_POINTS: Final = 100_000


@final
@dataclass(frozen=True, eq=False)
class SweepPoint:
    """One combination of the swept values."""

    index: int
    values: Mapping[str, Any]
    """Of each swept field, as the specification says it."""
    columns: Mapping[str, Any]
    """The same in the type of the field's column."""
    fields: StudyFields
    source: PopulationSource
    layout: RowLayout

    def trials(self, games: range) -> list[Trial]:
        """Return the places of some games."""
        return [Trial(self.fields.seed, self.index, game) for game in games]


@final
@dataclass(frozen=True, eq=False)
class Chunk:
    """Some games of one point: what is played in one go, by whichever process."""

    number: int
    point: SweepPoint
    games: range


@final
@dataclass(frozen=True, eq=False)
class Study(Tabular):
    """A specification, read and checked, with the populations that it names."""

    points: tuple[SweepPoint, ...]
    sweep: Mapping[str, Sequence[Any]]
    files: Mapping[str, str]
    """The sha256 of each file that is part of the study."""
    base: Path
    """The folder that the paths of these files start from."""

    @property
    def fields(self) -> StudyFields:
        """The specification of the first point: the others differ in what is swept."""
        return self.points[0].fields

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each point: what is swept there, and how many groups and games it has."""
        return [
            {"point": one.index, **one.columns, "groups": one.source.count, "games": one.fields.games}
            for one in self.points
        ]

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what config.json holds and what must not change in a folder."""
        content = self.fields.model_dump(mode="json", exclude_none=True)
        sweep = {"sweep": {field: list(values) for field, values in self.sweep.items()}} if self.sweep else {}
        return {**content, **sweep, **({"files": dict(self.files)} if self.files else {})}

    @property
    def sha256(self) -> str:
        """Of the canonical content."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()

    def game(self, number: int, point: int = 0) -> Game:
        """Return one game as it is before anybody lies (see game_document), ready to be settled or audited."""
        return parse_game(self.game_document(number, point), f"game {number} of point {point}", self.base, True)

    def game_document(self, number: int, point: int = 0, folder: Path | None = None) -> dict[str, Any]:
        """Return one game as a game file in ``folder`` holds it, under affine payments where the study has them.

        folder: default where the study's paths start from. Raises InputError when there is no such point or game, or
        its population cannot be drawn.
        """
        if not 0 <= point < len(self.points):
            raise InputError(f"point: must be from 0 to {len(self.points) - 1}, found {point}")
        one = self.points[point]
        if not 0 <= number < one.fields.games:
            raise InputError(f"game: must be from 0 to {one.fields.games - 1}, found {number}")
        found, errors = one.fields.games_of(one.source, one.trials(range(number, number + 1)))
        if errors:
            raise InputError(f"game {number} of point {point}: {next(iter(errors.values()))}")
        batch, fields = found[0].batch, one.fields
        groups = [
            {"name": name, "size": int(size), "reward": reward.tolist()}
            for name, size, reward in zip(one.source.names, batch.sizes[:, 0], batch.rewards[:, 0], strict=True)
        ]
        training, beside = _beside(fields.training, one.source.names)
        is_table = fields.space is None
        parts = {
            **({"regularizer": fields.regularizer} if is_table else {"space": fields.space}),
            "training": training,
            "payment": "affine" if "affine" in fields.payments else fields.payments[0],
        }
        return {
            **({"reference": batch.reference[0].tolist()} if is_table else {}),
            "strength": fields.strength,
            "normalization": fields.normalization,
            **{role: moved(role, said, self.base, folder or self.base) for role, said in parts.items()},
            **beside,
            "groups": groups,
            "provenance": {"study": self.sha256, "point": point, "game": number},
        }

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return len(self.points) * -(-self.fields.games // self.together)

    @property
    def together(self) -> int:
        """How many games are worked on together: at every point what the largest games allow."""
        return min(point.fields.together for point in self.points)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks in order, which is that of the rows of the table."""
        games, size, number = self.fields.games, self.together, 0
        for point in self.points:
            for first in range(0, games, size):
                yield Chunk(number, point, range(first, min(first + size, games)))
                number += 1


@final
@dataclass(frozen=True, eq=False)
class StudyPart:
    """Chunks that were played one after the other. content: a parquet file with a group of rows for each of them."""

    first: int
    count: int
    seconds: float
    content: bytes


def play(chunks: Sequence[Chunk]) -> StudyPart:
    """Return the part of consecutive chunks; its content is a function of them alone."""
    begun = monotonic()
    rows = [
        chunk.point.fields.play(
            chunk.point.source, chunk.point.layout, chunk.point.trials(chunk.games), chunk.point.columns
        )
        for chunk in chunks
    ]
    return StudyPart(chunks[0].number, len(chunks), monotonic() - begun, parquet_bytes(rows, {}))


def read_study(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Study:
    """Return the study of a .yaml or .json file, or of a folder that one filled.

    settings: fields of a file to set, each ``path=value``. Raises InputError that names file and field, also where a
    file that is part of a folder's study was changed since.
    """
    folder = Path(path)
    if not folder.is_dir():
        document, name = read_document(path, "study", settings)
        return parse_study(document, name, folder.parent)
    known, origin = folder / "config.json", folder / SOURCE
    document, name = read_document(known, "study")
    base = parse_json(read_text(origin), str(origin)) if origin.exists() else {"folder": "."}
    study = parse_study(document, name, folder / base["folder"])
    if json.loads(json.dumps(study.document())) != parse_json(read_text(known), name):
        raise InputError(f"{name}: files: must be as they were when the study was played, found one changed")
    return study


def parse_study(document: Mapping[str, Any], name: str, base: Path) -> Study:
    """Return the study of a parsed document; name: for messages; base: the folder that paths start from.

    Raises InputError that starts with ``name`` and names the field.
    """
    plain = {key: value for key, value in document.items() if key != "sweep"}
    wanted = plain.get("kind", "games")
    if not isinstance(wanted, str) or wanted not in KINDS:
        raise InputError(f"{name}: kind: must be {' or '.join(KINDS)}, found {kind(wanted)}")
    sweep = _sweep(document.get("sweep"), name)
    _check_unswept(KINDS[wanted], plain, {step for field in sweep for step in steps(field)[:1]}, name)
    points: list[tuple[dict[str, Any], dict[str, Any], StudyFields, PopulationSource]] = []
    files, code = set[str](), dict[str, str]()
    typed = {field: _typed(values) for field, values in sweep.items()}
    for places in product(*(range(len(values)) for values in sweep.values())):
        chosen = {field: values[at] for (field, values), at in zip(sweep.items(), places, strict=True)}
        where = ", ".join(f"{field} = {shown(json.dumps(value))}" for field, value in chosen.items())
        label = f"{name}: with {where}" if where else name
        fields = parse_model(KINDS[wanted], _swept(plain, chosen, name), label).beside(base)
        try:
            fields.check()
            source = fields.scenario.source(base, fields.rules.normalization)
            fields.check_space(source)
        except InputError as error:
            raise InputError(f"{label}: {error}") from None
        files.update(fields.scenario.files())
        code.update(fields.code())
        columns = {field: typed[field][at] for field, at in zip(sweep, places, strict=True)}
        points.append((chosen, columns, fields, source))
    width = max(source.count for *_, source in points)
    layouts = [fields.layout(source.count, width) for *_, fields, source in points]
    together = (
        tuple(dict.fromkeys(column for one in layouts for column in one.scalars)),
        tuple(dict.fromkeys(column for one in layouts for column in one.by_group)),
    )
    built = tuple(
        SweepPoint(index, *point, replace(layout, table=together))
        for index, (point, layout) in enumerate(zip(points, layouts, strict=True))
    )
    _check_playable(built, name)
    digests = {file: hash_of(file, base) for file in files} | code
    return Study(built, sweep, dict(sorted(digests.items())), base)


def _check_unswept(model: type[StudyFields], plain: Mapping[str, Any], swept: Container[Any], name: str) -> None:
    """Refuse what is wrong in a field that the sweep leaves alone, as no point of the sweep is the reason."""
    try:
        model.model_validate(plain)
    except ValidationError as error:
        if any(fault["loc"] and fault["loc"][0] not in swept for fault in error.errors()):
            explain(error, name, model)


def _check_playable(points: Sequence[SweepPoint], name: str) -> None:
    """Refuse a strategy that the groups of no point can play; one that some can is left out at the others."""
    most = max(point.source.count for point in points)
    can = {one.label for point in points for one in point.fields.playable(point.source.count)}
    for point in points:
        for one in point.fields.choices():
            if one.label not in can:
                raise InputError(
                    f"{name}: strategies: must be such as the groups of the scenario can play, found {one.label}, "
                    f"which needs {one.least_groups()} groups where there are {most}"
                )


def _beside(training: Any, names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return a training rule as a game names it, and its weights and boost, which stand beside it there."""
    if isinstance(training, str):
        return training, {}
    weights, boost = training.get("weights"), training.get("boost")
    found = {"weights": None if weights is None else dict(zip(names, weights, strict=True)), "boosts": boost}
    plain = {key: value for key, value in training.items() if key not in ("weights", "boost")}
    return plain, {key: value for key, value in found.items() if value is not None}


def _sweep(given: Any, name: str) -> dict[str, list[Any]]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{name}: sweep: must be a mapping from fields to lists of values, found {kind(given)}")
    points = 1
    for field, values in given.items():
        if not isinstance(values, list) or not values:
            raise InputError(
                f"{name}: sweep.{shown(field)}: must be a list of at least one value, found {kind(values)}"
            )
        if steps(field)[:1] in [[fixed] for fixed in FIXED]:
            raise InputError(f"{name}: sweep.{shown(field)}: must not be {', '.join(FIXED)}, found one of these")
        points *= len(values)
    if points > MOST_POINTS:
        raise InputError(f"{name}: sweep: must have at most {MOST_POINTS} combinations, found {points}")
    return given


def _swept(document: Mapping[str, Any], chosen: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        return changed(document, chosen, "strength or strategies[0].temperature")
    except InputError as error:
        raise InputError(f"{name}: sweep.{error}") from None


def _typed(values: Sequence[Any]) -> list[Any]:
    """Return the values as entries of one column: truth values, integers, reals, or else text."""
    if all(isinstance(value, bool) for value in values):
        return list(values)
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return list(values) if all(isinstance(value, int) for value in values) else [float(value) for value in values]
    return [value if isinstance(value, str) else json.dumps(value) for value in values]
