"""What became of the policy, prompt by prompt."""

from collections.abc import Sequence
from typing import Final

from rlhf_game.report.data_table import Cell, DataTable, number, share
from rlhf_game.report.page import PagePrompt, PageResponse, Prompts, Section
from rlhf_game.report.settlements import PolicyChange

TOP: Final = 6
"""Responses of a prompt that are shown."""
MOST_PROMPTS: Final = 24
"""Prompts that are shown: those that moved most, in their own order."""
MOST_COLUMNS: Final = 6
"""Groups whose rewards stand beside the responses; all of them are in the data."""


def policies(
    changes: Sequence[PolicyChange], names: Sequence[str], sizes: Sequence[int], outcome: str = "response"
) -> Section:
    """Return the policy before and after. names, sizes: of the groups. outcome: what the policy chooses among."""
    shown = sorted(sorted(range(len(changes)), key=lambda b: -changes[b].moved)[:MOST_PROMPTS])
    has_before = any(change.before.any() for change in changes)
    columns = names[:MOST_COLUMNS]
    prompts = [_prompt(changes[b], len(columns), outcome) for b in shown]
    rows: list[tuple[Cell, ...]] = []
    for b in shown:
        change = changes[b]
        for x in change.top(TOP):
            rewards = change.rewards[:, x].tolist()
            ends = (float(change.before[x]), float(change.after[x]))
            rows.append((change.prompt, change.labels[x], *ends, *rewards))
    header = ("prompt", outcome, "before", "after", *(f"reward: {name}" for name in names))
    moved = sum(change.weight * change.moved for change in changes)
    over = " on average over prompts" if len(changes) > 1 else ""
    lead = f"Training moved {share(moved)} of the probability{over}"
    liked = sum(change.weight * float((change.after - change.before) @ (sizes @ change.rewards)) for change in changes)
    lead += f" to {outcome}s that the groups together like better." if liked > 0 else "."
    caption = f"Beside each {outcome}: the reward that each group's members give it."
    if len(names) > len(columns):
        caption += f" The rewards of the other {len(names) - len(columns)} groups are in the data."
    if len(shown) < len(changes):
        caption += f" Shown are the {len(shown)} of {len(changes)} prompts that moved most."
    block = Prompts(
        "policy",
        "Before and after",
        tuple(columns),
        tuple(prompts),
        caption,
        DataTable(header, tuple(rows)),
        has_before,
    )
    return Section("policies", "What became of the policy", lead if has_before else "", (block,))


def _prompt(change: PolicyChange, columns: int, outcome: str) -> PagePrompt:
    top = change.top(TOP)
    responses = tuple(
        PageResponse(
            change.labels[x],
            float(change.before[x]),
            float(change.after[x]),
            tuple(number(value, 2) for value in change.rewards[:columns, x].tolist()),
        )
        for x in top
    )
    rest = len(change.labels) - len(top)
    text = ""
    if rest:
        before, after = (max(0.0, 1 - float(p[top].sum())) for p in (change.before, change.after))
        what = f"{rest} more {outcome}{'' if rest == 1 else 's'}"
        text = f"{what}, together {share(before)} \N{RIGHTWARDS ARROW} {share(after)}."
    return PagePrompt(change.prompt or "The policy", change.moved, responses, text)
