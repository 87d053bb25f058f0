"""Train a policy on demonstrations by SFT, with ESO in the last epochs, into a folder, resumably."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias, final

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, document_of, response_of, text_of
from rlhf_game.files.identity import digest_of
from rlhf_game.training_backends.lm.models import LanguageModel, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.policies.building import lora_config
from rlhf_game.training_backends.trainers.policies.eso_trainer import IGNORED, EsoTrainer
from rlhf_game.training_backends.trainers.policies.policy_folders import (
    CARD,
    begin,
    counted,
    explained,
    finish,
    place_of_model,
    train_from_last,
    unwatched,
)
from rlhf_game.training_backends.trainers.policies.trainers import TrlReward, refuse_ranks
from rlhf_game.training_backends.trainers.policies.watching import FiniteWeightsCallback, ProgressCallback, Watch
from rlhf_game.training_backends.trainers.reward_training import Lora

Demonstration: TypeAlias = tuple[Text, Text]
"""A prompt and a completion."""


@final
@dataclass(frozen=True)
class EsoTraining:
    """One supervised fine-tuning, with ESO's loss in its last ``eso_epochs``; the defaults are the paper's.

    A step reads batch_size * accumulation_steps rows on each device. Raises InputError where a value makes no sense.
    """

    model: str
    weight: float = 0.05
    """Of ESO's loss beside TRL's SFT loss, the mean over target tokens; 0 leaves ESO out."""
    temperatures: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """One sample to a prompt at each."""
    epochs: int = 5
    eso_epochs: int = 1
    lora: Lora | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 0.05
    batch_size: int = 8
    accumulation_steps: int = 1
    max_length: int = 512
    """Tokens of prompt and completion; longer rows are left out."""
    max_new_tokens: int = 128
    system: str | None = None
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    revision: str | None = None
    seed: int = 0
    save_steps: int = 50
    keeps_checkpoints: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "eso_epochs", "batch_size", "accumulation_steps", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if self.eso_epochs > self.epochs:
            raise InputError(f"eso_epochs must be at most epochs = {self.epochs}, got {self.eso_epochs}")
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate must be a number > 0, got {self.learning_rate}")
        for name in ("weight", "weight_decay"):
            if not (isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} must be a number >= 0, got {getattr(self, name)}")
        if len(self.temperatures) < 2 or not all(isfinite(t) and t > 0 for t in self.temperatures):
            raise InputError(f"temperatures must be two or more numbers > 0, got {list(self.temperatures)}")
        if self.lora is not None and self.lora.dropout > 0:
            raise InputError(f"lora.dropout must be 0 (what is sampled is what is trained), got {self.lora.dropout}")

    @property
    def kl_limit(self) -> None:
        """There is no reference to have a KL to."""
        return

    def document(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON has it."""
        return {**asdict(self), "temperatures": list(self.temperatures)}


@final
@dataclass(frozen=True)
class TrainedEso:
    """A training that is done, in its folder: model/, steps.jsonl and policy.json."""

    folder: Path
    steps: int
    first_eso_step: int
    """The number of steps before ESO's loss began."""
    dropped: int
    """Rows longer than max_length."""
    tokens: int
    """Read and generated, by all processes."""
    seconds: float
    log: tuple[dict[str, Any], ...]
    """Per step: loss, its part from SFT, ESO's loss and mean reward where it was on, seconds."""


