"""How far the money depends on what could have been otherwise: other questions and answers, other members."""

from typing import Annotated, Any, Final, final

from pydantic import Field

from rlhf_game.files.receipts import Interval, Receipt
from rlhf_game.files.schema import Strict, parse_model
from rlhf_game.report.data_table import Cell, DataTable, column, decimals, number
from rlhf_game.report.page import Block, Note, TableBlock

OVER: Final = ("over_questions", "over_members")
"""In the provenance of a run's receipt."""


@final
class OverQuestionsGroup(Strict):
    """The money of one group, with bootstrap intervals."""

    name: str
    value: Interval
    payment: Interval
    utility: Interval


@final
class OverQuestions(Strict):
    """What the receipt of a game over system prompts says of other questions and answers."""

    resamples: int
    questions: int
    groups: Annotated[list[OverQuestionsGroup], Field(min_length=1)]


@final
class BillsOfMembers(Strict):
    """The least, the middle and the largest bill of several."""

    min: float
    median: float
    max: float

    @property
    def numbers(self) -> tuple[float, float, float]:
        """The median and its ends."""
        return self.median, self.min, self.max


@final
class BillSpread(Strict):
    """A group's bill under several rewards; of its own ensemble also how far members are from the report."""

    name: str
    payment: BillsOfMembers
    members: int = 0
    error: float = 0.0
    regret_bound: float | None = None


@final
class JointSpread(Strict):
    """The bills with the members of all groups exchanged at once."""

    combinations: int
    of: int
    groups: Annotated[list[BillSpread], Field(min_length=1)]


@final
class OverMembers(Strict):
    """What the receipt of a run with ensembles says of their members."""

    what: str = ""
    groups: list[BillSpread] = []
    joint: JointSpread | None = None
    unknown: str = ""


def spread_blocks(receipt: Receipt) -> tuple[Block, ...]:
    """Return tables of the spreads that a receipt has. Raises InputError when they are not as a run writes them."""
    found: list[Block] = []
    questions, members = (receipt.provenance.get(key) for key in OVER)
    if questions is not None:
        found.append(_questions(parse_model(OverQuestions, questions, "receipt.json: provenance.over_questions")))
    if members is not None:
        found.append(_members(parse_model(OverMembers, members, "receipt.json: provenance.over_members")))
    return tuple(found)


def _questions(said: OverQuestions) -> TableBlock:
    names = ("value", "payment", "utility")
    numbers = [[getattr(group, name) for group in said.groups] for name in names]
    header, rows = ["group"], [[group.name for group in said.groups]]
    for name, values in zip(names, numbers, strict=True):
        for end in ("estimate", "low", "high"):
            header.append(name if end == "estimate" else f"{name} {end}")
            rows.append([getattr(value, end) for value in values])
    texts = [_with_range([(value.estimate, value.low, value.high) for value in values]) for values in numbers]
    level = said.groups[0].value.level
    return TableBlock(
        "over-questions",
        f"With other questions and answers than these {said.questions}",
        ("Group", "Value", "Payment", "Utility"),
        tuple(zip((group.name for group in said.groups), *texts, strict=True)),
        f"In small print: percentiles of {said.resamples} bootstrap samples of questions and answers, level {level:g}; "
        "approximate, and too short for few questions. The settlement above is exact for those that there were.",
        DataTable(tuple(header), tuple(zip(*rows, strict=True))),
    )


def _members(said: OverMembers) -> Block:
    if said.joint is None:
        return Note("plain", f"No spread of the bills over the members of ensembles: {said.unknown}.")
    own = {group.name: group for group in said.groups}
    names = [group.name for group in said.joint.groups]
    header, columns = ["group"], list[list[Cell]]([list(names)])
    texts = []
    for title, groups in (("own member", own), ("all members", {one.name: one for one in said.joint.groups})):
        ends = [groups[name].payment.numbers if name in groups else None for name in names]
        header += [f"{title} {end}" for end in ("median", "min", "max")]
        columns += [[None if row is None else row[k] for row in ends] for k in range(3)]
        shown = iter(_with_range([row for row in ends if row is not None]))
        texts.append(["" if row is None else next(shown) for row in ends])
    errors: list[Cell] = [own[name].error if name in own else None for name in names]
    bounds: list[Cell] = [own[name].regret_bound if name in own else None for name in names]
    drawn = "" if said.joint.combinations == said.joint.of else f" ({said.joint.combinations} of {said.joint.of})"
    return TableBlock(
        "over-members",
        "The bill under each member of an ensemble",
        ("Group", "Its own member", f"All groups' members{drawn}", "Error", "Bound"),
        tuple(zip(names, *texts, column(errors), column(bounds), strict=True)),
        f"The median; in small print the least and the largest: {said.what}. Error: how far a member is from what was "
        "reported at most. Bound: 2 size error; if the truth is no further away, no report had gained the group more.",
        DataTable((*header, "error", "bound"), tuple(zip(*columns, errors, bounds, strict=True))),
    )


def _with_range(rows: list[tuple[Any, ...]]) -> list[str]:
    """Return numbers, each with the ends that it lies between in a second line."""
    places = decimals([end for row in rows for end in row])
    return ["{}\n{} to {}".format(*(number(end, places) for end in row)) for row in rows]
