"""What watches a training: it tells how far it is, keeps its numbers, and stops one that diverges."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeAlias, final

from transformers import TrainerCallback

from rlhf_game.errors import RunError
from rlhf_game.files.run_folder import Progress

StepRows: TypeAlias = Callable[[Sequence[Mapping[str, Any]]], list[dict[str, Any]]]
"""From what a Trainer logged to a row for each step."""


@final
class ProgressCallback(TrainerCallback):
    """Tells how far the training is, in the first process."""

    def __init__(self, watch: Progress) -> None:
        self._watch = watch

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **others: Any) -> None:
        """Report the step that is done, with its loss and reward."""
        if state.is_world_process_zero and logs and "loss" in logs:
            numbers = [f"{name} {logs[name]:.4g}" for name in ("loss", "reward") if logs.get(name) is not None]
            self._watch(f"train the policy [{', '.join(numbers)}]", state.global_step, state.max_steps)


@final
class StepLogCallback(TrainerCallback):
    """Writes a row for each step into a file while the training runs; on a resumed one, those before it first.

    rows: what a Trainer's log becomes there.
    """

    def __init__(self, path: Path, rows: StepRows) -> None:
        self._path, self._rows = path, rows

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Write what was logged before."""
        if state.is_world_process_zero:
            self._path.write_text("".join(map(_line, self._rows(state.log_history))), encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **others: Any) -> None:
        """Write the step's row."""
        if state.is_world_process_zero and logs and "loss" in logs:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(self._rows(state.log_history[-1:])[0]))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in row.items() if key != "seconds"}) + "\n"


@final
class FiniteWeightsCallback(TrainerCallback):
    """Stops a training before it writes a checkpoint of weights that are worth nothing."""

    def __init__(self, learning_rate: float, kl_limit: float | None = None) -> None:
        """kl_limit: the sequence KL, in nats, at which the training is given up; None where it is not known."""
        self._limit = kl_limit
        self._rate = learning_rate

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **others: Any) -> None:
        """Look at the step's numbers, which come before its checkpoint is written. Raises RunError."""
        logs = logs or {}
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm", "kl"):
            value = logs.get(name)
            if value is not None and not isfinite(value):
                raise RunError(
                    f"the training diverged at step {state.global_step}: its {name} is {value}; lower learning_rate "
                    f"(now {self._rate}); {self._kept(args, state)}"
                )
        kl = sequence_kl(logs)
        if self._limit is not None and kl is not None and kl > self._limit:
            raise RunError(
                f"the training diverged at step {state.global_step}: its KL to the reference is {kl:.4g} nats a "
                f"response, above kl_limit = {self._limit}; lower learning_rate (now {self._rate}) or raise strength; "
                f"{self._kept(args, state)}"
            )

    def _kept(self, args: Any, state: Any) -> str:
        last = (state.global_step - 1) // args.save_steps * int(args.save_steps)
        return f"the last good checkpoint is of step {last}" if last else "there is no checkpoint yet"


def sequence_kl(logs: Mapping[str, Any]) -> float | None:
    """Return the estimated KL of whole responses, in nats: TRL's mean per token times the mean number of tokens."""
    if logs.get("kl") is None or "completions/mean_length" not in logs:
        return None
    return float(logs["kl"]) * float(logs["completions/mean_length"])


def steps_of(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the log of a training, one row per step, from what the Trainer logged.

    What belongs to a generation (rewards, KL, length) is None in a step on the responses of the step before.
    """
    found: list[dict[str, Any]] = []
    for row in history:
        if "loss" not in row:
            continue
        rewards = {
            key.removeprefix("rewards/").removesuffix("/mean"): float(value)
            for key, value in row.items()
            if key.startswith("rewards/") and key.endswith("/mean") and value is not None
        }
        found.append(
            {
                "step": int(row["step"]),
                "loss": float(row["loss"]),
                "reward": row.get("reward"),
                "rewards": rewards,
                "kl": sequence_kl(row),
                "length": row.get("completions/mean_length"),
                "entropy": row.get("entropy"),
                "gradient_norm": row.get("grad_norm"),
                "learning_rate": row.get("learning_rate"),
                "tokens": int(row.get("num_tokens", found[-1]["tokens"] if found else 0)),
                "seconds": float(row.get("step_time", 0.0)),
            }
        )
    return found
