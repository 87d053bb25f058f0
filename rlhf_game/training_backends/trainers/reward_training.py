"""Reward models from preferences: a convex fit on frozen features, or TRL's RewardTrainer on a whole network or LoRA.

The loss is the identified Bradley-Terry loss: the mean over pairs of -log sigma(d) + smoothing d + eta s^2, where
d = r(chosen) - r(rejected) and s = r(chosen) + r(rejected); TRL calls eta ``center_rewards_coefficient``.
"""

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_game.errors import InputError, RunError, boundary
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reading import Truncate
from rlhf_game.training_backends.lm.reward_networks import set_head
from rlhf_game.training_backends.lm.scorers import Classifier, Embedder, load_backbone, load_embedder
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints, last_checkpoint
from rlhf_game.training_backends.trainers.trl_arguments import REWARD_MODELS, check_arguments

Pair: TypeAlias = tuple[Text, Text, Text]
"""Prompt, chosen response, rejected response."""
Watch: TypeAlias = Callable[[str, int, int], None]


@final
@dataclass(frozen=True)
class Lora:
    """A low-rank adapter: its rank, the numerator of its scale, and the layers it is put on (None: peft's choice)."""

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0


@final
@dataclass(frozen=True)
class Finetuning:
    """How a network is trained; the defaults are those of small reward models, not of any paper."""

    lora: Lora | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 5e-5
    batch_size: int = 8
    max_length: int = 512
    has_dropout: bool = False
    eta: float = 0.01
    smoothing: float = 0.0
    seed: int = 0
    save_steps: int = 100
    trl: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's RewardConfig, those of ``trl_arguments.REWARD_MODELS`` only. With bf16 (mixed
    precision) the backbone under an adapter is kept in bfloat16; what is trained always is in float32."""

    def __post_init__(self) -> None:
        check_arguments(self.trl, REWARD_MODELS)


@final
@dataclass(frozen=True)
class TrainingResult:
    """What a training did."""

    steps: int
    losses: tuple[float, ...]
    """Logged along the way."""
    dropped: int
    """Pairs that are longer than max_length."""


@final
class _Trainer(SafeCheckpoints, RewardTrainer):
    """TRL's trainer with label smoothing: -(1 - e) log sigma(d) - e log sigma(-d) = -log sigma(d) + e d."""

    smoothing = 0.0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's mean loss."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)  # type: ignore[no-untyped-call]
        chosen, rejected = outputs.logits.squeeze(-1).chunk(2)
        loss = loss + self.smoothing * (chosen - rejected).mean()
        return (loss, outputs) if return_outputs else loss


@final
class _Watched(TrainerCallback):
    """Tells how far the training is."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Report the step that is done."""
        self._watch("train", state.global_step, state.max_steps)


def frozen_features(
    method: Literal["embedding", "head"],
    backbone: str,
    pairs: Sequence[Pair],
    *,
    truncate: Truncate | None = None,
    base: Path | None = None,
) -> tuple[Array, Array, dict[str, Any]]:
    """Return the features of chosen and rejected responses, [n, d] each, and where the backbone comes from.

    embedding: the mean-pooled unit vector of a sentence embedder; head: what a classification head sees. truncate: what
    is read of texts that are too long; None refuses them with an InputError.
    """
    first = [(prompt, chosen) for prompt, chosen, _ in pairs]
    second = [(prompt, rejected) for prompt, _, rejected in pairs]
    load: Callable[..., Embedder | Classifier] = load_embedder if method == "embedding" else load_backbone
    network = replace(load(backbone, base=base), truncate=truncate)
    table = network.features(first + second)
    return table[: len(pairs)], table[len(pairs) :], dict(network.provenance)


def finetune(
    backbone: str,
    pairs: Sequence[Pair],
    how: Finetuning,
    out: Path,
    *,
    head: tuple[Array, float] | None = None,
    base: Path | None = None,
    watch: Watch | None = None,
) -> TrainingResult:
    """Train a reward model and write it to the folder ``out``; a training that was stopped goes on where it was.

    head: the weights and bias to start from (a linear probe); else the head starts random by the seed. Checkpoints are
    kept beside ``out`` until it is whole; the same settings give the same weights however often it was stopped (on a
    CPU). Raises InputError when no pair fits in max_length, RunError when the loss is no number any more.
    """
    is_halved = how.lora is not None and bool(how.trl.get("bf16"))
    classifier = load_backbone(backbone, base=base, seed=how.seed, dtype="bfloat16" if is_halved else "float32")
    if head is not None:
        set_head(classifier, *head)
    rows = _rows(classifier, pairs, how.max_length)
    settings = classifier.model.config.get_text_config()
    own_pad = getattr(settings, "pad_token_id", None)
    known = len(classifier.tokenizer)
    pad = own_pad if own_pad is not None and own_pad < known else _unused_end(rows, known)
    work = out.with_name(out.name + ".work")
    with torch.random.fork_rng(), quiet_transformers():
        trainer = _Trainer(
            model=classifier.model,
            args=_arguments(how, work, len(rows)),
            train_dataset=Dataset.from_list(rows),
            data_collator=partial(_padded, pad=pad),
            processing_class=_with_pad(classifier.tokenizer, pad),
            peft_config=_lora(how.lora, classifier.missing),
        )
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        trainer.smoothing = how.smoothing
        trainer.remove_callback(PrinterCallback)
        if watch is not None:
            trainer.add_callback(_Watched(watch))
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
        losses = tuple(float(row["loss"]) for row in trainer.state.log_history if "loss" in row)
        if not np.isfinite(losses).all():
            raise RunError(f"the training of {backbone} diverged: its loss is no number; lower the learning rate")
        settings.pad_token_id = own_pad
        _save(trainer.model, classifier, out)
    shutil.rmtree(work, ignore_errors=True)
    return TrainingResult(int(trainer.state.global_step), losses, len(pairs) - len(rows))


