"""A trainer and its data from a training's values: the arguments under which TRL means what the mechanism means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.rloo_config import RLOOConfig

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Conversation, Text
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.distiller import sft_settings
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.ppo import Ppo
from rlhf_game.training_backends.trainers.policies.trainers import Grpo, NamedReward, PolicyTrainer, Rloo
from rlhf_game.training_backends.trainers.token_rows import shuffled_passes
from rlhf_game.training_backends.trainers.trl_arguments import lora_config, trl_arguments

TRAINERS: Mapping[str, Any] = {"rloo": Rloo, "grpo": Grpo, "ppo": Ppo}


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
        "model_init_kwargs": None if training.model.revision is None else {"revision": training.model.revision},
    }


@boundary("trl", InputError)
def make_settings(training: PolicyTraining, work: Path) -> Any:
    """Return TRL's configuration. work: the folder of the checkpoints. Raises InputError when TRL refuses a value."""
    common = trl_arguments(training.optimization, training.model, work, steps=training.steps)
    drawing = sampling_arguments(training)
    try:
        if training.trainer == "best_of_n":
            return sft_settings(common)
        if training.trainer == "rloo":
            return RLOOConfig(**common, **drawing, num_iterations=1, normalize_advantages=False)
        own: dict[str, Any] = {"num_iterations": 1}
        if training.trainer == "ppo":
            own = {"num_iterations": training.ppo_settings.epochs, "epsilon": training.ppo_settings.clip}
        return GRPOConfig(**common, **drawing, **own, scale_rewards="none", loss_type="dr_grpo")
    except ValueError as error:
        if "divisible by num_generations" not in str(error):
            raise
        raise InputError(
            f"num_generations: must divide the responses of a step, on each device batch_size * accumulation_steps "
            f"= {training.optimization.rows}, found {training.num_generations}"
        ) from error


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
            peft_config=lora_config(training.optimization.lora),
            callbacks=list(callbacks),
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"the training cannot be set up: {str(error).splitlines()[0]}") from error
    trainer.begin(training, language_model)
    trainer.remove_callback(PrinterCallback)
    return trainer


def ordered_rows(
    training: PolicyTraining, prompts: Sequence[Text], columns: Mapping[str, Sequence[Any]], processes: int
) -> Dataset:
    """Return one row per prompt of every generation: shuffled passes over the prompts, in one epoch."""
    each = training.optimization.rows * processes
    updates = training.ppo_settings.epochs if training.trainer == "ppo" else 1
    needed = -(-training.steps // updates) * (each // training.num_generations)
    order = shuffled_passes(len(prompts), needed, training.optimization.seed)
    asked = [prompt.document() if isinstance(prompt, Conversation) else prompt for prompt in prompts]
    table = Dataset.from_dict({"prompt": asked, **{key: list(values) for key, values in columns.items()}})
    return table.select(order)
