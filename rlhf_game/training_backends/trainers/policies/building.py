"""A trainer and its data from a training's values: the arguments under which TRL means what the mechanism means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.sft_config import SFTConfig

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Conversation, Text
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.ppo import Ppo
from rlhf_game.training_backends.trainers.policies.trainers import Grpo, NamedReward, PolicyTrainer, Rloo
from rlhf_game.training_backends.trainers.reward_training import Lora

TRAINERS: Mapping[str, Any] = {"rloo": Rloo, "grpo": Grpo, "ppo": Ppo}


def common_arguments(training: PolicyTraining, work: Path) -> dict[str, Any]:
    """Return what every trainer is told. work: the folder of the checkpoints."""
    return {
        "output_dir": str(work),
        "max_steps": training.max_steps,
        "learning_rate": training.learning_rate,
        "per_device_train_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.accumulation_steps,
        "seed": training.seed,
        "data_seed": training.seed,
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": None if training.keeps_checkpoints else 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "use_cpu": training.device == "cpu" or not torch.cuda.is_available(),
        "bf16": training.dtype == "bfloat16",
        "activation_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        **dict(training.trl),
    }


def sampling_arguments(training: PolicyTraining) -> dict[str, Any]:
    """Return what a trainer that draws is told."""
    return {
        "beta": training.beta,
        "reward_weights": list(training.weights),
        "num_generations": training.num_generations,
        "max_completion_length": training.max_new_tokens,
        "temperature": training.temperature,
        "disable_dropout": True,
        "shuffle_dataset": False,  # the rows are in order already
        "model_init_kwargs": None if training.revision is None else {"revision": training.revision},
    }


def make_settings(training: PolicyTraining, work: Path) -> Any:
    """Return TRL's configuration. work: the folder of the checkpoints. Raises InputError when TRL refuses a value."""
    common, drawing = common_arguments(training, work), sampling_arguments(training)
    try:
        if training.trainer == "best_of_n":
            return SFTConfig(
                **common,
                max_length=None,
                train_sampling_strategy="sequential",  # the rows are in order already
                dataset_kwargs={"skip_prepare_dataset": True},
                include_num_input_tokens_seen="non_padding",
            )
        if training.trainer == "rloo":
            return RLOOConfig(**common, **drawing, num_iterations=1, normalize_advantages=False)
        own: dict[str, Any] = {"num_iterations": 1}
        if training.trainer == "ppo":
            own = {"num_iterations": training.ppo_settings.epochs, "epsilon": training.ppo_settings.clip}
        return GRPOConfig(**common, **drawing, **own, scale_rewards="none", loss_type="dr_grpo")
    except (ValueError, TypeError, ImportError) as error:
        if "divisible by num_generations" in str(error):
            raise InputError(
                f"num_generations: must divide the responses of a step, on each device batch_size * accumulation_steps "
                f"= {training.batch_size * training.accumulation_steps}, found {training.num_generations}"
            ) from error
        raise InputError(f"the training cannot be set up: {str(error).splitlines()[0]}") from error


def make_trainer(
    training: PolicyTraining,
    settings: Any,
    language_model: LanguageModel,
    rewards: Sequence[NamedReward],
    rows: Dataset,
    callbacks: Sequence[TrainerCallback],
) -> PolicyTrainer:
    """Return the trainer, its reference the model at the path that it was loaded from."""
    try:
        trainer: PolicyTrainer = TRAINERS[training.trainer](
            model=language_model.model,
            reward_funcs=list(rewards),
            args=settings,
            train_dataset=rows,
            processing_class=language_model.tokenizer,
            peft_config=lora_config(training.lora),
            callbacks=list(callbacks),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"the training cannot be set up: {str(error).splitlines()[0]}") from error
    trainer.begin(training, language_model)
    trainer.remove_callback(PrinterCallback)
    return trainer


def lora_config(lora: Lora | None) -> LoraConfig | None:
    """Return peft's configuration of an adapter on a language model."""
    if lora is None:
        return None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=None if lora.targets is None else list(lora.targets),
        task_type="CAUSAL_LM",
    )


def ordered_rows(
    training: PolicyTraining, prompts: Sequence[Text], columns: Mapping[str, Sequence[Any]], processes: int
) -> Dataset:
    """Return one row per prompt of every generation: shuffled passes over the prompts, in one epoch.

    In one epoch, because a sampler that is made anew on resuming would begin with the first pass's order.
    """
    each = training.batch_size * training.accumulation_steps * processes
    updates = training.ppo_settings.epochs if training.trainer == "ppo" else 1
    order = shuffled_passes(
        len(prompts), -(-training.max_steps // updates) * (each // training.num_generations), training
    )
    asked = [prompt.document() if isinstance(prompt, Conversation) else prompt for prompt in prompts]
    table = Dataset.from_dict({"prompt": asked, **{key: list(values) for key, values in columns.items()}})
    return table.select(order)


def shuffled_passes(size: int, needed: int, training: PolicyTraining) -> list[int]:
    """Return ``needed`` places among ``size``: passes over all of them, each in an order of its own."""
    rng = np.random.default_rng(training.seed)
    passes = [rng.permutation(size) for _ in range(-(-needed // size))]
    return [int(place) for place in np.concatenate(passes)[:needed]]
