"""Reward models from preferences: a convex fit on frozen features, or TRL's RewardTrainer on a whole network or LoRA.

The loss is the identified Bradley-Terry loss: the mean over pairs of -log sigma(d) + smoothing d + eta s^2, where
d = r(chosen) - r(rejected) and s = r(chosen) + r(rejected); TRL calls eta ``center_rewards_coefficient``.
"""

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from rlhf_game.errors import InputError, RunError, boundary
from rlhf_game.files.conversations import Text
from rlhf_game.files.run_folder import Progress
from rlhf_game.mechanism.arrays import Array
from rlhf_game.optimization import REWARD_ARGUMENTS, REWARD_MODELS, Lora, Optimization, Pretrained, check_arguments
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reading import Truncate
from rlhf_game.training_backends.lm.reward_networks import set_head
from rlhf_game.training_backends.lm.scorers import Classifier, Embedder, load_backbone, load_embedder
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints, last_checkpoint
from rlhf_game.training_backends.trainers.trl_arguments import lora_config, trl_arguments

Pair: TypeAlias = tuple[Text, Text, Text]
"""Prompt, chosen response, rejected response."""
HERE: Final = Pretrained("backbone")
"""Reward models are trained where torch is, in float32 unless TRL's arguments say otherwise."""


@final
@dataclass(frozen=True)
class Finetuning:
    """How a network is trained; the defaults are those of small reward models, not of any paper."""

    optimization: Optimization = REWARD_MODELS
    """With ``bf16`` (mixed precision) among TRL's arguments, those of REWARD_ARGUMENTS only, the backbone under an
    adapter is kept in bfloat16; what is trained always is in float32."""
    max_length: int = 512
    has_dropout: bool = False
    eta: float = 0.01
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_arguments(dict(self.optimization.trl), REWARD_ARGUMENTS)


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

    def __init__(self, watch: Progress) -> None:
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
    watch: Progress | None = None,
) -> TrainingResult:
    """Train a reward model and write it to the folder ``out``; a training that was stopped goes on where it was.

    head: the weights and bias to start from (a linear probe); else the head starts random by the seed. Checkpoints are
    kept beside ``out`` until it is whole; the same settings give the same weights however often it was stopped (on a
    CPU). Raises InputError when no pair fits in max_length, RunError when the loss is no number any more.
    """
    fit = how.optimization
    is_halved = fit.lora is not None and bool(dict(fit.trl).get("bf16"))
    classifier = load_backbone(backbone, base=base, seed=fit.seed, dtype="bfloat16" if is_halved else "float32")
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
            peft_config=_lora(fit.lora, classifier.missing),
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
    fit = how.optimization
    taken = fit.steps or ceil(fit.epochs * ceil(rows / fit.rows))  # of which a share warms up
    common = trl_arguments(replace(fit, batch_size=min(fit.batch_size, rows)), HERE, work, steps=taken)
    further = {"logging_steps": 10, "logging_first_step": True, **dict(fit.trl)}
    with boundary("trl", InputError):
        return RewardConfig(
            **{**common, **further, "max_steps": fit.steps or -1},
            num_train_epochs=fit.epochs,
            max_length=None,
            remove_unused_columns=False,
            center_rewards_coefficient=how.eta or None,
            disable_dropout=not how.has_dropout,
        )


def _lora(lora: Lora | None, missing: Sequence[str]) -> LoraConfig | None:
    """Return peft's settings. missing: parameters that are new, which an adapter must hold (peft sees to the head)."""
    new = {name.rpartition(".")[0] for name in missing}
    return lora_config(lora, "SEQ_CLS", (name for name in new if name.partition(".")[0] not in ("score", "classifier")))


def _save(model: Any, classifier: Classifier, out: Path) -> None:
    """Write weights and tokenizer whole or not at all."""
    fresh = out.with_name(out.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    model.save_pretrained(fresh)
    classifier.tokenizer.save_pretrained(fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
