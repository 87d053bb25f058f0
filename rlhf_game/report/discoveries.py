"""The report of a discovery: the best loss beside the known ones, the search, and everything that was tried."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, final

from pydantic import Field

from rlhf_game.files.documents import parse_json, parse_json_lines, read_text, shown
from rlhf_game.files.schema import OurDocument, parse_model
from rlhf_game.report.charts import CurvePoint, Plot, Series, plot
from rlhf_game.report.data_table import Cell, DataTable, column, number
from rlhf_game.report.page import Figure, LegendEntry, Note, Page, Panel, Section, TableBlock, names_of, provenance_rows
from rlhf_game.report.sweeps import curves_in_words, sentence

MOST_SHOWN: Final = 200
"""Candidates that are shown, of those with a score and of the rejected ones; the CSV holds all."""
LONGEST: Final = 300
"""Letters of an expression that are shown."""


@final
class LossMetrics(OurDocument):
    """What a loss is worth, on average over tasks. kl: nats."""

    score: float
    reward: float
    kl: float


@final
class BestCandidate(OurDocument):
    """The best candidate, on the tasks of the search and on held-out ones."""

    name: str
    expression: str
    origin: str
    search: LossMetrics
    held_out: LossMetrics


@final
class KnownLoss(OurDocument):
    """A known loss on the same tasks."""

    formula: str
    search: LossMetrics
    held_out: LossMetrics


@final
class Gain(OurDocument):
    """What the best candidate scores more than a known loss, on the same held-out tasks."""

    mean: float
    standard_error: Annotated[float, Field(ge=0)]


@final
class CandidateCounts(OurDocument):
    """How many candidates there are."""

    proposed: int
    scored: int
    rejected: int


@final
class Result(OurDocument):
    """What result.json says."""

    best: BestCandidate
    baselines: Annotated[dict[str, KnownLoss], Field(min_length=1)]
    gain_over: dict[str, Gain]
    curve: list[float | None]
    candidates: CandidateCounts


@final
class ArchivedCandidate(OurDocument):
    """A line of archive.jsonl: a candidate with its score, or the reason why it has none."""

    generation: int
    index: int
    text: str
    origin: str
    score: float | None
    reward: float | None
    kl: float | None
    reason: str | None

    @property
    def name(self) -> str:
        """What it is called in the folder."""
        return f"g{self.generation:03d}-{self.index:03d}"


def discovery_page(folder: Path) -> Page:
    """Return the report of a discovery's folder. Raises InputError that names file and field."""
    name = shown(str(folder / "result.json"), 200)
    result = parse_model(Result, parse_json(read_text(folder / "result.json"), name), name)
    lines = parse_json_lines(read_text(folder / "archive.jsonl"), shown(str(folder / "archive.jsonl"), 200))
    tried = [parse_model(ArchivedCandidate, line, where) for where, line in lines]
    best, counts = result.best, result.candidates
    search = [_search(result, tried)] if len(result.curve) > 1 else []
    configuration: Mapping[str, Any] = {}
    if (folder / "config.json").exists():
        configuration = parse_json(read_text(folder / "config.json"), shown(str(folder / "config.json"), 200))
    score = "0 is the reference policy, 1 the best policy that there is"
    return Page(
        title="Losses of preferences, discovered",
        lead=f"The best candidate, {best.name}: {shown(best.expression, LONGEST)}",
        facts=(
            ("Candidates", f"{counts.proposed:,}", f"in {len(result.curve)} generations"),
            ("Rejected", f"{counts.rejected:,}", "before or while they were trained with"),
            ("Best score", number(best.search.score), score),
            ("On held-out tasks", number(best.held_out.score), "which no candidate was chosen by"),
        ),
        sections=(
            Section("found", "What was found", "", (_verdict(result), _compared(result))),
            Section("search", "The search", f"A score: {score}.", (*search, *_archive(tried))),
        ),
        provenance=provenance_rows(*configuration.items()),
    )


