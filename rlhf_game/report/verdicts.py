"""What the report of a study says in sentences: every one follows from the summaries, and from no label.

A verdict holds for one point of a sweep, one lie and one payment rule. That a lie never gains is said only where the
largest gain of any liar in any game is 0 (within rounding); everything else is a mean with its interval.
tests/report/test_study_sentences.py reads every sentence of generated studies and checks it against their tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from rlhf_game.files.receipts import Interval
from rlhf_game.report.data_table import Cell, DataTable, column, number
from rlhf_game.report.page import Note, TableBlock, names_of
from rlhf_game.report.studies import RoundsFields, StudyFile, Summary, families, select
from rlhf_game.report.sweeps import rule, sentence, setting

NEVER: Final = "gains in no game"
UP: Final = "gains on average"
DOWN: Final = "loses on average, though it gains in some games"
OPEN: Final = "gains in some games, with a mean that is not told from 0"
ORDER: Final = (UP, OPEN, DOWN, NEVER)
OWN_NAME: Final = ("false_names", "coalition")
"""Kinds of lies that are not told by one group under one name."""
WHO: Final = {
    "each": "by every group in turn, alone, while the others say the truth",
    "first": "by the first group alone, while the others say the truth",
    "all": "by all groups at once",
    "members": "by the first groups together, as a coalition",
}


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """What one lie does at one point under one payment rule."""

    summary: Summary
    lie: str
    """Its family."""
    gain: Interval

    @property
    def text(self) -> str:
        """The verdict in words: one of ORDER."""
        if self.summary.largest_regret == 0:
            return NEVER
        if self.gain.low > 0:
            return UP
        return DOWN if self.gain.high < 0 else OPEN


def verdicts(study: StudyFile, payment: str) -> list[Verdict]:
    """Return the verdicts under a payment rule, lie by lie, in the order of the points."""
    named = families(study)
    lies = dict.fromkeys(named[one.strategy] for one in study.summaries if one.who != "nobody")
    return [
        Verdict(one, lie, gain)
        for lie in lies
        for one, gain in select(study, range(len(study.points)), "gain", payment, lie)
    ]


def misreports_in_words(study: StudyFile) -> str:
    """Return who lies, in sentences."""
    lies = [one for one in study.summaries if one.who != "nobody"]
    ways = [who for who in dict.fromkeys(one.who for one in lies) if who != "members"]
    said = []
    if ways:
        start = (
            "Each lie is told" if len(ways) == len({one.who for one in lies}) else "Each lie of a single group is told"
        )
        said.append(f"{start} {', or '.join(_by(who) for who in ways)}.")
    if any(one.who == "members" for one in lies):
        said.append(
            "The lies of a coalition are told by its members together, the first groups, while the others say the "
            "truth; what counts is the sum of what they gain."
        )
    return " ".join([*said, "A gain is the liar's, in true utility, over what it has when every group says the truth."])


def _by(who: str | float) -> str:
    if isinstance(who, str):
        return WHO[who]
    return f"by every group with probability {number(who)}, independently of the others"


def verdict_notes(study: StudyFile) -> list[Note]:
    """Return a sentence for each payment rule: which lies gain, and at how many settings."""
    return [_note(study, payment) for payment in study.payments]


def _note(study: StudyFile, payment: str) -> Note:
    found = verdicts(study, payment)
    if not found:
        return Note("bad", f"{sentence(rule(payment))} every game failed.")
    settings = len({one.summary.point for one in found})
    where = f" at any of {settings} settings" if settings > 1 else ""
    if all(one.text == NEVER for one in found):
        return Note("good", f"{sentence(rule(payment))} no lie of this study gains in any game{where}.")
    lies = dict.fromkeys(one.lie for one in found)
    clauses = [_clause(lie, [one for one in found if one.lie == lie]) for lie in lies]
    alone = [one for one in found if one.summary.kind not in OWN_NAME]
    more = ""
    if alone and all(one.text == NEVER for one in alone):
        more = " All of these gains are those of one group under several names, or of several groups together."
    is_expected = payment != "none" and bool(more)
    return Note("plain" if is_expected else "bad", f"{sentence(rule(payment))}: {'; '.join(clauses)}.{more}")


def _clause(lie: str, found: Sequence[Verdict]) -> str:
    """Return what one lie does over the settings: each verdict with the number of settings that it holds at."""
    if len(found) == 1:
        return f"{lie} {found[0].text}{_amounts(found[0])}"
    counts = {text: sum(one.text == text for one in found) for text in ORDER}
    parts = [f"{text} at {count} of {len(found)} settings" for text, count in counts.items() if count]
    return f"{lie} {names_of(parts)}"


def _amounts(one: Verdict) -> str:
    if one.text == NEVER:
        return ""
    return f" (mean {number(one.gain.estimate)}, largest {number(one.summary.largest_regret)})"


def verdict_table(study: StudyFile) -> TableBlock:
    """Return the verdicts one by one: a row for each lie, payment rule and setting."""
    cells: list[list[Cell]] = []
    for payment in study.payments:
        for one in verdicts(study, payment):
            share = one.summary.measures.get("gaining")
            is_known = isinstance(share, Interval)
            numbers: list[Cell] = [one.gain.estimate, one.gain.low, one.gain.high, one.summary.largest_regret]
            cells.append(
                [
                    rule(payment),
                    one.lie,
                    *setting(study, one.summary),
                    one.text,
                    *numbers,
                    share.estimate if isinstance(share, Interval) and is_known else None,
                ]  # fmt: skip
            )
    fields = [axis.field for axis in study.axes]
    shown = [column(values) for values in zip(*cells, strict=True)] or [[] for _ in range(len(fields) + 8)]
    at = len(fields) + 3
    mean = [f"{m}\n{a} to {b}" if a != b else m for m, a, b in zip(*shown[at : at + 3], strict=True)]
    rows = zip(*shown[:at], mean, *shown[at + 3 :], strict=True)
    heads = ("Payments", "Lie", *fields, "Verdict")
    return TableBlock(
        "verdicts",
        "Verdicts, setting by setting",
        (*heads, "Mean gain", "Largest gain", "Share of games that gain"),
        tuple(rows),
        "In small print: the 95% interval of the mean.",
        DataTable((*(head.lower() for head in heads), "gain", "gain low", "gain high", "largest", "gaining"),
             tuple(map(tuple, cells))),
        texts=at,
        is_open=len(cells) <= 12,
    )  # fmt: skip


def ending_note(study: StudyFile, payment: str) -> Note:
    """Return where groups that learn end up, from the least to the largest mean of the settings."""
    ends = {name: _ends(study, payment, name) for name in ("truthful", "efficiency")}
    if not ends["truthful"]:
        return Note("bad", f"{sentence(rule(payment))} every game failed.")
    said = f"{sentence(rule(payment))}, groups end up telling the truth with probability {_span(ends['truthful'], 2)}"
    if ends["efficiency"]:
        percent = [100 * share for share in ends["efficiency"]]
        said += f", and affine social welfare is {_span(percent, 1, '%')} of the best there is"
    settings = len(ends["truthful"])
    return Note("plain", said + (f", over {settings} settings." if settings > 1 else "."))


def welfare_note(study: StudyFile) -> list[Note]:
    """Return whether plain social welfare is higher without payments, and whether affine social welfare is."""
    paid = next((payment for payment in study.payments if payment != "none"), None)
    if paid is None or "none" not in study.payments:
        return []
    points, counts = range(len(study.points)), list[tuple[int, int]]()
    for measure in ("welfare", "affine_welfare"):
        free, charged = (
            {one.point: value.estimate for one, value in select(study, points, measure, payment)}
            for payment in ("none", paid)
        )
        both = free.keys() & charged.keys()
        counts.append((sum(free[point] > charged[point] for point in both), len(both)))
    if not all(of for _, of in counts) or not counts[0][0]:
        return []
    plain, affine = (f"{count} of {of} setting{'s' if of > 1 else ''}" for count, of in counts)
    return [
        Note(
            "plain",
            f"Plain social welfare ends higher without payments than {rule(paid)} at {plain}, affine social welfare "
            f"at {affine}: only the latter counts how far the model is moved from the reference.",
        )
    ]


def always_notes(study: StudyFile, payment: str) -> list[Note]:
    """Return what saying the same in every round brings while the others learn; none where that was not asked.

    A mean is more or less only where its interval says so.
    """
    said = (
        ("lie_gain", "the best lie of the menu", "the truth"),
        ("truth_gain", "the truth", "what it learns to say"),
    )
    notes = []
    for measure, what, than in said:
        found = [value for _, value in select(study, range(len(study.points)), measure, payment)]
        counts = {
            f"more than {than}": sum(one.low > 0 for one in found),
            f"less than {than}": sum(one.high < 0 for one in found),
            f"about as much as {than}": sum(one.low <= 0 <= one.high for one in found),
        }
        happened = {text: count for text, count in counts.items() if count}
        clauses = [f"{text} at {count} of {len(found)} settings" for text, count in happened.items()]
        if len(found) == 1:
            clauses = [f"{text} (mean difference {number(found[0].estimate)} a round)" for text in happened]
        is_bad = measure == "lie_gain" and payment != "none" and any(one.low > 0 for one in found)
        text = f"{sentence(rule(payment))}, {what} in every round, while the others learn, brings a group"
        notes += [Note("bad" if is_bad else "plain", f"{text} {names_of(clauses)}.")] if found else []
    return notes


def has_costs(study: StudyFile) -> bool:
    """Return whether training costs the provider anything, or does not happen in some round."""
    return any(_over_rounds(one, "surplus") != _over_rounds(one, "revenue") or _idle(one) for one in study.summaries)


def cost_note(study: StudyFile, payment: str) -> list[Note]:
    """Return what the provider earns and keeps over all rounds; nothing where training costs nothing."""
    if not has_costs(study):
        return []
    here = [one for one in study.summaries if one.payment == payment and one.games > one.failed]
    earned, kept, trained = (
        [total for one in here if (total := _over_rounds(one, name)) is not None]
        for name in ("revenue", "surplus", "trained")
    )
    if not kept:
        return []
    settings = f", over {len(here)} settings" if len(here) > 1 else ""
    return [
        Note(
            "bad" if min(kept) < 0 else "plain",
            f"{sentence(rule(payment))}, the provider earns {_span(earned, 3)} in a game, trains in "
            f"{_span(trained, 2)} of {study.rounds} rounds, and keeps {_span(kept, 3)} after the cost of training, on "
            f"average{settings}.",
        )
    ]


def _over_rounds(one: Summary, measure: str) -> float | None:
    """Return the sum of a market's means over all rounds; None where a round is not known."""
    value = one.measures.get(measure)
    if not isinstance(value, RoundsFields):
        return None
    known = [mean for mean in value.estimate if mean is not None]
    return sum(known) if len(known) == len(value.estimate) else None


