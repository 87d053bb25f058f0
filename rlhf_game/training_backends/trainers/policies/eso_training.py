"""Train a policy on demonstrations by SFT, with ESO in the last epochs, into a folder, resumably."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, final

import torch
from datasets import Dataset
from transformers import PrinterCallback

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Text, document_of, response_of, text_of
from rlhf_game.files.identity import digest_of
from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.optimization import ARGUMENTS, ESO, Optimization, Pretrained, check_arguments, document_of_training
from rlhf_game.training_backends.lm.models import LanguageModel, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.distiller import sft_settings
from rlhf_game.training_backends.trainers.policies.eso_trainer import EsoTrainer
from rlhf_game.training_backends.trainers.policies.policy_folders import (
    CARD,
    COST,
    TrainedFolder,
    begin,
    counted,
    explained,
    finish,
    read_finished,
    train_from_last,
)
from rlhf_game.training_backends.trainers.policies.trainers import TrlReward, refuse_ranks
from rlhf_game.training_backends.trainers.policies.watching import FiniteWeightsCallback, ProgressCallback
from rlhf_game.training_backends.trainers.token_rows import labelled, ordered
from rlhf_game.training_backends.trainers.trl_arguments import lora_config, trl_arguments

Demonstration: TypeAlias = tuple[Text, Text]
"""A prompt and a completion."""


@final
@dataclass(frozen=True)
class EsoTraining:
    """One supervised fine-tuning, with ESO's loss in its last ``eso_epochs``; the defaults are the paper's.

    A step reads batch_size * accumulation_steps rows on each device. Raises InputError where a value makes no sense.
    """

    model: Pretrained
    weight: float = 0.05
    """Of ESO's loss beside TRL's SFT loss, the mean over target tokens; 0 leaves ESO out."""
    temperatures: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """One sample to a prompt at each."""
    eso_epochs: int = 1
    optimization: Optimization = ESO
    """Its epochs are whole ones, and it has no steps of its own."""
    max_length: int = 512
    """Tokens of prompt and completion; longer rows are left out."""
    max_new_tokens: int = 128
    system: str | None = None

    def __post_init__(self) -> None:
        for name in ("eso_epochs", "max_length", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        how = self.optimization
        if how.steps is not None or how.epochs != int(how.epochs):
            raise InputError(f"epochs must be an integer, without steps, got {how.epochs} and {how.steps}")
        if self.eso_epochs > how.epochs:
            raise InputError(f"eso_epochs must be at most epochs = {int(how.epochs)}, got {self.eso_epochs}")
        if not (isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"weight must be a number >= 0, got {self.weight}")
        if len(self.temperatures) < 2 or not all(isfinite(t) and t > 0 for t in self.temperatures):
            raise InputError(f"temperatures must be two or more numbers > 0, got {list(self.temperatures)}")
        how.must_have_no_dropout()
        check_arguments(dict(how.trl), ARGUMENTS)

    def document(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON has it."""
        return {**document_of_training(self), "temperatures": list(self.temperatures)}


@final
@dataclass(frozen=True)
class TrainedEso(TrainedFolder):
    """A policy that was trained on demonstrations."""

    first_eso_step: int
    """The number of steps before ESO's loss began."""
    dropped: int
    """Rows longer than max_length."""
    tokens: int
    """Read and generated, by all processes."""
    seconds: float
    log: tuple[dict[str, Any], ...]
    """Per step: loss, its part from SFT, ESO's loss and mean reward where it was on, seconds."""


