"""``train``: folders, cards, metrics, resuming, averages; wrong configurations and data are one line."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.files.workspace import Workspace
from rlhf_game.rewards import RewardModel, call_reward
from rlhf_game.training import read_training, train
from rlhf_game.training.recipes.reward_models import RewardModelFields
from rlhf_game.training.subsets import Subsets, judge, read_subsets
from tests import tiny
from tests.cli.runner import run as command
from tests.preferences import preferences, worth

Write = Callable[..., Path]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def write(tmp_path: Path, backbone: Path) -> Write:
    """Write preferences with a known truth and a small configuration, changed at the given keys."""
    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in preferences(300, seed=0)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {
            "kind": "reward_model",
            "data": {"file": "p.jsonl", "test_share": 0.25},
            "backbone": str(backbone),
            "method": "head",
            "max_length": 64,
        }
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def subsets_of(config: Path) -> Subsets:
    configuration = read_training(config)
    assert isinstance(configuration.fields, RewardModelFields)
    return read_subsets(configuration.fields, configuration.base)


def metrics_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.parametrize("method", ["head", "lora", "full"])
def test_a_reward_model_is_trained_judged_and_used(write: Write, tmp_path: Path, method: str) -> None:
    config = write(method=method, learning_rate=0.01, epochs=2.0)
    result = command("train", config, "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == metrics_of(tmp_path / "out")
    judged = metrics_of(tmp_path / "out")["model"]
    assert judged["train"]["pairs"] + judged["test"]["pairs"] == 300
    assert judged["train"]["accuracy"] > 0.7
    assert judged["test"]["accuracy"] > 0.6

    card = json.loads((tmp_path / "out/model/reward_model.json").read_text())
    assert (card["method"], card["eta"], card["seed"]) == (method, 0.01, 0)
    assert card["data"]["training_pairs"] == judged["train"]["pairs"]
    assert len(card["data"]["sha256"]) == len(card["backbone"]["sha256"]) == 64
    assert card["metrics"] == judged
    said = (tmp_path / "out/model/README.md").read_text()
    assert "identified" in said
    assert f"| test | {judged['test']['pairs']} | {judged['test']['accuracy']:.3f} |" in said
    bins = metrics_of(tmp_path / "out")["calibration"]["model"]
    error = sum(one["pairs"] * abs(one["accuracy"] - one["confidence"]) for one in bins)
    assert error / judged["test"]["pairs"] == pytest.approx(judged["test"]["calibration_error"])

    reward = RewardModel("out", base=tmp_path)  # the folder that train wrote is a reward
    texts = ["good thanks yes good", "bad no please bad"]
    good, bad = call_reward(reward, ["maybe now", "maybe now"], texts)
    assert worth(texts[0]) > worth(texts[1])
    assert good > bad
    assert reward.is_identified


def test_a_finished_training_is_not_done_again_and_a_half_one_goes_on(write: Write, tmp_path: Path) -> None:
    members = [{"seed": 0}, {"seed": 1}]
    configuration = read_training(write(kind="ensemble", members=members, method="full", steps=2))
    first = train(configuration, tmp_path / "out").metrics
    weights = [tmp_path / f"out/members/{k}/model.safetensors" for k in range(2)]
    before = [path.read_bytes() for path in weights]
    (tmp_path / "out/metrics.json").unlink()
    cards = [tmp_path / f"out/members/{k}/reward_model.json" for k in range(2)]
    written = [path.read_bytes() for path in cards]
    cards[1].unlink()  # as if it had stopped before the card was written
    without = {key: value for key, value in json.loads(written[0]).items() if key != "metrics"}
    Workspace(tmp_path / "out").write_json(cards[0], without)  # and as if it had stopped before the model was judged
    kept = weights[0].stat().st_mtime_ns
    assert train(configuration, tmp_path / "out").metrics == first
    assert [path.read_bytes() for path in weights] == before
    assert [path.read_bytes() for path in cards] == written
    assert weights[0].stat().st_mtime_ns == kept
    (tmp_path / "out/members/0/model.safetensors").unlink()
    assert train(configuration, tmp_path / "out").metrics == first  # finished: nothing is looked at
    with pytest.raises(InputError, match="seed: must be 0 as in the run at"):
        train(read_training(write(kind="ensemble", members=members, seed=5, method="full", steps=2)), tmp_path / "out")


def test_ensembles_take_order_statistics_of_identified_members_only(write: Write, tmp_path: Path) -> None:
    members = [{"seed": k} for k in range(3)]
    for eta, aggregates in ((0.01, {"mean", "median", "min", "mean_minus_std"}), (0.0, {"mean"})):
        config = write(kind="ensemble", members=members, resample=True, eta=eta)
        found = train(read_training(config), tmp_path / f"out{eta}").metrics
        assert found["ensemble"].keys() == aggregates
        assert [pair["members"] for pair in found["agreement"]] == [[0, 1], [0, 2], [1, 2]]
        assert all(-1 <= pair["spearman"] < 1 and pair["same_backbone"] for pair in found["agreement"])


def test_warm_of_linear_heads_is_their_mean_ensemble(write: Write, tmp_path: Path) -> None:
    members = [{"seed": k} for k in range(3)]
    config = write(kind="warm", members=members, resample=True, flip=0.25, also_test={"same again": "p.jsonl"})
    found = train(read_training(config), tmp_path / "out").metrics
    for subset in ("train", "train_flipped", "test", "same again"):
        for key, value in found["ensemble"]["mean"][subset].items():
            assert found["average"][subset][key] == pytest.approx(value, abs=1e-9)
    flipped, kept = (found["average"][subset]["pairs"] for subset in ("train_flipped", "train"))
    assert flipped == round(0.25 * (flipped + kept))
    assert [point["share"] for point in found["curve"]] == [0, 0.25, 0.5, 0.75, 1]
    for end, member in ((0, 0), (-1, 1)):
        assert found["curve"][end]["test"] == found["members"][member]["test"]["accuracy"]
    assert [row["members"] for row in found["growth"]] == [1, 2, 3]
    assert found["growth"][-1]["test"] == found["average"]["test"]["accuracy"]
    assert found["growth"][-1]["test, ensemble"] == found["ensemble"]["mean"]["test"]["accuracy"]
    for row in (*found["curve"], *found["growth"]):  # of linear heads the average is the ensemble
        assert row["test, ensemble"] == row["test"]
    assert not (tmp_path / "out/point").exists()
    card = json.loads((tmp_path / "out/model/reward_model.json").read_text())
    assert card["metrics"] == found["average"]
    assert [one["weight"] for one in card["averaged"]] == [1 / 3] * 3
    assert "average of the weights" in (tmp_path / "out/model/README.md").read_text()


def test_warm_of_adapters_starts_from_one_head(write: Write, tmp_path: Path) -> None:
    members = [{"seed": 0}, {"seed": 1, "learning_rate": 1e-9}]
    config = write(kind="warm", members=members, method="lora", steps=2, learning_rate=1e-9, curve=2)
    found = train(read_training(config), tmp_path / "out").metrics
    probe = train(read_training(write("probe.json")), tmp_path / "probe").metrics
    for model in (*found["members"], found["average"]):  # nothing was learned beyond the head
        assert model["test"]["accuracy"] == probe["model"]["test"]["accuracy"]
    assert json.loads((tmp_path / "out/model/reward_model.json").read_text())["method"] == "lora"


def test_flipped_labels_are_those_of_the_training_alone(write: Write) -> None:
    clean, wrong = (subsets_of(write(flip=share)) for share in (0.0, 0.25))
    assert clean.judged["test"] == wrong.judged["test"]
    assert set(wrong.judged["train"]) < set(clean.judged["train"])
    assert {row.flipped() for row in wrong.judged["train_flipped"]} < set(clean.judged["train"])
    assert len(wrong.training) == len(clean.training)
    assert len(wrong.judged["train_flipped"]) == round(0.25 * len(clean.training))


def test_judging_by_hand() -> None:
    rows = preferences(2, seed=1)
    judged = judge((np.array([2.0, 0.0]), np.array([0.0, 1.0])), rows)
    assert (judged["pairs"], judged["accuracy"]) == (2, 0.5)
    assert judged["brier"] == pytest.approx(((1 - 1 / (1 + np.exp(-2))) ** 2 + (1 - 1 / (1 + np.e)) ** 2) / 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": None}, "kind: must be "),
        ({"kind": "magic"}, "kind: must be "),
        ({"method": "pickle"}, "method: must be 'embedding', 'head', 'lora' or 'full'"),
        ({"data": "none.jsonl"}, "data: must name a file that exists"),
        ({"data": None}, "data: must be given"),
        ({"backbone": "./nowhere"}, "nowhere must be an existing folder"),
        ({"eta": -1.0}, "eta"),
        ({"flip": 2.0}, "flip"),
        ({"smoothing": 0.5}, "smoothing"),
        ({"epochs": 0}, "epochs"),
        ({"surprise": 1}, "must be one of the keys"),
        ({"kind": "ensemble", "members": [{"seed": 0}]}, "members"),
        ({"kind": "ensemble", "members": [{}, {"size": 3}]}, "members[1]: size"),
        ({"kind": "ensemble", "members": [{}, {}]}, "members[1]: must differ from the others"),
        ({"kind": "ensemble", "members": [{}, {"seed": 1}]}, "members[1].resample: must be true"),
        ({"also_test": {"train": "p.jsonl"}}, "also_test: must have other names"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_bad_data_is_one_line_with_file_and_row(write: Write, tmp_path: Path) -> None:
    config = write()
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write('{"prompt": "p", "chosen": "a", "rejected": ""}\n')
    result = command("train", config, "-o", tmp_path / "out")
    assert result.code == 2
    assert "p.jsonl: line 301: rejected: must be text with something in it" in result.err
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_as_good_as_a_file(write: Write, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "saved"))
    data = {"dataset": "saved", "test_share": 0.25}
    of_dataset, of_file = subsets_of(write(data=data)), subsets_of(write())
    assert of_dataset.judged == of_file.judged
    for wrong, said in (
        ({"dataset": "saved", "split": "dev"}, "split dev"),
        ({"dataset": "nobody/nothing"}, "dataset: nobody/nothing (split train) cannot be loaded"),
        ({"dataset": "saved", "file": "p.jsonl"}, "data.dataset: must be given where file is not"),
        ({"test_share": 0.5}, "data.dataset: must be given where file is not"),
    ):
        with pytest.raises(InputError) as caught:
            subsets_of(write(data=wrong))
        assert said in str(caught.value)


@pytest.mark.weights
@pytest.mark.parametrize("name", ["reward_model", "ensemble", "warm"])
def test_the_examples_run_as_they_are(tmp_path: Path, name: str) -> None:
    result = command("train", EXAMPLES / f"{name}.yaml", "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    found = metrics_of(tmp_path / "out")
    best = found["model"] if name == "reward_model" else found["average" if name == "warm" else "ensemble"]
    assert (best["mean"] if name == "ensemble" else best)["test"]["accuracy"] > 0.6


def test_the_preferences_of_the_examples_are_what_their_script_makes() -> None:
    made = subprocess.run([sys.executable, EXAMPLES / "preferences.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (EXAMPLES / "preferences.jsonl").read_text()


def test_two_trainings_and_a_game_between_them(write: Write, tmp_path: Path, backbone: Path) -> None:
    reverse = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({**row, "chosen": row["rejected"], "rejected": row["chosen"]}) + "\n" for row in reverse)
    )
    assert command("train", write("kind.json"), "-o", tmp_path / "kind").code == 0
    assert command("train", write("rude.json", data="q.jsonl"), "-o", tmp_path / "rude").code == 0
    game = {
        "model": str(backbone),
        "prompts": ["good now", "maybe"],
        "outcomes": {"per_prompt": 8, "max_new_tokens": 3},
        "strength": 0.2,
        "groups": [{"name": "a", "reward": {"hf": "kind"}}, {"name": "b", "size": 2, "reward": {"hf": "rude"}}],
    }
    (tmp_path / "game.json").write_text(json.dumps(game))
    result = command("run", tmp_path / "game.json", "-o", tmp_path / "run", "--json")
    assert (result.code, result.err) == (0, "")
    first, second = json.loads(result.out)["groups"]
    assert first["payment"] > 0
    assert second["payment"] > 0  # they disagree: both move the policy
    assert command("verify", tmp_path / "run/receipt.json", tmp_path / "run/game.json").code == 0
    written = json.loads((tmp_path / "run/config.json").read_text())["files"]
    assert written.keys() == {"kind", "rude"}
    head = tmp_path / "kind/model/head.safetensors"
    head.write_bytes((tmp_path / "rude/model/head.safetensors").read_bytes())
    result = command("run", tmp_path / "game.json", "-o", tmp_path / "run")
    assert result.code == 2
    assert f'files.kind: must be "{written["kind"][:40]}' in result.err
    assert f'found "{written["rude"][:40]}' in result.err


def test_members_are_compared_on_candidates(write: Write, tmp_path: Path) -> None:
    texts = ["good good", "bad", "yes thanks", "no please now", "maybe maybe"]
    rows = [{"prompt": prompt, "responses": texts[:4]} for prompt in ("good", "now please")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    members = [{"seed": 0}, {"seed": 1}]
    config = write(kind="ensemble", members=members, resample=True, candidates="c.jsonl")
    result = command("train", config, "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert "same best of 4" in result.out
    found = metrics_of(tmp_path / "out")["candidates"]
    scores = [
        [
            call_reward(RewardModel(str(tmp_path / f"out/members/{k}")), [row["prompt"]] * 4, row["responses"])
            for k in (0, 1)
        ]
        for row in rows
    ]
    same = np.mean([a.argmax() == b.argmax() for a, b in scores])
    assert found["pairs"][0]["same_best_of"]["4"] == same
    assert found["pairs"][0]["same_best_of"].keys() == {"2", "4"}
    assert len(found["length_correlation"]) == 2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p"}, "line 2: must be {prompt, responses: [..]}"),
        ({"prompt": "p", "responses": ["a", "a"]}, "line 2: responses: must be at least two different texts"),
        ({"prompt": "p", "responses": ["a", ""]}, "line 2: responses: must be at least two different texts"),
        ({"prompt": "p", "responses": ["a", "b", "c"]}, "line 2: responses: must be 2 as in the first row"),
    ],
)
def test_bad_candidates_are_one_line(write: Write, tmp_path: Path, row: Any, said: str) -> None:
    first = {"prompt": "p", "responses": ["a", "b"]}
    (tmp_path / "c.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(row)}\n")
    members = [{"seed": 0}, {"seed": 1}]
    result = command(
        "train", write(kind="ensemble", members=members, resample=True, candidates="c.jsonl"), "-o", tmp_path / "o"
    )
    assert result.code == 2
    assert said in result.err


def test_baklava_averages_fine_tunings_of_different_checkpoints(write: Write, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "sft", seed=8)
    members = [{"seed": 0}, {"seed": 1, "backbone": str(other)}]
    config = write(kind="warm", members=members, method="lora", steps=2, curve=3)
    found = train(read_training(config), tmp_path / "out").metrics
    assert json.loads((tmp_path / "out/model/reward_model.json").read_text())["method"] == "full"
    assert not found["agreement"][0]["same_backbone"]
    assert found["average"]["test"]["accuracy"] == found["curve"][1]["test"] == found["growth"][1]["test"]
    assert found["curve"][1]["test, ensemble"] == found["ensemble"]["mean"]["test"]["accuracy"]
    assert call_reward(RewardModel("out", base=tmp_path), ["good"], ["yes"]).shape == (1,)


def test_a_backbone_that_changed_is_another_training(write: Write, tmp_path: Path) -> None:
    other = tiny.save_language_model(tmp_path / "own")
    config = write(backbone="own")
    train(read_training(config), tmp_path / "out")
    tiny.save_language_model(other, seed=3)
    with pytest.raises(InputError, match=r"files.own: must be .* as in the run at"):
        train(read_training(config), tmp_path / "out")


def write_candidates(folder: Path) -> list[dict[str, Any]]:
    texts = ["good good", "bad", "yes thanks", "no please now", "maybe maybe", "thanks", "no bad", "yes yes"]
    rows = [{"prompt": prompt, "responses": texts} for prompt in ("good", "now please", "yes")]
    (folder / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def test_what_optimising_does_to_a_gold_reward(write: Write, tmp_path: Path) -> None:
    rows = write_candidates(tmp_path)
    gold = {"table": {text: worth(text) for text in rows[0]["responses"]}}
    members = [{"seed": 0}, {"seed": 1}]
    config = write(kind="warm", members=members, resample=True, candidates="c.jsonl", gold=gold, curve=2)
    result = command("train", config, "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert "What optimising a reward does to the gold reward" in result.out
    found = metrics_of(tmp_path / "out")["candidates"]
    names = {"member 0", "member 1", "mean", "median", "min", "mean_minus_std", "average"}
    assert found["optimisation"].keys() == names
    for one in found["optimisation"].values():
        divergences = [point["divergence"] for point in one["curve"]]
        assert divergences[:9] == pytest.approx([k / 20 * np.log(8) for k in range(1, 10)], abs=1e-9)
        assert [row["n"] for row in one["best_of_n"]] == [2, 4, 8]
        assert all(row["divergence"] <= row["divergence_bound"] + 1e-12 for row in one["best_of_n"])
        assert one["curve"][5]["gold"] > 0  # the labels follow the gold reward
    for key in ("divergence", "proxy", "gold"):  # of linear heads the average is the mean
        average, mean = (found["optimisation"][name]["curve"] for name in ("average", "mean"))
        assert [point[key] for point in average] == pytest.approx([point[key] for point in mean], abs=1e-6)
    (first, *_) = found["best_of_n"]
    assert first["same_choice"]["self"] == 1
    assert first["same_choice"].keys() == {"self", "same_backbone", "chance"}
    assert first["worth"]["self"] > first["worth"]["same_backbone"] > 0


def test_a_gold_reward_needs_candidates_that_it_tells_apart(write: Write, tmp_path: Path) -> None:
    members = [{"seed": 0}, {"seed": 1}]
    for changes, said in (
        ({"gold": "brevity"}, "gold: must come with candidates"),
        (
            {"gold": {"table": {"values": {}, "default": 1.0}}, "candidates": "c.jsonl"},
            "gold: must tell the candidates",
        ),
        ({"gold": {"python": "none.py:f"}, "candidates": "c.jsonl"}, "gold: must name a file that exists"),
    ):
        write_candidates(tmp_path)
        result = command(
            "train", write(kind="ensemble", members=members, resample=True, **changes), "-o", tmp_path / "out"
        )
        assert result.code == 2
        assert said in result.err
