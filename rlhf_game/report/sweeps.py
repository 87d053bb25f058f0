"""What every report of a study draws: measures over a sweep, welfare against revenue, and the table of all means."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, final

from rlhf_game.files.receipts import Interval
from rlhf_game.report.charts import CurvePoint, Plot, Series, dots, plot
from rlhf_game.report.data_table import Cell, DataTable, column, number
from rlhf_game.report.page import Figure, LegendEntry, Note, Panel, TableBlock
from rlhf_game.report.studies import StudyFile, Summary, Sweep, select, written

MEASURES: Final = {
    "gain": "gain of the liars over the truth",
    "regret": "largest gain of a liar",
    "gaining": "share of games in which a liar gains",
    "victims_loss": "what the others lose",
    "equilibria": "beginnings that ended in an equilibrium",
    "price_of_anarchy": "price of anarchy, affine social welfare",
    "price_of_stability": "price of stability, affine social welfare",
    "welfare_price_of_anarchy": "price of anarchy, plain social welfare",
    "welfare": "social welfare",
    "affine_welfare": "affine social welfare",
    "loss": "affine social welfare lost",
    "efficiency": "affine social welfare, as a share of the best",
    "revenue": "revenue",
    "divergence": "divergence from the reference",
    "truthful": "probability of telling the truth",
    "claimed": "size said, in true sizes",
    "utility": "utility, mean of groups",
    "payment": "payment, mean of groups",
    "coarse_regret": "largest gain of one item over all rounds",
    "truth_gain": "what the truth in every round brings beyond learning, a round",
    "lie_gain": "what the best lie in every round brings beyond the truth, a round",
    "surplus": "revenue less the cost of training",
    "trained": "share of games in which a policy is trained",
    "present": "groups that take part",
    "broke": "groups without budget",
    "chosen_strength": "strength that the provider chose",
}
IN_TABLES: Final = {
    "games": ("welfare", "revenue", "gain", "regret"),
    "market": ("efficiency", "truthful", "welfare", "revenue"),
    "equilibrium": ("equilibria", "price_of_anarchy", "price_of_stability", "welfare_price_of_anarchy", "revenue"),
}
"""The measures of the table of all means, by the kind of study."""
IF_KNOWN: Final = ("lie_gain", "truth_gain")
"""Further ones of a market that was asked for them."""
ENDS: Final = ("", " low", " high")
RULES: Final = {
    "affine": "with affine payments",
    "none": "without payments",
    "revenue": "with revenue-optimal payments",
}


@final
@dataclass(frozen=True)
class Curve:
    """One series of a panel: means of one payment rule, and (of separate games) of one family of strategies."""

    payment: str
    strategy: str = ""
    label: str = ""
    slot: int | None = None
    """Default: that of the payment rule."""


def rule(payment: str) -> str:
    """Return a payment rule in words."""
    return RULES.get(payment, f"with {payment} payments")


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def slot_of(study: StudyFile, payment: str) -> int:
    """Return the colour and shape of a payment rule."""
    return {"affine": 0, "none": 1, "revenue": 2}.get(payment, 3 + study.payments.index(payment))


def legend(study: StudyFile) -> tuple[LegendEntry, ...]:
    """Return the payment rules with their marks."""
    return tuple(LegendEntry(rule(payment), slot_of(study, payment)) for payment in study.payments)


def setting(study: StudyFile, one: Summary) -> list[Cell]:
    """Return the swept values of a summary's point, as cells."""
    values = [study.points[one.point].get(axis.field) for axis in study.axes]
    is_real = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
    return [
        value if real and isinstance(value, int | float) else written(value)
        for value, real in zip(values, is_real, strict=True)
    ]


def slices_of(sweep: Sweep) -> tuple[str, ...]:
    """Return the names of the slices where there are several."""
    return tuple(name for name, _ in sweep.slices) if len(sweep.slices) > 1 else ()


