"""The report of a training: the tables that its kind makes of the metrics, and every curve that is in them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json, read_text, shown
from rlhf_game.files.schema import parse_model
from rlhf_game.registry import find, names
from rlhf_game.report.charts import CurvePoint, Plot, Series, plot
from rlhf_game.report.data_table import Cell, DataTable, number
from rlhf_game.report.page import Block, Figure, LegendEntry, Page, Panel, Section, TableBlock, provenance_rows
from rlhf_game.report.svg import SHAPES

AXES: Final = ("step", "epoch", "round", "share", "divergence", "kl", "confidence")
"""What a curve is drawn over, if it has such a column; otherwise over its first."""
MOST_PANELS: Final = 12
MOST_POINTS: Final = 240
"""Points of a curve; of more, every second, third ... one is drawn."""

Place: TypeAlias = tuple[str, ...]
Rows: TypeAlias = Sequence[Mapping[str, Any]]


def training_page(folder: Path) -> Page:
    """Return the report of a training's folder. Raises InputError when its files are no training's."""
    metrics, config = (_document(folder / name) for name in ("metrics.json", "config.json"))
    tables = _tables(config, metrics, folder)
    sections = [Section("results", "What came out", "", tables)] if tables else []
    figures = _figures(metrics)
    if figures:
        sections.append(Section("curves", "Curves", "Every series of numbers that the training left.", figures))
    files = config.get("files")
    settings = {key: value for key, value in config.items() if key != "files"}
    what = str(config.get("kind", "training")).replace("_", " ")
    backbone = config.get("backbone") or config.get("model")
    return Page(
        title=f"Training: {what}",
        lead=f"Trained from {backbone}." if isinstance(backbone, str) else "",
        facts=_facts(metrics),
        sections=tuple(sections),
        provenance=provenance_rows(*settings.items(), ("SHA-256 of", files if isinstance(files, dict) else None)),
    )


def _document(path: Path) -> dict[str, Any]:
    name = shown(str(path), 200)
    found = parse_json(read_text(path), name)
    if not isinstance(found, dict):
        raise InputError(f"{name}: must be a mapping, found {kind(found)}")
    return found


def _facts(metrics: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Return the numbers that stand at the top of the metrics themselves."""
    named = [(key.replace("_", " "), value) for key, value in metrics.items() if _is_number(value)]
    return tuple(
        (name, number(float(value)) if isinstance(value, float) else f"{value:,}", "") for name, value in named
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tables(config: Mapping[str, Any], metrics: dict[str, Any], folder: Path) -> tuple[Block, ...]:
    """Return the tables of the kind; raises InputError when config.json is none of a known kind."""
    from rlhf_game.training.kinds import TrainingFields

    name, wanted = shown(str(folder / "config.json"), 200), config.get("kind")
    if isinstance(wanted, str) and ":" in wanted:
        return ()  # someone's own: its tables would be its code's
    if not isinstance(wanted, str) or wanted not in names("train"):
        raise InputError(f"{name}: kind: must be {', '.join(names('train'))}, found {kind(wanted)}")
    part: type[TrainingFields] = find("train", wanted)
    fields = parse_model(part, {key: value for key, value in config.items() if key != "files"}, name)
    return tuple(
        TableBlock(
            f"table-{k}",
            table.title,
            table.header,
            table.rows,
            "",
            DataTable(table.header, table.rows),
            texts=_texts(table.rows),
        )
        for k, table in enumerate(fields.tables(metrics))
        if table.rows
    )


def _texts(rows: Sequence[Sequence[str]]) -> int:
    """Return how many columns come before the first in which all cells are numbers."""
    for at, cells in enumerate(zip(*rows, strict=True)):
        if all(_reads_as_number(cell) for cell in cells):
            return at
    return len(rows[0])


def _reads_as_number(cell: str) -> bool:
    return cell.replace(".", "", 1).lstrip("+-").replace("e-", "", 1).replace("e+", "", 1).rstrip("%").isdigit()


def curves_of(metrics: Any, path: Place = ()) -> Iterator[tuple[Place, Rows]]:
    """Yield every list of two or more mappings that share two or more columns of numbers, and where it is."""
    if isinstance(metrics, Mapping):
        for key, value in metrics.items():
            yield from curves_of(value, (*path, str(key)))
    elif isinstance(metrics, list) and len(metrics) > 1 and all(isinstance(row, Mapping) for row in metrics):
        if len(_columns(metrics)) > 1:
            yield path, metrics
        else:
            for k, row in enumerate(metrics):
                yield from curves_of(row, (*path, str(k)))


def _columns(rows: Rows) -> list[str]:
    """Return the columns that hold numbers in two rows or more, and nothing else anywhere; the axis first."""
    names = dict.fromkeys(str(key) for row in rows for key in row)
    kept = [
        name
        for name in names
        if all(row.get(name) is None or _is_number(row[name]) for row in rows)
        and sum(row.get(name) is not None for row in rows) > 1
    ]
    x = next((name for name in AXES if name in kept), kept[0] if kept else "")
    return [x, *(name for name in kept if name != x)] if kept else []


def _figures(metrics: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Return one figure for all curves of the same columns under the same key."""
    alike: dict[tuple[str, ...], list[tuple[Place, Rows]]] = {}
    for path, rows in curves_of(metrics):
        alike.setdefault((path[0], *_columns(rows)), []).append((path, rows))
    return tuple(_figure(k, names[0], names[1:], found) for k, (names, found) in enumerate(alike.items()))


def _figure(at: int, title: str, columns: Sequence[str], found: Sequence[tuple[Place, Rows]]) -> Figure:
    x, *ys = columns
    shown_curves = found[: len(SHAPES)]
    labels = [" ".join(path[1:]) or title for path, _ in shown_curves]
    panels = []
    for k, y in enumerate(ys[:MOST_PANELS]):
        series = [
            Series(label, slot, _points(rows, x, y))
            for slot, (label, (_, rows)) in enumerate(zip(labels, shown_curves, strict=True))
        ]
        ends = [
            f"{one.label}: from {number(one.points[0].y)} to {number(one.points[-1].y)}" for one in series if one.points
        ]
        name = y.replace("_", " ")
        drawing = plot(f"curve-{at}-{k}", f"{name} over {x}", "; ".join(ends), Plot(x.replace("_", " "), ""), series)
        panels.append(Panel(drawing, name))
    rows: list[tuple[Cell, ...]] = [
        (" ".join(path), *(row.get(name) for name in columns)) for path, curve in found for row in curve
    ]
    more = [f"{len(found) - len(shown_curves)} more curves"] if len(found) > len(shown_curves) else []
    more += [f"{len(ys) - MOST_PANELS} more columns"] if len(ys) > MOST_PANELS else []
    return Figure(
        f"curves-{at}",
        title.replace("_", " "),
        tuple(panels),
        f"{' and '.join(more)} are in the data." if more else "",
        DataTable(("curve", *columns), tuple(rows)),
        tuple(LegendEntry(label, slot) for slot, label in enumerate(labels)) if len(labels) > 1 else (),
    )


def _points(rows: Rows, x: str, y: str) -> tuple[CurvePoint, ...]:
    dots = [(float(row[x]), float(row[y])) for row in rows if row.get(x) is not None and row.get(y) is not None]
    every = max(1, -(-len(dots) // MOST_POINTS))
    return tuple(CurvePoint(a, b, b, b) for a, b in dots[::every])
