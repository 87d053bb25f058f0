"""TRL's DPOTrainer with any loss of pairs in the place of its own."""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from rlhf_game.errors import InputError, boundary
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.preferences.losses import PairBatch, PreferenceLoss, find_loss
from rlhf_game.training_backends.trainers.preferences.preference_settings import PreferenceTraining
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints
from rlhf_game.training_backends.trainers.trl_arguments import lora_config, trl_arguments

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
"""The columns with log ref(y|x) of both responses, in nats, as TRL calls them."""


@final
@dataclass(frozen=True)
class Collator:
    """TRL's batch of pairs, with further columns of numbers."""

    pad_token_id: int
    columns: tuple[str, ...] = ()
    trl: Any = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "trl", DataCollatorForPreference(pad_token_id=self.pad_token_id))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the tensors of a batch; of the rows both responses, chosen ones first."""
        batch: dict[str, Tensor] = self.trl(list(rows))
        return batch | {name: torch.tensor([float(row[name]) for row in rows]) for name in self.columns}


class PairLossTrainer(DPOTrainer, ABC):
    """Minimises the mean of a PreferenceLoss in the place of TRL's own losses."""

    objective: PreferenceLoss
    columns: tuple[str, ...] = ()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the batch's mean loss."""
        batch = self.batch_of(model, inputs)
        loss = self.objective.of(batch).mean()
        self._note(batch)
        return (loss, None) if return_outputs else loss

    def batch_of(self, model: Any, inputs: Mapping[str, Tensor]) -> PairBatch:
        """Return what the loss sees of a batch."""
        mask = inputs["completion_mask"]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
        )
        chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
        chosen_tokens, rejected_tokens = mask.sum(dim=1).clamp(min=1).chunk(2)
        known = [inputs[name] for name in REFERENCE if name in inputs]
        trl: Any = self
        reference = known or trl.compute_ref_log_probs(self.ref_model or self.model, dict(inputs))
        return PairBatch(
            chosen=chosen - reference[0],
            rejected=rejected - reference[1],
            beta=self.beta,
            lead=(chosen - rejected).detach(),
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
            columns={name: inputs[name] for name in self.columns},
        )

    def _note(self, batch: PairBatch) -> None:
        """Put the batch's numbers, of all processes, where TRL's log takes them from."""
        chosen, rejected = batch.beta * batch.chosen.detach(), batch.beta * batch.rejected.detach()
        numbers = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
        }
        for name, values in numbers.items():
            self._metrics["train"][name].append(self.accelerator.gather(values).mean().item())


@final
class PreferenceTrainer(PairLossTrainer):
    """TRL's DPOTrainer with a loss by name, or one's own: on TRL's rows, with TRL's checkpoints, in any script of TRL.

    Every argument but ``objective`` is TRL's. Raises InputError for a loss that there is not, or one that needs columns
    that TRL's rows do not have.
    """

    def __init__(
        self,
        model: Any,
        args: DPOConfig,
        *,
        objective: str | PreferenceLoss,
        ref_model: Any = None,
        train_dataset: Any = None,
        processing_class: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any = None,
    ) -> None:
        self.objective = find_loss(objective)
        if self.objective.columns:
            raise InputError(
                f"objective must need no columns beside TRL's, got {self.objective.name}, which needs "
                f"{', '.join(self.objective.columns)}"
            )
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
        )


@final
class PairTrainer(SafeCheckpoints, PairLossTrainer):
    """A PairLossTrainer whose rows are token ids already, with log ref of both responses."""

    def _prepare_dataset(self, dataset: Any, *others: Any, **named: Any) -> Any:
        return dataset

    def _precompute_ref_logps(self, dataset: Any, *others: Any, **named: Any) -> Any:
        return dataset


def make_settings(training: PreferenceTraining, work: Path) -> DPOConfig:
    """Return TRL's configuration. work: the folder of the checkpoints. Raises InputError when TRL refuses a value."""
    how = training.optimization
    common = trl_arguments(how, training.model, work, steps=how.steps or -1)
    with boundary("trl", InputError):
        return DPOConfig(
            **common,
            num_train_epochs=1,
            beta=training.beta,
            max_length=None,
            disable_dropout=not training.has_dropout,
            precompute_ref_log_probs=True,  # the rows bring them
            remove_unused_columns=False,
            train_sampling_strategy="sequential",  # the rows are in order already
        )


def make_trainer(
    training: PreferenceTraining,
    settings: DPOConfig,
    language_model: LanguageModel,
    rows: Dataset,
    columns: tuple[str, ...],
    callbacks: Sequence[TrainerCallback],
) -> PairTrainer:
    """Return the trainer. rows: prompt_ids, chosen_ids, rejected_ids, REFERENCE and the columns, in order."""
    try:
        trainer = PairTrainer(
            model=language_model.model,
            args=settings,
            data_collator=Collator(language_model.pad_id, columns),
            train_dataset=rows,
            processing_class=language_model.tokenizer,
            peft_config=lora_config(training.optimization.lora),
            callbacks=list(callbacks),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"the training cannot be set up: {str(error).splitlines()[0]}") from error
    trainer.objective, trainer.columns = training.objective, columns
    trainer.remove_callback(PrinterCallback)
    return trainer
