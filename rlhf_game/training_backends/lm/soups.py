"""Policies between trained ones (rewarded soups), and the devices that trainings can be spread over."""

import copy
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlhf_game.errors import InputError
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.quiet import quiet_transformers


def devices() -> tuple[str, ...]:
    """Return the GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    return tuple(str(k) for k in range(torch.cuda.device_count()))


def simplex_grid(members: int, steps: int) -> Iterator[tuple[float, ...]]:
    """Yield all shares of so many members that are multiples of 1 / steps and sum to 1, in a fixed order."""

    def parts(left: int, total: int) -> Iterator[tuple[int, ...]]:
        if left == 1:
            yield (total,)
            return
        for first in range(total, -1, -1):
            yield from ((first, *rest) for rest in parts(left - 1, total - first))

    for counts in parts(members, steps):
        yield tuple(count / steps for count in counts)


def interpolate(reference: LanguageModel, members: Sequence[LanguageModel], shares: Sequence[float]) -> LanguageModel:
    """Return the model with the weights theta_0 + sum_m share_m (theta_m - theta_0) (Rame et al. 2023).

    What is averaged is what each member changed in the whole weights, an adapter merged into them: averaging the
    factors of adapters would give another network. Raises InputError when the members are not of one shape.
    """
    start: dict[str, torch.Tensor] = reference.model.state_dict()
    states: list[dict[str, torch.Tensor]] = [member.model.state_dict() for member in members]
    if any({k: v.shape for k, v in state.items()} != {k: v.shape for k, v in start.items()} for state in states):
        raise InputError("members must be models of the reference's shape to be interpolated")
    mixed = {}
    for key, value in start.items():
        if not value.is_floating_point():
            mixed[key] = value
            continue
        base = value.double()
        moved = sum(share * (state[key].double() - base) for share, state in zip(shares, states, strict=True))
        mixed[key] = (base + moved).to(value.dtype)
    model: Any = copy.deepcopy(reference.model)
    model.load_state_dict(mixed)
    return replace(reference, model=model.eval())


def save_language_model(language_model: LanguageModel, out: Path) -> None:
    """Write a model and its tokenizer into the folder ``out``, whole or not at all."""
    fresh = out.with_name(out.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    with quiet_transformers():
        language_model.model.save_pretrained(fresh)
        language_model.tokenizer.save_pretrained(fresh)
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
