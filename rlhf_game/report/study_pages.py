"""The pages of studies: separate games under many lies, and markets of groups that learn."""

from collections.abc import Sequence
from typing import Final

from rlhf_game.report.charts import Plot, Point, Series, plot
from rlhf_game.report.data import Cell, Data, number
from rlhf_game.report.page import Block, Figure, Key, Note, Page, Panel, Section, names_of, provenance_rows
from rlhf_game.report.studies import Rounds, StudyFile, Sweep, families, select, sweep_of, written
from rlhf_game.report.sweeps import (
    MEASURES,
    Curve,
    by_strategy,
    failures,
    legend,
    means,
    over,
    pareto,
    rule,
    said,
    sentence,
    setting,
    slot_of,
)  # fmt: skip

TRUTH: Final = "truthful"
TOGETHER: Final = ("false_names", "coalition")
"""Lies that no payments of this kind are proof against."""
MOST_ROUNDS: Final = 240
"""Rounds of a curve; of more, every second, third ... one is drawn."""
MOST_COURSES: Final = 8
"""Settings whose course is shown."""
COURSE: Final = (
    "efficiency", "truthful", "welfare", "revenue", "claimed", "utility", "payment", "present", "broke",
    "chosen_strength",
)  # fmt: skip

WHY_WELFARE: Final = (
    "Plain social welfare may be higher without payments: exaggerated reports move the model further from the "
    "reference, and only affine social welfare counts what that costs."
)


def study_page(study: StudyFile) -> Page:
    """Return the report of a study."""
    is_market, sweep = study.kind == "market", sweep_of(study)
    settings, total = len(study.points), study.games * len(study.points)
    facts = [("Games", f"{total:,}", f"{study.games:,} of each setting" if settings > 1 else "")]
    if settings > 1:
        facts.append(
            ("Settings", str(settings), " \N{MULTIPLICATION SIGN} ".join(str(len(a.values)) for a in study.axes))
        )
    facts.append(("Ways to report", str(len(study.strategies)), "the truth among them"))
    facts.append(("Payment rules", str(len(study.payments)), ", ".join(study.payments)))
    if is_market:
        facts.append(("Rounds", f"{study.rounds:,}", "of each game"))
    facts.append(("Failed", f"{study.failed:,}", f"of {study.rows:,} rows"))
    swept = f", over {names_of([axis.field for axis in study.axes])}" if study.axes else ""
    return Page(
        title="What groups learn to say" if is_market else "Does lying pay?",
        lead=f"{total:,} seeded games, each played {names_of([rule(payment) for payment in study.payments])}{swept}. "
        "Bars and bands are intervals of the means.",
        facts=tuple(facts),
        sections=tuple(_market(study, sweep) if is_market else _games(study, sweep)),
        provenance=provenance_rows(
            ("specification SHA-256", study.config_sha256),
            ("seed", study.seed),
            ("written by", f"rlhf-game {study.version}"),
        ),
    )


def _games(study: StudyFile, sweep: Sweep) -> list[Section]:
    named = families(study)
    lies = [name for name in dict.fromkeys(named[label] for label in study.strategies) if name != TRUTH]
    sections = []
    if lies:
        panels = [(lie, "gain", [Curve(payment, lie) for payment in study.payments]) for lie in lies]
        caption = "Above zero the lie gains more than the truth, on average over groups and games."
        blocks: list[Block] = [_verdict(study, payment, lies) for payment in study.payments]
        if sweep.field:
            blocks.append(over(sweep, "gain", "What each lie gains", caption, panels))
        else:
            blocks.append(by_strategy(study, "gain", "What each lie gains", caption, lies))
        lead = "Each lie is told by every group in turn, while the others say the truth. A gain is one in true utility."
        sections.append(Section("lies", "What a lie gains", lead, tuple(blocks)))
    front = pareto(sweep, TRUTH)
    blocks = [_yields(sweep)] if sweep.field else [*_yields_of_one(study)]
    if front is not None:
        blocks.append(front)
    if blocks:
        lead = "When every group says the truth: what the policy is worth to all members, and what the provider earns."
        sections.append(Section("yield", "Welfare and revenue", lead, tuple(blocks)))
    sections.append(Section("numbers", "All means", "", (*failures(study), means(study))))
    return sections


