"""``rlhf-game run`` with outcomes draws: refuse what is declared too dear, take a seed, draw the tape, bill, certify.

The seed is taken after all reports are read, and kept: an interrupted run goes on with the same tape. Once the tape is
whole the receipt is computed from it alone, and nothing that differs when a run is repeated is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.files.drawn import (
    BEFORE,
    MAIN,
    PILOT,
    DrawnGame,
    drawn_receipt,
    exponentials,
    read_drawn_game,
    wanted_draws,
)
from rlhf_game.files.receipts import Receipt, lay_out, read_receipts
from rlhf_game.files.run_folder import CALLS, Progress, RunFolder, parquet_bytes, read_parquet, unwatched, versions
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.settlement import Estimator, choose_estimator
from rlhf_game.mechanism.draws.tapes import Problem
from rlhf_game.outcomes.draws.drawing import ProposalRow, TapeSettings
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.draws.plan import writing_of
from rlhf_game.outcomes.draws.proposals import open_proposer
from rlhf_game.outcomes.generation import check_resumed
from rlhf_game.outcomes.run_config import Configuration, RunConfig
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.outcomes.sealing import committed
from rlhf_game.outcomes.settlement_seed import settlement_seed


@final
@dataclass(frozen=True, eq=False)
class DrawsRun:
    """A finished run whose outcomes are draws."""

    folder: Path
    prompts: tuple[str, ...]
    game: DrawnGame
    receipt: Receipt


def spec_of(configuration: Configuration) -> DrawsSpec:
    """Return what a configuration says about its draws."""
    spec = configuration.fields.outcomes
    assert isinstance(spec, DrawsSpec)
    return spec


def problem_of(configuration: Configuration) -> Problem:
    """Return what is drawn from and charged for."""
    fields = configuration.fields
    names, sizes = [group.name for group in fields.groups], [group.size for group in fields.groups]
    return spec_of(configuration).problem(names, sizes, fields.weights or {}, fields.strength)


def tape_file(folder: RunFolder) -> Path:
    """Return where the tape is."""
    return folder.path / "tape.parquet"


def run_draws(configuration: Configuration, folder: RunFolder, progress: Progress | None = None) -> DrawsRun:
    """Do what is left of the run in an open folder. Raises RunError when the run is void, and as ``run`` does."""
    watch = progress or unwatched
    folder.check((tape_file(folder), folder.game, folder.receipt))
    if not tape_file(folder).exists():
        _draw(configuration, folder, watch)
    watch("settle", 0, 1)
    if not folder.game.exists():
        document = drawn_document(configuration.fields, configuration.source.words, folder)
        folder.write(folder.game, lay_out(document).encode())
    game = read_drawn_game(folder.game)
    if not folder.receipt.exists():
        origin = read_parquet(tape_file(folder))[1]
        provenance = {
            "config_sha256": configuration.sha256,
            "files": {tape_file(folder).name: digest(tape_file(folder))},
            "model": origin["model"],
            "versions": versions(),
        }
        made = committed(configuration, folder, drawn_receipt(game).with_provenance(provenance))
        folder.workspace.finish(folder.receipt, made.text().encode())
    watch("settle", 1, 1)
    (receipt,) = read_receipts(folder.receipt)
    return DrawsRun(folder.path, configuration.source.words, game, receipt)


def _draw(configuration: Configuration, folder: RunFolder, watch: Progress) -> None:
    """Draw the tape and, where the estimator needs one, a pilot, and write both; every finished round is kept."""
    source, spec, problem = configuration.source, spec_of(configuration), problem_of(configuration)
    scorer = GroupScorer(configuration, folder.path / CALLS)
    scorer.must_be_pointwise()
    watch("load the language model", 0, 1)
    how = writing_of(configuration)
    proposer = open_proposer(source.model, source.prompts, how, source.system, source.base, folder.path)
    watch("load the language model", 1, 1)
    seed, seed_from = settlement_seed(configuration, folder)
    provenance = {
        "model": {**proposer.identity, "dtype": source.model.dtype},
        "settlement_seed": seed,
        "seed_from": seed_from,
        "config_sha256": configuration.sha256,
        "versions": versions(),
    }
    check_resumed(folder, {**provenance, "pieces": "tables"})  # those of before were not

    bounds = scorer.bounds if scorer.bounds_beginnings() else None

    def tapes(part: int, wanted: Sequence[int]) -> list[list[ProposalRow]]:
        drawing = TapeSettings(
            problem,
            lambda wanted, counts: proposer.propose(wanted, seed, part, counts),
            scorer.score,
            partial(exponentials, seed, part),
            spec.max_proposals,
            spec.batch_size,
            partial(folder.table_part, f"tape-{part}"),
            bounds,
        )
        return drawing.draw(wanted, partial(watch, "draw the tape" if part == MAIN else "draw a pilot"))

    prompts = len(source.prompts)
    is_piloted = spec.estimator in ("auto", "log_mean")
    before = tapes(BEFORE, [PILOT] * prompts) if is_piloted else []
    estimator: Estimator = spec.estimator if spec.estimator != "auto" else choose_estimator(problem, _drawn(before))
    rows = {BEFORE: before, MAIN: tapes(MAIN, wanted_draws(seed, spec.draws, prompts, estimator))}
    said = {
        (b, row.proposal.text)
        for part in rows.values()
        for b, tape in enumerate(part)
        for row in tape
        if row.proposal.is_whole
    }
    provenance |= {"estimator": estimator, "rewards": scorer.provenance(sorted(said))}
    names = [group.name for group in configuration.fields.groups]
    folder.write(tape_file(folder), parquet_bytes(_columns(source.words, names, rows), provenance))
    folder.drop_parts()


def _drawn(tapes: Sequence[Sequence[ProposalRow]]) -> list[Array]:
    """Return the rewards of each prompt's draws: B of [n, k]."""
    return [np.transpose([row.rewards for row in tape if row.is_accepted]) for tape in tapes]


