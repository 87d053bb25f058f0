"""Weights and optimizer of a training that is cut into shards (FSDP2): each process writes and reads its own.

By torch.distributed.checkpoint, in safetensors (its own format is a pickle), with what is no tensor as JSON. Every
process of the group calls these. A training goes on with any number of processes that torch reshards to.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from rlhf_game.files.atomic import write_json

NUMBERS = "numbers.json"
OPTIONS = StateDictOptions(flatten_optimizer_state_dict=True, ignore_frozen_params=True, strict=False)
"""Of a LoRA the adapter alone is kept (so not all keys are there): its backbone is where it was."""


def save_sharded(model: Any, optimizer: Any, folder: Path) -> None:
    """Write what is trained and the optimizer's state into ``folder``."""
    tensors, numbers = _state(model, optimizer)
    folder.mkdir(parents=True, exist_ok=True)
    save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        write_json(folder / NUMBERS, numbers)


def load_sharded(model: Any, optimizer: Any, folder: Path) -> None:
    """Put what was written into a model and its optimizer."""
    tensors, _ = _state(model, optimizer)
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)))
    numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
    parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
    for key, value in {**tensors, **numbers}.items():
        of, _, name = key.partition(".")
        parts[of][name] = tuple(value) if name.endswith(".betas") else value
    groups = optimizer.param_groups
    optimizer.param_groups = [group for group in groups if group["params"]]  # of none torch knows no name
    set_state_dict(
        model, optimizer, model_state_dict=parts["model"], optim_state_dict=parts["optimizer"], options=OPTIONS
    )
    loaded = iter(optimizer.param_groups)
    optimizer.param_groups = [next(loaded) if group["params"] else group for group in groups]


def _state(model: Any, optimizer: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all tensors by ``model.NAME`` and ``optimizer.state.NAME``, and what else the optimizer keeps."""
    weights, state = get_state_dict(model, optimizer, options=OPTIONS)
    named: dict[str, Any] = {f"model.{key}": value for key, value in weights.items()}
    named.update((f"optimizer.{key}", value) for key, value in state.items())
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in named.items() if key not in tensors}
