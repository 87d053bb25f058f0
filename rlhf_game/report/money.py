"""The money of a settlement on the page: what each group gets, what it pays, and what the payment is made of."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from rlhf_game.files.receipts import GroupReceipt, Interval, Number, Receipt
from rlhf_game.mechanism.breakdown import Breakdown
from rlhf_game.report.charts import WaterfallStep, shares, waterfall
from rlhf_game.report.data_table import Cell, DataTable, column, decimals, number, share
from rlhf_game.report.page import Figure, LegendEntry, Note, Panel, Section, TableBlock
from rlhf_game.report.spreads import spread_blocks

NUMBERS: Final = ("value", "payment", "utility")
"""Of each group of a receipt."""
WORDS: Final = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
KINDS: Final = (
    ("own value", "own"),
    ("cost to another group", "cost"),
    ("gain of another group", "gain"),
    ("provider's share", "reg"),
    ("set by the payment rule", "extra"),
    ("payment", "pay"),
    ("utility", "keep"),
)
"""The bars of a waterfall."""
Texts: TypeAlias = tuple[str, str, str]
MOST_PANELS: Final = 16
"""Groups that have drawings of their own."""


def drawn_first(groups: int) -> str:
    """Return what a caption says where there are more groups than drawings."""
    return (
        f" Drawn are the first {MOST_PANELS} of {groups} groups; all are in the data." if groups > MOST_PANELS else ""
    )


def worded(count: int) -> str:
    """Return a count as the first word of a sentence."""
    return WORDS[count] if count < len(WORDS) else str(count)


def groups_share(receipt: Receipt, what: str) -> str:
    """Return the title of a settlement."""
    count = len(receipt.groups)
    return f"{worded(count)} group{'' if count == 1 else 's'} share{'s' if count == 1 else ''} {what}"


def estimate(value: Number) -> float:
    """Return the single best number."""
    return value.estimate if isinstance(value, Interval) else value


def range_of(value: Number) -> str:
    """Return an interval in words, or nothing where the number is known."""
    if not isinstance(value, Interval):
        return ""
    places = decimals([value.low, value.high])
    return f"{number(value.low, places)} to {number(value.high, places)}"


def summed(numbers: Sequence[Number]) -> Number:
    """Return the sum; of intervals the sums of their ends, which hold where all of them do."""
    if all(isinstance(value, float) for value in numbers):
        return sum(estimate(value) for value in numbers)
    ends = [(v.estimate, v.low, v.high, v.level) if isinstance(v, Interval) else (v, v, v, 1.0) for v in numbers]
    middle, low, high, levels = zip(*ends, strict=True)
    level = max(1e-9, 1 - sum(1 - level for level in levels))
    return Interval(estimate=sum(middle), low=sum(low), high=sum(high), level=level)


def receipt_facts(receipt: Receipt, *more: tuple[str, Number, str], measure: str = "KL divergence") -> list[Texts]:
    """Return what is at a report's head: the groups, and what the receipt sums up. more: further numbers of it."""
    members = sum(group.size for group in receipt.groups)
    facts = [("Groups", str(len(receipt.groups)), f"{members} member{'' if members == 1 else 's'}")]
    for name, value, remark in (
        ("Total payments", summed([group.payment for group in receipt.groups]), "units of reward"),
        ("Social welfare", receipt.social_welfare, "value of all members"),
        ("Moved from the reference", receipt.divergence, measure),
        *more,
    ):
        facts.append((name, number(estimate(value)), range_of(value) or remark))
    return facts


def settlement(
    receipt: Receipt, parts: Sequence[Breakdown] | None, checked: Note, outcome: str = "response"
) -> Section:
    """Return who gets what, as the receipt says it. parts: the payments taken apart, where that was done."""
    groups = receipt.groups
    intervals = [n for g in groups for n in (g.value, g.payment, g.utility) if isinstance(n, Interval)]
    lead = "Value is what the policy is worth to one member; utility is that of all members together, less the payment."
    if parts is not None and not any(isinstance(group.value, Interval) for group in groups):
        lead += " Without: what a member would have if the group had stayed away."
    if intervals:
        level = min(interval.level for interval in intervals)
        sure = "for certain, whatever responses were not found"
        if level < 1:
            sure = f"with probability {level:g}"
            if len(groups) > 1:  # the sums hold where all of their parts do
                sure += f", and the sums with at least {max(0.0, 1 - len(groups) * (1 - level)):.3g}"
        lead += f" In small print: between which numbers it lies {sure}."
    table = _table(receipt, None if intervals else parts)
    blocks = (checked, table, *spread_blocks(receipt), _shares(receipt), *_private(receipt, outcome))
    return Section("settlement", "Who gets what", lead, blocks)


