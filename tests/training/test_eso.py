"""Kind ``eso``: data, metrics, comparing with SFT, resuming; wrong configurations and data are one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.training import read_training, train
from rlhf_game.training.demonstrations import DemonstrationSpec, read_demonstrations
from rlhf_game.training.intervals import interval
from tests import tiny
from tests.cli.runner import run as command
from tests.training.responses import drawn_before_and_after

Write = Callable[..., Path]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WORDS = ("good", "bad", "yes", "no", "please", "thanks", "maybe", "now")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    """Write demonstrations (a prompt's words in the other order) and a small configuration, changed at given keys."""
    rows = [{"prompt": f"{a} {b}", "completion": f"{b} {a}"} for a in WORDS for b in WORDS if a != b]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {
            "kind": "eso", "model": str(model), "data": {"file": "d.jsonl", "test_share": 0.5}, "epochs": 2,
            "learning_rate": 0.01, "batch_size": 8, "max_new_tokens": 4, "judged": 20, "device": "cpu",
        }  # fmt: skip
        (tmp_path / name).write_text(json.dumps({**document, **changes}))
        return tmp_path / name

    return write


def test_a_policy_is_trained_compared_and_used(write: Write, tmp_path: Path, model: Path) -> None:
    result = command("train", write(compare=True, weight=1.0, eso_epochs=2), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    metrics = json.loads(result.out)
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["rows"] == {"training": 28, "dropped": 0, "test": 20}
    assert metrics["training"]["first_eso_step"] == 1  # as the log counts them
    assert metrics["policies"].keys() == {"start", "sft", "eso"}
    for one in metrics["policies"].values():
        assert one.keys() == {"rouge1", "rouge2", "rougeL", "greedy_rougeL", "reward", "nats_per_token"}
        assert all(number["low"] <= number["estimate"] <= number["high"] for number in one.values())
        assert one["reward"] == one["rougeL"]  # the reward is ROUGE-L where none is named
    nats = {name: one["nats_per_token"]["estimate"] for name, one in metrics["policies"].items()}
    assert nats["sft"] < nats["start"] - 0.3
    assert metrics["gain"].keys() == {"rougeL", "greedy_rougeL", "reward"}
    prompts = [row["prompt"] for row in metrics["outputs"]]
    assert metrics["outputs"] == drawn_before_and_after(model, tmp_path / "out", prompts, seed=0, max_new_tokens=4)
    assert any(row["before"] != row["after"] for row in metrics["outputs"])
    assert not (tmp_path / "out/checkpoints").exists()
    assert (tmp_path / "out/model/model.safetensors").exists()
    shown = command("train", write(compare=True, weight=1.0, eso_epochs=2), "-o", tmp_path / "out")
    assert "ROUGE-L" in shown.out
    assert "What ESO adds to SFT" in shown.out


def test_a_finished_training_is_only_read_and_half_a_one_goes_on(write: Write, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lora": {"rank": 2, "targets": ["q_proj"]}, "reward": {"kind": "brevity", "words": 9}}
    configuration = read_training(write(**changes))
    first = train(configuration, tmp_path / "out").metrics
    assert first["policies"]["eso"]["reward"] != first["policies"]["eso"]["rougeL"]
    weights = (tmp_path / "out/model/adapter_model.safetensors").read_bytes()
    (tmp_path / "out/metrics.json").unlink()
    assert train(configuration, tmp_path / "out").metrics == first
    (tmp_path / "out/metrics.json").unlink()
    (tmp_path / "out/policy.json").unlink()
    assert train(configuration, tmp_path / "out").metrics == first
    assert (tmp_path / "out/model/adapter_model.safetensors").read_bytes() == weights
    with pytest.raises(InputError, match=r"weight: must be 0.05 as in the run at .*, found 0.1"):
        train(read_training(write(**changes, weight=0.1)), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eso_epochs": 3}, "config.json: eso_epochs: must be at most epochs = 2, found 3"),
        ({"temperatures": [1.0]}, "config.json: temperatures: must"),
        ({"weight": -1}, "config.json: weight: must"),
        ({"lora": {"dropout": 0.5}}, "config.json: lora.dropout: must be 0"),
        ({"data": "none.jsonl"}, "config.json: data: must name a file that exists"),
        (
            {"data": {"file": "d.jsonl", "completion": "answer"}},
            "line 1: answer: must be given, found only the fields prompt, completion",
        ),
        ({"model": "./nowhere"}, "nowhere"),
    ],
)
def test_wrong_configurations_are_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_rows_keep_their_split_and_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    rows = [("a", "1", "train"), ("b", "2", "test"), ("b", "3", "train"), ("c", "4", None)]
    lines = [json.dumps({"prompt": p, "completion": c} | ({"split": s} if s else {})) for p, c, s in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    found = read_demonstrations(DemonstrationSpec(file="d.jsonl"), tmp_path, 0)
    assert (found.training, found.test) == ((("a", "1"), ("c", "4")), (("b", "2"),))
    plain = [json.dumps({"prompt": str(k % 5), "completion": str(k)}) for k in range(20)]
    (tmp_path / "p.jsonl").write_text("\n".join(plain))
    halves = read_demonstrations(DemonstrationSpec(file="p.jsonl", test_share=0.4), tmp_path, 0)
    assert (len(halves.training), len(halves.test)) == (12, 8)
    assert not {p for p, _ in halves.training} & {p for p, _ in halves.test}
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "completion": "b", "split": "dev"}')
    with pytest.raises(InputError, match="line 1: split: must be train or test"):
        read_demonstrations(DemonstrationSpec(file="x.jsonl"), tmp_path, 0)
    (tmp_path / "y.jsonl").write_text('{"prompt": "a", "completion": "b"}')
    with pytest.raises(InputError, match="must hold rows to train on as well, found 1 rows"):
        read_demonstrations(DemonstrationSpec(file="y.jsonl"), tmp_path, 0)


def test_intervals_are_those_of_student() -> None:
    found = interval(np.array([1.0, 2.0, 3.0, 4.0]))  # standard deviation 1.29, standard error 0.645
    assert found["estimate"] == 2.5
    assert found["high"] - found["estimate"] == pytest.approx(3.182446 * (5 / 3) ** 0.5 / 2, abs=1e-6)
    assert interval(np.array([3.0]))["low"] == 3.0


def test_values_that_are_all_the_same_are_no_certainty() -> None:
    """A chance of .1 leaves eight rewards of 0 more often than not, and the interval was [0, 0]."""
    found = interval(np.zeros(8), (0.0, 1.0))
    assert found["low"] == 0.0
    assert 0.1 < found["high"] < 0.7
    assert interval(np.full(200, 0.5), (0.0, 1.0))["high"] - 0.5 < 0.05
    assert interval(np.array([0.0, 0.1]), (0.0, 1.0))["high"] == pytest.approx(0.05 + 12.7062047 * 0.05, abs=1e-6)


@pytest.mark.slow
@pytest.mark.weights
def test_the_example_runs(tmp_path: Path) -> None:
    result = command("train", EXAMPLES / "eso.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    policies = json.loads(result.out)["policies"]
    assert policies["eso"]["nats_per_token"]["estimate"] < policies["start"]["nats_per_token"]["estimate"]
