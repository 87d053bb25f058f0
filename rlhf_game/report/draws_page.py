"""The report of a run whose outcomes are draws of the optimum: bills with their errors, and what was drawn."""

from pathlib import Path
from typing import Any, Final, final

from rlhf_game.files.documents import shown
from rlhf_game.files.drawn import MAIN, DrawnGame, read_drawn_game
from rlhf_game.files.receipts import Interval, Receipt, read_receipt_of
from rlhf_game.files.schema import OurDocument, parse_model
from rlhf_game.files.verify import drawn_differences
from rlhf_game.report.data_table import DataTable, column, number
from rlhf_game.report.incentives import audited, known_before
from rlhf_game.report.lies import read_audit
from rlhf_game.report.money import groups_share, range_of, receipt_facts, settlement
from rlhf_game.report.page import (
    Note,
    Page,
    Section,
    TableBlock,
    cell_of,
    names_of,
    prompt_of,
    provenance_rows,
    recomputed,
)

SERVED: Final = 3
"""Draws of each prompt that are shown."""
MOST_PROMPTS: Final = 6


@final
class PromptTapeFields(OurDocument):
    """What a prompt's tape took."""

    accepted: int
    proposals: int
    log_z: Interval


@final
class TapesFields(OurDocument):
    """What the receipt says of the tapes."""

    estimator: str
    prompts: list[PromptTapeFields]
    acceptance_rate: float
    second_payments: list[float]
    least_utilities: list[float]


@final
class GroupDrawsFields(OurDocument):
    """What a group's part of the receipt says beyond every receipt."""

    regret_bound: float | None
    draws_needed: int | None = None


@final
class DrawsReceiptFields(OurDocument):
    """What the receipt of draws says beyond every receipt."""

    groups: list[GroupDrawsFields]
    draws: TapesFields
    seed_from: str
    settlement_seed: int


def draws_page(folder: Path, audit: Path | None = None) -> Page:
    """Return the report. Raises InputError when a file is missing, wrong, or of another game.

    audit: what ``audit`` printed of the folder.
    """
    path, game = folder / "receipt.json", read_drawn_game(folder / "game.json")
    receipt = read_receipt_of(path, game.sha256, "the game beside it")
    said = parse_model(DrawsReceiptFields, receipt.model_dump(), shown(str(path), 200))
    checked = recomputed(drawn_differences(receipt, game), "tape")
    names = names_of([group.name for group in receipt.groups])
    lies = () if audit is None else (audited(game, read_audit(audit, game)),)
    return Page(
        title=groups_share(receipt, "draws of the optimum"),
        lead=f"What {names} want was put into one policy over all texts, at strength {receipt.strength:g}, and the "
        "responses were drawn from exactly that policy, by rejection. Payments are right in expectation; what they are "
        "known to is said with each.",
        facts=_facts(receipt, said),
        sections=(
            settlement(receipt, None, checked),
            _bills(game, receipt, said),
            *lies,
            _tapes(game, said),
            _served(game),
        ),
        provenance=provenance_rows(
            ("game SHA-256", receipt.game_sha256),
            ("settlement seed", f"{said.settlement_seed}, from {said.seed_from}"),
            *receipt.provenance.items(),
        ),
        commands=("rlhf-game verify receipt.json game.json   # computes everything again from the tape",),
    )


def _facts(receipt: Receipt, said: DrawsReceiptFields) -> tuple[tuple[str, str, str], ...]:
    accepted, proposals = (sum(getattr(one, of) for one in said.draws.prompts) for of in ("accepted", "proposals"))
    return (*receipt_facts(receipt), ("Draws", f"{accepted:,}", f"of {proposals:,} proposals"))


