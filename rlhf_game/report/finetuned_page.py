"""The report of a run whose outcome is a trained language model: everything in it is known through samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from rlhf_game.files.documents import shown
from rlhf_game.files.receipts import Interval, Receipt, read_receipt_of
from rlhf_game.files.sampled import SampledGameFile, read_sampled_game, trainer_note
from rlhf_game.files.schema import OurDocument, parse_model
from rlhf_game.files.verify import sampled_differences
from rlhf_game.report.charts import Range, brackets
from rlhf_game.report.data_table import Cell, DataTable, number
from rlhf_game.report.incentives import known_before
from rlhf_game.report.money import estimate, groups_share, range_of, receipt_facts, settlement
from rlhf_game.report.page import (
    Block,
    Figure,
    LegendEntry,
    Note,
    Page,
    Panel,
    Section,
    TableBlock,
    cell_of,
    names_of,
    prompt_of,
    provenance_rows,
    recomputed,
)
from rlhf_game.report.sweeps import sentence

REFERENCE: Final = "reference"
MOST_PROMPTS: Final = 6
DRAWS: Final = 3
"""Draws of each policy that are shown for a prompt."""


@final
class BoundFields(OurDocument):
    """What no lie of a group gains more than."""

    regret_bound: float | None


@final
class CertificateFields(OurDocument):
    """How far from truthful the training may be."""

    level: float
    gap: Interval
    tightness: float


@final
class Trainer(OurDocument):
    """What trained the policy, and whether its optimum is the mechanism's."""

    name: str
    is_faithful: bool
    reason: str


@final
class Cost(OurDocument):
    """What it took."""

    trainings: int
    tokens: int
    drawn: int


@final
class FinetunedReceiptFields(OurDocument):
    """What the receipt of a trained policy says beyond every receipt."""

    groups: list[BoundFields]
    payments_label: str
    delivered: str
    certificate: CertificateFields
    trainer: Trainer
    cost: Cost
    cap_from: str
    seed_from: str
    settlement_seed: int | None
    affine_social_welfare: Interval
    untouched_affine_social_welfare: Interval


def finetuned_page(folder: Path) -> Page:
    """Return the report. Raises InputError when a file is missing, wrong, or of another game."""
    path, game = folder / "receipt.json", read_sampled_game(folder / "game.json")
    receipt = read_receipt_of(path, game.sha256, "the game beside it")
    trained = parse_model(FinetunedReceiptFields, receipt.model_dump(), shown(str(path), 200))
    checked = recomputed(sampled_differences(receipt, game), "draws")
    sections = (
        settlement(receipt, None, checked),
        _certificate(game, receipt, trained),
        _draws(game, trained.delivered),
    )
    names = names_of([group.name for group in receipt.groups])
    return Page(
        title=groups_share(receipt, "a fine-tuned model"),
        lead=f"What {names} want was put into one policy, trained by {trained.trainer.name} with strength "
        f"{receipt.strength:g}. What is not known exactly is said with its interval.",
        facts=_facts(receipt, trained),
        sections=sections,
        provenance=provenance_rows(
            ("game SHA-256", receipt.game_sha256),
            ("settlement seed", f"{_seed(trained)}, from {trained.seed_from}"),
            *receipt.provenance.items(),
        ),
        commands=("rlhf-game verify receipt.json game.json   # computes everything again from the draws",),
    )


def _seed(trained: FinetunedReceiptFields) -> str:
    return "unknown" if trained.settlement_seed is None else str(trained.settlement_seed)


def _facts(receipt: Receipt, trained: FinetunedReceiptFields) -> tuple[tuple[str, str, str], ...]:
    facts = receipt_facts(
        receipt,
        ("Affine welfare", trained.affine_social_welfare, "of what is delivered"),
        ("Affine welfare of the untouched model", trained.untouched_affine_social_welfare, ""),
    )
    return (*facts, ("Trainings", str(trained.cost.trainings), f"{trained.cost.tokens:,} tokens"))


