"""The report of rollouts that were logged while a policy was trained: curves, and why they are no bill."""

from collections.abc import Mapping, Sequence
from typing import Final

from rlhf_game.report.page import Note, Page, Section
from rlhf_game.report.trainings import Rows, figures_of

CAPTION: Final = (
    "Means over the prompts of each step, in units of reward: one member's value, what the group would pay by the "
    "formula, what its being there costs the others at this policy, and what it could gain by a lie at most (gap). "
    "From few draws of a prompt costs and gaps are too low."
)


def rollouts_page(name: str, groups: Mapping[str, Rows], policy: Rows, lacks: Sequence[str]) -> Page:
    """Return the report of a file of rollouts. groups, policy, lacks: see ``outcomes.rollouts.Rollouts``."""
    notes = [
        Note(
            "plain",
            "These are draws of one policy after the other. They give curves, but no certificate and no bill: that "
            "takes fresh draws of one checkpoint (rlhf-game settle --policy).",
        )
    ]
    if lacks:
        notes.append(Note("plain", f"No {' and no '.join(lacks)}: {_why(lacks)}."))
    draws = int(sum(row["draws"] for row in policy))
    return Page(
        title="What each group got and owed during a training",
        lead=f"From the rollouts in {name}.",
        facts=(("Groups", str(len(groups)), ""), ("Steps", f"{len(policy):,}", ""), ("Draws", f"{draws:,}", "")),
        sections=(
            Section("groups", "The groups, step by step", CAPTION,
                    (*notes, *figures_of([(("groups", group), rows) for group, rows in groups.items()], "groups"))),
            Section("policy", "The policy, step by step", "", figures_of([(("policy",), policy)], "policy")),
        ),
        provenance=(),
    )  # fmt: skip


def _why(lacks: Sequence[str]) -> str:
    """Return what the rollouts would have to say."""
    return (
        "no prompt has two draws in one step"
        if "payment" in lacks
        else ("that needs log_policy and log_reference of every draw of a step")
    )