def train_eso(
    training: EsoTraining,
    rows: Sequence[Demonstration],
    reward: TrlReward,
    out: Path,
    *,
    base: Path | None = None,
    watch: Progress | None = None,
) -> TrainedEso:
    """Train into the folder ``out``, going on from its last whole checkpoint; a finished training is only read.

    reward: of a response; it is told the row's completion by the keyword ``completion``. base: the folder that the
    model's path starts from. Under torchrun or accelerate every process calls this; the first one writes. The same
    training gives the same weights however often it was stopped (on a CPU). Raises InputError when ``out`` is another
    training's or no row fits, RunError when the training diverges or memory runs out; the last whole checkpoint stays.
    """
    refuse_ranks({"reward": reward})
    training = replace(training, model=training.model.placed(base))
    rows = [(text_of(asked, f"rows[{k}]"), response_of(said, f"rows[{k}]")) for k, (asked, said) in enumerate(rows)]
    told = hashlib.sha256(json.dumps([list(row) for row in rows], default=document_of).encode()).hexdigest()
    what = {"trainer": "eso", **training.document()}
    document = json.loads(json.dumps({"training": what, "rows_sha256": told, "reward": digest_of(reward)}))
    lengths = f"max_new_tokens (now {training.max_new_tokens})"
    with torch.random.fork_rng(), quiet_transformers(), explained(training.optimization, out, lengths):
        torch.manual_seed(training.optimization.seed)  # a LoRA's first weights
        settings = _settings(training, out / "checkpoints")
        if settings.should_save:
            begin(document, out)
        settings.distributed_state.wait_for_everyone()
        if not (out / CARD).exists():
            trainer, more = _trainer(training, settings, rows, reward)
            trainer.add_callback(FiniteWeightsCallback(training.optimization.learning_rate))
            trainer.add_callback(ProgressCallback(watch or unwatched))
            train_from_last(trainer, out, watch or unwatched, _log)
            log = _log(trainer.state.log_history)
            finish(trainer, out, {**document, **more, **counted(trainer)}, log)
    return _read(out)


def _settings(training: EsoTraining, work: Path) -> Any:
    common = trl_arguments(training.optimization, training.model, work, steps=1)  # until the number of rows is known
    with boundary("trl", InputError):
        return sft_settings({"ddp_find_unused_parameters": False, **common})


def _trainer(
    training: EsoTraining, settings: Any, rows: Sequence[Demonstration], reward: TrlReward
) -> tuple[EsoTrainer, dict[str, Any]]:
    """Return the trainer, and what the card says of the rows."""
    model = load_trainable(training.model, training.optimization)
    encoded = encode_rows(training, model, rows)
    how, count, processes = training.optimization, len(encoded), settings.world_size
    settings.max_steps = how.steps_for(count, processes)
    settings.warmup_steps = ceil(how.warmup * settings.max_steps)
    trainer = EsoTrainer(
        model=model.model,
        args=settings,
        train_dataset=Dataset.from_list(encoded).select(ordered(how, count, processes)),
        processing_class=model.tokenizer,
        peft_config=lora_config(how.lora),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.language_model, trainer.reward = model, reward
    told = ((model.encode_exchange(*row, training.system), row) for row in rows)
    trainer.rows = {(*before, *after): row for (before, after), row in told}
    trainer.weight, trainer.temperatures = training.weight, training.temperatures
    trainer.first_step = ceil((how.epochs - training.eso_epochs) * count / (how.rows * processes))
    trainer.max_new_tokens = training.max_new_tokens
    trainer.since = perf_counter()
    return trainer, {"first_eso_step": trainer.first_step, "dropped": len(rows) - count}


def encode_rows(
    training: EsoTraining, model: LanguageModel, rows: Sequence[Demonstration]
) -> list[dict[str, list[int]]]:
    """Return token ids and labels of the rows that fit; a completion ends with the end token.

    Raises InputError when none fits.
    """
    room = getattr(model.model.config, "max_position_embeddings", None) or training.max_length
    found = []
    for prompt, completion in rows:
        before, after = model.encode_exchange(prompt, completion, training.system)
        is_short = len(before) + len(after) <= training.max_length
        if is_short and len(before) + max(len(after), training.max_new_tokens) <= room:
            found.append(labelled(before, after))
    if not found:
        raise InputError(
            f"max_length must leave rows to train on, all {len(rows)} are longer than {training.max_length} tokens or "
            f"leave no room for max_new_tokens = {training.max_new_tokens} in the model's {room}"
        )
    return found


def _log(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = ("loss", "sft_loss", "eso_loss", "eso_reward", "grad_norm", "learning_rate", "num_tokens")
    return [
        {"step": int(row["step"]), **{name: row.get(name) for name in names}, "seconds": float(row["step_time"])}
        for row in history
        if "loss" in row
    ]


def _read(out: Path) -> TrainedEso:
    card, log = read_finished(out, f"{out}: must hold a trained policy")
    return TrainedEso(
        folder=out,
        steps=card["steps"],
        first_eso_step=card["first_eso_step"],
        dropped=card["dropped"],
        tokens=card["tokens"],
        seconds=json.loads((out / COST).read_text(encoding="utf-8"))["seconds"],
        log=log,
    )
