"""Supervised fine-tuning of a language model on prompts and responses into a folder, resumably."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from datasets import Dataset

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Text, response_of, text_of
from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.optimization import (
    ARGUMENTS,
    SUPERVISED,
    Optimization,
    Pretrained,
    check_arguments,
    document_of_training,
    place_of_model,
)
from rlhf_game.training_backends.lm.models import LanguageModel, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.distiller import Distiller, make_distiller, sft_settings
from rlhf_game.training_backends.trainers.policies.policy_folders import (
    CARD,
    TrainedFolder,
    begin,
    check_start,
    counted,
    explained,
    finish,
    read_finished,
    take_adapter,
    train_from_last,
)
from rlhf_game.training_backends.trainers.policies.watching import FiniteWeightsCallback, ProgressCallback
from rlhf_game.training_backends.trainers.token_rows import labelled, ordered
from rlhf_game.training_backends.trainers.trl_arguments import trl_arguments


@final
@dataclass(frozen=True)
class Example:
    """What is to be written to a prompt; ``lead`` is its beginning, which is read as tokens of its own."""

    prompt: Text
    response: Text
    lead: str = ""
    is_finished: bool = True
    """False: it was cut where it stops, and no end is to be written there."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", text_of(self.prompt, "prompt"))
        object.__setattr__(self, "response", response_of(self.response, "response"))
        if not self.is_finished and not self.lead and not self.response:
            raise InputError("response must not be empty where it was cut, got nothing to write")


@final
@dataclass(frozen=True)
class SupervisedTraining:
    """One fine-tuning: the mean negative log-probability of the responses' tokens, in nats. Raises InputError."""

    model: Pretrained
    optimization: Optimization = SUPERVISED
    start: str | None = None
    """The folder of an earlier training on the same ``model`` whose weights this one begins with."""
    max_length: int = 512
    """Tokens of prompt and response; longer examples are left out."""
    system: str | None = None

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise InputError(f"max_length must be >= 1, got {self.max_length}")
        self.optimization.must_have_no_dropout()
        check_arguments(dict(self.optimization.trl), ARGUMENTS)


@final
@dataclass(frozen=True)
class Supervised(TrainedFolder):
    """A finished fine-tuning."""

    dropped: int
    """Examples that are longer than max_length."""
    losses: tuple[float, ...]
    """Of each step."""


def train_supervised(
    training: SupervisedTraining,
    examples: Sequence[Example],
    out: Path,
    *,
    base: Path | None = None,
    watch: Progress | None = None,
) -> Supervised:
    """Fine-tune a language model into the folder ``out``, going on from its last whole checkpoint.

    A finished training is only read. The same training gives the same weights however often it was stopped (on a CPU).
    Raises InputError when ``out`` is another training's or no example fits, RunError when the training diverges.
    """
    start = None if training.start is None else place_of_model(training.start, base)
    training = replace(training, model=training.model.placed(base), start=start)
    how = training.optimization
    asked = json.dumps([asdict(example) for example in examples], sort_keys=True)
    document: dict[str, Any] = {
        "training": json.loads(json.dumps(document_of_training(training))),
        "examples_sha256": hashlib.sha256(asked.encode()).hexdigest(),
    }
    lengths = f"max_length (now {training.max_length})"
    with torch.random.fork_rng(), quiet_transformers(), explained(training.optimization, out, lengths):
        torch.manual_seed(how.seed)  # a LoRA's first weights
        begin(document, out)
        if not (out / CARD).exists():
            model = _load(training)
            rows = _rows(model, examples, training)
            trainer = _trainer(training, model, rows, out, watch or unwatched)
            train_from_last(trainer, out, watch or unwatched, _log)
            log = _log(trainer.state.log_history)
            done = {"dropped_examples": len(examples) - len(rows), **counted(trainer)}
            finish(trainer, out, {**document, **done}, log)
    card, steps = read_finished(out, f"{out}: must hold a trained policy")
    return Supervised(out, card["steps"], card["dropped_examples"], tuple(row["loss"] for row in steps))


def _log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"step": int(row["step"]), "loss": float(row["loss"]), "seconds": float(row.get("step_time", 0.0))}
        for row in history
        if "loss" in row
    ]


def _load(training: SupervisedTraining) -> LanguageModel:
    """Return the model to train: of a whole network that goes on, with the weights that it begins with."""
    model = training.model
    if training.start is not None:
        start = Path(training.start)
        card, _ = read_finished(start, f"start: {start} must hold a trained policy")
        check_start(card, start, model, training.optimization)
        if training.optimization.lora is None:
            model = replace(model, name=str(start / "model"), revision=None)
    return load_trainable(model, training.optimization)


def _rows(model: LanguageModel, examples: Sequence[Example], training: SupervisedTraining) -> list[dict[str, Any]]:
    found = []
    for example in examples:
        prompt, response = model.encode_exchange(example.prompt, example.response, training.system)
        target = [*encode_lead(model, example.lead), *(response if example.is_finished else response[:-1])]
        if len(prompt) + len(target) <= training.max_length:
            found.append(labelled(prompt, target))
    if not found:
        raise InputError(
            f"max_length must leave examples to train on, all {len(examples)} are longer than {training.max_length} "
            "tokens"
        )
    return found


def encode_lead(model: LanguageModel, lead: str) -> list[int]:
    """Return the token ids of the beginning of a response."""
    return list(model.tokenizer(lead, add_special_tokens=False).input_ids) if lead else []


def _trainer(
    training: SupervisedTraining, model: LanguageModel, rows: list[dict[str, Any]], out: Path, watch: Progress
) -> Distiller:
    how = training.optimization
    steps = how.steps_for(len(rows))
    common = trl_arguments(how, training.model, out / "checkpoints", steps=steps)
    with boundary("trl", InputError):
        settings = sft_settings(common)
    table = Dataset.from_list(rows).select(ordered(how, len(rows), settings.world_size))
    guards = [FiniteWeightsCallback(how.learning_rate), ProgressCallback(watch)]
    trainer = make_distiller(model, settings, table, how.lora, guards)
    if training.start is not None and how.lora is not None:
        take_adapter(trainer, training.start)
    return trainer
