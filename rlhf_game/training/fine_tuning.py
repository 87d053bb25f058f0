"""What a configuration says about the supervised fine-tuning of a language model."""

from abc import ABC
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field

from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.training.recipes.reward_models import LoraSpec
from rlhf_game.training.training_data import Count

if TYPE_CHECKING:
    from rlhf_game.training_backends import Lora
    from rlhf_game.training_backends.trainers.self_training import SupervisedTraining


class FineTuningFields(Strict, ABC):
    """How a language model learns to write what it is shown."""

    epochs: Positive = 1.0
    max_steps: Count | None = None
    learning_rate: Positive = 2e-5
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate rises."""
    batch_size: Count = 8
    accumulation_steps: Count = 1
    max_length: Count = 512
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    lora: LoraSpec | None = None
    save_steps: Count = 100
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def training(
        self, model: str, seed: int, *, start: str | None = None, system: Name | None = None
    ) -> "SupervisedTraining":
        """Return the training itself. Raises InputError where its fields do not go together."""
        from rlhf_game.training_backends.trainers.self_training import SupervisedTraining

        return SupervisedTraining(
            model=model,
            start=start,
            lora=lora_of(self.lora),
            epochs=self.epochs,
            max_steps=self.max_steps,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            warmup=self.warmup,
            batch_size=self.batch_size,
            accumulation_steps=self.accumulation_steps,
            max_length=self.max_length,
            system=system,
            fold_system=self.fold_system,
            seed=seed,
            save_steps=self.save_steps,
            dtype=self.dtype,
            device=self.device,
        )


def lora_of(spec: LoraSpec | None) -> "Lora | None":
    """Return the adapter that a configuration asks for."""
    from rlhf_game.training_backends import Lora

    if spec is None:
        return None
    return Lora(spec.rank, spec.alpha, None if spec.targets is None else tuple(spec.targets), spec.dropout)


@final
class JudgeTraining(FineTuningFields):
    """Of a judge; OSP does not give its constants."""


@final
class ReviserTraining(FineTuningFields):
    """Of a reviser, with the constants of SEFT's table 5."""

    epochs: Positive = 3.0
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    batch_size: Count = 2
    accumulation_steps: Count = 8
    max_length: Count = 2048


@final
class EvolutionTraining(FineTuningFields):
    """Of a policy on revised responses, with the constants of SEFT's table 5."""

    epochs: Positive = 3.0
    learning_rate: Positive = 5e-7
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.03
    batch_size: Count = 4
    accumulation_steps: Count = 4
    max_length: Count = 2048
