"""The examples of a game over prompts and of distillation run as they are."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import run as command

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.weights
def test_prompts_settles_system_prompts_that_one_small_model_wrote_and_judged(tmp_path: Path) -> None:
    result = command("run", EXAMPLES / "prompts.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert sum(receipt["policy"]) == pytest.approx(1)
    assert [one["probability"] for one in receipt["provenance"]["system_prompts"]] == receipt["policy"]
    assert all(group["utility"] >= 0 for group in receipt["groups"])
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0


@pytest.mark.slow
@pytest.mark.weights
def test_distill_trains_and_scores_a_student(tmp_path: Path) -> None:
    result = command("train", EXAMPLES / "distill.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    assert set(json.loads(result.out)["scores"]) == {"teacher", "student before", "student after"}
    assert (tmp_path / "out/student/model/adapter_config.json").exists()


@pytest.mark.weights
def test_the_calls_of_the_examples_are_counted_without_a_model() -> None:
    for kind, name in (("run", "prompts.yaml"), ("train", "distill.yaml")):
        result = command(kind, EXAMPLES / name, "-o", EXAMPLES / "not_there", "--dry-run", "--json")
        assert (result.code, result.err) == (0, "")
        assert json.loads(result.out)["calls"] > 10
    assert not (EXAMPLES / "not_there").exists()
