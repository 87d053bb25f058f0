"""Train a policy on preference pairs into a folder, resumably."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import document_of, response_of, text_of
from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.files.workspace import Workspace
from rlhf_game.optimization import Pretrained, place_of_model
from rlhf_game.training_backends.lm.models import LanguageModel, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.sampling import log_probabilities
from rlhf_game.training_backends.trainers.policies.policy_folders import (
    CARD,
    TrainedFolder,
    begin,
    check_start,
    explained,
    finish,
    read_finished,
    take_adapter,
    train_from_last,
)
from rlhf_game.training_backends.trainers.policies.watching import FiniteWeightsCallback, ProgressCallback
from rlhf_game.training_backends.trainers.preferences.preference_rows import TokenPair, encode_pairs, fitting
from rlhf_game.training_backends.trainers.preferences.preference_settings import PreferenceTraining
from rlhf_game.training_backends.trainers.preferences.trainer import REFERENCE, PairTrainer, make_settings, make_trainer
from rlhf_game.training_backends.trainers.reward_training import Pair
from rlhf_game.training_backends.trainers.token_rows import ordered


@final
@dataclass(frozen=True)
class TrainedOnPreferences(TrainedFolder):
    """A policy that was trained on pairs."""

    tokens: int
    """Of prompts and responses that were trained on, by all processes."""
    dropped: int
    """Pairs that are longer than max_length."""
    log: tuple[dict[str, Any], ...]
    """Per step: loss, reward_chosen, reward_rejected, margin, accuracy, gradient_norm, learning_rate."""


def train_preferences(
    training: PreferenceTraining,
    pairs: Sequence[Pair],
    out: Path,
    *,
    columns: Mapping[str, Sequence[float]] | None = None,
    base: Path | None = None,
    watch: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainedOnPreferences:
    """Train a policy on pairs into the folder ``out``, going on from its last whole checkpoint; a finished one is read.

    pairs: (prompt, chosen, rejected), texts or messages, [n]. columns: further numbers of the pairs by name, [n]
    each, for losses that want them. base: the folder that the model's path starts from. The reference is
    ``training.model`` as it is stored, whatever ``training.start`` is: its log-probabilities are computed once, before
    the first step. The same training gives the same weights however often it was stopped (on a CPU). With hard labels
    ``strength`` = 1:

        train_preferences(
            PreferenceTraining(Pretrained(model), "spce", 0.1, replace(PREFERENCES, lora=Lora(8), steps=20)),
            [(prompt, better, worse), ...], folder, columns={"strength": [0.9, ...]},
        )

    A later round on fresh pairs, against the same reference, is another folder with ``start`` the one before.
    Raises InputError when ``out`` is another training's or something does not fit, RunError when the training diverges
    or memory runs out; the last whole checkpoint stays.
    """
    watch = watch or unwatched
    columns = {name: [float(value) for value in values] for name, values in (columns or {}).items()}
    pairs = [_pair(pair, f"pairs[{k}]") for k, pair in enumerate(pairs)]
    _check_columns(training, pairs, columns)
    training = replace(
        training,
        model=training.model.placed(base),
        start=training.start and place_of_model(training.start, base),
    )
    asked = json.dumps([list(map(list, pairs)), columns], sort_keys=True, default=document_of)
    document = {"training": training.document(), "pairs_sha256": hashlib.sha256(asked.encode()).hexdigest()}
    document, how = json.loads(json.dumps(document)), training.optimization
    with (
        torch.random.fork_rng(),
        quiet_transformers(),
        explained(how, out, f"max_length (now {training.max_length})"),
    ):
        settings = make_settings(training, out / "checkpoints")
        if settings.should_save:
            begin(document, out)
        settings.distributed_state.wait_for_everyone()
        if not (out / CARD).exists():
            model = _load(training, training.model)
            if training.start is not None:
                card = _read_card(Path(training.start))[0]
                check_start(card, Path(training.start), training.model, how)
            rows = fitting(encode_pairs(model, pairs, training.system), training.max_length)
            order = ordered(how, len(rows), settings.world_size)
            settings.warmup_steps = ceil(how.warmup * len(order) / (how.rows * settings.world_size))
            used = sorted(set(order))  # a short training does not see all pairs
            references = _references(model, [rows[k][1] for k in used], out, settings, watch)
            provenance = dict(model.provenance)
            if training.start is not None and training.optimization.lora is None:
                model = _load(training, replace(training.model, name=str(Path(training.start) / "model")))
            table = _table([rows[k] for k in used], references, columns).select(np.searchsorted(used, order))
            guards = [FiniteWeightsCallback(how.learning_rate), ProgressCallback(watch), *callbacks]
            trainer = make_trainer(training, settings, model, table, training.objective.columns, guards)
            _train(trainer, training, out, watch)
            tokens = sum(rows[k][1].tokens for k in order)
            done = {"tokens": tokens, "dropped_pairs": len(pairs) - len(rows), "reference": provenance}
            log = _log(trainer.state.log_history)
            finish(trainer, out, {**document, **done}, log)
    return read_trained(out)


def _pair(pair: Pair, where: str) -> Pair:
    prompt, chosen, rejected = pair
    return text_of(prompt, where), response_of(chosen, where), response_of(rejected, where)


def _check_columns(training: PreferenceTraining, pairs: Sequence[Pair], columns: Mapping[str, Sequence[float]]) -> None:
    if not pairs:
        raise InputError("pairs must hold at least one pair, got none")
    for name in training.objective.columns:
        if name not in columns:
            raise InputError(f"columns must hold {name} for loss {training.objective.name}, got {list(columns)}")
    for name, values in columns.items():
        if len(values) != len(pairs) or not np.isfinite(values).all():
            raise InputError(f"columns[{name!r}] must hold {len(pairs)} numbers, one per pair, got {len(values)}")
    for value in columns.get("strength", ()) if "strength" in training.objective.columns else ():
        if not 0 <= value <= 1:
            raise InputError(f"columns['strength'] must be in [0, 1], got {value}")


def _load(training: PreferenceTraining, model: Pretrained) -> LanguageModel:
    return load_trainable(model, training.optimization, device=model.device)


def _references(
    model: LanguageModel, pairs: Sequence[TokenPair], out: Path, settings: Any, watch: Progress
) -> tuple[list[float], list[float]]:
    """Return log ref(y|x) of chosen and of rejected responses, [n] each, in nats; computed once per folder."""
    known = out / "reference.json"
    if settings.should_save and not known.exists():
        prompts = [pair.prompt for pair in pairs]
        watch("reference", 0, 2)
        chosen = log_probabilities(model, prompts, [pair.chosen for pair in pairs])
        watch("reference", 1, 2)
        rejected = log_probabilities(model, prompts, [pair.rejected for pair in pairs])
        Workspace(out).write_json(known, {"chosen": chosen.tolist(), "rejected": rejected.tolist()})
    settings.distributed_state.wait_for_everyone()
    found = Workspace(out).read_json(known)
    return found["chosen"], found["rejected"]


def _table(
    rows: Sequence[tuple[int, TokenPair]],
    references: tuple[Sequence[float], Sequence[float]],
    columns: Mapping[str, Sequence[float]],
) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt_ids": [list(pair.prompt) for _, pair in rows],
            "chosen_ids": [list(pair.chosen) for _, pair in rows],
            "rejected_ids": [list(pair.rejected) for _, pair in rows],
            **dict(zip(REFERENCE, references, strict=True)),
            **{name: [values[k] for k, _ in rows] for name, values in columns.items()},
        }
    )


def _train(trainer: PairTrainer, training: PreferenceTraining, out: Path, watch: Progress) -> None:
    if training.start is not None and training.optimization.lora is not None:
        take_adapter(trainer, training.start)
    train_from_last(trainer, out, watch, _log)


def _log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = {
        "step": "step", "loss": "loss", "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected",
        "margin": "rewards/margins", "accuracy": "rewards/accuracies", "gradient_norm": "grad_norm",
        "learning_rate": "learning_rate",
    }  # fmt: skip
    return [{name: row[logged] for name, logged in names.items()} for row in history if "loss" in row]


def read_trained(out: Path) -> TrainedOnPreferences:
    """Return the finished policy in a folder. Raises InputError when there is none."""
    card, log = _read_card(out)
    return TrainedOnPreferences(
        folder=out,
        steps=card["steps"],
        tokens=card["tokens"],
        dropped=card["dropped_pairs"],
        log=log,
    )


def _read_card(out: Path) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    must = f"{out}: must hold a policy trained on preferences"
    card, log = read_finished(out, must)
    if "pairs_sha256" not in card:
        raise InputError(f"{must}, found one trained on rewards")
    return card, log
