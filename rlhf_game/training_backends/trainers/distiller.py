"""TRL's SFT on rows that are token ids and labels already: winners of best-of-n, or any prompts and responses."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, final

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import disable_dropout_in_model

from rlhf_game.optimization import Lora
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints
from rlhf_game.training_backends.trainers.trl_arguments import lora_config


@final
class Distiller(SafeCheckpoints, SFTTrainer):
    """TRL's SFT on rows of token ids and labels that are there already, in their order."""

    language_model: LanguageModel
    _last: float | None = None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the seconds of the step, too."""
        now = time.perf_counter()
        if self._last is not None:
            logs["step_time"] = now - self._last
        self._last = now
        super().log(logs, start_time)


def sft_settings(common: Mapping[str, Any]) -> SFTConfig:
    """Return TRL's configuration for rows of token ids and labels. common: what every trainer is told."""
    return SFTConfig(
        **common,
        max_length=None,
        train_sampling_strategy="sequential",  # the rows are in order already
        dataset_kwargs={"skip_prepare_dataset": True},
        include_num_input_tokens_seen="non_padding",
    )


def make_distiller(
    language_model: LanguageModel,
    settings: SFTConfig,
    rows: Dataset,
    lora: Lora | None,
    callbacks: Sequence[TrainerCallback],
) -> Distiller:
    """Return the trainer, without dropout. rows: ``input_ids`` and ``labels``, in order."""
    disable_dropout_in_model(language_model.model)
    trainer = Distiller(
        model=language_model.model,
        args=settings,
        train_dataset=rows,
        processing_class=language_model.tokenizer,
        peft_config=lora_config(lora),
        callbacks=list(callbacks),
    )
    trainer.language_model = language_model
    trainer.remove_callback(PrinterCallback)
    return trainer