def _certificate(game: SampledGameFile, receipt: Receipt, trained: FinetunedReceiptFields) -> Section:
    bounds = [group.regret_bound for group in trained.groups]
    known = [bound for bound in bounds if bound is not None]
    verdict = Note("plain", "What a lie gains at most is not known for these payments.")
    if because := known_before(trained.seed_from):
        verdict = Note("plain", f"{because}, so nothing bounds what a lie gains.")
    elif trained.cap_from == "sizes":
        verdict = Note(
            "plain",
            "The cap of log ratios is from the sizes that were reported (no size_limit or cap was declared), so "
            "nothing bounds what a lie gains.",
        )
    elif known:
        verdict = Note(
            "plain",
            f"With probability {trained.certificate.level:g}, and in expectation over draws, no lie of any group gains "
            f"more than {number(max(known))}.",
        )
    blocks: list[Block] = [verdict, *([_bounds(receipt, trained, bounds)] if known else [])]
    if trained.delivered == REFERENCE:
        blocks.insert(0, Note("bad", "The untouched model is delivered: it was better than what was trained."))
    elif estimate(trained.affine_social_welfare) < estimate(trained.untouched_affine_social_welfare):
        blocks.insert(
            0,
            Note(
                "plain",
                "By these draws the untouched model has more affine welfare than what is delivered, which "
                + ("other draws decided." if game.fields.choosing else "is the trained one whatever they say."),
            ),
        )
    if not trained.trainer.is_faithful:
        blocks.insert(0, Note("bad", f"{sentence(trainer_note(trained.trainer.name, trained.trainer.reason))}."))
    return Section("incentives", "Would lying pay?", f"Payments: {trained.payments_label}.", tuple(blocks))


def _bounds(receipt: Receipt, trained: FinetunedReceiptFields, bounds: Sequence[float | None]) -> Figure:
    """Return what no lie of each group gains more than."""
    certificate = trained.certificate
    rows = [(group.name, [Range("bound", 0.0, bound, 0)]) for group, bound in zip(receipt.groups, bounds, strict=True)]
    said = "; ".join(
        f"{group.name}: {'unknown' if bound is None else 'at most ' + number(bound)}"
        for group, bound in zip(receipt.groups, bounds, strict=True)
    )
    return Figure(
        "regret",
        "The most that a lie can gain",
        (Panel(brackets("regret-drawing", "The most that a lie can gain", said, rows, "gain over the truth")),),
        "A training that stops short of the optimum leaves room for lies. The line ends where a proof says that no lie "
        f"gains more in expectation over draws: the welfare that training left is {number(certificate.gap.estimate)}, "
        f"{range_of(certificate.gap)}. Tightness: {number(certificate.tightness)} "
        "(0 proves truth, 1 and more says nothing).",
        DataTable(
            ("group", "gain at most"), tuple((g.name, bound) for g, bound in zip(receipt.groups, bounds, strict=True))
        ),
        (LegendEntry("no lie gains more", 0),),
    )


def _draws(game: SampledGameFile, delivered: str) -> Section:
    """Return what both policies say: mean rewards, and a few draws of each prompt."""
    after = delivered if delivered in game.draws else game.fields.policies[-1]
    names = [group.name for group in game.fields.groups]
    policies = dict.fromkeys((REFERENCE if REFERENCE in game.draws else game.fields.policies[0], after))
    means = {policy: game.draws[policy].rewards.mean(axis=(1, 2)).tolist() for policy in policies}
    rows = tuple((name, *(number(means[policy][i], 3) for policy in policies)) for i, name in enumerate(names))
    table = TableBlock(
        "rewards",
        "Mean reward of what is drawn",
        ("Group", *("before (reference)" if k == 0 else f"after ({policy})" for k, policy in enumerate(policies))),
        rows,
        "",
        DataTable(
            ("group", *policies), tuple((name, *(means[p][i] for p in policies)) for i, name in enumerate(names))
        ),
    )
    return Section("policies", "What became of the policy", "", (table, _texts(game, tuple(policies), names)))


def _texts(game: SampledGameFile, policies: Sequence[str], names: Sequence[str]) -> TableBlock:
    from pyarrow import parquet

    table = parquet.read_table(game.folder / game.fields.samples.file, columns=["policy", "prompt", "text"])
    columns: Mapping[str, list[Any]] = table.to_pydict()
    by_place: dict[tuple[int, str], list[str]] = {}
    for policy, prompt, text in zip(columns["policy"], columns["prompt"], columns["text"], strict=True):
        by_place.setdefault((prompt, policy), []).append(text)
    shown_rows, data = [], list[tuple[Cell, ...]]()
    for prompt in sorted({place[0] for place in by_place})[:MOST_PROMPTS]:
        question = prompt_of(game.fields.provenance, prompt)
        for policy in policies:
            when = "before" if policy == policies[0] else "after"
            for k, text in enumerate(by_place.get((prompt, policy), [])[:DRAWS]):
                rewards = game.draws[policy].rewards[:, prompt, k].tolist()
                shown_rows.append((cell_of(question), when, cell_of(text), *(number(value, 2) for value in rewards)))
                data.append((question, policy, text, *rewards))
    return TableBlock(
        "draws",
        "Some of what is drawn",
        ("Prompt", "When", "Response", *names),
        tuple(shown_rows),
        f"The first {DRAWS} draws of each policy for the first prompts, with the reward that each group gives them.",
        DataTable(("prompt", "policy", "response", *(f"reward: {name}" for name in names)), tuple(data)),
        texts=3,
        is_prose=True,
    )
