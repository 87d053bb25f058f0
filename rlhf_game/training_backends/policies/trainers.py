"""TRL's policy trainers with the arguments under which they mean what the mechanism means."""

from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.models import LanguageModel
from rlhf_game.training_backends.policies.settings import PolicyTraining
from rlhf_game.training_backends.resuming import SafeCheckpoints
from rlhf_game.training_backends.reward_training import Lora


class Reward(Protocol):
    """TRL's reward function: one number per completion; further columns of the prompts come by keyword."""

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Sequence[float]:
        """Return one number per completion."""
        ...


@final
class NamedReward:
    """A reward as TRL calls it and logs it: on texts as sampling decodes them, with its numbers checked."""

    def __init__(self, name: str, reward: Reward, language_model: LanguageModel, columns: Sequence[str]) -> None:
        self.__name__ = name
        self._reward = reward
        self._decode = language_model.decode
        self._columns = columns

    def __call__(
        self, prompts: Sequence[str], completions: Any, completion_ids: Sequence[list[int]], **columns: Any
    ) -> list[float]:
        """Return the rewards, [k]; TRL's own decoding of the completions is not used."""
        rewards = self.score(prompts, [self._decode(ids) for ids in completion_ids], columns)
        return [float(reward) for reward in rewards]

    def score(self, prompts: Sequence[str], texts: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Array:
        """Return the rewards of texts, [k]. Raises RunError when they are not one finite number each."""
        known = {key: columns[key] for key in self._columns}
        rewards = np.asarray(self._reward(prompts=list(prompts), completions=list(texts), **known), dtype=np.float64)
        if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
            raise RunError(f"the reward {self.__name__} must return {len(texts)} finite numbers, got {rewards[:5]} ...")
        return rewards


class PolicyTrainer(SafeCheckpoints, ABC):
    """What the trainers share: prompts are read as sampling reads them, and a resumed training is the same one."""

    language_model: LanguageModel
    system: str | None = None

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self.language_model.encode_prompt(prompt, self.system) for prompt in prompts], None, {}


@final
class Rloo(PolicyTrainer, RLOOTrainer):
    """REINFORCE with a leave-one-out baseline and the sequence's KL in the reward (Ahmadian et al. 2024)."""


@final
class Grpo(PolicyTrainer, GRPOTrainer):
    """GRPO without the division by the group's deviation (Dr. GRPO, Liu et al. 2025), the KL in the loss."""


TRAINERS: Mapping[str, Any] = {"rloo": Rloo, "grpo": Grpo}


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
    arguments = {**common_arguments(training, work), **sampling_arguments(training)}
    try:
        if training.trainer == "rloo":
            return RLOOConfig(**arguments, num_iterations=1, normalize_advantages=False)
        return GRPOConfig(**arguments, num_iterations=1, scale_rewards="none", loss_type="dr_grpo")
    except (ValueError, TypeError, ImportError) as error:
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
    trainer.language_model, trainer.system = language_model, training.system
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
    training: PolicyTraining, prompts: Sequence[str], columns: Mapping[str, Sequence[Any]], processes: int
) -> Dataset:
    """Return one row per prompt of every generation: shuffled passes over the prompts, in one epoch.

    In one epoch, because a sampler that is made anew on resuming would begin with the first pass's order.
    """
    each = training.batch_size * training.accumulation_steps * processes
    if each % training.num_generations:
        raise InputError(
            f"num_generations must divide the {each} responses of a step (batch_size * accumulation_steps * processes "
            f"= {training.batch_size} * {training.accumulation_steps} * {processes}), got {training.num_generations}"
        )
    updates = training.ppo_settings.epochs if training.trainer == "ppo" else 1
    needed = -(-training.max_steps // updates) * (each // training.num_generations)
    rng = np.random.default_rng(training.seed)
    passes = -(-needed // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(passes)])[:needed]
    table = Dataset.from_dict({"prompt": list(prompts), **{key: list(values) for key, values in columns.items()}})
    return table.select(order)