@final
@dataclass(frozen=True)
class _Schedule:
    """Steps of so many rows each, over passes through the rows in an order of its own."""

    each: int
    steps: int
    first_eso_step: int

    @classmethod
    def of(cls, training: EsoTraining, rows: int, processes: int) -> "_Schedule":
        each = training.batch_size * training.accumulation_steps * processes
        before = (training.epochs - training.eso_epochs) * rows
        return cls(each, -(-training.epochs * rows // each), -(-before // each))

    def order(self, rows: int, seed: int) -> Any:
        """Return the row of each place of each step, [steps each]; the last step is filled from one more pass."""
        rng = np.random.default_rng(seed)
        passes = -(-self.steps * self.each // rows)
        return np.concatenate([rng.permutation(rows) for _ in range(passes)])[: self.steps * self.each]


def train_eso(
    training: EsoTraining,
    rows: Sequence[Demonstration],
    reward: TrlReward,
    out: Path,
    *,
    base: Path | None = None,
    watch: Watch | None = None,
) -> TrainedEso:
    """Train into the folder ``out``, going on from its last whole checkpoint; a finished training is only read.

    reward: of a response; it is told the row's completion by the keyword ``completion``. base: the folder that the
    model's path starts from. Under torchrun or accelerate every process calls this; the first one writes. The same
    training gives the same weights however often it was stopped (on a CPU). Raises InputError when ``out`` is another
    training's or no row fits, RunError when the training diverges or memory runs out; the last whole checkpoint stays.
    """
    refuse_ranks({"reward": reward})
    training = replace(training, model=place_of_model(training.model, base))
    rows = [(text_of(asked, f"rows[{k}]"), response_of(said, f"rows[{k}]")) for k, (asked, said) in enumerate(rows)]
    told = hashlib.sha256(json.dumps([list(row) for row in rows], default=document_of).encode()).hexdigest()
    what = {"trainer": "eso", **training.document()}
    document = json.loads(json.dumps({"training": what, "rows_sha256": told, "reward": digest_of(reward)}))
    with torch.random.fork_rng(), quiet_transformers(), explained(training, out):
        torch.manual_seed(training.seed)  # a LoRA's first weights
        settings = _settings(training, out / "checkpoints")
        if settings.should_save:
            begin(document, out)
        settings.distributed_state.wait_for_everyone()
        if not (out / CARD).exists():
            trainer, more = _trainer(training, settings, rows, reward)
            trainer.add_callback(FiniteWeightsCallback(training))
            trainer.add_callback(ProgressCallback(watch or unwatched))
            train_from_last(trainer, out, watch or unwatched)
            log = _log(trainer.state.log_history)
            finish(trainer, out, {**document, **more, **counted(trainer, log)}, log)
    return _read(out)


def _settings(training: EsoTraining, work: Path) -> Any:
    return SFTConfig(
        output_dir=str(work),
        max_steps=1,  # until the number of rows is known
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        lr_scheduler_type="cosine",
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation_steps,
        train_sampling_strategy="sequential",  # the rows are in order already
        max_length=None,
        seed=training.seed,
        data_seed=training.seed,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=None if training.keeps_checkpoints else 2,
        ddp_find_unused_parameters=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        use_cpu=training.device == "cpu" or not torch.cuda.is_available(),
        bf16=training.dtype == "bfloat16",
        activation_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )


def _trainer(
    training: EsoTraining, settings: Any, rows: Sequence[Demonstration], reward: TrlReward
) -> tuple[EsoTrainer, dict[str, Any]]:
    """Return the trainer, and what the card says of the rows."""
    # A LoRA's backbone is frozen and may be coarse; weights that are trained in bfloat16 would swallow small updates.
    dtype = training.dtype if training.lora is not None else "float32"
    model = load_trainable(
        training.model, revision=training.revision, device="cpu", dtype=dtype, folds_system=training.fold_system
    )
    encoded = encode_rows(training, model, rows)
    schedule = _Schedule.of(training, len(encoded), settings.world_size)
    settings.max_steps = schedule.steps
    trainer = EsoTrainer(
        model=model.model,
        args=settings,
        train_dataset=Dataset.from_list(encoded).select(schedule.order(len(encoded), training.seed)),
        processing_class=model.tokenizer,
        peft_config=lora_config(training.lora),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.language_model, trainer.reward = model, reward
    told = ((model.encode_exchange(*row, training.system), row) for row in rows)
    trainer.rows = {(*before, *after): row for (before, after), row in told}
    trainer.weight, trainer.temperatures = training.weight, training.temperatures
    trainer.first_step, trainer.max_new_tokens = schedule.first_eso_step, training.max_new_tokens
    trainer.since = perf_counter()
    return trainer, {"first_eso_step": schedule.first_eso_step, "dropped": len(rows) - len(encoded)}


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
            found.append({"input_ids": [*before, *after], "labels": [IGNORED] * len(before) + after})
    if not found:
        raise InputError(
            f"max_length must leave rows to train on, all {len(rows)} are longer than {training.max_length} tokens or "
            f"leave no room for max_new_tokens = {training.max_new_tokens} in the model's {room}"
        )
    return found


def _log(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = ("loss", "sft_loss", "eso_loss", "eso_reward", "grad_norm", "learning_rate", "num_tokens")
    return [
        {"step": int(row["step"]), **{name: row.get(name) for name in names}, "seconds": float(row["step_time"])}
        for row in history
        if "loss" in row
    ]


def _read(out: Path) -> TrainedEso:
    card = json.loads((out / CARD).read_text(encoding="utf-8"))
    lines = (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return TrainedEso(
        folder=out,
        steps=card["steps"],
        first_eso_step=card["first_eso_step"],
        dropped=card["dropped"],
        tokens=card["tokens"],
        seconds=card["seconds"],
        log=tuple(json.loads(line) for line in lines),
    )
