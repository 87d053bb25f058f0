"""``run`` with outcomes finetuned: every stage once, after any interruption; what is refused; trainings in parallel."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest

from rlhf_game import InputError
from rlhf_game.engines import Devices, Engine, Local, Serial
from rlhf_game.files.run_folder import StagePart
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.finetuned import finetuned_draws, finetuned_training
from tests.outcomes.listed import QUICK, Write, document, finished
from tests.outcomes.visible import visible_device


@final
@dataclass(frozen=True)
class Backwards(Engine):
    """Does the last task first, and remembers what it was asked for."""

    asked: list[Any]

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        self.asked.extend(tasks)
        return reversed([function(task) for task in reversed(self.asked)])


COMPARED = ("game.json", "receipt.json", "samples.parquet", "scores.parquet")


def test_what_a_group_says_does_not_train_the_policy_without_it_again(tuned: Write, tmp_path: Path) -> None:
    told: list[str] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("train"):
            told.append(what.partition("(")[2].rstrip(")"))

    run(read_config(tuned({"payments_from": "leave_one_out", "steps": 3})), tmp_path / "one", watch)
    assert set(told) == {"final", "without first", "without second"}
    told.clear()
    groups = document(QUICK)["groups"]
    groups[0] |= {"size": 5}
    run(
        read_config(tuned({"payments_from": "leave_one_out", "steps": 3}, groups=groups)),
        tmp_path / "two",
        watch,
    )
    assert set(told) == {"final", "without second"}  # the second group's absence leaves the first, which changed
    texts = groups[1]["reward"]["table"]["values"]
    groups[1] |= {"reward": {"table": {"values": {text: 1 - value for text, value in texts.items()}}}}
    told.clear()
    run(
        read_config(tuned({"payments_from": "leave_one_out", "steps": 3}, groups=groups)),
        tmp_path / "three",
        watch,
    )
    assert set(told) == {"final", "without first"}


def test_an_interrupted_run_goes_on_with_the_same_receipt(
    tuned: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuned(settlement_seed=7)
    finished(config, tmp_path / "whole")
    kept = StagePart.write
    for stop in ("draws-0000-000000.json", "draws-0001", "scores-000001.json"):

        def interrupted(part: StagePart, value: Any, stop: str = stop) -> None:
            if part.path.name.startswith(stop):
                raise KeyboardInterrupt
            kept(part, value)

        with monkeypatch.context() as patch:
            patch.setattr(StagePart, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(read_config(config), tmp_path / "broken")
    told = []
    run(read_config(config), tmp_path / "broken", lambda what, done, total: told.append(what))
    assert not any(what.startswith("train") for what in told)  # it was done before
    for name in COMPARED:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    weights = Path("policy/model/model.safetensors")
    (tmp_path / "broken" / weights).write_bytes(b"others")
    (tmp_path / "broken/receipt.json").unlink()
    with pytest.raises(InputError, match="model.safetensors: must be as this run wrote it"):
        run(read_config(config), tmp_path / "broken")


def test_kill_9_in_the_middle_of_the_training_and_a_rerun_give_the_same_receipt(tuned: Write, tmp_path: Path) -> None:
    config = tuned({"steps": 20}, settlement_seed=7)
    finished(config, tmp_path / "whole")
    log = tmp_path / "broken/policy/checkpoints"
    program = (sys.executable, "-m", "rlhf_game", "run", str(config), "-o", str(tmp_path / "broken"))
    with subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True) as process:
        while process.poll() is None and len(list(log.glob("checkpoint-*/whole.json"))) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "broken/policy/policy.json").exists()
    told: list[str] = []
    run(read_config(config), tmp_path / "broken", lambda what, done, total: told.append(what))
    assert any(what.startswith("resume from checkpoint-") for what in told)
    for name in COMPARED:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": {"payments_from": "early_stopped"}}, "outcomes.stop_after: must be given with payments_from"),
        ({"outcomes": {"stop_after": 3}}, "outcomes.stop_after: must be with payments_from early_stopped only"),
        ({"outcomes": {"num_generations": 5}}, "outcomes.num_generations: must divide the 32 responses of a step"),
        ({"outcomes": {"ppo": {}}}, "outcomes.ppo: must be with trainer ppo only"),
        ({"outcomes": {"trainer": "dpo"}}, "outcomes.trainer: must be 'rloo', 'grpo', 'ppo' or 'best_of_n'"),
        ({"outcomes": {"samples": 1}}, "outcomes.samples: must be greater than or equal to 2, found 1"),
        ({"regularizer": "l2"}, "regularizer: must be kl with outcomes finetuned, found l2"),
        ({"normalization": "max"}, "normalization: must be none with outcomes finetuned, found max"),
        ({"groups": [{"name": "a", "reward": "clean", "calibration": "rank"}]}, "must not be rank with outcomes fine"),
    ],
)
def test_a_configuration_without_meaning_is_refused(tuned: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(tuned(changes.pop("outcomes", None), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": {"cap": 1.0}}, "outcomes.cap: must be at least 8.5"),
        ({"model": {"name": "model", "dtype": "float16"}}, "model.dtype: must be float32 or bfloat16"),
        ({"model": {"name": "model", "device": "meta"}}, "model.device: must be auto, cpu or cuda"),
        ({"outcomes": {"trl": {"beta": 0.1}}}, "trl.beta: must be one of"),
    ],
)
def test_what_cannot_be_trained_or_bounded_is_refused_before_anything_is_done(
    tuned: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = tuned(changes.pop("outcomes", None), **changes)
    with pytest.raises(InputError, match=message):
        run(read_config(config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_are_spread_over_devices_and_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(Devices(("3", "7")).map(visible_device, ["a", "b", "c", "d"]))
    assert [task for task, _ in found] == ["a", "b", "c", "d"]
    assert {device for _, device in found} <= {"3", "7"}
    assert finetuned_draws.side_by_side() == Serial()  # there is no second device here
    monkeypatch.setattr("rlhf_game.training_backends.lm.soups.devices", lambda: ("0", "1"))
    assert finetuned_draws.side_by_side() == Devices(("0", "1"))


def test_trainings_that_do_not_need_each_other_go_through_the_map(tuned: Write, tmp_path: Path) -> None:
    configuration = read_config(tuned({"payments_from": "leave_one_out"}))
    spec = finetuned_training.spec_of(configuration)
    engine = Backwards([])
    made = finetuned_draws._train(finetuned_training.further_tasks(configuration, spec), lambda *told: None, engine)
    assert [task.label for task in engine.asked] == ["without first", "without second"]
    assert [one.label for one in made] == ["without first", "without second"]


@pytest.mark.slow  # two processes that each import torch
def test_two_processes_leave_the_receipt_of_one(tuned: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tuned({"payments_from": "leave_one_out"}, settlement_seed=7)
    run(read_config(config), tmp_path / "one")
    monkeypatch.setenv("RLHF_GAME_CACHE", str(tmp_path / "cache of two"))
    run(read_config(config), tmp_path / "two", engine=Local(2))
    for name in COMPARED:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
