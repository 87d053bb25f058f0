"""Kind ``elastic_reset``: points along the training, with resets and without, resumed; wrong configurations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.training import read_training, train
from rlhf_game.training.recipes.elastic_reset import front
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import log_probabilities
from rlhf_game.training_backends.trainers.policies import cost_of_texts
from tests import tiny
from tests.cli.runner import run as command

Write = Callable[..., Path]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REWARD = """
def good(prompts, completions, **columns):
    return [min(1.0, text.split().count("good") / 3) for text in completions]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    """Write a small configuration, changed at the given keys, with its reward and texts."""
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "texts.txt").write_text("good yes\n\nno bad please now\n")

    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {
            "kind": "elastic_reset", "model": str(model), "prompts": ["good bad", "yes", "no please", "maybe now"],
            "groups": [
                {"name": "a", "size": 3, "reward": {"python": "rewards.py:good"}}, {"name": "b", "reward": "brevity"},
            ],
            "every": 4, "decay": 0.5, "steps": 10, "learning_rate": 0.01, "batch_size": 8, "max_new_tokens": 5,
            "save_steps": 4, "judged": {"prompts": 3, "per_prompt": 16}, "device": "cpu", "texts": "texts.txt",
        }  # fmt: skip
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def test_the_points_along_a_training_are_measured_and_compared(write: Write, tmp_path: Path, model: Path) -> None:
    result = command("train", write(compare=True), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    metrics = json.loads(result.out)
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert (metrics["resets"], metrics["strength"]) == ([4, 8], 0.001)
    own, plain = (metrics["runs"][label]["points"] for label in ("elastic_reset", "plain"))
    assert [point["step"] for point in own] == [point["step"] for point in plain] == [0, 4, 8, 10]
    assert [point["after_reset"] for point in own] == [False, True, True, False]
    assert not any(point["after_reset"] for point in plain)
    assert own[0]["sequence_kl"]["estimate"] == pytest.approx(0.0, abs=1e-5)
    assert own[0]["perplexity"] == plain[0]["perplexity"]
    assert own[0] == {**plain[0], "on_front": own[0]["on_front"]}
    # The same prompts, seed and steps: up to the first reset both are one training, and the reset takes drift back.
    assert 0 < own[1]["sequence_kl"]["estimate"] < plain[1]["sequence_kl"]["estimate"]
    reward = own[1]["reward"]["estimate"]
    assert reward == pytest.approx((3 * own[1]["groups"]["a"]["estimate"] + own[1]["groups"]["b"]["estimate"]) / 4)
    first, last = (own[end]["outputs"] for end in (0, -1))
    assert [(row["before"], row["after"]) for row in metrics["outputs"]] == list(zip(first, last, strict=True))
    assert first != last
    assert not (tmp_path / "out/checkpoints").exists()
    shown = command("train", write(compare=True), "-o", tmp_path / "out").out
    assert "4 (reset)" in shown
    assert "plain: reward against drift" in shown


def test_a_stopped_one_goes_on_and_a_finished_one_is_only_read(write: Write, tmp_path: Path) -> None:
    configuration = read_training(write(lora={"rank": 2, "targets": ["q_proj"]}, steps=6, keeps_checkpoints=True))
    first = train(configuration, tmp_path / "whole").metrics
    assert (tmp_path / "whole/checkpoints/checkpoint-4/training.safetensors").exists()

    def stop_in(where: str, at: int) -> Callable[[str, int, int], None]:
        def stop(what: str, done: int, total: int) -> None:
            if where in what and done == at:
                raise KeyboardInterrupt

        return stop

    for where, at in (("train the policy", 5), ("step 4", 0)):
        with pytest.raises(KeyboardInterrupt):
            train(configuration, tmp_path / "stopped", stop_in(where, at))
    again = train(configuration, tmp_path / "stopped").metrics
    points = [run["runs"]["elastic_reset"]["points"] for run in (first, again)]
    assert points[0] == points[1]
    (tmp_path / "whole/metrics.json").unlink()
    assert train(configuration, tmp_path / "whole").metrics == first


def test_the_front_is_what_no_other_point_beats() -> None:
    assert front([(0.0, 0.0), (1.0, 2.0), (0.5, 3.0), (1.0, 2.0), (2.0, 5.0)]) == {0, 1, 3, 4}
    assert front([(1.0, 1.0), (1.0, 2.0), (0.5, 1.0)]) == {0}


def test_the_cost_of_texts_is_that_of_their_tokens(model: Path) -> None:
    policy = load_language_model(str(model), device="cpu")
    nats, tokens = cost_of_texts(policy, ["good yes", "no"])
    assert tokens.tolist() == [2.0, 1.0]
    expected = -log_probabilities(policy, [[1], [1]], [[4, 6], [7]])  # after <bos>
    assert np.allclose(nats, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 10}, "config.json: every: must be less than steps = 10 (the last step is not reset), found 10"),
        ({"every": None}, "config.json: every: must"),
        ({"decay": 1.0}, "config.json: decay: must"),
        ({"place": "disk"}, "config.json: place: must"),
        ({"trainer": "best_of_n"}, "config.json: trainer: must be rloo, grpo or ppo to be reset, found best_of_n"),
        (
            {"trainer": "ppo", "every": 3},
            "config.json: every: must be a multiple of ppo.epochs = 2 (a reset lies between generations), found 3",
        ),
        ({"texts": "none.txt"}, "config.json: texts: must name a file that exists"),
        ({"elastic_reset": {"every": 2}}, "config.json: elastic_reset: must"),
    ],
)
def test_wrong_configurations_are_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_runs(tmp_path: Path) -> None:
    result = command("train", EXAMPLES / "elastic_reset.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    points = json.loads(result.out)["runs"]["elastic_reset"]["points"]
    assert [point["step"] for point in points] == [0, 3, 5]
    assert all(point["perplexity"] > 1 for point in points)
