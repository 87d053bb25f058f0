"""A training that is stopped, in whatever way, goes on from its last whole checkpoint and ends the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from rlhf_game import InputError
from rlhf_game.training_backends.trainers.policies import PolicyTraining, train_policy
from rlhf_game.training_backends.trainers.resuming import MARK, checkpoints
from tests.training_backends.trainers.policies.enumerable import REWARDS, save_model
from tests.training_backends.trainers.policies.interrupted import PROMPTS, training

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


class Stopped(Exception):
    """What stands for the end of a process where nothing else is tested."""


def same_weights(first: Path, second: Path) -> bool:
    (one,), (other,) = (list(folder.glob("model/*.safetensors")) for folder in (first, second))
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def stop_at(what: str, step: int, folder: Path, kind: str, model: Path) -> list[tuple[str, int]]:
    """Train until ``step`` of ``what``, then to the end; return what the second training said."""

    def watch(doing: str, done: int, total: int) -> None:
        if (doing.partition(" [")[0], done) == (what, step):
            raise Stopped

    said: list[tuple[str, int]] = []
    with pytest.raises(Stopped):
        train_policy(training(kind, str(model)), PROMPTS, REWARDS, folder, watch=watch)
    train_policy(training(kind, str(model)), PROMPTS, REWARDS, folder, watch=lambda w, d, t: said.append((w, d)))
    return said


@pytest.mark.parametrize("kind", ["rloo", "ppo-lora"])
def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    model = save_model(tmp_path / "base")
    script = [sys.executable, "-m", "tests.training_backends.trainers.policies.interrupted"]
    arguments = [kind, str(model), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run([*script, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    work = tmp_path / "killed" / "checkpoints"
    assert [folder.name for folder in checkpoints(work)] == ["checkpoint-3", "checkpoint-6"]
    assert not (tmp_path / "killed" / "model").exists()
    begun = [json.loads(line) for line in (tmp_path / "killed/steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in begun] == list(range(1, 8))  # of steps that were done before it died
    assert not [path for path in work.rglob("*") if path.suffix in PICKLES]
    shutil.copytree(work / "checkpoint-6", work / "checkpoint-9")  # one that was being written when the process died
    (work / "checkpoint-9" / MARK).unlink()

    said: list[tuple[str, int]] = []
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    how = training(kind, str(model))
    first = train_policy(how, PROMPTS, REWARDS, killed, watch=lambda what, done, total: said.append((what, done)))
    second = train_policy(how, PROMPTS, REWARDS, whole)
    assert [(what.partition(" [")[0], step) for what, step in said] == [
        ("resume from checkpoint-6", 6), *(("train the policy", step) for step in range(7, 13))
    ]  # fmt: skip
    assert all("loss" in what for what, _ in said[1:])
    assert same_weights(killed, whole)
    assert first.tokens == second.tokens
    assert first.log == second.log
    files = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in (killed, whole)
    ]
    assert [name for name in files[0] if files[0][name] != files[1][name]] in (
        [".sha256sums", "cost.json"],
        ["cost.json"],
    )
    assert not work.exists()


def _short(training: PolicyTraining) -> PolicyTraining:
    return replace(training, optimization=replace(training.optimization, steps=2))


@final
class Tracker(TrainerCallback):
    """Writes where tensorboard does."""

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        Path(args.output_dir, "runs/now").mkdir(parents=True)
        Path(args.output_dir, "runs/now/events").write_text(str(len(state.log_history)))


def test_what_a_tracker_wrote_is_kept_and_seconds_are_in_one_file(tmp_path: Path) -> None:
    model, out = save_model(tmp_path / "base"), tmp_path / "out"
    done = train_policy(_short(training("rloo", str(model))), PROMPTS, REWARDS, out, callbacks=[Tracker()])
    assert (out / "logs/runs/now/events").read_text() == "3"
    assert not (out / "checkpoints").exists()
    cost = json.loads((out / "cost.json").read_text())
    assert done.seconds == cost["seconds"] == pytest.approx(sum(cost["steps"]))
    assert len(cost["steps"]) == 2
    others = [path for path in out.rglob("*.json*") if path.name != "cost.json"]
    assert [path.name for path in others if "seconds" in path.read_text()] == []


@pytest.mark.parametrize("kind", ["grpo", "rloo-lora", "ppo"])
def test_every_trainer_goes_on_as_if_nothing_had_been(tmp_path: Path, kind: str) -> None:
    model = save_model(tmp_path / "base")
    said = stop_at("train the policy", 7, tmp_path / "stopped", kind, model)
    assert said[0] == ("resume from checkpoint-6", 6)
    train_policy(training(kind, str(model)), PROMPTS, REWARDS, tmp_path / "whole")
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(("what", "step"), [("draw and judge winners", 5), ("train the policy", 7)])
def test_best_of_n_draws_nothing_twice(tmp_path: Path, what: str, step: int) -> None:
    model = save_model(tmp_path / "base")
    stop_at(what, step, tmp_path / "stopped", "best_of_n", model)
    train_policy(training("best_of_n", str(model)), PROMPTS, REWARDS, tmp_path / "whole")
    assert same_weights(tmp_path / "stopped", tmp_path / "whole")


def test_a_finished_training_is_only_read_and_another_one_refused(tmp_path: Path) -> None:
    how = training("rloo", str(save_model(tmp_path / "base")))
    first = train_policy(how, PROMPTS, REWARDS, tmp_path / "out")
    shutil.rmtree(tmp_path / "base")
    (tmp_path / "base").mkdir()  # nothing is loaded
    assert train_policy(how, PROMPTS, REWARDS, tmp_path / "out") == first
    with pytest.raises(InputError, match="must be a new folder or that of this training, found one with other prompts"):
        train_policy(how, PROMPTS[:-1], REWARDS, tmp_path / "out")
    with pytest.raises(InputError, match="found one with other training"):
        train_policy(training("grpo", how.model.name), PROMPTS, REWARDS, tmp_path / "out")