def _verdict(result: Result) -> Note:
    """Return in a sentence what the best candidate gains over known losses; two standard errors count as a gain."""
    gains = [
        f"{name} {_signed(gain.mean)} (standard error {number(gain.standard_error)})"
        for name, gain in result.gain_over.items()
    ]
    sure = [gain.mean > 2 * gain.standard_error for gain in result.gain_over.values()]
    worse = any(gain.mean < -2 * gain.standard_error for gain in result.gain_over.values())
    text = f"On held-out tasks, the best candidate's score less that of a known loss: {names_of(gains)}."
    if not worse and not all(sure):
        text += " What is less than two standard errors may be chance."
    return Note("bad" if worse else "good" if all(sure) else "plain", text)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def _compared(result: Result) -> TableBlock:
    """Return the best candidate and the known losses, on the tasks of the search and on held-out ones."""
    best = result.best
    cells: list[tuple[Cell, ...]] = [(best.expression, best.name, *_numbers(best), None, None)]
    for name, known in result.baselines.items():
        gain = result.gain_over.get(name)
        cells.append(
            (known.formula, name, *_numbers(known), *((gain.mean, gain.standard_error) if gain else (None, None)))
        )
    heads = ("score", "reward", "KL, nats", "score, held out", "reward, held out", "KL, held out")
    names = ("loss", "name", *heads, "the best scores more, held out", "standard error")
    caption = "The last columns are over the same held-out tasks, whose mean difference has the standard error."
    return _table("compared", "The best candidate and known losses", names, cells, caption, texts=2)


def _numbers(one: BestCandidate | KnownLoss) -> tuple[float, ...]:
    return tuple(value for worth in (one.search, one.held_out) for value in (worth.score, worth.reward, worth.kl))


def _search(result: Result, tried: Sequence[ArchivedCandidate]) -> Figure:
    """Return the best score so far, and of each generation, beside the known losses."""
    rows: list[tuple[Cell, ...]] = []
    best_here, so_far = list[CurvePoint](), list[CurvePoint]()
    for generation, best in enumerate(result.curve):
        here = max((c.score for c in tried if c.generation == generation and c.score is not None), default=None)
        rows.append((generation, best, here))
        for points, value in ((so_far, best), (best_here, here)):
            if value is not None:
                points.append(CurvePoint(float(generation), value, value, value))
    last = float(len(result.curve) - 1)
    series = [Series("best so far", 0, tuple(so_far)), Series("best of the generation", 5, tuple(best_here))]
    for slot, (name, known) in zip((1, 2, 3, 4, 6, 7), result.baselines.items(), strict=False):
        level = known.search.score
        series.append(
            Series(name, slot, tuple(CurvePoint(x, level, level, level) for x in (0.0, last)), is_dashed=True)
        )
    drawing = plot(
        "search-curve",
        "Scores by generation",
        curves_in_words(series),
        Plot("generation", "score", is_log=False),
        series,
    )
    return Figure(
        "scores",
        "The best score, generation by generation",
        (Panel(drawing),),
        "On the tasks of the search. Dashed: known losses, which the search is compared with.",
        DataTable(("generation", "best so far", "best of the generation"), tuple(rows)),
        tuple(LegendEntry(one.label, one.slot) for one in series),
    )


def _archive(tried: Sequence[ArchivedCandidate]) -> list[TableBlock]:
    """Return all candidates: those with a score, the best first, and those that were rejected, with the reason."""
    scored = sorted((c for c in tried if c.score is not None), key=lambda c: (-(c.score or 0.0), c.name))
    rejected = [c for c in tried if c.score is None]
    tables = []
    if scored:
        cells: list[tuple[Cell, ...]] = [
            (c.text, c.name, c.origin, c.generation, c.score, c.reward, c.kl) for c in scored
        ]
        heads = ("expression", "candidate", "origin", "generation", "score", "reward", "KL, nats")
        tables.append(_table("archive", "Candidates with a score", heads, cells, "The best first.", texts=3))
    if rejected:
        cells = [(c.text, c.name, c.origin, c.reason, c.generation) for c in rejected]
        why = ("expression", "candidate", "origin", "reason", "generation")
        tables.append(_table("rejected", "Candidates that were rejected", why, cells, "", texts=4))
    return tables


def _table(
    key: str, title: str, heads: tuple[str, ...], cells: Sequence[tuple[Cell, ...]], caption: str, texts: int
) -> TableBlock:
    some = cells[:MOST_SHOWN]
    columns = [column(values) for values in zip(*some, strict=True)]
    rows = tuple(tuple(shown(cell, LONGEST) for cell in row) for row in zip(*columns, strict=True))
    rest = len(cells) - len(some)
    more = f" {rest:,} more are in the data." if rest else ""
    return TableBlock(
        key,
        title,
        tuple(map(sentence, heads)),
        rows,
        (caption + more).strip(),
        DataTable(heads, tuple(cells)),
        texts=texts,
        is_open=len(cells) <= 20,
    )
