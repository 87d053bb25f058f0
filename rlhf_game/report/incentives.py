"""Would lying pay? Brackets of regret with their witnesses, and utility against how sharp a report is."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from rlhf_game.files.drawn import DrawnGame, DrawnMember
from rlhf_game.files.games import Game
from rlhf_game.files.parts import label
from rlhf_game.files.sampled import KNOWN
from rlhf_game.files.schema import GroupFields
from rlhf_game.report.charts import CurvePoint, Plot, Range, Series, brackets, plot
from rlhf_game.report.data_table import Cell, DataTable, number
from rlhf_game.report.lies import Audit, Bracket, make_audit
from rlhf_game.report.money import MOST_PANELS, drawn_first
from rlhf_game.report.page import Block, Figure, LegendEntry, Note, Panel, Section, TableBlock, names_of
from rlhf_game.report.settlements import SHARPNESS, PolicyChange, Sharpness, sharpness

PAID: Final = 0
FREE: Final = 1
"""The slots of the two series: with payments, and as if nobody paid."""
MOST_ENTRIES: Final = 5
"""Entries of a witness that are shown: those that differ most from the truth."""
PROOF: Final = 1e-9
"""A bound up to this share of the utility at the truth is zero but for rounding."""
LIES: Final = {
    "BestResponse": "what a search found best",
    "Blend": "imitates another group, or opposes it",
    "Indifferent": "asks for nothing",
    "Noisy": "the truth with noise",
    "Polarize": "exaggerates its favourites",
    "RaiseAndLower": "raises its favourite, lowers what it likes least",
    "Resize": "claims another number of members",
    "Truthful": "none: the truth",
}
"""The strategies of an audit, in words."""
CHEATS: Final = {
    "invented": "invents a group",
    "withheld": "does not hear some groups",
    "strength": "trains at another strength",
}
"""What an audit tries for the provider, in words."""


def incentives(game: Game, before: Audit | None, changes: Sequence[PolicyChange]) -> Section:
    """Return what lying would gain, as the game charges and as if nobody paid. before: an audit made before."""
    audit = before or make_audit(game)
    free = audit if audit.payment == "none" else make_audit(game, is_free=True)
    audits = [audit] if free is audit else [audit, free]
    blocks: list[Block] = [_verdict(audit, free), _brackets(audits), _lies(audits, game.fields.groups)]
    witnesses = _witnesses(audits, changes)
    if witnesses is not None:
        blocks.append(witnesses)
    blocks += [*_joint(audit), *_provider(audit)]
    swept = sharpness(game)
    if swept is not None:
        blocks.append(_sharpness(swept, game))
    lead = (
        "A lie is a report that is not what a group really wants. Its gain is counted in the group's true utility: "
        "what the policy is really worth to it, less what it pays."
    )
    if game.fields.limits is not None:
        lead += " The rules that are examined are those that run: over the responses that were found."
    return Section("incentives", "Would lying pay?", lead, tuple(blocks))


def audited(game: DrawnGame, audit: Audit) -> Section:
    """Return what an audit of draws found, beside every bound where it holds."""
    blocks: list[Block] = [_verdict(audit, audit), _brackets([audit]), _lies([audit], game.fields.groups)]
    blocks += [*_joint(audit), *_provider(audit)]
    return Section("incentives", "Would lying pay?", f"{audit.audited}." if audit.audited else "", tuple(blocks))


def known_before(seed_from: str) -> str:
    """Return how draws could be known before the reports, or nothing where they could not."""
    if seed_from not in KNOWN:
        return ""
    why = "(settlement_seed)" if seed_from == "config" else "for all that is known here (settle --draws)"
    return f"The draws were known before the reports {why}"


def is_proved(bracket: Bracket) -> bool:
    """Return whether the bound says that no lie gains, up to rounding."""
    bound = bracket.regret_bound
    return bound is not None and bound <= PROOF * max(1.0, abs(bracket.truthful_utility))


def _verdict(audit: Audit, free: Audit) -> Note:
    gaining = [bracket for bracket in free.groups if bracket.regret_found > 0]
    would = ""
    if gaining and audit is not free:
        most = max(gaining, key=lambda bracket: bracket.regret_found)
        would = f" If nobody paid, {most.name} could gain {number(most.regret_found)} by lying."
    liars = [bracket.name for bracket in audit.groups if bracket.regret_found > 0]
    if liars:
        return Note("bad", f"{names_of(liars)} can gain by lying: truth is not a best report.{would}")
    if all(is_proved(bracket) for bracket in audit.groups):
        return Note(
            "good",
            f"Truth is a best report of every group: it is proved that no lie of a single group gains{_where(audit)}."
            f"{would}",
        )
    return Note("plain", f"No lie was found that gains; that is no proof that there is none.{would}")


def _where(audit: Audit) -> str:
    return f", {audit.bounds_hold}" if audit.bounds_hold else ""


def _name(audit: Audit) -> str:
    return "if nobody paid" if audit.payment == "none" else f"with {audit.payment} payments"


def _slot(audit: Audit) -> int:
    return FREE if audit.payment == "none" else PAID


def _brackets(audits: Sequence[Audit]) -> Figure:
    rows = [
        (
            same[0].name,
            [Range(_name(a), b.regret_found, b.regret_bound, _slot(a)) for a, b in zip(audits, same, strict=True)],
        )
        for same in zip(*(audit.groups for audit in audits), strict=True)
    ]
    said = "; ".join(f"{name}, {one.label}: {_bracket(one.low, one.high)}" for name, ranges in rows for one in ranges)
    data = tuple(
        (bracket.name, audit.payment, bracket.truthful_utility, bracket.regret_found, bracket.regret_bound)
        for audit in audits
        for bracket in audit.groups
    )
    is_open = any(bracket.regret_bound is None for audit in audits for bracket in audit.groups)
    arrow = " An arrow says that no bound is known." if is_open else ""
    drawing = brackets("regret-drawing", "What lying gains at least and at most", said, rows, "gain over the truth")
    return Figure(
        "regret",
        "The most that a lie gains",
        (Panel(drawing),),
        f"The mark is the best lie that a search found ({audits[0].starts} starts, seed {audits[0].seed}): lying gains "
        f"at least so much. The thin line ends where a proof says that no lie gains more{_where(audits[0])}.{arrow}",
        DataTable(("group", "payments", "truthful utility", "gain found", f"gain at most{_where(audits[0])}"), data),
        tuple(LegendEntry(_name(audit), _slot(audit)) for audit in audits),
    )


def _bracket(low: float, high: float | None) -> str:
    return f"found {number(low)}, " + ("no bound known" if high is None else f"at most {number(high)}")


def _lies(audits: Sequence[Audit], groups: Sequence[GroupFields | DrawnMember]) -> TableBlock:
    rows, data, is_loss = [], list[tuple[Cell, ...]](), False
    for audit in audits:
        for bracket, group in zip(audit.groups, groups, strict=True):
            said = bracket.best_report
            size = "" if said is None else f"{group.size} \N{RIGHTWARDS ARROW} {said.size}"
            gain = bracket.regret_found if bracket.best_gain is None else bracket.best_gain
            rows.append((bracket.name, _name(audit), _words(bracket.best_strategy), size, _signed(gain)))
            data.append((bracket.name, audit.payment, bracket.best_strategy, said.size if said else None, gain))
            is_loss |= gain < 0
    return TableBlock(
        "lies",
        "The best lie that was found for each group",
        ("Group", "Payments", "Lie", "Members, really and as said", "Gain"),
        tuple(rows),
        "A negative gain is a loss: even the best lie that was found costs more than it brings." if is_loss else "",
        DataTable(("group", "payments", "lie", "size said", "gain"), tuple(data)),
        texts=3,
        is_open=False,
    )


def _words(strategy: str) -> str:
    return f"{LIES.get(strategy.partition('(')[0], 'a lie')}\n{strategy}".rstrip()


def _signed(gain: float) -> str:
    return "+" + number(gain) if gain > 0 else number(gain)


def _witnesses(audits: Sequence[Audit], changes: Sequence[PolicyChange]) -> TableBlock | None:
    """Return where the lies differ most from the truth; None where the audit holds no reports."""
    rows, data = [], list[tuple[Cell, ...]]()
    for audit in audits:
        for i, bracket in enumerate(audit.groups):
            for change, x, said in _differences(bracket, i, changes):
                true = float(change.rewards[i, x])
                data.append((bracket.name, audit.payment, change.prompt, change.labels[x], true, said))
                where = f"{change.labels[x][:160]}\n{change.prompt[:160]}".rstrip()
                rows.append((bracket.name, _name(audit), where, number(true), number(said)))
    if not rows:
        return None
    header = ("group", "payments", "prompt", "outcome", "true reward", "reward said")
    return TableBlock(
        "witnesses",
        "What those lies say",
        ("Group", "Payments", "Outcome", "True reward", "Reward said"),
        tuple(rows),
        f"For each lie at most {MOST_ENTRIES} rewards: those that differ most from the truth.",
        DataTable(header, tuple(data)),
        texts=3,
        is_open=False,
    )


def _differences(
    bracket: Bracket, at: int, changes: Sequence[PolicyChange]
) -> Iterator[tuple[PolicyChange, int, float]]:
    """Yield the entries of a witness that differ most from the truth: where, which outcome, what is said."""
    if bracket.best_report is None:
        return
    said = bracket.best_report.reward
    rows = said if said and isinstance(said[0], list) else [said]
    if [np.shape(row) for row in rows] != [change.rewards[at].shape for change in changes]:
        return  # an automaton's report is about its states, of which the page shows one
    pairs = [
        (abs(float(value) - float(change.rewards[at, x])), b, x, float(value))
        for b, (row, change) in enumerate(zip(rows, changes, strict=True))
        for x, value in enumerate(np.asarray(row).tolist())
    ]
    for difference, b, x, value in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:3]))[:MOST_ENTRIES]:
        if difference > 0:
            yield changes[b], x, value


def _joint(audit: Audit) -> tuple[TableBlock, ...]:
    """Return what lies gain that are told together, where the audit searched for them."""
    joint = [*((one, "coalition") for one in audit.coalitions), *((one, "several names") for one in audit.false_names)]
    if not joint:
        return ()
    rows = tuple((" + ".join(one.members), how, number(one.gain)) for one, how in joint)
    data = tuple((" + ".join(one.members), how, one.truthful_utility, one.gain) for one, how in joint)
    table = TableBlock(
        "joint",
        "Lies that are told together",
        ("Who", "How", "Gain found"),
        rows,
        _beside_single(audit, any(one.gain > 0 for one, _ in joint)),
        DataTable(("who", "how", "truthful utility", "gain found"), data),
        texts=2,
    )
    return (table,)


def _beside_single(audit: Audit, is_gaining: bool) -> str:
    """Return what joint lies are beside those of single groups. is_gaining: one was found that gains."""
    if not all(is_proved(bracket) for bracket in audit.groups):
        return "What a search found: such lies gain at least so much."
    single = f"It is proved that no lie of a single group gains{_where(audit)}"
    if is_gaining:
        return f"{single}. That is no proof against groups that act as one, or one group that appears as several."
    return f"{single}. Of these none was found that gains, which is no proof that there is none."


def _provider(audit: Audit) -> tuple[TableBlock, ...]:
    """Return what the provider could collect, where the audit searched for it."""
    found = audit.provider
    if found is None:
        return ()
    data = tuple((CHEATS.get(kind, kind), paid, paid - found.revenue) for kind, paid in found.by_kind.items())
    table = TableBlock(
        "provider",
        "What the provider could do",
        ("The provider", "Collected from the groups", "Gain found"),
        tuple((does, number(paid), _signed(gain)) for does, paid, gain in data),
        f"By the rules it collects {number(found.revenue)}. What a search found: so much is collected at least.",
        DataTable(("the provider", "collected", "gain"), data),
        texts=1,
    )
    return (table,)


def _sharpness(swept: Sequence[Sharpness], game: Game) -> Figure:
    panels, rows = [], list[tuple[Cell, ...]]()
    truth = SHARPNESS.index(1.0)
    paid = "affine" if game.fields.payment == "none" else label("payment", game.fields.payment)
    labels = (f"with {paid} payments", "if nobody paid")
    for i, (group, one) in enumerate(zip(game.fields.groups, swept, strict=True)):
        curves = (one.with_payments, one.without)
        rows += [(group.name, *numbers) for numbers in zip(SHARPNESS, *curves, strict=True)]
        if i >= MOST_PANELS:
            continue
        series = [
            Series(
                label,
                slot,
                tuple(
                    CurvePoint(x, u - utilities[truth], u - utilities[truth], u - utilities[truth])
                    for x, u in zip(SHARPNESS, utilities, strict=True)
                ),
                is_dashed=slot == FREE,
            )
            for slot, (label, utilities) in enumerate(zip(labels, curves, strict=True))
        ]
        said = "; ".join(
            f"{s.label}: {number(s.points[0].y)} at {SHARPNESS[0]:g}, 0 at the truth, {number(s.points[-1].y)} at "
            f"{SHARPNESS[-1]:g}, best {number(max(p.y for p in s.points))}"
            for s in series
        )
        of = Plot("sharpness of the report", "utility gained over the truth", (1.0, "truth"), True, True)
        panels.append(
            Panel(plot(f"sharpness-{i}", f"Utility of {group.name} against sharpness", said, of, series), group.name)
        )
    best = max(u - one.with_payments[truth] for one in swept for u in one.with_payments)
    scale = max(abs(u) for one in swept for u in one.with_payments)
    claim = " With payments no point lies above zero: the truth is where the curve is highest."
    return Figure(
        "sharpness",
        "Utility against how sharp a report is",
        tuple(panels),
        "Each group raises its reward to a power while all others say the truth: above 1 it exaggerates its "
        "favourites, below 1 it plays them down."
        + (claim if best <= PROOF * max(1.0, scale) else "")
        + drawn_first(len(swept)),
        DataTable(("group", "sharpness", f"utility with {paid} payments", "utility if nobody paid"), tuple(rows)),
        tuple(LegendEntry(label, slot) for slot, label in enumerate(labels)),
    )