def _idle(one: Summary) -> bool:
    """Return whether nothing was trained in some round of some game."""
    trained = _over_rounds(one, "trained")
    return trained is not None and trained < len(one.rounds)


def price_note(study: StudyFile, payment: str) -> Note:
    """Return what equilibria cost under a payment rule, from the least to the largest mean of the settings."""
    names = ("price_of_anarchy", "price_of_stability", "welfare_price_of_anarchy")
    anarchy, stability, plain = (_ends(study, payment, name) for name in names)
    if not anarchy:
        return Note("bad", f"{sentence(rule(payment))} no game has an equilibrium with a price.")
    settings = f", over {len(anarchy)} settings" if len(anarchy) > 1 else ""
    said = f"the price of anarchy is {_span(anarchy, 3)} and that of stability {_span(stability, 3)}"
    more = f"; of plain social welfare the price of anarchy is {_span(plain, 3)}" if plain else ""
    return Note("plain", f"{sentence(rule(payment))} {said}, of affine social welfare{more}, on average{settings}.")


def _ends(study: StudyFile, payment: str, measure: str) -> list[float]:
    return [value.estimate for _, value in select(study, range(len(study.points)), measure, payment)]


def _span(values: Sequence[float], places: int, unit: str = "") -> str:
    low, high = (number(end, places) + unit for end in (min(values), max(values)))
    return low if low == high else f"between {low} and {high}"
