"""Elastic Reset (Noukhovitch et al. 2023, section 3) as a callback of transformers' Trainer, and so of any of TRL's."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, final

import torch
from torch import Tensor
from transformers import TrainerCallback

from rlhf_game.errors import InputError
from rlhf_game.training_backends.trainers.policies.ppo import CRITIC
from rlhf_game.training_backends.trainers.resuming import KeepsTensors, own_part

Place: TypeAlias = Literal["cpu", "model"]


@final
class ElasticReset(TrainerCallback, KeepsTensors):
    """After each step average <- (1 - eta) theta + eta average; every n steps theta <- average, average <- theta_0.

    What is averaged and reset is what is trained: all weights, or a LoRA's alone, never the critic of PPO. The state of
    the optimizer is left as it is (as the authors' published code leaves it). A reset that would fall on the last step
    is left out: the policy that is kept has trained since its last reset, as in all of the paper's runs. Averages are
    float32. The average and theta_0 lie in every checkpoint (twice the trained weights), so that a resumed training is
    the same one. Raises InputError when a number makes no sense.
    """

    def __init__(self, every: int, *, decay: float = 0.995, place: Place = "cpu") -> None:
        if every < 1:
            raise InputError(f"every must be >= 1, got {every}")
        if not 0 <= decay < 1:
            raise InputError(f"decay must be in [0, 1), got {decay}")
        if place not in ("cpu", "model"):
            raise InputError(f"place must be cpu or model, got {place}")
        self.every = every
        self.decay = decay
        self.place: Place = place
        self._parameters: dict[str, Tensor] = {}
        self._initial: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}

    @property
    def identity(self) -> list[float]:
        """What decides the resets."""
        return [self.every, self.decay]

    def tensors(self) -> dict[str, Tensor]:
        """Return the average, theta_0 (under FSDP2 of the shards here), and the two numbers that must not change."""
        kept = {f"average.{name}": value for name, value in self._average.items()}
        kept |= {f"initial.{name}": value for name, value in self._initial.items()}
        return {**kept, "every": torch.tensor(self.every), "decay": torch.tensor(self.decay, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back. Raises InputError when the checkpoint was trained with other resets, or none."""
        for name, value in (("every", self.every), ("decay", self.decay)):
            found = tensors[name].item() if name in tensors else None
            if found != value:
                raise InputError(f"{name} must be {found} as in the checkpoint that is resumed, got {value}")
        self._average = _under("average.", tensors)
        self._initial = _under("initial.", tensors)

    @torch.no_grad()
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Note theta_0. Raises InputError when resets would fall between the updates on one generation."""
        updates = updates_per_generation(args)
        if self.every % updates:
            raise InputError(
                f"every must be a multiple of {updates}, the updates on one generation (a reset between them would "
                f"train on responses of another policy), got {self.every}"
            )
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and CRITIC not in name.split(".")
        }
        if not self._initial and state.global_step:
            raise InputError(
                "a resumed training must have the average in its checkpoint, found none: only the trainers of this "
                "package keep it there"
            )
        if not self._initial:
            self._initial = {name: self._copy(parameter) for name, parameter in self._parameters.items()}
            self._average = {name: value.clone() for name, value in self._initial.items()}
            return
        if self._initial.keys() != self._parameters.keys():
            raise InputError("the checkpoint that is resumed must train the same weights, it trained others")
        for kept in (self._initial, self._average):
            kept.update({name: self._placed(value, self._parameters[name]) for name, value in kept.items()})

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Move the average; reset when it is time."""
        for name, parameter in self._parameters.items():
            self._average[name].lerp_(self._copy(parameter), 1.0 - self.decay)
        if state.global_step % self.every or state.global_step >= state.max_steps:
            return
        for name, parameter in self._parameters.items():
            own_part(parameter).copy_(self._average[name])
            self._average[name].copy_(self._initial[name])

    def _copy(self, parameter: Tensor) -> Tensor:
        own = own_part(parameter)
        return own.to("cpu" if self.place == "cpu" else own.device, torch.float32, copy=True)

    def _placed(self, value: Tensor, parameter: Tensor) -> Tensor:
        return value.to("cpu" if self.place == "cpu" else parameter.device)


def resets(every: int, max_steps: int) -> list[int]:
    """Return the steps after which a training of ``max_steps`` is reset."""
    return list(range(every, max_steps, every))


def updates_per_generation(args: Any) -> int:
    """Return how many steps TRL makes with the responses of one generation; 1 for trainers that draw none.

    args: TRL's configuration.
    """
    iterations = int(getattr(args, "num_iterations", 1))
    batches = int(getattr(args, "steps_per_generation", None) or args.gradient_accumulation_steps)
    return max(1, iterations * batches // int(args.gradient_accumulation_steps))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
