"""Trainings that do not need each other, spread over the GPUs of this machine."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar, final

from rlhf_game.runs.finetuned_training import Map

T = TypeVar("T")
R = TypeVar("R")


def on_devices() -> Map:
    """Return the builtin ``map`` where there is at most one GPU, else a map with a process for each."""
    from rlhf_game.training_backends.soups import devices

    found = devices()
    return map if len(found) < 2 else DeviceMap(found)


@final
@dataclass(frozen=True)
class DeviceMap:
    """Runs tasks in fresh processes, each of which sees one of the devices; results come in the order of the tasks."""

    devices: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them."""

    def __call__(self, function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
        """Yield function(task) of each task. An error in one is raised here, once its turn comes."""
        context = get_context("spawn")
        free = context.Queue()
        for device in self.devices:
            free.put(device)
        with ProcessPoolExecutor(len(self.devices), context, initializer=_take, initargs=(free,)) as pool:
            yield from pool.map(function, tasks)


def _take(free: Any) -> None:
    """Let this process see one device, before torch is imported in it."""
    os.environ["CUDA_VISIBLE_DEVICES"] = free.get()
