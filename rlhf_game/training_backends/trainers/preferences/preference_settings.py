"""How a policy is trained on preference pairs: plain values, checked once."""

from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal, final

from rlhf_game.errors import InputError
from rlhf_game.files.identity import digest_of
from rlhf_game.training_backends.trainers.preferences.losses import LOSSES, PreferenceLoss, find_loss
from rlhf_game.training_backends.trainers.reward_training import Lora


@final
@dataclass(frozen=True)
class PreferenceTraining:
    """One training of a policy on pairs; the reference is ``model`` as it is stored. Raises InputError.

    A step sees batch_size * accumulation_steps pairs on each device. With Bradley-Terry preferences for a reward r and
    the loss ``dpo`` the optimum is ref exp(r / beta) / Z: beta is then the mechanism's lambda.
    """

    model: str
    loss: str | PreferenceLoss = "dpo"
    beta: float = 0.1
    start: str | None = None
    """The folder of an earlier training on the same ``model`` whose weights this one begins with."""
    lora: Lora | None = None
    epochs: float = 1.0
    max_steps: int | None = None
    """Instead of epochs."""
    learning_rate: float = 5e-6
    batch_size: int = 8
    accumulation_steps: int = 1
    max_length: int = 512
    """Tokens of prompt and response; longer pairs are left out."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to it: some of the losses grow like exp(-z)."""
    has_dropout: bool = False
    system: str | None = None
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    revision: str | None = None
    seed: int = 0
    save_steps: int = 100
    keeps_checkpoints: bool = False
    """Keep all checkpoints, not only the last two while training goes on."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: mixed precision; the weights of a LoRA's backbone are kept in it, trained weights in float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        for name in ("beta", "epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number > 0, got {value}")
        for name in ("batch_size", "accumulation_steps", "max_length", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be >= 1, got {self.max_steps}")
        if self.batch_size < self.objective.smallest_batch:
            raise InputError(
                f"batch_size must be >= {self.objective.smallest_batch} with loss {self.objective.name} (it looks at "
                f"the batch's spread), got {self.batch_size}"
            )

    @property
    def objective(self) -> PreferenceLoss:
        """The loss itself."""
        return find_loss(self.loss)

    @property
    def kl_limit(self) -> None:
        """None: nothing is drawn from the policy while it trains, so its KL is not known."""
        return

    def document(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON has it."""
        loss = self.objective
        own = {} if LOSSES.get(loss.name) == loss else {"loss_sha256": digest_of(loss)}
        return {**asdict(replace(self, loss="dpo")), "loss": loss.name, "formula": loss.formula, **own}