def over(
    sweep: Sweep,
    key: str,
    title: str,
    caption: str,
    panels: Sequence[tuple[str, str, Sequence[Curve]]],
    keys: tuple[LegendEntry, ...] | None = None,
) -> Figure:
    """Return measures over a sweep: in each slice one panel for each (heading, measure, curves)."""
    study, drawn, rows = sweep.study, list[Panel](), list[tuple[Cell, ...]]()
    for at, (_, points) in enumerate(sweep.slices):
        for k, (heading, measure, curves) in enumerate(panels):
            series = []
            for curve in curves:
                found = list(select(study, points, measure, curve.payment, curve.strategy))
                rows += [_row(study, one, measure, value) for one, value in found]
                series.append(_series(sweep, curve, found))
            unit = "" if heading == sentence(MEASURES[measure]) else MEASURES[measure]
            named, text = (f"{key}-{at}-{k}", f"{title}: {heading or MEASURES[measure]}"), curves_in_words(series)
            if sweep.names:
                drawing = dots(*named, text, [f"{sweep.field} = {name}" for name in sweep.names], series, unit)
            else:
                drawing = plot(*named, text, Plot(sweep.field, unit, None, True), series)
            drawn.append(Panel(drawing, heading, "", at if len(sweep.slices) > 1 else None))
    more = left_out(study, sum(len(points) for _, points in sweep.slices))
    fields = tuple(axis.field for axis in study.axes)
    strategy = () if study.kind != "games" else ("strategy",)
    header = (*fields, "payments", *strategy, "measure", "mean", "low", "high")
    return Figure(
        key, title, tuple(drawn), caption + more, DataTable(header, tuple(dict.fromkeys(rows))), keys or legend(study),
        slices_of(sweep),
    )  # fmt: skip


def _series(sweep: Sweep, curve: Curve, found: Sequence[tuple[Summary, Interval]]) -> Series:
    points = [CurvePoint(sweep.x(one.point), value.estimate, value.low, value.high) for one, value in found]
    slot = slot_of(sweep.study, curve.payment) if curve.slot is None else curve.slot
    ordered = tuple(sorted(points, key=lambda point: point.x))
    return Series(curve.label or rule(curve.payment), slot, ordered, is_dashed=curve.payment == "none")


def _row(study: StudyFile, one: Summary, measure: str, value: Interval) -> tuple[Cell, ...]:
    strategy = () if study.kind != "games" else (one.strategy,)
    return (*setting(study, one), one.payment, *strategy, measure, value.estimate, value.low, value.high)


def left_out(study: StudyFile, shown: int) -> str:
    """Return a sentence on the settings that a figure does not show, if there are any."""
    left = len(study.points) - shown
    return f" {left} more settings are in the table of all means." if left else ""


def by_strategy(study: StudyFile, key: str, title: str, caption: str, strategies: Sequence[str]) -> Figure:
    """Return what strategies gain in a study of one setting: a panel for each measure, a row for each family."""
    panels, rows = list[Panel](), list[tuple[Cell, ...]]()
    for measure in ("gain", "regret", "gaining"):
        series = []
        for payment in study.payments:
            points = []
            for at, strategy in enumerate(strategies):
                for one, value in select(study, range(len(study.points)), measure, payment, strategy):
                    points.append(CurvePoint(float(at), value.estimate, value.low, value.high))
                    rows.append(_row(study, one, measure, value))
            series.append(Series(rule(payment), slot_of(study, payment), tuple(points)))
        if any(one.points for one in series):
            heading = sentence(MEASURES[measure])
            text = "; ".join(
                f"{strategies[int(point.x)]} {one.label}: {number(point.y)}" for one in series for point in one.points
            )
            drawing = dots(f"{key}-{measure}", f"{title}: {heading}", text, strategies, series, "")
            panels.append(Panel(drawing, heading))
    header = (*(axis.field for axis in study.axes), "payments", "strategy", "measure", "mean", "low", "high")
    return Figure(key, title, tuple(panels), caption, DataTable(header, tuple(rows)), legend(study))


def curves_in_words(series: Sequence[Series]) -> str:
    """Return curves in words: where they begin and end."""
    parts = []
    for one in series:
        if one.points:
            first, last = one.points[0], one.points[-1]
            ends = number(first.y) if len(one.points) == 1 else f"from {number(first.y)} to {number(last.y)}"
            parts.append(f"{one.label}: {ends}")
    return "; ".join(parts) or "no numbers"