def _private(receipt: Receipt, outcome: str) -> tuple[Note, ...]:
    """Return what served responses tell of the reports, where the receipt says it."""
    said = [(group.name, (group.model_extra or {}).get("privacy")) for group in receipt.groups]
    known = [(name, found) for name, found in said if isinstance(found, dict)]

    def listed(key: str) -> str:
        found = [f"{name} {number(of[key])}" for name, of in known if isinstance(of.get(key), float | int)]
        return ", ".join(found)

    lines = []
    if listed("epsilon"):
        lines.append(
            f"One served {outcome} is private in a group's reward up to these nats: {listed('epsilon')}; several "
            f"{outcome}s add up."
        )
    if listed("realised_loss"):
        lines.append(
            f"Had a group stayed away, the log probability of every {outcome} would be the same up to these nats: "
            f"{listed('realised_loss')}."
        )
    if not lines:
        return ()
    lines.append("Whoever knows the weights or the probabilities learns more: rewards follow from them.")
    return (Note("plain", " ".join(lines)),)


def _table(receipt: Receipt, parts: Sequence[Breakdown] | None) -> TableBlock:
    groups = receipt.groups
    columns = [[str(group.size) for group in groups]]
    columns += [_texts([getattr(group, name) for group in groups]) for name in NUMBERS]
    if parts is not None:
        alone = column([part.value_without / group.size for part, group in zip(parts, groups, strict=True)])
        columns[1] = [f"{value}\nwithout: {text}" for value, text in zip(columns[1], alone, strict=True)]
    totals = [_texts([summed([getattr(group, name) for group in groups])])[0] for name in NUMBERS[1:]]
    return TableBlock(
        "settlement-table",
        "The settlement",
        ("Group", "Members", "Value", "Payment", "Utility"),
        tuple(zip([group.name for group in groups], *columns, strict=True)),
        "",
        _numbers(groups),
        (("All", str(sum(group.size for group in groups)), "", *totals),),
    )


def _texts(numbers: Sequence[Number]) -> list[str]:
    texts = column([estimate(value) for value in numbers])
    return [f"{text}\n{range_of(value)}".rstrip() for text, value in zip(texts, numbers, strict=True)]


def _numbers(groups: Sequence[GroupReceipt]) -> DataTable:
    """Return the numbers of the receipt; those known as intervals in three columns."""
    header = ["group", "size"]
    table: list[Sequence[Cell]] = [[group.name for group in groups], [group.size for group in groups]]
    for name in NUMBERS:
        values: list[Number] = [getattr(group, name) for group in groups]
        header.append(name)
        table.append([estimate(value) for value in values])
        if any(isinstance(value, Interval) for value in values):
            for end in ("low", "high"):
                header.append(f"{name} {end}")
                table.append([getattr(value, end) if isinstance(value, Interval) else value for value in values])
    return DataTable(tuple(header), tuple(zip(*table, strict=True)))


def _shares(receipt: Receipt) -> Figure:
    rows = [(g.name, estimate(g.utility), estimate(g.payment), _ends(g.payment)) for g in receipt.groups]
    said = "; ".join(f"{name} keeps {number(kept)} and pays {number(paid)}" for name, kept, paid, _ in rows)
    caption = "The length of a bar is what the policy is worth to all members of a group; its other end is the payment."
    if receipt.payment == "none":
        caption = "The length of a bar is what the policy is worth to all members of a group. Nobody pays."
    elif len(rows) > 1:
        name, kept, paid, _ = max(rows, key=lambda row: row[2])
        part = f", {share(paid / (kept + paid))} of what the policy is worth to it" if kept > 0 < paid else ""
        if any(kept < 0 for _, kept, _, _ in rows):
            caption = "What the policy is worth to a group is its utility and its payment together."
        caption += f" Most is paid by {name}: {number(paid)}{part}."
    if any(ends is not None for *_, ends in rows):
        caption += " The thin line is the interval of the payment."
    data = tuple((name, kept + paid, paid, kept) for name, kept, paid, _ in rows)
    return Figure(
        "shares",
        "Where each group's value goes",
        (Panel(shares("shares-drawing", "Where each group's value goes", said, rows)),),
        caption,
        DataTable(("group", "value of all members", "payment", "utility"), data),
        (LegendEntry("utility, kept by the group", kind="keep"), LegendEntry("payment", kind="pay")),
    )


