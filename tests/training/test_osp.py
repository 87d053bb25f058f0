"""OSP: pairs and biases by hand, online DPO as its special case, and a training that goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlhf_game import InputError, training_backends
from rlhf_game.optimization import Pretrained
from rlhf_game.training import read_training, train
from rlhf_game.training.recipes import osp_rounds
from rlhf_game.training.recipes.osp_rounds import length_bias, random_pairs, ranked_pairs, rounded
from rlhf_game.training.stages import seed_of
from tests import tiny
from tests.cli.runner import run as command
from tests.preferences import PROMPTS, VALUES
from tests.training.responses import drawn_before_and_after
from tests.trainings import made

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    """Write a small configuration, changed at the given keys."""

    def write(name: str = "config.json", **changes: Any) -> Path:
        judge = {"instruction": "{prompt} now {first} now {second}", "lead": "", "answers": ["yes", "no"]}
        document = {
            "kind": "osp",
            "model": str(model),
            "prompts": [*PROMPTS, "good", "bad now", "no thanks"],
            "rounds": 2,
            "responses": 5,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_new_tokens": 4,
            "test_share": 0.3,
            "judge": judge,
            "learning_rate": 1e-3,
            "batch_size": 4,
        }
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "model").glob("*.safetensors")
    return dict(load_file(path))


def test_ranked_pairs_by_hand() -> None:
    assert ranked_pairs(np.array([0.1, 0.9, 0.5, 0.7, 0.2, 0.6, 0.4])) == [
        (1, 0),
        (3, 4),
        (5, 6),
    ]  # K = 7: 2 is left out
    assert ranked_pairs(np.array([0.5, 0.5])) == [(0, 1)]


def test_random_pairs_use_nobody_twice() -> None:
    scores = np.random.default_rng(0).random(7)
    pairs = random_pairs(scores, np.random.default_rng(1))
    assert len({place for pair in pairs for place in pair}) == 6
    assert all(scores[first] >= scores[second] for first, second in pairs)


def test_hard_labels_are_rounded_strengths() -> None:
    strengths = np.array([0.2, 0.5, 0.51, 1.0])
    assert rounded(strengths, "hard").tolist() == [0, 0.5, 1, 1]
    assert rounded(strengths, "soft").tolist() == strengths.tolist()


def test_length_bias_by_hand() -> None:
    longer = length_bias(np.array([0.9, 0.8, 0.3, 0.5]), np.array([10.0, 5.0, -5.0, 0.0]))
    assert longer == {"correlation": pytest.approx(1.0), "longer_preferred": 1.0}
    assert length_bias(np.array([0.9, 0.9]), np.array([3.0, -3.0])) == {"correlation": None, "longer_preferred": 0.5}


def test_responses_are_of_the_revision_that_is_trained(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model: Pretrained, base: Path) -> None:
        raise InputError(f"asked for {model.name} at {model.revision}")

    monkeypatch.setattr(training_backends, "load_reference", load)
    with pytest.raises(InputError, match=r"asked for .*model\d+ at v2"):
        train(read_training(write(revision="v2")), tmp_path / "out")


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.slow), {"rank": 4}], ids=["full", "lora"])
def test_rounds_are_drawn_judged_and_trained_once(
    write: Write, tmp_path: Path, model: Path, lora: dict[str, int] | None
) -> None:
    config = write(lora=lora, gold={"table": {"values": VALUES, "default": 0.0}})
    result = command("train", config, "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["prompts"] == {"training": 5, "held_out": 2}
    assert [one["prompts"] for one in found["rounds"]] == [3, 2]
    for number, one in enumerate(found["rounds"]):
        assert one["pairs"] + one["identical_pairs"] == 2 * one["prompts"]
        judged = json.loads((tmp_path / f"out/rounds/{number:04d}/judged.json").read_text())
        both = np.array([judged["shown_first"], judged["shown_second"]])
        assert one["strength"]["mean"] == pytest.approx(both.mean())
        assert one["position_bias"] == pytest.approx((both[0] - both[1]).mean() / 2)
    assert 0 < found["final"]["preferred"] < 1
    assert any(row["before"] != row["after"] for row in found["outputs"])
    held_out = [row["prompt"] for row in found["outputs"]]
    assert len(held_out) == 2
    assert found["outputs"] == drawn_before_and_after(
        model, tmp_path / "out", held_out, seed=seed_of(0, 2), max_new_tokens=4
    )
    last = tmp_path / "out/rounds/0001/policy"
    assert all(torch.equal(value, weights(last)[key]) for key, value in weights(tmp_path / "out").items())
    card = json.loads((last / "policy.json").read_text())["training"]
    assert (card["loss"], card["start"]) == ("spce", str((tmp_path / "out/rounds/0000/policy").resolve()))

    # What a process that dies in the second round leaves behind: the same comes out of it.
    before, written = weights(tmp_path / "out"), (tmp_path / "out/metrics.json").read_bytes()
    kept = (tmp_path / "out/rounds/0000/policy/policy.json").stat().st_mtime_ns
    for gone in ("metrics.json", "policy.json", "rounds/0001/judged.json"):
        (tmp_path / "out" / gone).unlink()
    shutil.rmtree(last)
    assert command("train", config, "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out/metrics.json").read_bytes() == written
    assert all(torch.equal(value, before[key]) for key, value in weights(tmp_path / "out").items())
    assert (tmp_path / "out/rounds/0000/policy/policy.json").stat().st_mtime_ns == kept


def test_with_hard_labels_it_is_online_dpo(write: Write, tmp_path: Path, model: Path) -> None:
    from rlhf_game.training_backends.trainers.preferences import PreferenceTraining, train_preferences

    train(read_training(write(labels="hard", rounds=1)), tmp_path / "out")
    folder = tmp_path / "out/rounds/0000"
    judged = json.loads((folder / "judged.json").read_text())
    strengths = (np.array(judged["shown_first"]) + np.array(judged["shown_second"])) / 2
    assert 0 < (strengths < 0.5).sum() < len(strengths)  # some pairs are turned round, some are not
    pairs = [(x, a, b) if p > 0.5 else (x, b, a) for (x, a, b), p in zip(judged["pairs"], strengths, strict=True)]
    card = json.loads((folder / "policy/policy.json").read_text())["training"]
    dpo = made(
        PreferenceTraining, str(model), loss="dpo", beta=0.1, learning_rate=1e-3, batch_size=4, seed=card["seed"]
    )
    train_preferences(dpo, pairs, tmp_path / "dpo")
    online, offline = weights(folder / "policy"), weights(tmp_path / "dpo")
    for key, value in online.items():
        torch.testing.assert_close(value, offline[key], atol=2e-5, rtol=0)  # float32, Adam near zero gradients
    train(read_training(write("soft.json", rounds=1)), tmp_path / "soft")
    soft = weights(tmp_path / "soft/rounds/0000/policy")
    assert max(float((soft[key] - offline[key]).abs().max()) for key in soft) > 2e-4


@pytest.mark.slow
def test_a_judge_can_learn_from_human_preferences(write: Write, tmp_path: Path) -> None:
    words = ("yes", "no", "maybe", "thanks")
    rows = [
        {"prompt": f"now {asked}", "chosen": f"good {said}", "rejected": f"bad {said}"}
        for asked in words for said in words
    ]  # fmt: skip
    (tmp_path / "human.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = json.loads(write(rounds=1).read_text())
    how = {"steps": 40, "learning_rate": 0.01, "batch_size": 12}
    config["judge"] |= {"augment": {"file": "human.jsonl", "test_share": 0.25}, "training": how}
    result = command("train", write(judge=config["judge"], rounds=1), "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert "The judge on held-out preferences" in result.out
    judge = json.loads((tmp_path / "out/metrics.json").read_text())["judge"]
    assert judge["after"]["accuracy"] == 1.0 > judge["before"]["accuracy"]
    assert abs(judge["after"]["position_bias"]) < abs(judge["before"]["position_bias"])


def test_rounds_without_different_responses_say_what_to_do(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osp_rounds, "_draw", lambda fields, number, prompts, *others: [["yes"] * 5 for _ in prompts])
    result = command("train", write(), "-o", tmp_path / "out")
    assert result.code == 1
    assert "all 5 responses to each prompt are the same" in result.err
    assert "raise temperature" in result.err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"responses": 1}, "responses"),
        ({"rounds": 50}, "rounds: must be at most the 5 prompts that are not held out"),
        ({"prompts": "none.txt"}, "prompts: must name a file that exists"),
        ({"labels": "firm"}, "labels"),
        ({"judge": {"training": {"epochs": 2}}}, "judge.training: must come with judge.augment"),
        ({"judge": {"instruction": "{prompt}"}}, "judge.instruction must hold {first}"),
        ({"judge": {}}, "judge.answers: must differ in their last token"),  # the tiny tokenizer has no A and no B
        ({"model": "./nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