def _bills(game: DrawnGame, receipt: Receipt, said: DrawsReceiptFields) -> Section:
    """Return each bill by both estimators, its error, and the smallest utility of any tape."""
    names, draws = [group.name for group in receipt.groups], said.draws
    errors = [_error(group.payment) for group in receipt.groups]
    texts = ["not known with one draw" if error is None else number(error) for error in errors]
    bounds = ["not known" if one.regret_bound is None else number(one.regret_bound) for one in said.groups]
    table = TableBlock(
        "bills",
        "What is known of each payment",
        (
            "Group",
            "Standard error",
            "By the other estimator",
            "Least utility of a tape",
            "In expectation over draws, no lie gains more than",
        ),
        tuple(zip(names, texts, column(draws.second_payments), column(draws.least_utilities), bounds, strict=True)),
        "",
        DataTable(
            ("group", "standard error", "second payment", "least utility", "regret bound, in expectation over draws"),
            tuple(
                (name, error, second, least, one.regret_bound)
                for name, error, second, least, one in zip(
                    names, errors, draws.second_payments, draws.least_utilities, said.groups, strict=True
                )
            ),
        ),
    )
    notes = [
        Note(
            "plain",
            f"{name}'s payment is smaller than its standard error; with {one.draws_needed:,} draws of each prompt it "
            "would be about twice that.",
        )
        for name, one in zip(names, said.groups, strict=True)
        if one.draws_needed is not None
    ]
    open_because = _open_because(game, said)
    if open_because:
        notes.append(Note("plain", f"{open_because}, so nothing bounds what a lie gains."))
    lead = (
        f"Bills by {draws.estimator}, from the same proposals as the draws. "
        "Taking part never loses, draw by draw, where the least utility is not below 0."
    )
    return Section("bills-section", "How well the payments are known", lead, (*notes, table))


def _open_because(game: DrawnGame, said: DrawsReceiptFields) -> str:
    """Return why no bound of regret is known, or nothing where one is."""
    if all(one.regret_bound is not None for one in said.groups):
        return ""
    if game.fields.payment == "none":
        return "Nobody pays"
    if said.draws.estimator == "log_mean" or game.pilot is not None:
        return "Truth is the best report in expectation only under rao_blackwell or tape, said before the draws"
    return known_before(said.seed_from) or (
        "No size_limit is declared, and a claim that is large enough makes the run need more than its max_proposals"
    )


def _error(payment: Any) -> float | None:
    extra = payment.model_extra or {} if isinstance(payment, Interval) else {"standard_error": 0.0}
    found = extra.get("standard_error")
    return found if isinstance(found, float) else None


def _tapes(game: DrawnGame, said: DrawsReceiptFields) -> Section:
    asked = _asked(game)
    rows = [
        (asked[b], one.accepted, one.proposals, one.accepted / one.proposals, one.log_z)
        for b, one in enumerate(said.draws.prompts)
    ]
    table = TableBlock(
        "tapes",
        "The tape of each prompt",
        ("Prompt", "Draws", "Proposals", "Accepted", "log Z"),
        tuple(
            (text, str(draws), str(proposals), f"{rate:.2%}", f"{number(log_z.estimate)}\n{range_of(log_z)}")
            for text, draws, proposals, rate, log_z in rows
        ),
        "A proposal is accepted more often where the reference already says what the groups want.",
        DataTable(
            ("prompt", "draws", "proposals", "log Z", "low", "high"),
            tuple((text, d, p, log_z.estimate, log_z.low, log_z.high) for text, d, p, _, log_z in rows),
        ),
    )
    return Section("tapes-section", "What it took", "", (table,))


def _served(game: DrawnGame) -> Section:
    """Return the first draws of the first prompts, with the reward that each group gives them."""
    from pyarrow import parquet

    names = [group.name for group in game.fields.groups]
    wanted = ["part", "prompt", "response", "accepted", *(f"reward:{name}" for name in names)]
    table = parquet.read_table(game.folder / game.fields.tape.file, columns=wanted).to_pylist()
    asked, count = _asked(game), dict.fromkeys(range(game.fields.prompts), 0)
    rows, data = [], []
    for row in table:
        b = row["prompt"]
        if row["part"] != MAIN or not row["accepted"] or b >= MOST_PROMPTS or count[b] == SERVED:
            continue
        count[b] += 1
        rewards = [row[f"reward:{name}"] for name in names]
        rows.append((cell_of(asked[b]), cell_of(str(row["response"])), *(number(reward, 2) for reward in rewards)))
        data.append((asked[b], str(row["response"]), *rewards))
    block = TableBlock(
        "served",
        "Some of what was drawn",
        ("Prompt", "Response", *names),
        tuple(rows),
        f"The first {SERVED} draws of the optimum for the first prompts, with the reward that each group gives them.",
        DataTable(("prompt", "response", *(f"reward: {name}" for name in names)), tuple(data)),
        texts=2,
        is_prose=True,
    )
    return Section("served-section", "What is served", "", (block,))


def _asked(game: DrawnGame) -> list[str]:
    return [prompt_of(game.fields.provenance, b) for b in range(game.fields.prompts)]
