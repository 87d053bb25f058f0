"""KL tables by numpy and by torch, on the CPU and on a GPU: ``python -m benchmarks.torch_table [GROUPS OUTCOMES]``.

Prints the time of training and charging (rewards in place, float64), and the share of memory bandwidth reached: the
time of reading all rewards once, at the speed of a plain copy on the same device, divided by the time taken. Without a
GPU that torch can use, that part says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import rlhf_game as rg

ROUNDS = 5


@dataclass(frozen=True)
class Measured:
    """The least seconds of settling, and of reading the rewards once at the speed of a copy."""

    device: str
    seconds: float
    reading: float
    payments: np.ndarray

    @property
    def share(self) -> float:
        """The share of memory bandwidth reached."""
        return self.reading / self.seconds


def least(function: Callable[[], Any], wait: Callable[[], None] = lambda: None) -> float:
    times = []
    for _ in range(ROUNDS):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - start)
    return min(times)


def by_numpy(rewards: np.ndarray, reference: np.ndarray) -> Measured:
    table = rg.Table(reference, rg.KL(1.0))
    rows, weights, target = [table.read(reward) for reward in rewards], np.ones(len(rewards)), np.empty_like(rewards)
    seconds = least(lambda: table.maximize(weights, rows).externalities(weights, rows))
    reading = least(lambda: np.copyto(target, rewards)) / 2
    return Measured("CPU, numpy", seconds, reading, table.maximize(weights, rows).externalities(weights, rows))


def by_torch(rewards: np.ndarray, reference: np.ndarray, device: str) -> Measured:
    import torch

    from rlhf_game.training_backends import TorchTable

    table = TorchTable(reference, rg.KL(1.0), device=device)
    held = torch.tensor(rewards, device=device)
    rows, weights, target = [table.read(reward) for reward in held], np.ones(len(rewards)), torch.empty_like(held)
    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    payments = table.maximize(weights, rows).externalities(weights, rows)
    seconds = least(lambda: table.maximize(weights, rows).externalities(weights, rows), wait)
    reading = least(lambda: target.copy_(held), wait) / 2
    name = "CPU, torch" if device == "cpu" else f"{torch.cuda.get_device_name()}, torch"
    return Measured(name, seconds, reading, payments)


def measure(groups: int, outcomes: int) -> list[Measured]:
    """Return all that can be measured here."""
    import torch

    rng = np.random.default_rng(0)
    rewards, reference = rng.random((groups, outcomes)), rng.random(outcomes)
    reference /= reference.sum()
    rewards.flags.writeable = reference.flags.writeable = False
    found = [by_numpy(rewards, reference), by_torch(rewards, reference, "cpu")]
    if torch.cuda.is_available():
        found.append(by_torch(rewards, reference, "cuda"))
    for one in found:
        np.testing.assert_allclose(one.payments, found[0].payments, rtol=1e-9)
    return found


def main() -> None:
    groups, outcomes = (int(text.replace("_", "")) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (16, 2_000_000)
    found = measure(groups, outcomes)
    import torch

    print(f"KL, n = {groups}, m = {outcomes:,}, float64, {torch.get_num_threads()} threads of torch: train and charge")
    for one in found:
        print(f"  {one.device:<40}{one.seconds * 1e3:10.1f} ms   {one.share:6.1%} of memory bandwidth")
    if len(found) == 2:
        print("  GPU: none that torch can use here, so not measured")


if __name__ == "__main__":
    main()
