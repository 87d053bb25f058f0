"""The report of a training: the tables of its kind, what its steps logged, and every curve that is in the metrics.

A sentence of it is made from the numbers by a rule: how the loss went is the mean of the first and of the last tenth of
the steps; a column that never changes is said, not drawn. Rows of the metrics without an axis are
no curve: the tables of the kind have them.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeAlias, final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json, parse_json_lines, read_text, shown
from rlhf_game.files.schema import OurDocument, parse_model
from rlhf_game.registry import find, names
from rlhf_game.report.charts import CurvePoint, Plot, Series, plot
from rlhf_game.report.data_table import Cell, DataTable, number
from rlhf_game.report.page import (
    Block,
    Figure,
    LegendEntry,
    Page,
    Panel,
    Section,
    TableBlock,
    cell_of,
    provenance_rows,
)
from rlhf_game.report.svg import SHAPES

AXES: Final = ("step", "epoch", "round", "share", "members", "divergence", "kl", "confidence")
"""What a curve is drawn over, if it has such a column; of a log otherwise its first."""
SURE: Final = "confidence"
"""Of these: how sure a model is of its choices, beside how often it is right."""
MOST_PANELS: Final = 12
MOST_POINTS: Final = 240
"""Points of a curve; of more, every second, third ... one is drawn."""

LOG: Final = "steps.jsonl"
UNTOLD: Final = ("tokens", "seconds")
EARNED: Final = {"reward": "reward", "kl": "KL to the reference"}
"""What is said of the steps of a policy: columns of its log, in words."""


@final
class ChangedOutput(OurDocument):
    """A prompt and its responses before and after a training."""

    prompt: str
    before: str
    after: str


@final
class OutputsOfMetrics(OurDocument):
    """What the metrics of a training say of its outputs."""

    outputs: list[ChangedOutput] = []


Place: TypeAlias = tuple[str, ...]
Rows: TypeAlias = Sequence[Mapping[str, Any]]


def training_page(folder: Path) -> Page:
    """Return the report of a training's folder. Raises InputError when its files are no training's."""
    metrics, config = (_document(folder / name) for name in ("metrics.json", "config.json"))
    tables = _tables(config, metrics, folder)
    sections = [Section("results", "What came out", "", tables)] if tables else []
    changed = parse_model(OutputsOfMetrics, metrics, shown(str(folder / "metrics.json"), 200)).outputs
    if changed:
        sections.append(_outputs(changed))
    logs = logs_of(folder)
    if logs:
        sections.append(Section("steps", "Step by step", _course(logs), figures_of([*_logged(logs)], "steps")))
    figures = figures_of([one for one in curves_of(metrics) if _columns(one[1])[0] in AXES], "curves")
    if figures:
        sections.append(Section("curves", "Curves", "Series of numbers in the metrics.", figures))
    files = config.get("files")
    settings = {key: value for key, value in config.items() if key != "files"}
    what = str(config.get("kind", "training")).replace("_", " ")
    backbone = config.get("backbone") or config.get("model") or config.get("student")
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
    """Return the numbers that stand at the top of the metrics themselves, and what was done: steps, dropped rows."""
    done = metrics.get("training")
    every = {**metrics, **(done if isinstance(done, dict) else {})}
    named = [(key.replace("_", " "), value) for key, value in every.items() if _is_number(value)]
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


def _outputs(changed: Sequence[ChangedOutput]) -> Section:
    """Return what a few prompts were answered before and after the training, side by side."""
    same = sum(row.before == row.after for row in changed)
    lead = (
        f"One response to each of the first {len(changed)} prompts that the training is judged on; "
        f"{'none' if same == 0 else same} of them {'is' if same == 1 else 'are'} the same before and after."
        if len(changed) > 1
        else "One response to the first prompt that the training is judged on"
        f"{', the same before and after' if same else ''}."
    )
    header = ("prompt", "before", "after", "characters before", "characters after")
    rows = [(row.prompt, row.before, row.after, len(row.before), len(row.after)) for row in changed]
    table = TableBlock(
        "outputs-0",
        "Responses before and after the training",
        header,
        tuple((*map(cell_of, row[:3]), *map(str, row[3:])) for row in rows),
        "How much the change is worth is in the other sections.",
        DataTable(header, tuple(rows)),
        texts=3,
        is_prose=True,
    )
    return Section("outputs", "What changed in outputs", lead, (table,))


def _reads_as_number(cell: str) -> bool:
    return cell.replace(".", "", 1).lstrip("+-").replace("e-", "", 1).replace("e+", "", 1).rstrip("%").isdigit()


def logs_of(folder: Path) -> dict[str, Rows]:
    """Return the log of each training in a folder (steps.jsonl), by where it is; a copy of a stage's is left out.

    Rewards of groups become columns of their own; what says nothing of learning (tokens, seconds) is left out.
    """
    found: dict[str, Rows] = {}
    for path in sorted(folder.rglob(LOG), key=lambda path: (-len(path.parts), path)):
        name = shown(str(path), 200)
        rows = [_flat(row) for _, row in parse_json_lines(read_text(path), name)]
        if len(rows) > 1 and rows not in found.values():
            found[str(path.parent.relative_to(folder))] = rows
    return dict(sorted(found.items()))


def _flat(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        return {}
    nested = {f"{key.removesuffix('s')}: {name}": one for key, group in row.items() if isinstance(group, dict)
              for name, one in group.items()}  # fmt: skip
    return {key: value for key, value in {**row, **nested}.items() if key not in UNTOLD and not isinstance(value, dict)}


def _logged(logs: Mapping[str, Rows]) -> Iterator[tuple[Place, Rows]]:
    """Yield the logs as curves (see curves_of): those of one training under no name."""
    for name, rows in logs.items():
        if len(_columns(rows)) > 1:
            yield ("steps",) if name == "." else ("steps", name), rows


def _course(logs: Mapping[str, Rows]) -> str:
    """Return how each training went: means over the first and over the last tenth of the steps.

    Of a policy that is what it earns and how far it goes: the loss of a policy gradient is about 0 whatever is learned.
    """
    said = []
    for name, rows in logs.items():
        for column in EARNED if any("reward" in row for row in rows) else ("loss",):
            every = [float(row[column]) for row in rows if _is_number(row.get(column))]
            values = [value for value in every if isfinite(value)]
            words = f"the {EARNED.get(column, column)}{'' if name == '.' else f' of {name}'}"
            if len(values) > 1:
                tenth = max(1, len(values) // 10)
                ends = [number(sum(part) / tenth) for part in (values[:tenth], values[-tenth:])]
                said.append(f"{words} went from {ends[0]} to {ends[1]} in {len(values)} steps")
            if len(values) < len(every):
                said.append(f"{words} was no number in {len(every) - len(values)} of {len(every)} steps")
    text = "; ".join(said[:4])
    return f"{text[0].upper()}{text[1:]} (means of the first and of the last tenth)." if said else ""


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
        if all(row.get(name) is None or _ends(row[name]) is not None for row in rows)
        and sum(row.get(name) is not None for row in rows) > 1
    ]
    plain = [name for name in kept if not any(isinstance(row.get(name), Mapping) for row in rows)]
    x = next((name for name in AXES if name in plain), next(iter(plain), ""))
    if not x:
        return []
    return [x, *(name for name in kept if name != x)]


def figures_of(curves: Sequence[tuple[Place, Rows]], key: str) -> tuple[Figure, ...]:
    """Return one figure for all curves of the same columns under the same key; none where nothing changes."""
    alike: dict[tuple[str, ...], list[tuple[Place, Rows]]] = {}
    for path, rows in curves:
        alike.setdefault((path[0], *_columns(rows)), []).append((path, rows))
    made = (_figure(f"{key}-{k}", names[0], names[1:], found) for k, (names, found) in enumerate(alike.items()))
    return tuple(figure for figure in made if figure.panels)


def _figure(key: str, title: str, columns: Sequence[str], found: Sequence[tuple[Place, Rows]]) -> Figure:
    x, *all_ys = columns
    if x == SURE and {"accuracy", "pairs"} <= set(all_ys):
        return _calibration(key, columns, found)
    constant = {y: values.pop() for y in all_ys if len(values := _values(found, y)) == 1}
    ys = [y for y in all_ys if y not in constant]
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
        drawing = plot(f"{key}-{k}", f"{name} over {x}", "; ".join(ends), Plot(x.replace("_", " "), ""), series)
        panels.append(Panel(drawing, name))
    more = [f"{len(found) - len(shown_curves)} more curves"] if len(found) > len(shown_curves) else []
    more += [f"{len(ys) - MOST_PANELS} more columns"] if len(ys) > MOST_PANELS else []
    same = ", ".join(f"{y.replace('_', ' ')} {number(value)}" for y, value in constant.items())
    caption = f"The same throughout: {same}. " if same else ""
    return Figure(
        key,
        title.replace("_", " "),
        tuple(panels),
        caption + (f"{' and '.join(more)} are in the data." if more else ""),
        _data(columns, found),
        tuple(LegendEntry(label, slot) for slot, label in enumerate(labels)) if len(labels) > 1 else (),
    )


def _data(columns: Sequence[str], found: Sequence[tuple[Place, Rows]]) -> DataTable:
    """Return the numbers of curves; one that is known as an interval in three columns."""
    every = [(" ".join(path), row) for path, curve in found for row in curve]
    header, table = ["curve"], [[name for name, _ in every]]
    for column in columns:
        ends = [_ends(row.get(column)) or (None, None, None) for _, row in every]
        wide = any(isinstance(row.get(column), Mapping) for _, row in every)
        header += [column, *([f"{column} low", f"{column} high"] if wide else [])]
        table += [list(values) for values in list(zip(*ends, strict=True))[: 3 if wide else 1]]
    rows: list[tuple[Cell, ...]] = list(zip(*table, strict=True))
    return DataTable(tuple(header), tuple(rows))


def _ends(value: Any) -> tuple[float, float, float] | None:
    """Return a number and the ends of what is known of it; None where it is none."""
    if isinstance(value, Mapping):
        found = [value.get(end) for end in ("estimate", "low", "high")]
        return (found[0], found[1], found[2]) if all(map(_is_number, found)) else None  # type: ignore[return-value]
    return (value, value, value) if _is_number(value) else None


def _calibration(key: str, columns: Sequence[str], found: Sequence[tuple[Place, Rows]]) -> Figure:
    """Return how often models are right where they are so sure, and where they would be as right as they are sure."""
    shown_curves = found[: len(SHAPES) - 1]
    series, legend = [], []
    for slot, (path, rows) in enumerate(shown_curves):
        name = " ".join(path[1:]) or "model"
        legend.append(LegendEntry(name.replace("_", " "), slot))
        series.append(Series(name, slot, _points(rows, SURE, "accuracy"), is_line=False))
    ends = [point.x for one in series for point in one.points if isfinite(point.x)] or [0.5, 1.0]
    as_sure = tuple(CurvePoint(x, x, x, x) for x in (min(ends), max(ends)))
    series.append(Series("as right as sure", len(SHAPES) - 1, as_sure, is_dashed=True, has_marks=False))
    counts = _values(found, "pairs")
    drawing = plot(f"{key}-0", "accuracy over confidence", "", Plot("how sure", "how often right"), series)
    return Figure(
        key,
        "Calibration",
        (Panel(drawing),),
        "Pairs by how sure a model is of its choice, and how often that is right among them; on the dashed line it is "
        f"as right as it is sure. A point is of {min(counts):g} to {max(counts):g} pairs: few say little.",
        _data(columns, found),
        tuple(legend) if len(legend) > 1 else (),
    )


def _values(found: Sequence[tuple[Place, Rows]], y: str) -> set[float]:
    return {float(ends[0]) for _, rows in found for row in rows if (ends := _ends(row.get(y))) is not None}


def _points(rows: Rows, x: str, y: str) -> tuple[CurvePoint, ...]:
    dots = [
        CurvePoint(float(row[x]), float(ends[0]), float(ends[1]), float(ends[2]))
        for row in rows
        if row.get(x) is not None and (ends := _ends(row.get(y))) is not None
    ]
    every = max(1, -(-len(dots) // MOST_POINTS))
    return tuple(dots[::every])
