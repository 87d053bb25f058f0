"""Supervised fine-tuning of a language model on prompts and responses into a folder, resumably."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import torch
from datasets import Dataset
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.utils import disable_dropout_in_model

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, response_of, text_of
from rlhf_game.training_backends.lm.models import LanguageModel, load_trainable
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.policies.best_of_n import IGNORED, Distiller
from rlhf_game.training_backends.trainers.policies.building import lora_config
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
from rlhf_game.training_backends.trainers.policies.watching import FiniteWeightsCallback, ProgressCallback, Watch
from rlhf_game.training_backends.trainers.preferences.preference_rows import ordered
from rlhf_game.training_backends.trainers.reward_training import Lora

Schedule: TypeAlias = Literal["linear", "cosine", "constant"]


@final
@dataclass(frozen=True)
class Example:
    """What is to be written to a prompt; ``lead`` is its beginning, which is read as tokens of its own."""

    prompt: Text
    response: Text
    lead: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", text_of(self.prompt, "prompt"))
        object.__setattr__(self, "response", response_of(self.response, "response"))


@final
@dataclass(frozen=True)
class SupervisedTraining:
    """One fine-tuning: the mean negative log-probability of the responses' tokens, in nats. Raises InputError."""

    model: str
    start: str | None = None
    """The folder of an earlier training on the same ``model`` whose weights this one begins with."""
    lora: Lora | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    """Instead of epochs."""
    learning_rate: float = 2e-5
    schedule: Schedule = "linear"
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises."""
    batch_size: int = 8
    accumulation_steps: int = 1
    max_length: int = 512
    """Tokens of prompt and response; longer examples are left out."""
    system: str | None = None
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    revision: str | None = None
    seed: int = 0
    save_steps: int = 100
    keeps_checkpoints: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number > 0, got {value}")
        for name in ("batch_size", "accumulation_steps", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be >= 1, got {self.max_steps}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be in [0, 1), got {self.warmup}")
        if self.lora is not None and self.lora.dropout > 0:
            raise InputError(f"lora.dropout must be 0, got {self.lora.dropout}")

    @property
    def kl_limit(self) -> None:
        """None: nothing is drawn from the policy while it trains, so its KL is not known."""
        return


@final
@dataclass(frozen=True)
class Supervised:
    """A finished fine-tuning, in its folder: model/, steps.jsonl and policy.json; load_policy reads it."""

    folder: Path
    steps: int
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
    watch: Watch | None = None,
) -> Supervised:
    """Fine-tune a language model into the folder ``out``, going on from its last whole checkpoint.

    A finished training is only read. The same training gives the same weights however often it was stopped (on a CPU).
    Raises InputError when ``out`` is another training's or no example fits, RunError when the training diverges.
    """
    start = None if training.start is None else place_of_model(training.start, base)
    training = replace(training, model=place_of_model(training.model, base), start=start)
    asked = json.dumps([asdict(example) for example in examples], sort_keys=True)
    document: dict[str, Any] = {
        "training": json.loads(json.dumps(asdict(training))),
        "examples_sha256": hashlib.sha256(asked.encode()).hexdigest(),
    }
    with torch.random.fork_rng(), quiet_transformers(), explained(training, out, "max_length"):
        torch.manual_seed(training.seed)  # a LoRA's first weights
        begin(document, out)
        if not (out / CARD).exists():
            model = _load(training)
            rows = _rows(model, examples, training)
            trainer = _trainer(training, model, rows, out, watch or unwatched)
            train_from_last(trainer, out, watch or unwatched)
            log = [
                {"step": int(row["step"]), "loss": float(row["loss"]), "seconds": float(row.get("step_time", 0.0))}
                for row in trainer.state.log_history
                if "loss" in row
            ]
            done = {"dropped_examples": len(examples) - len(rows), **counted(trainer, log)}
            finish(trainer, out, {**document, **done}, log)
    card = json.loads((out / CARD).read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    return Supervised(out, card["steps"], card["dropped_examples"], tuple(row["loss"] for row in steps))


def _load(training: SupervisedTraining) -> LanguageModel:
    """Return the model to train: of a whole network that goes on, with the weights that it begins with."""
    dtype = training.dtype if training.lora is not None else "float32"
    name, revision = training.model, training.revision
    if training.start is not None:
        _check_start(training, Path(training.start))
        if training.lora is None:
            name, revision = str(Path(training.start) / "model"), None
    return load_trainable(name, revision=revision, device="cpu", dtype=dtype, folds_system=training.fold_system)


def _check_start(training: SupervisedTraining, folder: Path) -> None:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"start: {folder} must hold a trained policy, found no {CARD}") from error
    if card["training"]["model"] != training.model:
        raise InputError(f"start must be trained from model {training.model}, got one from {card['training']['model']}")
    if (folder / "model" / "adapter_config.json").exists() != (training.lora is not None):
        raise InputError(f"start must hold {'an adapter' if training.lora else 'a whole model'}, got {folder}")


def _rows(model: LanguageModel, examples: Sequence[Example], training: SupervisedTraining) -> list[dict[str, Any]]:
    found = []
    for example in examples:
        prompt, response = model.encode_exchange(example.prompt, example.response, training.system)
        target = [*encode_lead(model, example.lead), *response]
        if len(prompt) + len(target) <= training.max_length:
            found.append({"input_ids": [*prompt, *target], "labels": [IGNORED] * len(prompt) + target})
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
    training: SupervisedTraining, model: LanguageModel, rows: list[dict[str, Any]], out: Path, watch: Watch
) -> Distiller:
    steps = training.max_steps or ceil(
        training.epochs * len(rows) / (training.batch_size * training.accumulation_steps)
    )
    settings = SFTConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=ceil(training.warmup * steps),
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation_steps,
        seed=training.seed,
        data_seed=training.seed,
        save_strategy="steps",
        save_steps=training.save_steps,
        save_total_limit=None if training.keeps_checkpoints else 2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        use_cpu=training.device == "cpu" or not torch.cuda.is_available(),
        bf16=training.dtype == "bfloat16",
        activation_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        train_sampling_strategy="sequential",  # the rows are in order already
        dataset_kwargs={"skip_prepare_dataset": True},
        include_num_input_tokens_seen="non_padding",
    )
    disable_dropout_in_model(model.model)
    trainer = Distiller(
        model=model.model,
        args=settings,
        train_dataset=Dataset.from_list(rows).select(ordered(training, len(rows), settings.world_size)),
        processing_class=model.tokenizer,
        peft_config=lora_config(training.lora),
        callbacks=[FiniteWeightsCallback(training), ProgressCallback(watch)],
    )
    trainer.language_model = model
    trainer.remove_callback(PrinterCallback)
    if training.start is not None and training.lora is not None:
        set_peft_model_state_dict(
            trainer.model, load_file(Path(training.start) / "model" / "adapter_model.safetensors")
        )
    return trainer