def _rows(classifier: Classifier, pairs: Sequence[Pair], longest: int) -> list[dict[str, Any]]:
    """Return the pairs as the model will read them when it scores, and their ids under the names that TRL knows."""
    room = longest if classifier.room is None else min(longest, classifier.room)
    whole = replace(classifier, room=None)
    rows = []
    for prompt, *responses in pairs:
        chosen, rejected = (whole.encode(prompt, response) for response in responses)
        ids = {"chosen_ids": chosen["input_ids"], "rejected_ids": rejected["input_ids"]}
        if max(map(len, ids.values())) <= room:
            rows.append({**ids, "chosen": chosen, "rejected": rejected})
    if not rows:
        raise InputError(f"max_length must leave pairs to train on, all {len(pairs)} are longer than {room} tokens")
    return rows


def _padded(rows: Sequence[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Return chosen texts and then rejected ones, [2 n, width] of each tensor: TRL's batch, with all that is read."""
    texts = [row[side] for side in ("chosen", "rejected") for row in rows]
    texts = [{"attention_mask": [1] * len(text["input_ids"]), **text} for text in texts]
    width = max(len(text["input_ids"]) for text in texts)
    fill = {name: pad if name == "input_ids" else 0 for name in texts[0]}
    return {
        name: torch.tensor([text[name] + [value] * (width - len(text[name])) for text in texts])
        for name, value in fill.items()
    }


def _unused_end(rows: Sequence[dict[str, Any]], vocabulary: int) -> int:
    """Return an id that no text ends with.

    A model whose configuration has no pad id takes a text's last token. With this one for its pad id while it is
    trained, it does so in batches too.
    """
    ends = {row[side][-1] for row in rows for side in ("chosen_ids", "rejected_ids")}
    unused = next((token for token in reversed(range(vocabulary)) if token not in ends), None)
    if unused is None:
        raise InputError("backbone: must have a pad id in its configuration where texts end with every token there is")
    return unused


def _with_pad(tokenizer: PreTrainedTokenizerBase, pad: int) -> PreTrainedTokenizerBase:
    """Return a copy with that pad token: TRL and transformers give the model's configuration the tokenizer's."""
    known = copy.deepcopy(tokenizer)
    known.pad_token = str(known.convert_ids_to_tokens(pad))
    return known


def _arguments(how: Finetuning, work: Path, rows: int) -> Any:
    defaults = {"bf16": False, "activation_checkpointing": False, "report_to": "none", "logging_steps": 10}
    with boundary("trl", InputError):
        return _reward_config(how, work, rows, {**defaults, **how.trl})


def _reward_config(how: Finetuning, work: Path, rows: int, further: Mapping[str, Any]) -> Any:
    return RewardConfig(
        output_dir=str(work),
        num_train_epochs=how.epochs,
        max_steps=-1 if how.max_steps is None else how.max_steps,
        learning_rate=how.learning_rate,
        per_device_train_batch_size=min(how.batch_size, rows),
        max_length=None,
        remove_unused_columns=False,
        center_rewards_coefficient=how.eta or None,
        disable_dropout=not how.has_dropout,
        seed=how.seed,
        data_seed=how.seed,
        save_strategy="steps",
        save_steps=how.save_steps,
        save_total_limit=2,
        logging_first_step=True,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        **further,
    )


def _lora(lora: Lora | None, missing: Sequence[str]) -> LoraConfig | None:
    """Return peft's settings. missing: parameters that are new, which an adapter must hold (peft sees to the head)."""
    if lora is None:
        return None
    new = {name.rpartition(".")[0] for name in missing}
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=None if lora.targets is None else list(lora.targets),
        lora_dropout=lora.dropout,
        modules_to_save=sorted(name for name in new if name.partition(".")[0] not in ("score", "classifier")),
        task_type="SEQ_CLS",
    )


def _save(model: Any, classifier: Classifier, out: Path) -> None:
    """Write weights and tokenizer whole or not at all."""
    fresh = out.with_name(out.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.save_pretrained(fresh)
    classifier.tokenizer.save_pretrained(fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
