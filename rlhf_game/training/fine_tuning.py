"""What a configuration says about the supervised fine-tuning of a language model."""

from abc import ABC
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from rlhf_game.files.schema import Positive
from rlhf_game.files.training_fields import Count, LoadingFields, LoraSpec, PassesFields
from rlhf_game.optimization import EVOLUTION, REVISER, SUPERVISED, Schedule

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.self_training import SupervisedTraining


class FineTuningFields(PassesFields, LoadingFields, ABC):
    """How a language model learns to write what it is shown."""

    max_length: Count = 512
    """Tokens of prompt and response; longer rows are left out, and counted."""
    lora: LoraSpec | None = None
    """An adapter; without it all weights are trained."""

    def training(self, model: str, seed: int, *, start: str | None = None) -> "SupervisedTraining":
        """Return the training itself. Raises InputError where its fields do not go together."""
        from rlhf_game.training_backends.trainers.self_training import SupervisedTraining

        return SupervisedTraining(
            self.pretrained(model), self.optimization(self.lora, seed), start=start, max_length=self.max_length
        )


@final
class JudgeTraining(FineTuningFields):
    """Of a judge; OSP does not give its constants."""

    learning_rate: Positive = SUPERVISED.learning_rate


@final
class ReviserTraining(FineTuningFields):
    """Of a reviser, with the constants of SEFT's table 5."""

    epochs: Positive = REVISER.epochs
    learning_rate: Positive = REVISER.learning_rate
    schedule: Schedule = REVISER.schedule
    warmup: Annotated[float, Field(ge=0, lt=1)] = REVISER.warmup
    batch_size: Count = REVISER.batch_size
    accumulation_steps: Count = REVISER.accumulation_steps
    max_length: Count = 2048


@final
class EvolutionTraining(FineTuningFields):
    """Of a policy on revised responses, with the constants of SEFT's table 5."""

    epochs: Positive = EVOLUTION.epochs
    learning_rate: Positive = EVOLUTION.learning_rate
    warmup: Annotated[float, Field(ge=0, lt=1)] = EVOLUTION.warmup
    batch_size: Count = EVOLUTION.batch_size
    accumulation_steps: Count = EVOLUTION.accumulation_steps
    max_length: Count = 2048
