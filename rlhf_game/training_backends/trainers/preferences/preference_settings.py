"""How a policy is trained on preference pairs: plain values, checked once."""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, final

from rlhf_game.errors import InputError
from rlhf_game.files.identity import digest_of
from rlhf_game.optimization import (
    ARGUMENTS,
    PREFERENCES,
    Optimization,
    Pretrained,
    check_arguments,
    document_of_training,
)
from rlhf_game.training_backends.trainers.preferences.losses import LOSSES, PreferenceLoss, find_loss


@final
@dataclass(frozen=True)
class PreferenceTraining:
    """One training of a policy on pairs; the reference is ``model`` as it is stored. Raises InputError.

    A step sees batch_size * accumulation_steps pairs on each device. With Bradley-Terry preferences for a reward r and
    the loss ``dpo`` the optimum is ref exp(r / beta) / Z: beta is then the mechanism's lambda.
    """

    model: Pretrained
    loss: str | PreferenceLoss = "dpo"
    beta: float = 0.1
    optimization: Optimization = PREFERENCES
    start: str | None = None
    """The folder of an earlier training on the same ``model`` whose weights this one begins with."""
    max_length: int = 512
    """Tokens of prompt and response; longer pairs are left out."""
    has_dropout: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.beta) and self.beta > 0):
            raise InputError(f"beta must be a number > 0, got {self.beta}")
        if self.max_length < 1:
            raise InputError(f"max_length must be >= 1, got {self.max_length}")
        if self.optimization.batch_size < self.objective.smallest_batch:
            raise InputError(
                f"batch_size must be >= {self.objective.smallest_batch} with loss {self.objective.name} (it looks at "
                f"the batch's spread), got {self.optimization.batch_size}"
            )
        check_arguments(dict(self.optimization.trl), ARGUMENTS)

    @property
    def objective(self) -> PreferenceLoss:
        """The loss itself."""
        return find_loss(self.loss)

    def document(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON has it."""
        loss = self.objective
        own = {} if LOSSES.get(loss.name) == loss else {"loss_sha256": digest_of(loss)}
        return {**document_of_training(replace(self, loss="dpo")), "loss": loss.name, "formula": loss.formula, **own}
