"""What the operations of the language of losses do, on tensors; and what a loss in it must be like to be trained."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf_game.errors import InputError
from rlhf_game.training_backends.trainers.preferences.losses import PairBatch, PreferenceLoss

PROBES: Mapping[str, tuple[float, ...]] = MappingProxyType({
    "at the reference": (0.0,) * 8,
    "near the reference": (-0.2, -0.1, -0.05, -0.01, 0.02, 0.06, 0.1, 0.3),
    "at moderate margins": (-4.0, -2.0, -1.0, -0.5, 0.4, 1.1, 2.5, 5.0),
    "of a batch of equal margins": (0.7,) * 8,
    "at large margins": (-15.0, -9.0, -6.0, -3.0, 4.0, 7.0, 10.0, 18.0),
})  # fmt: skip
"""Margins at which every candidate is looked at, z, in the unit of rewards."""


def _tensor(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x: function(_tensor(x))


def _comparison(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda x, y: function(_tensor(x), _tensor(y)).to(torch.float64)


def _spread(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return the spread over a batch, 0 of a number or of one pair."""

    def of(x: Tensor | float) -> Tensor:
        values = _tensor(x)
        return function(values) if values.ndim and len(values) > 1 else torch.zeros((), dtype=torch.float64)

    return of


OPERATIONS: Mapping[str, Callable[..., Tensor]] = MappingProxyType({
    "add": lambda x, y: _tensor(x) + y,
    "subtract": lambda x, y: _tensor(x) - y,
    "multiply": lambda x, y: _tensor(x) * y,
    "divide": lambda x, y: _tensor(x) / y,
    "negate": lambda x: -_tensor(x),
    "less": _comparison(torch.lt),
    "at_most": _comparison(torch.le),
    "greater": _comparison(torch.gt),
    "at_least": _comparison(torch.ge),
    "where": lambda c, x, y: torch.where(_tensor(c) > 0, _tensor(x), _tensor(y)),
    "log_sigmoid": _unary(logsigmoid),
    "sigmoid": _unary(torch.sigmoid),
    "exp": _unary(torch.exp),
    "relu": _unary(torch.relu),
    "tanh": _unary(torch.tanh),
    "abs": _unary(torch.abs),
    "square": _unary(torch.square),
    "mean": _unary(torch.mean),
    "std": _spread(torch.std),
    "var": _spread(torch.var),
})  # fmt: skip


def values_of(batch: PairBatch, tau: float) -> dict[str, Any]:
    """Return the values of the names of the language."""
    return {
        "z": batch.margin, "chosen": batch.chosen, "rejected": batch.rejected, "beta": batch.beta, "tau": tau,
    }  # fmt: skip


def check_trainable(loss: PreferenceLoss, beta: float) -> tuple[float, ...]:
    """Return the slopes of a loss at the probes, the largest 1: alike for losses that differ by a factor or a constant.

    Raises InputError with the reason when values or gradients there are no numbers, when nothing moves a policy away
    from the reference, or when the chosen response is never raised.
    """
    slopes: list[Tensor] = []
    for name, z in PROBES.items():
        margins = torch.tensor(z, dtype=torch.float64)
        # Both sides move, unevenly, so that a loss of one side alone is seen as one.
        chosen = (0.7 * margins / beta).requires_grad_()
        rejected = (-0.3 * margins / beta).requires_grad_()
        batch = PairBatch(chosen, rejected, beta, margins, torch.ones_like(margins), torch.ones_like(margins))
        values = loss.of(batch)
        if values.shape != margins.shape:
            raise InputError(f"must have one value per pair, found {tuple(values.shape)} of {len(margins)} pairs")
        if not _is_finite(values):
            raise InputError(f"must be a number {name}, found {_first(values)} at z = {_where(values, margins)}")
        if not values.requires_grad:
            raise InputError("must depend on z, chosen or rejected, found a constant")
        gradients = torch.autograd.grad(values.sum(), (chosen, rejected), allow_unused=True)
        both = [torch.zeros_like(margins) if side is None else side / beta for side in gradients]
        for side in both:
            if not _is_finite(side):
                raise InputError(f"must have a gradient {name}, found {_first(side)} at z = {_where(side, margins)}")
        if name == "at the reference" and not any(side.any() for side in both):
            raise InputError("must have a gradient at the reference, where training starts, found zero")
        slopes += both
    if not any((side < 0).any() for side in slopes[::2]):
        raise InputError("must raise the chosen response somewhere, found no slope that does")
    together = torch.cat(slopes)
    return tuple((together / together.abs().max()).tolist())


def _is_finite(values: Tensor) -> bool:
    """Return whether all are numbers in float32, in which policies are trained."""
    return bool(torch.isfinite(values.float()).all())


def _first(values: Tensor) -> float:
    return float(values.detach().float()[~torch.isfinite(values.float())][0])


def _where(values: Tensor, margins: Tensor) -> float:
    return float(margins[~torch.isfinite(values.float())][0])
