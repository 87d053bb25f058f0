"""The report of one settled game: who pays what and why, what became of the policy, and what lying would gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, final

from rlhf_game.files.build import settle
from rlhf_game.files.fee_fields import fee_of
from rlhf_game.files.games import Game
from rlhf_game.files.receipts import Receipt, receipt_of
from rlhf_game.files.verify import game_differences
from rlhf_game.mechanism.mechanism import Settlement
from rlhf_game.report.data_table import number
from rlhf_game.report.incentives import incentives
from rlhf_game.report.lies import Audit
from rlhf_game.report.money import groups_share, payments, receipt_facts, settlement, worded
from rlhf_game.report.page import Note, Page, Section, names_of, provenance_rows
from rlhf_game.report.play import what_if
from rlhf_game.report.policy_page import policies
from rlhf_game.report.settlements import PolicyChange, breakdowns, changes
from rlhf_game.report.spreads import OVER

MOST_CELLS: Final = 40_000
"""Rewards of a game (outcomes times groups) up to which a report trains policies and searches for lies of its own."""
RULES: Final = {
    "affine": "each group pays exactly what its report costs the others and the provider",
    "revenue": "each group pays what its report costs the others, and an entry fee that no truthful group regrets",
    "none": "nobody pays",
}
UNTRAINED: Final = "the reference"
"""What all groups have where nothing was trained."""
WHAT_IF: Final = (
    "Choose a group and say something else than it did. What it reported counts as its truth here; everything is "
    "settled again while you move the sliders."
)
MEASURES: Final = {
    "kl": "KL divergence",
    "l2": "squared distance",
    "reverse_kl": "reverse KL divergence",
    "chi2": "chi-squared divergence",
    "js": "Jensen-Shannon divergence",
    "hellinger": "squared Hellinger distance",
}


@final
@dataclass(frozen=True, eq=False)
class SettledGame:
    """A game and what is known of it before the report is made."""

    game: Game
    folder: Path
    """Where its receipt is, which may name a file beside it."""
    receipt: Receipt | None = None
    """None: it is settled for the report."""
    audit: Audit | None = None
    """None: the report makes its own, where the game is small."""

    @property
    def outcome(self) -> str:
        """What the policy chooses among."""
        drawn = (self.game.fields.provenance or {}).get("candidates")
        return "system prompt" if isinstance(drawn, dict) and "system_prompts" in drawn else "response"

    @property
    def prompts(self) -> list[str]:
        """The prompts that outcomes are responses to, where the game says them."""
        if self.outcome != "response":
            return []
        said = (self.game.fields.provenance or {}).get("prompts", [])
        return [text for text in said if isinstance(text, str)] if isinstance(said, list) else []


def game_page(settled: SettledGame) -> Page:
    """Return the report of a settled game; raises InputError when the game cannot be settled."""
    game = settled.game
    is_small = sum(_entries(reward) for reward in game.rewards) <= MOST_CELLS
    again = settle(game)
    receipt = settled.receipt or receipt_of(game, again)
    parts = breakdowns(game) if is_small else None
    moves = changes(game, again, settled.prompts) if is_small else []
    sections = [settlement(receipt, parts, _checked(settled, again), settled.outcome)]
    if moves:
        sections.append(policies(moves, *_who(receipt), settled.outcome))
    if parts:
        sections.append(payments(receipt, parts))
    if is_small:
        sections.append(incentives(game, settled.audit, moves))
    else:
        note = Note("plain", "The game is too large for its report to search for lies; rlhf-game audit does that.")
        sections.append(Section("incentives", "Would lying pay?", "", (note,)))
    if is_small and (played := what_if(game, settled.outcome)) is not None:
        sections.append(Section("what-if", "Your group: what if?", WHAT_IF, (played,)))
    shared = _shared(again)
    return Page(
        title=_title(receipt, shared),
        lead=_lead(receipt, shared, fee_of(game.fields)),
        facts=_facts(receipt, moves),
        sections=tuple(sections),
        provenance=provenance_rows(
            ("game SHA-256", receipt.game_sha256),
            ("receipt written by", f"rlhf-game {receipt.version}"),
            *((key, value) for key, value in receipt.provenance.items() if key not in OVER),
        ),
        commands=(
            "rlhf-game verify receipt.json game.json   # settles the game again and compares",
            "rlhf-game audit game.json                 # searches for profitable lies",
        ),
    )


def _checked(settled: SettledGame, again: Settlement) -> Note:
    if settled.receipt is None:
        return Note("plain", "The game was settled for this page.")
    found = game_differences(settled.receipt, settled.game, again, settled.folder)
    if found:
        return Note("bad", f"The receipt is not what the game gives when it is settled again: {'; '.join(found[:3])}")
    return Note("good", "Checked: the game was settled again for this page, and every number of the receipt agrees.")


def _entries(table: Any) -> int:
    return sum(map(len, table)) if isinstance(table, list) else int(table.size)


def _title(receipt: Receipt, shared: str) -> str:
    model = receipt.provenance.get("model")
    name = model.get("model") if isinstance(model, dict) else None
    return groups_share(receipt, name if isinstance(name, str) and name else shared)


def _who(receipt: Receipt) -> tuple[list[str], list[int]]:
    """Return the names and the sizes of the groups."""
    return [group.name for group in receipt.groups], [group.size for group in receipt.groups]


def _shared(settled: Settlement) -> str:
    """Return what the groups share: one policy, or what was chosen to be trained."""
    parts = cast(Any, settled.policy).parts  # of all groups, or none where nothing was trained
    if parts is None or len(parts) == 1:
        return "one policy"
    return f"{worded(len(parts)).lower()} models" if parts else UNTRAINED


def _lead(receipt: Receipt, shared: str, fee: float) -> str:
    names = names_of(_who(receipt)[0])
    rule = RULES.get(receipt.payment, f"payments: {receipt.payment}")
    measure = f"{_measure(receipt)}, " if receipt.regularizer else ""
    charged = f"{rule}, and a fee of {number(fee)} for every name" if fee > 0 else rule
    if shared == UNTRAINED:
        return f"What {names} want is not worth the cost of training, so {UNTRAINED} stays as it is; {charged}."
    each = "which is" if shared == "one policy" else "each of which is"
    near = f"{measure}strength {receipt.strength:g}"
    return f"What {names} want was put into {shared}, {each} kept near its reference ({near}); {charged}."


def _measure(receipt: Receipt) -> str:
    name = receipt.regularizer or "divergence"
    return MEASURES.get(name, name.replace(":", " "))


def _facts(receipt: Receipt, moves: Sequence[PolicyChange]) -> tuple[tuple[str, str, str], ...]:
    groups, *facts = receipt_facts(receipt, measure=_measure(receipt))
    if len(moves) > 1:
        facts.insert(0, ("Prompts", str(len(moves)), f"{sum(len(move.labels) for move in moves)} responses"))
    return (groups, *facts)