def _verdict(study: StudyFile, payment: str, lies: Sequence[str]) -> Note:
    """Return in a sentence which lies gain on average over the settings."""
    everywhere = range(len(study.points))
    means: dict[str, float] = {}
    for lie in lies:
        gains = [value for _, value in select(study, everywhere, "gain", payment, lie)]
        if gains:
            means[lie] = sum(gain.estimate for gain in gains) / len(gains)
    if not means:
        return Note("bad", f"{sentence(rule(payment))} every game failed.")
    gaining = {lie: mean for lie, mean in means.items() if mean > 0}
    if not gaining:
        return Note("good", f"{sentence(rule(payment))} every lie loses, on average.")
    said = names_of([f"{lie} ({number(mean)})" for lie, mean in sorted(gaining.items(), key=lambda item: -item[1])])
    tone, why = ("bad" if payment == "none" else "plain"), ""
    if payment != "none" and all(lie.startswith(TOGETHER) for lie in gaining):
        why = " Payments make each single group truthful; one group that appears as several is another matter."
    over_all = "settings" if len(study.points) > 1 else "games"
    return Note(tone, f"{sentence(rule(payment))} these lies gain, on average over groups and {over_all}: {said}.{why}")


def _yields(sweep: Sweep) -> Figure:
    """Return welfare, revenue and divergence over the sweep, when all say the truth."""
    study = sweep.study
    same = [Curve(study.payments[0], TRUTH, "under every payment rule", 6)]
    paid = [Curve(payment, TRUTH) for payment in study.payments]
    panels = [(sentence(MEASURES[name]), name, same) for name in ("welfare", "affine_welfare", "divergence")]
    panels.insert(1, ("Revenue", "revenue", paid))
    caption = "As long as everybody says the truth, payments change who has the money, not the policy."
    keys = (Key("under every payment rule", 6), *legend(study))
    return over(sweep, "yields", "What the policy is worth, and what it earns", caption, panels, keys)


def _yields_of_one(study: StudyFile) -> list[Note]:
    """Return in a sentence what the policy is worth and what it earns in the only setting, when all say the truth."""

    def found(measure: str, payment: str) -> list[str]:
        values = (value for _, value in select(study, range(len(study.points)), measure, payment, TRUTH))
        return [
            number(v.estimate) + (f" ({number(v.low)} to {number(v.high)})" if v.low < v.high else "") for v in values
        ]

    worth = [
        f"{MEASURES[name]} is {text}"
        for name in ("welfare", "affine_welfare", "divergence")
        for text in found(name, study.payments[0])
    ]
    earned = [f"{text} {rule(payment)}" for payment in study.payments for text in found("revenue", payment)]
    said = [sentence(names_of(worth)) + "."] if worth else []
    said += [f"The provider earns {names_of(earned)}."] if earned else []
    return [Note("plain", " ".join([*said, "In brackets: the 95% intervals of the means."]))] if said else []


def _market(study: StudyFile, sweep: Sweep) -> list[Section]:
    notes: list[Block] = [_ending(study, payment) for payment in study.payments]
    lead = WHY_WELFARE if "none" in study.payments and len(study.payments) > 1 else ""
    sections = [Section("course", "What groups learn", lead, (*notes, _course(study)))]
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


def _ending(study: StudyFile, payment: str) -> Note:
    ends = {
        name: [value.estimate for _, value in select(study, range(len(study.points)), name, payment)]
        for name in ("truthful", "efficiency")
    }
    if not all(ends.values()):
        return Note("bad", f"{sentence(rule(payment))} every game failed.")
    truth, efficiency = (sum(values) / len(values) for values in ends.values())
    tone = "good" if truth >= 0.5 else "bad"
    return Note(
        tone,
        f"{sentence(rule(payment))}, groups end up telling the truth with probability {number(truth, 2)}, and affine "
        f"social welfare is {number(100 * efficiency, 1)}% of the best there is.",
    )


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
            rows += found
            of = Plot("round", "", None, measure not in ("welfare", "efficiency"), False)
            drawing = plot(f"course-{point}-{measure}", MEASURES[measure], said(series), of, series)
            panels.append(Panel(drawing, sentence(MEASURES[measure]), "", point if len(points) > 1 else None))
    header = (*(axis.field for axis in study.axes), "payments", "measure", "round", "mean", "low", "high")
    return Figure(
        "rounds",
        "Round by round",
        tuple(panels),
        "Means over the games, with their intervals as bands.",
        Data(header, tuple(rows)),
        legend(study),
        tuple(names) if len(points) > 1 else (),
    )


def _courses(study: StudyFile, point: int, measure: str) -> tuple[list[Series], list[tuple[Cell, ...]]]:
    series, rows = list[Series](), list[tuple[Cell, ...]]()
    for one in study.summaries:
        value = one.measures.get(measure)
        if one.point != point or not isinstance(value, Rounds):
            continue
        at = range(0, len(value.estimate), max(1, -(-len(value.estimate) // MOST_ROUNDS)))
        ends = [(value.estimate[t], value.low[t], value.high[t]) for t in at]
        dots = tuple(Point(float(t), *end) for t, end in zip(at, ends, strict=True))
        is_free = one.payment == "none"
        series.append(Series(rule(one.payment), slot_of(study, one.payment), dots, is_dashed=is_free))
        rows += [(*setting(study, one), one.payment, measure, t, *end) for t, end in zip(at, ends, strict=True)]
    return series, rows
