"""Verifying a finished run: its game against its candidates and scores, its receipt against its game."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text
from rlhf_game.files.games import read_game
from rlhf_game.files.parts import split
from rlhf_game.files.receipts import read_receipts
from rlhf_game.files.run_folder import RunFolder, read_parquet
from rlhf_game.files.sampled import space_of
from rlhf_game.files.schema import parse_model
from rlhf_game.files.seals import committed_differences, revealed_seed
from rlhf_game.files.tables import digest
from rlhf_game.files.verify import Place, apart, verify
from rlhf_game.files.workspace import CONFIG, Workspace
from rlhf_game.outcomes.draws.draws_pipeline import drawn_document, tape_file
from rlhf_game.outcomes.finetuned.finetuned_draws import samples_file
from rlhf_game.outcomes.finetuned.finetuned_run import sampled_document, words_of
from rlhf_game.outcomes.generation import read_drawn
from rlhf_game.outcomes.given_rows import GivenSpec
from rlhf_game.outcomes.prompts.prompts_game import settled_prompts
from rlhf_game.outcomes.run_config import Configuration, RunConfig, parse_config, read_config
from rlhf_game.outcomes.run_pipeline import game_document, spreads
from rlhf_game.outcomes.scoring import RAW, GroupScorer, read_rewards, rewards_again
from rlhf_game.outcomes.sealing import seal_of, sealed_reports
from rlhf_game.registry import is_code

CODE = ("regularizer", "payment", "training")
"""What a game may name code for; its path starts from another folder than the configuration's."""
SCORED_AGAIN = 1e-5
"""Scores that differ by this share of the largest agree: a network's depend on the batch."""
ROWS = ("prompt_index", "prompt", "response")
"""Columns that candidates and their scores have in common."""


def run_differences(path: Path, *, trusted: bool = False) -> list[str]:
    """Return a line for each thing that the files of a run say otherwise than what they were made of.

    Rewards are made again from raw scores, the game from candidates and rewards, the receipt from the game; the model
    and the rewards are not asked again. Raises InputError when a file cannot be read.
    """
    folder = RunFolder(Workspace(path))
    document = _json(path / CONFIG)
    config = parse_model(RunConfig, {key: value for key, value in document.items() if key != "files"}, CONFIG)
    found = verify(folder.receipt, folder.game, trusted=trusted)[1]
    space = space_of(folder.game)
    drawn = {"samples": samples_file(folder), "draws": tape_file(folder)}.get(str(space), folder.candidates)
    made_of, origin = [drawn], read_parquet(drawn)[1]
    if space != "draws":
        made_of.append(folder.scores)
        found += rewards_again(config, folder)
    if drawn == folder.candidates:
        found += _game_differences(folder, config, document.get("files", {}))
    else:
        columns, said = read_parquet(drawn)[0], _json(folder.game)
        if space == "draws":
            made = drawn_document(config, words_of(columns), folder)
        else:  # the policy's file was met above; what trained it is its trainer's word
            made = sampled_document(config, columns, origin, folder)
            made |= {key: said.get(key) for key in ("policy", "trainer")}
        found += [f"game.json: {line}" for line in apart((), said, json.loads(json.dumps(made)))]
    (receipt,) = read_receipts(folder.receipt)
    again = {
        "config_sha256": hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest(),
        "files": {file.name: digest(file) for file in made_of},
        "model": origin["model"],
    }
    if (seal := seal_of(folder)) is not None:
        reports = sealed_reports(config, document.get("files", {}))
        found += committed_differences(receipt, seal, reports)
        if space in ("samples", "draws"):
            said_of_seed = {key: (receipt.model_extra or {}).get(key) for key in ("settlement_seed", "seed_from")}
            seed = {"settlement_seed": revealed_seed(seal, reports), "seed_from": seal.seed_from}
            found += apart((), said_of_seed, seed)
    if space != "draws":
        again["seed"] = config.seed
    if prompts := settled_prompts(origin, receipt):
        again["system_prompts"] = [asdict(one) for one in prompts]
    if drawn == folder.candidates:
        asked, game = _prompts(read_parquet(drawn)[0]), read_game(folder.game, trusted=trusted)
        again |= spreads(config, game, asked, *read_drawn(folder), folder)
    known = receipt.provenance
    return found + apart(("provenance",), {key: known.get(key) for key in again}, again)


