"""``rlhf-game run`` with outcomes finetuned: draw from the reference, train, draw, score, charge, certify.

Each stage is done once, and an interrupted one goes on. The receipt is computed from samples.parquet and scores.parquet
alone, and nothing that differs when a run is repeated is in it: seconds are in cost.json.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.engines import Engine
from rlhf_game.errors import InputError
from rlhf_game.files.policies import folder_digest
from rlhf_game.files.receipts import lay_out
from rlhf_game.files.run_folder import Progress, RunFolder, unwatched, versions
from rlhf_game.files.sampled import (
    ELSEWHERE,
    FINAL,
    REFERENCE,
    CapFrom,
    SampledFields,
    SampledGameFile,
    read_draws,
    read_sampled_game,
    sampled_receipt,
    settle_sampled,
    sizes_and_weights,
)
from rlhf_game.files.schema import parse_model
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.sampled.foreseen import MOST, SPREAD, draws_that_would_do, foreseen_tightness
from rlhf_game.mechanism.sampled.sampled_settlement import SampledGame, least_cap
from rlhf_game.outcomes.finetuned.finetuned_draws import (
    COST,
    MODEL,
    TRAININGS,
    check_policy,
    draw,
    load_reference,
    place_of_policy,
    read_samples,
    samples_file,
    side_by_side,
    soups,
)
from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec
from rlhf_game.outcomes.finetuned.finetuned_training import main_task, make, own_tasks, policy_training, spec_of
from rlhf_game.outcomes.generation import DrawnCandidates
from rlhf_game.outcomes.run_config import Configuration, RunConfig
from rlhf_game.outcomes.scoring import counted, score
from rlhf_game.outcomes.sealing import committed


@final
@dataclass(frozen=True, eq=False)
class FinetunedRun:
    """A finished run whose outcome is a trained policy."""

    folder: Path
    prompts: tuple[str, ...]
    game: SampledGameFile
    receipt: dict[str, Any]


def run_finetuned(
    configuration: Configuration, folder: RunFolder, watch: Progress, engine: Engine | None = None
) -> FinetunedRun:
    """Do what is left of the run in an open folder.

    engine: where trainings and scorings that do not need each other are done. Raises InputError when a trainer is to be
    paid for whose optimum is not the mechanism's, and as ``run`` does.
    """
    _check(configuration)
    folder.check((samples_file(folder), folder.scores, folder.game, folder.receipt))
    draw(configuration, folder, watch, engine or side_by_side())
    columns, _ = read_samples(folder)
    score(configuration, distinct(columns), folder, watch, engine)
    return settle_draws(configuration, folder, watch)


def settle_draws(
    configuration: Configuration, folder: RunFolder, watch: Progress, trainer: Mapping[str, Any] | None = None
) -> FinetunedRun:
    """Write the game and the receipt of draws that were made and scored in an open folder.

    trainer: what the game says of what trained the policy, where the configuration does not.
    """
    columns, origin = read_samples(folder)
    check_policy(place_of_policy(configuration.source, spec_of(configuration), folder), folder, origin)
    watch("settle", 0, 1)
    _write_game(configuration, columns, origin, folder, trainer)
    game = read_sampled_game(folder.game)
    _write_receipt(game, configuration, origin, folder)
    watch("settle", 1, 1)
    return FinetunedRun(
        folder.path, configuration.source.words, game, json.loads(folder.receipt.read_text(encoding="utf-8"))
    )


def distinct(columns: Mapping[str, list[Any]]) -> DrawnCandidates:
    """Return the distinct texts of all policies, prompt after prompt: each is scored once."""
    drawn = zip(columns["prompt"], columns["text"], strict=True)
    ids = dict(zip(drawn, columns["token_ids"], strict=True))
    pairs = sorted(ids)
    return DrawnCandidates(
        tuple(b for b, _ in pairs),
        tuple(text for _, text in pairs),
        tuple(1.0 for _ in pairs),
        tuple(ids[pair] for pair in pairs),
    )


def _check(configuration: Configuration) -> None:
    """Refuse what could be trained but not be settled, before anything is trained."""
    fields, spec = configuration.fields, spec_of(configuration)
    least = least_cap(np.array(list(fields.shares.values())), fields.strength)
    if spec.cap is not None and spec.cap < least:
        raise InputError(
            f"outcomes.cap: must be at least {least:.6g}, the sum of weights and sizes over the strength, plus 1; "
            f"found {spec.cap:.6g}"
        )
    faithfulness = policy_training(main_task(configuration, spec, Path())).faithfulness
    if spec.policy is None and fields.payment == "affine" and not (faithfulness.is_faithful or spec.allow_gap):
        raise InputError(
            f"outcomes.trainer: must be one whose optimum is the mechanism's (rloo or ppo) to be paid for, found "
            f"{spec.trainer}: {faithfulness.reason}; with allow_gap: true it is charged for, and the receipt says what "
            "that costs"
        )


def foreseen(configuration: Configuration) -> str | None:
    """Return what is to be expected of the certificate where it will say nothing, before hours are spent; else None.

    With how many draws of each prompt it would say something, from strength, sizes, prompts and draws alone.
    """
    fields, spec = configuration.fields, spec_of(configuration)
    sizes, multipliers = sizes_and_weights(fields.groups, fields.weights)
    game = SampledGame(sizes, multipliers, fields.strength, spec.level, _cap(fields, spec)[0])
    prompts, rng = len(configuration.source.prompts), np.random.default_rng(0)
    tightness = foreseen_tightness(game, prompts, spec.samples, rng)
    if tightness < 1:
        return None
    enough = draws_that_would_do(game, prompts, spec.samples, rng)
    found = f"about {enough}" if enough else f"more than {MOST // prompts}"
    return (
        f"outcomes.samples: {spec.samples} draws of each of {prompts} prompts prove nothing where rewards are low: "
        f"spread evenly over [0, {SPREAD}], a lie is held to {tightness:.3g} times what is at stake; {found} would do"
    )


def _write_game(
    configuration: Configuration,
    columns: Mapping[str, list[Any]],
    origin: dict[str, Any],
    folder: RunFolder,
    trainer: Mapping[str, Any] | None,
) -> None:
    if folder.game.exists():
        return
    spec = spec_of(configuration)
    document = sampled_document(configuration.fields, columns, origin, folder)
    document["trainer"] = trainer or _trainer(configuration, spec)
    if spec.payments_from == "soups":
        document["policy"] = _deliver_soup(configuration, document, folder)
    elif origin["policy_sha256"] is not None:
        place, own = place_of_policy(configuration.source, spec, folder), folder.path / MODEL
        place = MODEL if place.resolve() == own.resolve() else place
        document["policy"] = {"folder": place.as_posix(), "sha256": origin["policy_sha256"]}
    folder.write(folder.game, lay_out(document).encode())


def sampled_document(
    fields: RunConfig, columns: Mapping[str, list[Any]], origin: Mapping[str, Any], folder: RunFolder
) -> dict[str, Any]:
    """Return what game.json says but for the policy and what trained it, which are None, given draws and scores."""
    spec: Any = fields.outcomes
    assert isinstance(spec, FinetunedSpec)
    cap, cap_from = _cap(fields, spec)
    return {
        "space": "samples",
        "regularizer": fields.regularizer,
        "strength": fields.strength,
        "payment": fields.payment,
        "payments_from": spec.payments_from,
        "level": spec.level,
        "cap": cap,
        "cap_from": cap_from,
        "groups": [{"name": group.name, "size": group.size} for group in fields.groups],
        "policies": list(dict.fromkeys(columns["policy"])),
        "samples": {"file": samples_file(folder).name, "sha256": digest(samples_file(folder))},
        "scores": {"file": folder.scores.name, "sha256": digest(folder.scores)},
        "policy": None,
        "trainer": None,
        "cost": {
            "trainings": len(origin["trainings"]),
            "tokens": sum(one["tokens"] for one in origin["trainings"]),
            "drawn": sum(len(ids) for ids in columns["token_ids"]),
            "seconds": COST,
        },
        "weights": fields.weights,
        "choosing": _choosing(spec, columns),
        "settlement_seed": origin["settlement_seed"],
        "seed_from": origin["seed_from"],
        "provenance": {"prompts": words_of(columns), "samples": dict(origin)},
    }


def words_of(columns: Mapping[str, list[Any]]) -> list[str]:
    """Return the words of each prompt, [B], from the columns of draws."""
    return list(dict(zip(columns["prompt"], columns["prompt_text"], strict=True)).values())


def _choosing(spec: FinetunedSpec, columns: Mapping[str, list[Any]]) -> int:
    """Return how many draws for each prompt choose: of those of a file half, unless it is said."""
    if spec.draws is None or spec.choosing is not None:
        return spec.draws_that_choose
    first = columns["prompt"][0]
    pairs = zip(columns["policy"], columns["prompt"], strict=True)
    return sum(pair == (FINAL, first) for pair in pairs) // 2


def _trainer(configuration: Configuration, spec: FinetunedSpec) -> dict[str, Any]:
    """Return what the game says of what trained the policy."""
    if spec.policy is not None or spec.draws is not None:
        return dict(ELSEWHERE)
    return {"name": spec.trainer, **asdict(policy_training(main_task(configuration, spec, Path())).faithfulness)}


def _cap(fields: RunConfig, spec: FinetunedSpec) -> tuple[float, CapFrom]:
    """Return the cap of log ratios, and what it is from."""
    if spec.cap is not None:
        return spec.cap, "cap"
    if spec.size_limit is None:
        return least_cap(np.array(list(fields.shares.values())), fields.strength), "sizes"
    multipliers = sizes_and_weights(fields.groups, fields.weights)[1]
    return least_cap(multipliers * spec.size_limit, fields.strength), "size_limit"


def _deliver_soup(configuration: Configuration, document: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """Write the interpolation that the menu space chooses, and return what the game says of it."""
    from rlhf_game.training_backends.lm.soups import save_language_model

    fields = parse_model(SampledFields, document, str(folder.game))
    draws, _ = read_draws(samples_file(folder), folder.scores, fields)
    _, _, chosen = settle_sampled(SampledGameFile(str(folder.game), folder.path, fields, draws, {}, ""))
    reference = load_reference(configuration.source, unwatched)
    spec = spec_of(configuration)
    made = [make(task) for task in own_tasks(configuration, spec, folder.path / TRAININGS)]  # which are there already
    entries = {REFERENCE: lambda: reference, **dict(soups(reference, made, spec.grid))}
    (folder.path / MODEL).parent.mkdir(exist_ok=True)
    save_language_model(entries[chosen](), folder.path / MODEL)
    return {"folder": MODEL.as_posix(), "sha256": folder_digest(folder.path / MODEL)}


def _write_receipt(
    game: SampledGameFile, configuration: Configuration, origin: dict[str, Any], folder: RunFolder
) -> None:
    if folder.receipt.exists():
        return
    provenance = {
        "config_sha256": configuration.sha256,
        "files": {path.name: digest(path) for path in (samples_file(folder), folder.scores)},
        "model": origin["model"],
        "seed": configuration.source.seed,
        "versions": versions(),
        **counted(folder),
    }
    receipt = committed(configuration, folder, sampled_receipt(game).with_provenance(provenance))
    folder.workspace.finish(folder.receipt, receipt.text().encode())
