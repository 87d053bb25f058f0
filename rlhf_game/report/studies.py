"""The report of a study: what lying gains, and what welfare and revenue become, over everything that was swept."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeAlias, final

from pydantic import Field

from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.receipts import Interval
from rlhf_game.files.schema import OurDocument, parse_model

MOST_SLICES: Final = 8
Values: TypeAlias = str | bool | int | float | None | list[Any] | dict[str, Any]


@final
class RoundsFields(OurDocument):
    """Means over the rounds of a market, with intervals."""

    estimate: list[float | None]
    """None: of this round nothing is known."""
    low: list[float | None]
    high: list[float | None]


@final
class SweptAxis(OurDocument):
    """A field that was swept."""

    field: str
    values: Annotated[list[Values], Field(min_length=1)]


@final
class FailedRow(OurDocument):
    """A row that failed."""

    error: str


@final
class Summary(OurDocument):
    """The means of one point, payment rule and (of separate games) strategy."""

    point: Annotated[int, Field(ge=0)]
    payment: str
    strategy: str = ""
    kind: str = ""
    who: str | float = ""
    """Who uses the strategy: nobody, each, first, all, members, or each group's probability."""
    largest_regret: float = 0.0
    """The largest gain of any liar in any game, in units of reward; of a market nothing is known."""
    games: int
    failed: int
    rounds: list[int] = []
    measures: dict[str, Interval | RoundsFields | None]
    last: dict[str, Interval | None] = {}


@final
class StudyFile(OurDocument):
    """What study.json says (docs/simulations.md)."""

    version: str
    config_sha256: str
    seed: int
    kind: str
    games: int
    axes: list[SweptAxis]
    points: Annotated[list[dict[str, Values]], Field(min_length=1)]
    strategies: list[str]
    payments: Annotated[list[str], Field(min_length=1)]
    rounds: int = 0
    rows: int
    failed: int
    played: int | None = None
    """Of an unfinished study: how many games of all points were played so far."""
    errors: list[FailedRow] = []
    summaries: list[Summary]


def read_study(path: str | os.PathLike[str]) -> StudyFile:
    """Return a study's summaries. Raises InputError that names the field."""
    name = shown(os.fspath(path), 200)
    return parse_study(parse_json(read_text(path), name), name)


def parse_study(document: Any, name: str) -> StudyFile:
    """Return summaries out of a document; raise InputError that starts with ``name`` and names the field."""
    return parse_model(StudyFile, document, name)


@final
@dataclass(frozen=True, eq=False)
class Sweep:
    """How the points of a study are laid out: along one axis, and in slices of all the others."""

    study: StudyFile
    field: str
    """Of the x axis; empty where nothing was swept."""
    names: tuple[str, ...]
    """Of the places on the x axis, where its values are no numbers."""
    slices: tuple[tuple[str, tuple[int, ...]], ...]
    """The name of each slice, and its points in order."""

    def x(self, point: int) -> float:
        """Return where a point is on the x axis."""
        if not self.field:
            return 0.0
        value = self.study.points[point].get(self.field)
        if self.names:
            return float(self.names.index(written(value)))
        return float(value) if isinstance(value, int | float) else 0.0


def sweep_of(study: StudyFile) -> Sweep:
    """Return the layout: the first swept field with numbers is the x axis, and the others make slices."""
    wide = [axis for axis in study.axes if len(axis.values) > 1]
    numeric = [axis for axis in wide if all(_is_number(value) for value in axis.values)]
    first = [*numeric, *wide][:1]
    x = first[0] if first else None
    field = "" if x is None else x.field
    names = () if x is None or numeric else tuple(dict.fromkeys(written(value) for value in x.values))
    slices: dict[str, list[int]] = {}
    for number, point in enumerate(study.points):
        others = [f"{key} = {written(value)}" for key, value in point.items() if key != field]
        swept = [text for text in others if any(text.startswith(f"{axis.field} = ") for axis in wide)]
        slices.setdefault(", ".join(swept), []).append(number)
    kept = list(slices.items())[:MOST_SLICES]
    return Sweep(study, field, names, tuple((name, tuple(points)) for name, points in kept))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def written(value: Any) -> str:
    """Return a swept value as a short text."""
    if isinstance(value, dict):
        inner = ", ".join(f"{key}={written(one)}" for key, one in value.items() if key != "kind")
        return f"{value.get('kind', '')}({inner})" if inner else str(value.get("kind", "{}"))
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def families(study: StudyFile) -> dict[str, str]:
    """Return for each strategy the name that it goes by: its label; its kind where only its numbers were swept."""
    kinds = {one.strategy: one.kind for one in study.summaries}
    by_point: dict[int, set[str]] = {}
    for one in study.summaries:
        by_point.setdefault(one.point, set()).add(one.strategy)
    same: dict[str, set[str]] = {}
    for label, kind in kinds.items():
        same.setdefault(kind, set()).add(label)
    alone = {kind for kind, labels in same.items() if max(len(labels & here) for here in by_point.values()) == 1}
    swept = {kind for kind in alone if len(same[kind]) > 1 and kind not in kinds}
    return {label: kind if kind in swept else label for label, kind in kinds.items()}


def select(
    study: StudyFile, points: Sequence[int], measure: str, payment: str, strategy: str = ""
) -> Iterator[tuple[Summary, Interval]]:
    """Yield the summaries of these points in which a measure is known; of a market, at its end.

    strategy: the family, where there are strategies.
    """
    named = families(study)
    for one in study.summaries:
        value = (one.last if study.kind == "market" else one.measures).get(measure)
        is_wanted = one.payment == payment and named.get(one.strategy, "") == strategy
        if one.point in points and is_wanted and isinstance(value, Interval):
            yield one, value
