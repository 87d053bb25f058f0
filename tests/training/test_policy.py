"""Kind ``policy`` of ``rlhf-game train``: a tiny model, two groups, and what is said of the policy that comes out."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.training.recipes.policy import PolicyConfig
from rlhf_game.training.training_config import read_training
from rlhf_game.training.training_pipeline import FinishedTraining, train
from tests import tiny
from tests.training.responses import drawn_before_and_after

pytestmark = pytest.mark.usefixtures("one_thread")


def write(folder: Path, **changes: Any) -> Path:
    if not (folder / "model").exists():
        tiny.save_language_model(folder / "model")
        (folder / "likes.py").write_text(
            "def likes(prompts, completions, favourite, **columns):\n"
            "    return [float(f in t.split()) for f, t in zip(favourite, completions)]\n"
        )
    document = {
        "kind": "policy",
        "model": "model",
        "prompts": [{"prompt": "good please", "favourite": "yes"}, {"prompt": "maybe now", "favourite": "no"}],
        "groups": [
            {"name": "favourites", "size": 3, "reward": {"python": "likes.py:likes"}},
            {"name": "short", "reward": {"brevity": 6}},
        ],
        "strength": 0.5,
        "steps": 30,
        "batch_size": 32,
        "num_generations": 16,
        "max_new_tokens": 5,
        "learning_rate": 0.003,
        "save_steps": 10,
        "judged": {"per_prompt": 64},
        "device": "cpu",
        "seed": 1,
        **changes,
    }
    path = folder / "policy.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    return path


def run(folder: Path, out: str, **changes: Any) -> FinishedTraining:
    return train(read_training(write(folder, **changes)), folder / out)


def test_a_group_of_three_moves_the_policy_and_metrics_say_how_far(tmp_path: Path) -> None:
    done = run(tmp_path, "out", judged={"prompts": 1, "per_prompt": 128})  # draws of one prompt are independent
    group, kl = done.metrics["groups"]["favourites"], done.metrics["sequence_kl"]
    assert group["weight"] == 3.0
    assert group["policy"]["low"] > group["reference"]["high"]
    assert kl["low"] <= kl["estimate"] <= kl["high"]
    last = [json.loads(line) for line in (tmp_path / "out" / "steps.jsonl").read_text().splitlines()][-1]
    assert kl["estimate"] == pytest.approx(last["kl"], rel=0.5)  # both of few draws
    assert set(last["rewards"]) == {"favourites", "short"}
    assert last["reward"] == pytest.approx(3 * last["rewards"]["favourites"] + last["rewards"]["short"], rel=1e-5)
    assert done.metrics["training"]["steps"] == 30
    assert done.metrics["training"]["tokens"] == last["tokens"]
    assert done.metrics["is_faithful"]
    assert [table.rows[0][0] for table in done.tables] == ["favourites", "KL to the reference, nats a response"]
    assert done.metrics["outputs"] == drawn_before_and_after(
        tmp_path / "model", tmp_path / "out", ["good please"], seed=1, max_new_tokens=5
    )
    assert any(row["before"] != row["after"] for row in done.metrics["outputs"])
    again = train(read_training(tmp_path / "policy.json"), tmp_path / "out")
    assert again.metrics == done.metrics


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": "best_of_n", "num_generations": 4, "learning_rate": 0.01},
        {"trainer": "ppo", "lora": {"rank": 4}, "ppo": {"epochs": 2}, "learning_rate": 0.01},
        {"trainer": "grpo", "elastic_reset": {"every": 10}},
    ],
    ids=["best_of_n", "ppo", "grpo"],
)
def test_every_trainer_can_be_configured(tmp_path: Path, changes: dict[str, Any]) -> None:
    done = run(tmp_path, "out", **changes)
    group = done.metrics["groups"]["favourites"]
    assert group["policy"]["estimate"] > group["reference"]["estimate"]
    assert done.metrics["is_faithful"] == (changes["trainer"] == "ppo")
    if changes["trainer"] == "best_of_n":
        assert done.metrics["kl_bound"] == pytest.approx(0.636294, abs=1e-6)


def test_weights_of_an_affine_maximiser_come_beside_sizes(tmp_path: Path) -> None:
    fields = read_training(write(tmp_path, weights={"short": 0.5})).fields
    assert isinstance(fields, PolicyConfig)
    assert fields.training().weights == (3.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"groups": [{"name": "a", "reward": "clean", "calibration": "rank"}]},
            r"groups\[0\].calibration: must not be",
        ),
        ({"groups": [{"name": "a", "reward": "clean"}] * 2}, r"groups\[1\].name: must differ from the others"),
        ({"weights": {"tall": 2.0}}, "weights.tall: must be the name of a group"),
        ({"ppo": {"epochs": 4}}, "ppo: must be left out with trainer rloo"),
        ({"trainer": "ppo", "ppo": {"epochs": 4}}, "save_steps: must be a multiple of ppo.epochs = 4"),
        ({"lora": {"dropout": 0.1}}, "lora.dropout: must be 0"),
        ({"trl": {"scale_rewards": "group"}}, "trl.scale_rewards: must be one of"),
        ({"trl": {"beta": 0.0}}, "trl.beta: must be one of"),
        ({"elastic_reset": {"every": 5}, "trainer": "best_of_n"}, "elastic_reset: must be left out"),
        ({"strength": 0}, "strength: must be"),
        ({"prompts": None}, "prompts"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_training(write(tmp_path, **changes))
