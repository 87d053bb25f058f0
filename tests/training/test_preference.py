"""``train`` of kind preference: folder, card, metrics, resuming, wrong configurations; its reward in a game."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.rewards import Ensemble, ImplicitReward, Median, call_reward
from rlhf_game.training import read_training, train
from rlhf_game.training.recipes.preference import LossName
from tests import tiny
from tests.cli.runner import run as command
from tests.preferences import preferences, worth
from tests.training.responses import drawn_before_and_after

pytestmark = pytest.mark.usefixtures("one_thread")

Write = Callable[..., Path]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    """Write preferences with a known truth and a small configuration, changed at the given keys."""
    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in preferences(400, seed=0)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {
            "kind": "preference",
            "data": {"file": "p.jsonl", "test_share": 0.25},
            "model": str(model),
            "lora": {"rank": 8},
            "learning_rate": 0.003,
            "max_length": 64,
            "epochs": 2.0,
            "device": "cpu",
            "divergence": {"prompts": 6, "per_prompt": 8, "max_new_tokens": 6},
        }
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def test_a_policy_is_trained_judged_and_its_reward_plays(write: Write, tmp_path: Path, model: Path) -> None:
    config = write(also_test={"again": "p.jsonl"}, flip=0.1, epochs=4.0)
    result = command("train", config, "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["subsets"].keys() == {"train", "train_flipped", "test", "again"}
    assert found["subsets"]["test"]["accuracy"] > 0.6
    assert found["subsets"]["train"]["loss"] < np.log(2)
    assert found["subsets"]["train"]["margin"] > 0
    assert found["subsets"]["train"]["margin"] == pytest.approx(
        found["subsets"]["train"]["reward_chosen"] - found["subsets"]["train"]["reward_rejected"]
    )
    assert found["sequence_kl"]["responses"] == 48
    assert found["sequence_kl"]["estimate"] > found["sequence_kl"]["standard_error"] > 0
    held_out = [row["prompt"] for row in found["outputs"]]
    assert len(held_out) == 4
    assert found["outputs"] == drawn_before_and_after(model, tmp_path / "out", held_out, seed=0, max_new_tokens=6)
    assert any(row["before"] != row["after"] for row in found["outputs"])
    card = (tmp_path / "out/model/README.md").read_text()
    assert "loss `dpo`, beta 0.1, an adapter (LoRA)" in card
    assert "known up to a constant of each prompt" in card

    reward = ImplicitReward("out", base=tmp_path)
    texts = ["good thanks yes good", "bad no please bad"]
    good, bad = call_reward(reward, ["maybe now", "maybe now"], texts)
    assert worth(texts[0]) > worth(texts[1])
    assert good > bad
    with pytest.raises(InputError, match="identified"):
        call_reward(Ensemble((reward, reward), Median()), ["maybe"], ["good"])
    game = {
        "model": str(model),
        "prompts": ["good now", "maybe"],
        "outcomes": {"per_prompt": 8, "max_new_tokens": 3},
        "strength": 0.2,
        "groups": [{"name": "a", "reward": {"implicit": "out"}}, {"name": "b", "reward": {"brevity": 3}}],
    }
    (tmp_path / "game.json").write_text(json.dumps(game))
    played = command("run", tmp_path / "game.json", "-o", tmp_path / "run", "--json")
    assert (played.code, played.err) == (0, "")
    receipt = json.loads(played.out)
    assert [group["name"] for group in receipt["groups"]] == ["a", "b"]
    assert all(group["utility"] >= 0 for group in receipt["groups"])
    assert any("adapter_model" in name or "out" in name for name in json.loads(
        (tmp_path / "run/config.json").read_text())["files"])  # fmt: skip


def test_a_finished_training_is_only_read_and_a_half_one_goes_on(write: Write, tmp_path: Path) -> None:
    configuration = read_training(write(lora=None, steps=3))
    first = train(configuration, tmp_path / "out").metrics
    weights = (tmp_path / "out/model/model.safetensors").read_bytes()
    (tmp_path / "out/metrics.json").unlink()
    (tmp_path / "out/policy.json").unlink()  # as if it had stopped before the card was written
    assert train(configuration, tmp_path / "out").metrics == first
    assert (tmp_path / "out/model/model.safetensors").read_bytes() == weights
    with pytest.raises(InputError, match="seed: must be 0 as in the run at"):
        train(read_training(write(lora=None, steps=3, seed=5)), tmp_path / "out")


def test_a_strength_is_given_to_spce_and_a_round_begins_with_another(write: Write, tmp_path: Path) -> None:
    first = train(read_training(write(loss="spce", strength=0.8, steps=4)), tmp_path / "first")
    assert first.metrics["loss"] == "spce"
    assert "Policy" not in first.tables[0].title
    assert [row[0] for row in first.tables[0].rows] == ["train", "test"]
    second = train(read_training(write("second.json", start="first", steps=1)), tmp_path / "second")
    assert second.metrics["training"]["steps"] == 1
    (tmp_path / "first/model/adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="start: "):
        read_training(write("third.json", start="first"))


def test_a_discovered_expression_trains_as_the_loss_that_it_spells(write: Write, tmp_path: Path) -> None:
    found = {}
    for name, loss in (("named", "slic"), ("spelled", {"expression": "relu(1 - z)"})):
        found[name] = train(read_training(write(f"{name}.json", loss=loss, steps=3)), tmp_path / name).metrics
    assert found["spelled"]["loss"] == "relu(1 - z)"
    for subset in ("train", "test"):
        assert found["spelled"]["subsets"][subset] == pytest.approx(found["named"]["subsets"][subset], abs=1e-4)


def test_the_names_of_losses_are_those_that_there_are() -> None:
    from rlhf_game.training_backends.trainers.preferences import LOSSES

    assert get_args(LossName) == tuple(LOSSES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "magic"}, "loss: must be 'dpo'"),
        ({"loss": {"expression": "os.system(z)"}}, "is not in the language of losses"),
        ({"loss": "spce"}, "strength: must be given with loss spce and only there"),
        ({"strength": 0.5}, "strength: must be given with loss spce and only there"),
        ({"loss": "dbaql", "batch_size": 1}, "batch_size: must be >= 2 with loss dbaql"),
        ({"beta": 0.0}, "beta"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"data": None}, "data: must be given"),
        ({"surprise": 1}, "must be one of the keys"),
        ({"max_length": 2}, "max_length must leave pairs to train on"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_runs_as_it_is(tmp_path: Path) -> None:
    result = command("train", EXAMPLES / "dpo.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["training"]["steps"] == 3
    assert found["subsets"]["test"]["pairs"] > 0