def _columns(
    prompts: Sequence[str], names: Sequence[str], parts: dict[int, list[list[ProposalRow]]]
) -> dict[str, list[Any]]:
    rows = [
        (part, b, j, row) for part, tapes in parts.items() for b, tape in enumerate(tapes) for j, row in enumerate(tape)
    ]
    columns: dict[str, list[Any]] = {
        "part": [part for part, *_ in rows],
        "prompt": [b for _, b, *_ in rows],
        "prompt_text": [prompts[b] for _, b, *_ in rows],
        "proposal": [j for *_, j, _ in rows],
        "response": [row.proposal.text for *_, row in rows],
        "tokens": [row.proposal.tokens for *_, row in rows],
        "is_finished": [row.proposal.is_finished for *_, row in rows],
        "is_whole": [row.proposal.is_whole for *_, row in rows],
        "log_probability": [row.proposal.log_probability for *_, row in rows],
        "exponential": [row.exponential for *_, row in rows],
        "accepted": [row.is_accepted for *_, row in rows],
    }
    for i, name in enumerate(names):
        columns[f"raw:{name}"] = [row.scores[i] if row.scores else None for *_, row in rows]
        columns[f"reward:{name}"] = [row.rewards[i] for *_, row in rows]
    return columns


def drawn_document(fields: RunConfig, prompts: Sequence[str], folder: RunFolder) -> dict[str, Any]:
    """Return what game.json says, given the tape. prompts: their words."""
    spec, (_, origin) = fields.outcomes, read_parquet(tape_file(folder))
    assert isinstance(spec, DrawsSpec)
    return {
        "space": "draws",
        "regularizer": fields.regularizer,
        "strength": fields.strength,
        "payment": fields.payment,
        "estimator": origin["estimator"],
        "draws": spec.draws,
        "max_proposals": spec.max_proposals,
        "level": spec.level,
        "size_limit": spec.size_limit,
        "weights": fields.weights,
        "groups": [
            {"name": group.name, "size": group.size, "ceiling": spec.ceilings.get(group.name, 1.0)}
            for group in fields.groups
        ],
        "prompts": len(prompts),
        "settlement_seed": origin["settlement_seed"],
        "seed_from": origin["seed_from"],
        "tape": {"file": tape_file(folder).name, "sha256": digest(tape_file(folder))},
        "provenance": {"prompts": list(prompts), "tape": origin},
    }