def _ends(value: Number) -> tuple[float, float] | None:
    return (value.low, value.high) if isinstance(value, Interval) else None


def payments(receipt: Receipt, parts: Sequence[Breakdown]) -> Section:
    """Return the payment of each group, step by step from its value to its utility."""
    groups, panels, kinds = receipt.groups, [], set[str]()
    is_free = receipt.payment == "none"
    rows: list[tuple[Cell, ...]] = []
    for i, (group, part) in enumerate(zip(groups, parts, strict=True)):
        steps = _steps(i, [one.name for one in groups], part)
        said = "; ".join(f"{step.label}: {number(abs(step.end - step.start))}" for step in steps)
        rows += _items(i, [one.name for one in groups], part)
        if i >= MOST_PANELS:
            continue
        drawing = waterfall(f"waterfall-{i}", f"The payment of {group.name}", said, steps)
        interval = range_of(group.payment)
        note = f"The payment lies between {interval.replace(' to ', ' and ')}." if interval else ""
        panels.append(Panel(drawing, group.name, note))
        kinds |= {step.kind for step in steps}
    figure = Figure(
        "waterfall",
        "From value to utility",
        tuple(panels),
        "Read each chart from top to bottom. What a group costs another one is what that one would gain if the group "
        f"stayed away{'' if is_free else '; a group that helps another one is paid for it'}. The provider's share is "
        "what it costs to move the model further from its reference. "
        f"{'Nothing of this is charged.' if is_free else 'The steps add up to the payment.'}{drawn_first(len(groups))}",
        DataTable(("group", "item", "amount"), tuple(rows)),
        tuple(LegendEntry(label, kind=kind) for label, kind in KINDS if kind in kinds),
    )
    title = "What each payment is made of"
    lead = "A group is charged for what its presence costs everybody else, not for what it says the policy is worth."
    if is_free:
        title = "What is not charged"
        lead = "Nobody pays. Shown is what each group's presence costs everybody else, which is not charged."
    return Section("payments", title, lead, (figure,))


def _parts(at: int, names: Sequence[str], part: Breakdown) -> list[tuple[str, float, str]]:
    """Return the summands of a payment: what it is, how much, and its kind."""
    found = [
        (f"{'cost to' if cost >= 0 else 'gain of'} {name}", cost, "cost" if cost >= 0 else "gain")
        for j, (name, cost) in enumerate(zip(names, part.costs, strict=True))
        if j != at
    ]
    found.append(("provider's share", part.regularizer, "reg"))
    if part.boost:
        found.append(("provider's boost", part.boost, "reg"))
    if part.extra:
        found.append(("entry fee" if part.extra > 0 else "not charged", part.extra, "extra"))
    return found


def _steps(at: int, names: Sequence[str], part: Breakdown) -> list[WaterfallStep]:
    steps, left = [WaterfallStep("own value", 0.0, part.value, "own", is_total=True)], part.value
    for label, amount, kind in _parts(at, names, part):
        steps.append(WaterfallStep(label, left, left - amount, kind))
        left -= amount
    kept = part.value - part.payment
    steps.append(WaterfallStep("payment", part.value, kept, "pay", is_total=True))
    return [*steps, WaterfallStep("utility", 0.0, kept, "keep", is_total=True)]


def _items(at: int, names: Sequence[str], part: Breakdown) -> list[tuple[Cell, ...]]:
    own, name = ("own value", part.value), names[at]
    middle = [(label, amount) for label, amount, _ in _parts(at, names, part)]
    ends: list[tuple[str, Any]] = [("payment", part.payment), ("utility", part.value - part.payment)]
    return [(name, label, amount) for label, amount in (own, *middle, *ends)]
