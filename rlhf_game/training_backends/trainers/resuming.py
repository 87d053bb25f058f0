"""Checkpoints of transformers' Trainer without pickles: safetensors and JSON, and a list of files that makes one whole.

transformers keeps optimizer, scheduler and random states with ``torch.save``. Here they are tensors in safetensors and
numbers in JSON, so that nothing that is read can run code, and a checkpoint counts only once ``whole.json`` is in it.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.atomic import write_json
from rlhf_game.files.tables import digest
from rlhf_game.training_backends.trainers.sharded import load_sharded, save_sharded

MARK = "whole.json"
"""The last file of a checkpoint that is written: the SHA-256 of every other one."""
TENSORS = "training.safetensors"
NUMBERS = "training.json"
SHARDS = "shards"
"""Of a training under FSDP: the folder with the parts of weights and optimizer that each process wrote."""
PICKLE = "training_args.bin"


class KeepsTensors(ABC):
    """A part of a training (a callback, say) with tensors of its own, which belong into its checkpoints."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what has to be kept."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what was kept; called before ``on_train_begin``, with the tensors on the CPU."""


class SafeCheckpoints(Trainer, ABC):
    """What a Trainer needs to resume without a pickle; name it before TRL's class among the bases.

    The random state is torch's (CPU and this process's GPU), the only one that a training here draws from.
    """

    model: Any
    optimizer: Any
    lr_scheduler: Any

    def parts(self) -> dict[str, KeepsTensors]:
        """Return the parts with tensors of their own, by name: the callbacks that say so."""
        found = [callback for callback in self.callback_handler.callbacks if isinstance(callback, KeepsTensors)]
        return {type(part).__name__: part for part in found}

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """Write none: what a model is says the file that is written with it."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        (Path(output_dir or str(self.args.output_dir)) / PICKLE).unlink(missing_ok=True)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self._is_finite():
            raise RunError(f"the weights are no numbers any more after step {self.state.global_step}")
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            write_json(folder / MARK, _digests(folder))

    def _is_finite(self) -> bool:
        """Return whether all trained weights are numbers, in every process."""
        own = [own_part(p) for p in self.model.parameters() if p.requires_grad]
        found = torch.tensor(float(all(bool(torch.isfinite(p).all()) for p in own)), device=self.args.device)
        return bool(self.accelerator.gather(found).min() == 1)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            self._save_shards(Path(output_dir))
        if not self.args.should_save or self.is_fsdp_enabled:
            return
        tensors, numbers = _split(self.optimizer.state_dict())
        for name, part in self.parts().items():
            tensors |= {f"{name}.{key}": value for key, value in part.tensors().items()}
        save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, Path(output_dir) / TENSORS)
        write_json(Path(output_dir) / NUMBERS, {"optimizer": numbers, "scheduler": self.lr_scheduler.state_dict()})

    def _save_shards(self, folder: Path) -> None:
        """Write this process's shards, and what its callbacks keep of them."""
        save_sharded(self.model, self.optimizer, folder / SHARDS)
        parts = {f"{name}.{key}": value for name, part in self.parts().items() for key, value in part.tensors().items()}
        own = {key: value.contiguous().cpu() for key, value in parts.items()}
        save_file(own, folder / f"parts-{self.args.process_index}.safetensors")
        if self.args.should_save:
            write_json(folder / NUMBERS, {"scheduler": self.lr_scheduler.state_dict()})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.is_fsdp_enabled:  # its shards come with the optimizer's
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if self.is_fsdp_enabled:
            self._load_shards(Path(checkpoint))
            return
        tensors = load_file(Path(checkpoint) / TENSORS)
        numbers = json.loads((Path(checkpoint) / NUMBERS).read_text(encoding="utf-8"))
        self.optimizer.load_state_dict(_joined(tensors, numbers["optimizer"]))
        self.lr_scheduler.load_state_dict(numbers["scheduler"])
        self._restore_parts(tensors)

    def _load_shards(self, folder: Path) -> None:
        load_sharded(self.model, self.optimizer, folder / SHARDS)
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        self.lr_scheduler.load_state_dict(numbers["scheduler"])
        self._restore_parts(load_file(folder / f"parts-{self.args.process_index}.safetensors"))

    def _restore_parts(self, tensors: Mapping[str, Tensor]) -> None:
        for name, part in self.parts().items():
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            part.restore(own)

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # a process may be here before the first one made it
        states = {"cpu": torch.random.get_rng_state()}
        if self.args.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.args.device)
        save_file(states, Path(output_dir) / f"random-{self.args.process_index}.safetensors")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(Path(checkpoint) / f"random-{self.args.process_index}.safetensors")
        torch.random.set_rng_state(states["cpu"])
        if self.args.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.args.device)


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return an optimizer's state as tensors by ``optimizer.<parameter>.<name>`` and everything else as JSON has it."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                others.setdefault(str(index), {})[name] = value
    return tensors, {"state": others, "groups": state["param_groups"]}


def _joined(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in numbers["state"].items()}
    for key, value in tensors.items():
        place, _, rest = key.partition(".")
        if place == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in numbers["groups"]]
    return {"state": state, "param_groups": groups}


def checkpoints(work: Path) -> list[Path]:
    """Return the whole checkpoints under ``work``, the oldest first."""
    folders = sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return [folder for folder in folders if (folder / MARK).is_file()]


def last_checkpoint(work: Path) -> str | None:
    """Return the newest whole checkpoint under ``work``; those that were being written when a process died are dropped.

    In a training of several processes, call it in the first one only.
    """
    whole = checkpoints(work)
    for folder in work.glob("checkpoint-*"):
        if folder not in whole:
            shutil.rmtree(folder)
    for folder in whole:
        _check(folder)
    return str(whole[-1]) if whole else None


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a checkpoint but its list."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def own_part(parameter: Tensor) -> Tensor:
    """Return this process's part of a parameter: all of it, or its shard under FSDP2."""
    own = parameter.detach()
    return own.to_local() if isinstance(own, DTensor) else own


def _check(folder: Path) -> None:
    """Raise InputError when a file of a whole checkpoint is not as it was written."""
    try:
        listed = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except ValueError:
        listed = {}
    if listed != _digests(folder):
        raise InputError(f"{folder}: must be a checkpoint as it was written, found it changed; delete it")