def _game_differences(folder: RunFolder, config: RunConfig, files: Mapping[str, str]) -> list[str]:
    """Return a line for each difference of game.json from what candidates, scores and configuration give again.

    Code that the game names is left as it is said: its digests are of files that may not be here.
    """
    drawn, origin = read_drawn(folder)
    rewards, scored = read_rewards(folder)
    known = {group.name: group.reward.model_dump(mode="json") for group in config.groups}
    scored["rewards"] = {name: {**scored["rewards"].get(name, {}), "reward": reward} for name, reward in known.items()}
    if isinstance(config.outcomes, GivenSpec):
        file = config.outcomes.file
        origin["rows"] |= {"file": Path(file).name, "sha256": files.get(file)}
    columns, rows = read_parquet(folder.candidates)[0], read_parquet(folder.scores)[0]
    found = [line for name in ROWS for line in apart((folder.scores.name, name), rows[name], columns[name])]
    prompts = _prompts(columns)
    again = json.loads(json.dumps(game_document(config, prompts, drawn, origin, rewards)))
    said = _json(folder.game)
    for role in CODE:
        if role in again and is_code(role, split(role, again[role])[0]):
            again[role] = said.get(role)
    again["provenance"] |= {"prompts": prompts, "candidates": origin, "scores": scored}
    return found + [f"game.json: {line}" for line in apart((), said, again)]


def _prompts(columns: Mapping[str, list[Any]]) -> list[str]:
    return list(dict(zip(columns["prompt_index"], columns["prompt"], strict=True)).values())


def _json(path: Path) -> Any:
    return parse_json(read_text(path), str(path))


def configuration_of(path: Path, config: Path | None) -> Configuration:
    """Return the configuration of a finished run. config: its file; without it paths start from the current folder.

    Raises InputError when it is not what the run was made of.
    """
    said = _json(path / CONFIG)
    known = {key: value for key, value in said.items() if key != "files"}
    configuration = parse_config(known, CONFIG, Path()) if config is None else read_config(config)
    if configuration.document() != said:
        raise InputError(f"{config or CONFIG}: must be what {path} was made of, files included, found it changed")
    return configuration


def rescored_differences(
    path: Path, config: Path | None, count: int, rng: np.random.Generator
) -> tuple[int, list[str]]:
    """Score some responses of a run, picked at random, again; return how many, and a line for each other score.

    Rewards are built and asked anew; what was answered before is not looked up. config: what was run; without it the
    paths in it start from the current folder. Raises InputError when it is not what the run was made of, or the run
    has no table of scores.
    """
    folder, configuration = RunFolder(Workspace(path)), configuration_of(path, config)
    if not folder.scores.exists():
        raise InputError(f"{path}: must be a run with {folder.scores.name} to compute rewards again, found none")
    columns = read_parquet(folder.scores)[0]
    ids = read_parquet(folder.candidates)[0].get("token_ids") if folder.candidates.exists() else None
    rows = sorted(rng.permutation(len(columns["response"]))[:count].tolist())
    prompts, texts = ([columns[name][k] for k in rows] for name in ("prompt_index", "response"))
    found = []
    with TemporaryDirectory() as calls:
        scorer = GroupScorer(configuration, Path(calls))
        for i, group in enumerate(configuration.fields.groups):
            again = scorer.score_group(i, prompts, texts, None if ids is None else [ids[k] for k in rows]).scores
            scores = [columns[f"{RAW}{group.name}"][k] for k in rows]
            allowed = partial(_constant, SCORED_AGAIN * float(np.abs(scores).max(initial=0.0)))
            for row, score, one in zip(rows, scores, again.tolist(), strict=True):
                found += apart((folder.scores.name, f"{RAW}{group.name}", row), score, one, allowed)
    return len(rows), found


def _constant(slack: float, place: Place) -> float:
    return slack
