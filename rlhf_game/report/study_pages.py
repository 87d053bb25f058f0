"""The pages of studies: separate games under many lies, and markets of groups that learn."""

from collections.abc import Callable, Mapping
from typing import Final

from rlhf_game.report.charts import CurvePoint, Plot, Series, plot
from rlhf_game.report.data_table import Cell, DataTable, number
from rlhf_game.report.page import Block, Figure, LegendEntry, Note, Page, Panel, Section, names_of, provenance_rows
from rlhf_game.report.studies import RoundsFields, StudyFile, Sweep, families, select, sweep_of, written
from rlhf_game.report.sweeps import (
    MEASURES,
    Curve,
    by_strategy,
    curves_in_words,
    failures,
    left_out,
    legend,
    means,
    over,
    pareto,
    rule,
    sentence,
    setting,
    slot_of,
)  # fmt: skip
from rlhf_game.report.verdicts import (
    always_notes,
    cost_note,
    ending_note,
    has_costs,
    misreports_in_words,
    price_note,
    verdict_notes,
    verdict_table,
    welfare_note,
)

MOST_ROUNDS: Final = 240
"""Rounds of a curve; of more, every second, third ... one is drawn."""
MOST_COURSES: Final = 8
"""Settings whose course is shown."""
COURSE: Final = (
    "efficiency", "truthful", "welfare", "revenue", "surplus", "trained", "lie_gain", "truth_gain", "claimed",
    "utility", "payment", "present", "broke", "chosen_strength",
)  # fmt: skip


def study_page(study: StudyFile) -> Page:
    """Return the report of a study."""
    is_market, sweep = study.kind == "market", sweep_of(study)
    settings, total = len(study.points), study.games * len(study.points)
    facts = [("Games", f"{total:,}", f"{study.games:,} of each setting" if settings > 1 else "")]
    if settings > 1:
        facts.append(
            (
                "Settings",
                str(settings),
                " \N{MULTIPLICATION SIGN} ".join(str(len(a.values)) for a in study.axes) if len(study.axes) > 1 else "",
            )
        )
    if study.kind != "equilibrium":
        facts.append(("Ways to report", str(len(study.strategies)), "the truth among them"))
    facts.append(("Payment rules", str(len(study.payments)), ", ".join(study.payments)))
    if is_market:
        facts.append(("Rounds", f"{study.rounds:,}", "of each game"))
    if study.played is not None:
        facts.append(("Played", f"{study.played:,}", f"of {total:,} games: the study is not finished"))
    facts.append(("Failed", f"{study.failed:,}", f"of {study.rows:,} rows"))
    swept = f", over {names_of([axis.field for axis in study.axes])}" if study.axes else ""
    return Page(
        title=TITLES.get(study.kind, "Does lying pay?"),
        lead=f"{total:,} seeded games, each played {names_of([rule(payment) for payment in study.payments])}{swept}. "
        "Bars and bands are intervals of the means.",
        facts=tuple(facts),
        sections=(*_partial(study, total), *SECTIONS.get(study.kind, _games)(study, sweep)),
        provenance=provenance_rows(
            ("specification SHA-256", study.config_sha256),
            ("seed", study.seed),
            ("written by", f"rlhf-game {study.version}"),
        ),
    )


def _partial(study: StudyFile, total: int) -> list[Section]:
    if study.played is None:
        return []
    note = Note(
        "bad", f"The study is not finished: {study.played:,} of {total:,} games were played when this was made."
    )
    return [Section("partial", "What is missing", "", (note,))]


def _games(study: StudyFile, sweep: Sweep) -> list[Section]:
    named = families(study)
    lies = list(dict.fromkeys(named[one.strategy] for one in study.summaries if one.who != "nobody"))
    truth = next((named[one.strategy] for one in study.summaries if one.who == "nobody"), "")
    sections = []
    if lies:
        panels = [(lie, "gain", [Curve(payment, lie) for payment in study.payments]) for lie in lies]
        caption = "Above zero the liars gain, on average over games."
        if sweep.field:
            figure = over(sweep, "gain", "What each lie gains", caption, panels)
        else:
            figure = by_strategy(study, "gain", "What each lie gains", caption, lies)
        blocks: tuple[Block, ...] = (*verdict_notes(study), figure, verdict_table(study))
        sections.append(Section("lies", "What a lie gains", misreports_in_words(study), blocks))
    front = pareto(sweep, truth)
    made: list[Block] = [_yields(sweep, truth)] if sweep.field else [*_yields_of_one(study, truth)]
    if front is not None:
        made.append(front)
    if made:
        lead = "When every group says the truth: what the policy is worth to all members, and what the provider earns."
        sections.append(Section("yield", "Welfare and revenue", lead, tuple(made)))
    sections.append(Section("numbers", "All means", "", (*failures(study), means(study))))
    return sections


def _yields(sweep: Sweep, truth: str) -> Figure:
    """Return welfare, revenue and divergence over the sweep, when all say the truth."""
    study = sweep.study
    same = [Curve(study.payments[0], truth, "under every payment rule", 6)]
    paid = [Curve(payment, truth) for payment in study.payments if payment != "none"]
    panels = [(sentence(MEASURES[name]), name, same) for name in ("welfare", "affine_welfare", "divergence")]
    if paid:
        panels.insert(1, ("Revenue", "revenue", paid))
    caption = "As long as everybody says the truth, payments change who has the money, not the policy."
    keys = (LegendEntry("under every payment rule", 6), *legend(study))
    return over(sweep, "yields", "What the policy is worth, and what it earns", caption, panels, keys)