def pareto(sweep: Sweep, strategy: str = "") -> Figure | None:
    """Return welfare against revenue with its front; None where there is nothing to choose from.

    strategy: the family that is looked at; of a market there is none.
    """
    if not sweep.field:
        return None
    study, panels, rows = sweep.study, list[Panel](), list[tuple[Cell, ...]]()
    for at, (_, points) in enumerate(sweep.slices):
        series = []
        for payment in study.payments:
            revenue = {one.point: value for one, value in select(study, points, "revenue", payment, strategy)}
            cloud = []
            for one, welfare in select(study, points, "welfare", payment, strategy):
                money = revenue[one.point]
                name = f"{sweep.field} {_at(sweep, one.point)}" if sweep.field else ""
                cloud.append(CurvePoint(welfare.estimate, money.estimate, money.low, money.high, name))
                ends = (welfare.estimate, welfare.low, welfare.high, money.estimate, money.low, money.high)
                rows.append((*setting(study, one), payment, *ends))
            series.append(Series(rule(payment), slot_of(study, payment), tuple(cloud), is_line=False))
        every = [point for one in series for point in one.points]
        if len(every) < 2:
            return None
        best = _front(every)
        series = [replace(one, points=tuple(replace(p, is_best=p in best) for p in one.points)) for one in series]
        front = Series(
            "the front", 6, tuple(replace(p, low=p.y, high=p.y) for p in best), is_dashed=True, has_marks=False
        )
        text = f"{curves_in_words(series)}; on the front: {len(front.points)} of {len(every)} settings"
        of = Plot(MEASURES["welfare"], MEASURES["revenue"], None, True, False)
        drawing = plot(f"pareto-{at}", "Welfare against revenue", text, of, [front, *series])
        panels.append(Panel(drawing, "", "", at if len(sweep.slices) > 1 else None))
    fields = tuple(axis.field for axis in study.axes)
    return Figure(
        "pareto",
        "The Pareto front of welfare and revenue",
        tuple(panels),
        "Each mark is one setting under one payment rule. Those with a ring make the front: none has more of one "
        "without less of the other, by their means. Where there is one ring only, one setting is best on both counts."
        + left_out(study, sum(len(points) for _, points in sweep.slices)),
        DataTable(
            (*fields, "payments", *(f"{name}{end}" for name in ("welfare", "revenue") for end in ENDS)), tuple(rows)
        ),
        legend(study),
        slices_of(sweep),
    )


def _at(sweep: Sweep, point: int) -> str:
    return sweep.names[int(sweep.x(point))] if sweep.names else f"{sweep.x(point):g}"


def _front(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the points that no other one beats in x and y, from left to right."""
    kept: list[CurvePoint] = []
    for point in sorted(points, key=lambda p: (-p.x, -p.y)):
        if not kept or point.y > kept[-1].y:
            kept.append(point)
    return kept[::-1]


def failures(study: StudyFile) -> tuple[Note, ...]:
    """Return what is to be said of rows that failed."""
    if not study.failed:
        return ()
    first = f" The first: {study.errors[0].error}" if study.errors else ""
    return (Note("bad", f"{study.failed:,} of {study.rows:,} rows failed and are left out of the means.{first}"),)


def means(study: StudyFile) -> TableBlock:
    """Return the means of every setting, strategy and payment rule."""
    is_market, has_strategies = study.kind == "market", study.kind == "games"
    known = [name for name in IF_KNOWN if any(one.last.get(name) for one in study.summaries)]
    measures = (*IN_TABLES[study.kind], *known)
    cells: list[list[Cell]] = []
    for one in study.summaries:
        who = [one.strategy] if has_strategies else []
        row: list[Cell] = [rule(one.payment), *who, *setting(study, one)]
        for measure in measures:
            value = (one.last if is_market else one.measures).get(measure)
            ends = value if isinstance(value, Interval) else None
            row += [ends.estimate, ends.low, ends.high] if ends else [None, None, None]
        cells.append(row)
    texts = 2 if has_strategies else 1
    fixed = texts + len(study.axes)
    shown = [column(values) for values in zip(*cells, strict=True)]
    columns = shown[:fixed]
    for k in range(len(measures)):
        mean, low, high = shown[fixed + 3 * k : fixed + 3 * k + 3]
        columns.append([f"{m}\n{a} to {b}" if a != b else m for m, a, b in zip(mean, low, high, strict=True)])
    heads = ["Payments", *(["Strategy"] if has_strategies else []), *(axis.field for axis in study.axes)]
    names = [f"{measure}{end}" for measure in measures for end in ENDS]
    return TableBlock(
        "means",
        "Means of every setting" + (" at the end" if is_market else ""),
        (*heads, *(MEASURES[measure] for measure in measures)),
        tuple(zip(*columns, strict=True)),
        "In small print: the 95% interval of the mean.",
        DataTable((*(head.lower() for head in heads), *names), tuple(map(tuple, cells))),
        texts=texts,
        is_open=len(cells) <= 12,
    )
