"""What decides a result is in its identity: the source of functions, the modules beside them, versions of endpoints."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.finetuned.finetuned_training import further_tasks, key_of, policy_training, spec_of
from rlhf_game.outcomes.run_config import parse_config
from rlhf_game.training.training_config import read_training
from rlhf_game.training_backends.trainers.policies import train_policy
from tests import tiny
from tests.cli.runner import Result
from tests.cli.runner import run as command
from tests.outcomes.listed import QUICK, document
from tests.training_backends.trainers.policies.enumerable import save_model
from tests.training_backends.trainers.policies.interrupted import PROMPTS, training
from tests.trainings import changed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model")
    code = "import helper\n\ndef good(prompts, completions, **columns):\n    return helper.count(completions)\n"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "helper.py").write_text("def count(texts):\n    return [0.5] * len(texts)\n")
    return tmp_path


def keys(folder: Path, target: str) -> list[str]:
    content = document({**QUICK, "payments_from": "leave_one_out"})
    content["groups"][0]["reward"] = {"python": target}
    configuration = parse_config(content, "config", folder)
    tasks = further_tasks(configuration, spec_of(configuration), folder / "own")
    assert all(task.out is None for task in tasks)
    return [key_of(task, policy_training(task)) for task in tasks]


@pytest.mark.parametrize("target", ["mine:good", "mine.py:good"])
@pytest.mark.parametrize("file", ["mine.py", "helper.py"])
def test_a_training_is_taken_again_only_while_its_functions_are_the_same(folder: Path, target: str, file: str) -> None:
    before = keys(folder, target)
    assert keys(folder, target) == before
    (folder / file).write_text((folder / file).read_text() + "\nX = 1\n")
    without_it, with_it = keys(folder, target)
    assert without_it == before[0]  # the policy without the first group, whose function it is, is as it was
    assert with_it != before[1]


def endpoint(version: dict[str, str]) -> list[dict[str, Any]]:
    plain = {"endpoint": {"url": "http://127.0.0.1:9", **version}}
    judge = {"judge": {"model": "m", "url": "http://127.0.0.1:9", "instruction": "Grade.", **version}}
    return [plain, judge, {"mix": {"parts": [{"reward": plain, "calibration": "unit"}]}}]


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_an_endpoint_said_is_taken_again_only_if_its_version_is_declared(folder: Path, kind: int) -> None:
    for version, out in (({}, folder / "own" / "001"), ({"version": "2026-11"}, None)):
        content = document({**QUICK, "payments_from": "leave_one_out"})
        content["groups"][0]["reward"] = endpoint(version)[kind]
        configuration = parse_config(content, "config", folder)
        tasks = further_tasks(configuration, spec_of(configuration), folder / "own")
        assert [task.out for task in tasks] == [None, out]


def test_modules_and_what_they_import_are_part_of_a_configuration(folder: Path) -> None:
    content = document(QUICK)
    content["groups"][0]["reward"] = {"mix": {"parts": [{"reward": {"python": "mine:good"}, "calibration": "unit"}]}}
    (folder / "run.json").write_text(json.dumps(content))
    first = read_config(folder / "run.json")
    assert set(first.files) == {"mine.py", "helper.py"}
    (folder / "helper.py").write_text("def count(texts):\n    return [0.25] * len(texts)\n")
    assert read_config(folder / "run.json").sha256 != first.sha256
    trained = {"kind": "policy", "model": "model", "prompts": ["a"], "strength": 1.0, "groups": content["groups"]}
    (folder / "train.json").write_text(json.dumps(trained))
    assert {"mine.py", "helper.py"} < set(read_training(folder / "train.json").files)


def test_another_function_of_the_same_name_does_not_get_the_old_policy(tmp_path: Path) -> None:
    how = changed(training("rloo", str(save_model(tmp_path / "base"))), steps=1)

    def rewards(by: float) -> dict[str, Any]:
        def good(prompts: Any, completions: Any, **columns: Any) -> list[float]:
            return [by * len(text) for text in completions]

        return {"first": good, "second": good}

    first = train_policy(how, PROMPTS, rewards(1.0), tmp_path / "out")
    assert train_policy(how, PROMPTS, rewards(1.0), tmp_path / "out") == first
    with pytest.raises(InputError, match="found one with other rewards"):
        train_policy(how, PROMPTS, rewards(2.0), tmp_path / "out")


@pytest.mark.parametrize("failing", ["a reward that is no number", "a prompt that is too long"])
def test_a_run_that_failed_on_its_input_leaves_the_folder_to_the_corrected_one(failing: str, tmp_path: Path) -> None:
    tiny.save_language_model(tmp_path / "model")
    code = "def good(prompts, completions, **columns):\n    return [{}] * len(completions)\n"
    content: dict[str, Any] = {
        "model": "model", "prompts": ["good"], "strength": 0.2,
        "outcomes": {"kind": "candidates", "per_prompt": 3, "max_new_tokens": 2},
        "groups": [{"name": "a", "reward": {"python": "mine:good"}}],
    }  # fmt: skip

    def run(reward: str, prompt: str) -> Result:
        (tmp_path / "mine.py").write_text(code.format(reward))
        (tmp_path / "run.json").write_text(json.dumps({**content, "prompts": [prompt]}))
        return command("run", tmp_path / "run.json", "-o", tmp_path / "out")

    bad = run("float('nan')", "good") if "reward" in failing else run("0.5", "good " * 100)
    assert (bad.out, bad.err.count("\n")) == ("", 1)
    drawn = tmp_path / "out" / "candidates.parquet"
    assert (bad.code, drawn.exists(), (tmp_path / "out").exists()) in ((1, True, True), (2, False, False))
    before = drawn.read_bytes() if drawn.exists() else None
    assert run("0.5", "good").code == 0
    assert before in (None, drawn.read_bytes())  # what does not depend on the groups is not made again
    assert command("verify", tmp_path / "out").code == 0
    assert run("0.25", "good").code == 2  # a finished run is of one configuration