def _yields_of_one(study: StudyFile, truth: str) -> list[Note]:
    """Return in a sentence what the policy is worth and what it earns in the only setting, when all say the truth."""

    def found(measure: str, payment: str) -> list[str]:
        values = (value for _, value in select(study, range(len(study.points)), measure, payment, truth))
        return [
            number(v.estimate) + (f" ({number(v.low)} to {number(v.high)})" if v.low < v.high else "") for v in values
        ]

    worth = [
        f"{MEASURES[name]} is {text}"
        for name in ("welfare", "affine_welfare", "divergence")
        for text in found(name, study.payments[0])
    ]
    paid = [payment for payment in study.payments if payment != "none"]
    earned = [f"{text} {rule(payment)}" for payment in paid for text in found("revenue", payment)]
    said = [sentence(names_of(worth)) + "."] if worth else []
    said += [f"The provider earns {names_of(earned)}."] if earned else []
    said += ["Without payments nobody is charged."] if worth and len(paid) < len(study.payments) else []
    return [Note("plain", " ".join([*said, "In brackets: the 95% intervals of the means."]))] if said else []


def _market(study: StudyFile, sweep: Sweep) -> list[Section]:
    notes = [*(ending_note(study, payment) for payment in study.payments), *welfare_note(study)]
    notes += [
        note for payment in study.payments for note in (*always_notes(study, payment), *cost_note(study, payment))
    ]
    sections = [Section("course", "What groups learn", "", (*notes, _course(study)))]
    if sweep.field:
        names = ("efficiency", "truthful", "welfare", "revenue")
        curves = [Curve(payment) for payment in study.payments]
        panels = [(sentence(MEASURES[name]), name, curves) for name in names]
        front = pareto(sweep)
        figure = over(sweep, "ends", "Over the sweep", "Means over the last tenth of the rounds.", panels)
        blocks = (figure,) if front is None else (figure, front)
        sections.append(Section("end", "Where it ends", "", blocks))
    sections.append(Section("numbers", "All means", "", (*failures(study), means(study))))
    return sections


def _course(study: StudyFile) -> Figure:
    """Return the measures over the rounds: a panel for each, a series for each payment rule, a slice for each point."""
    panels, rows = list[Panel](), list[tuple[Cell, ...]]()
    points = range(min(len(study.points), MOST_COURSES))
    names = [", ".join(f"{key} = {written(value)}" for key, value in study.points[p].items()) for p in points]
    for point in points:
        for measure in COURSE:
            series, found = _courses(study, point, measure)
            if len({dot.y for one in series for dot in one.points}) <= 1:
                continue  # nothing happens
            if measure == "surplus" and not has_costs(study):
                continue  # it is the revenue
            rows += found
            of = Plot("round", "", None, measure not in ("welfare", "efficiency"), False)
            drawing = plot(f"course-{point}-{measure}", MEASURES[measure], curves_in_words(series), of, series)
            panels.append(Panel(drawing, sentence(MEASURES[measure]), "", point if len(points) > 1 else None))
    header = (*(axis.field for axis in study.axes), "payments", "measure", "round", "mean", "low", "high")
    return Figure(
        "rounds",
        "Round by round",
        tuple(panels),
        "Means over the games, with their intervals as bands." + left_out(study, len(points)),
        DataTable(header, tuple(rows)),
        legend(study),
        tuple(names) if len(points) > 1 else (),
    )


def _courses(study: StudyFile, point: int, measure: str) -> tuple[list[Series], list[tuple[Cell, ...]]]:
    series, rows = list[Series](), list[tuple[Cell, ...]]()
    for one in study.summaries:
        value = one.measures.get(measure)
        if one.point != point or not isinstance(value, RoundsFields):
            continue
        ends = [*zip(value.estimate, value.low, value.high, strict=True)]
        every = max(1, -(-len(ends) // MOST_ROUNDS))
        at = {t: (mean, low, high) for t, (mean, low, high) in enumerate(ends)
              if t % every == 0 and mean is not None and low is not None and high is not None}  # fmt: skip
        dots = tuple(CurvePoint(float(t), *end) for t, end in at.items())
        is_free = one.payment == "none"
        series.append(Series(rule(one.payment), slot_of(study, one.payment), dots, is_dashed=is_free))
        rows += [(*setting(study, one), one.payment, measure, t, *end) for t, end in at.items()]
    return series, rows


def _equilibria(study: StudyFile, sweep: Sweep) -> list[Section]:
    notes: list[Block] = [price_note(study, payment) for payment in study.payments]
    if sweep.field:
        names = ("price_of_anarchy", "price_of_stability", "welfare_price_of_anarchy", "affine_welfare")
        curves = [Curve(payment) for payment in study.payments]
        panels = [(sentence(MEASURES[name]), name, curves) for name in names]
        caption = "Of the worst equilibrium found in each game, unless the heading says otherwise; means over games."
        notes.append(over(sweep, "prices", "What equilibria cost", caption, panels))
    lead = (
        "Groups answer each other with the best reports found, in turn, until nobody is found to gain by another one. "
        "A price is the best welfare there is over that of an equilibrium; it has no value where that is not above 0."
    )
    sections = [Section("equilibria", "What equilibria cost", lead, tuple(notes))]
    return [*sections, Section("numbers", "All means", "", (*failures(study), means(study)))]


TITLES: Final = {"market": "What groups learn to say", "equilibrium": "Where answers to answers end"}
SECTIONS: Final[Mapping[str, Callable[[StudyFile, Sweep], list[Section]]]] = {
    "market": _market,
    "equilibrium": _equilibria,
}
