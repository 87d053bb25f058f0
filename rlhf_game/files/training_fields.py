"""What every configuration of a training says in the same words: how a network is optimised, and which one it is."""

from abc import ABC
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import Field

from rlhf_game.files.schema import Name, Nonnegative, Positive, Strict
from rlhf_game.optimization import POLICIES, Device, Lora, Optimization, Precision, Pretrained, Schedule

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
Plain: TypeAlias = bool | int | float | str


@final
class LoraSpec(Strict):
    """A low-rank adapter."""

    rank: Count = 8
    """Of the two factors."""
    alpha: Count = 16
    """The adapter counts alpha / rank times."""
    targets: Annotated[list[Name], Field(min_length=1)] | None = None
    """The layers it is put on; None: peft's choice."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of its inputs left out while it is trained."""

    def adapter(self) -> Lora:
        """Return it as trainings have it."""
        return Lora(self.rank, self.alpha, None if self.targets is None else tuple(self.targets), self.dropout)


class OptimizationFields(Strict, ABC):
    """The fields of ``Optimization``; a kind of training says again those that it has other defaults of."""

    learning_rate: Positive = Optimization.learning_rate
    """Of AdamW, at its highest."""
    schedule: Schedule = Optimization.schedule
    """How it falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = Optimization.warmup
    """Share of the steps in which the learning rate rises."""
    weight_decay: Nonnegative = Optimization.weight_decay
    """Of AdamW."""
    max_grad_norm: Positive = Optimization.max_grad_norm
    """Longer gradients are shortened to this."""
    batch_size: Count = Optimization.batch_size
    """Rows in a forward on each device."""
    accumulation_steps: Count = Optimization.accumulation_steps
    """Batches whose gradients make one step."""
    gradient_checkpointing: bool = Optimization.gradient_checkpointing
    """Compute activations again instead of keeping them: slower, in less memory."""
    save_steps: Count = Optimization.save_steps
    """Steps from checkpoint to checkpoint; a training that was killed goes on from the last one."""
    report_to: Name = Optimization.report_to
    """Where steps are logged besides, such as tensorboard, or none."""
    trl: dict[Name, Plain | dict[Name, Plain]] = {}
    """Further arguments of TRL, where they move neither the objective nor what is drawn."""

    def optimization(self, adapter: LoraSpec | None, seed: int, **changes: Any) -> Optimization:
        """Return the settings of the training. Raises InputError where one makes no sense."""
        names = [field.name for field in fields(Optimization) if field.name in type(self).model_fields]
        said: dict[str, Any] = {name: getattr(self, name) for name in names}
        said |= {"lora": None if adapter is None else adapter.adapter(), "trl": tuple(self.trl.items()), "seed": seed}
        return Optimization(**{**said, **changes})


@final
class PpoSpec(Strict):
    """What PPO has beyond the others."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 2
    """Passes over the responses of a step."""
    gae: Annotated[float, Field(ge=0, le=1)] = 0.95
    """lambda of the advantages."""
    clip: Positive = 0.2
    """How far a probability's ratio moves the loss, about 1."""
    value_weight: Positive = 0.1
    """Of the critic's loss."""


class PolicyTrainerFields(OptimizationFields, ABC):
    """Of trainings of a policy on rewards."""

    trainer: Literal["rloo", "grpo", "ppo", "best_of_n"] = "rloo"
    """The algorithm; the optimum of rloo and ppo is the mechanism's."""
    steps: Count = 100
    """Of the optimizer."""
    learning_rate: Positive = POLICIES.learning_rate
    batch_size: Count = POLICIES.batch_size
    """Responses at a time on each device."""
    save_steps: Count = POLICIES.save_steps
    num_generations: Annotated[int, Field(ge=2, le=10_000)] = 4
    """Responses to a prompt in a step; n of best-of-n."""
    max_new_tokens: Count = 64
    """The most tokens of a response."""
    temperature: Positive = 1.0
    """Of responses."""
    kl_limit: Positive | None = None
    """The training ends with an error where the KL of a sequence, in nats, is above it."""
    ppo: PpoSpec | None = None
    """What PPO has beyond the others; with trainer ppo."""


class PassesFields(OptimizationFields, ABC):
    """Of trainings on rows that are there: passes over them, or so many steps."""

    steps: Count | None = None
    """Instead of epochs."""
    epochs: Positive = Optimization.epochs
    """Passes over the rows."""


class LoadingFields(Strict, ABC):
    """How a language model is loaded."""

    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""
    dtype: Precision = "float32"
    """The precision of the weights."""
    device: Device = "auto"
    """Where torch computes: auto, cpu, cuda, cuda:1, ..."""

    def pretrained(self, name: str, revision: str | None = None) -> Pretrained:
        """Return the model of that name as trainings load it."""
        return Pretrained(name, revision, self.dtype, self.device, self.fold_system)


class ModelFields(LoadingFields, ABC):
    """The language model that is trained, and what it is told before every prompt."""

    model: Name
    """A folder, an installed model or a name on the hub."""
    revision: Name | None = None
    """The commit on the hub."""
    system: Name | None = None
    """What the model is told before every prompt."""

    @property
    def reference(self) -> Pretrained:
        """The model as it is before the training."""
        return self.pretrained(self.model, self.revision)
