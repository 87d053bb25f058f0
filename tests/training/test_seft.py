"""SEFT: labels and ranks by hand, a whole training on a tiny model, and one that goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlhf_game.training.recipes.seft_stages import _by_quality, _shares
from tests import tiny
from tests.cli.runner import run as command
from tests.preferences import preferences

Write = Callable[..., Path]
LABELS = ("[Major", "[Minor", "[No", "Revise]")
CRITIC = """
def worth(prompts, completions, **columns):
    return [c.split().count("good") - c.split().count("bad") for c in completions]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("model"), more=LABELS)


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    """Write preferences, a critic and a small configuration, changed at the given keys."""
    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in preferences(24, seed=0)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "critic.py").write_text(CRITIC)

    def write(name: str = "config.json", **changes: Any) -> Path:
        how = {"steps": 2, "learning_rate": 1e-3, "batch_size": 4}
        document = {
            "kind": "seft",
            "model": str(model),
            "data": {"file": "p.jsonl", "test_share": 0.25},
            "critic": {"python": "critic.py:worth"},
            "draw": {"max_new_tokens": 4, "temperature": 4.0, "top_p": 1.0},
            "ranks": 3,
            "prompts": ["good now", "bad", "maybe yes", "now", "thanks bad", "no no"],
            "reviser_training": how,
            "evolution_training": how,
        }
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_ranks_are_groups_of_like_quality_the_best_first() -> None:
    assert _by_quality(np.array([0.1, 0.9, 0.5, 0.7, 0.2]), 2) == [[1, 3, 2], [4, 0]]
    assert _by_quality(np.array([1.0, 2.0]), 7) == [[1], [0]]


def test_shares_of_labels_sum_to_one() -> None:
    assert _shares(["major", "none", "none", "none"]) == {"major": 0.25, "minor": 0.0, "none": 0.75}


@pytest.mark.parametrize("lora", [None, pytest.param({"rank": 4}, marks=pytest.mark.slow)], ids=["full", "lora"])
def test_a_whole_training_leaves_what_each_stage_made(
    write: Write, tmp_path: Path, lora: dict[str, int] | None
) -> None:
    how = {"steps": 2, "learning_rate": 1e-3, "batch_size": 4, **({} if lora is None else {"lora": lora})}
    config, out = write(reviser_training=how, evolution_training=how), tmp_path / "out"
    result = command("train", config, "-o", out, "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert found["pairs"] == {"warmup": 5, "adaptive": 13, "prompts": 6}  # 30 % and 70 % of 18

    revised, before, after = (read(out / f"adaptive/{name}.json") for name in ("revised", "scores", "scores-revised"))
    assert after == [text.split().count("good") - text.split().count("bad") for _, text in revised]
    gains = np.array(after) - np.array(before)
    assert found["adaptive"]["benefit"]["mean"] == pytest.approx(gains.mean())
    major, minor = np.mean(gains > 1.0), np.mean((gains > 0.3) & (gains <= 1.0))
    by_gain = found["adaptive"]["labels_by_gain"]
    assert (by_gain["major"], by_gain["minor"]) == (pytest.approx(major), pytest.approx(minor))
    assert found["adaptive"]["labels"]["major"] > by_gain["major"]  # a fifth of the others was raised

    for reviser, has_labels in (("preliminary", False), ("adaptive", True)):
        rows = found["revisers"][reviser]["test"]
        assert [row["rank"] for row in rows] == [0, 1, 2]
        assert rows[0]["original"] > rows[1]["original"] > rows[2]["original"]
        assert all(bool(row["labels"]) == has_labels for row in rows)
    assert list(found["policies"]) == ["before", "0: internal", "1: external"]
    first, last = (read(out / f"examined/policy-{number}.json")[:4] for number in (0, 2))
    assert [(row["before"], row["after"]) for row in found["outputs"]] == list(zip(first, last, strict=True))
    assert first != last
    assert read(out / "evolution-1/policy/policy.json")["training"]["start"] == str(
        (out / "evolution-0/policy").resolve()
    )
    (final,) = (out / "model").glob("*.safetensors")
    assert final.read_bytes() == (out / "evolution-1/policy/model" / final.name).read_bytes()

    # What a process that dies in the second evolution leaves behind: the same comes out of it.
    weights, written = load_file(final), (out / "metrics.json").read_bytes()
    kept = (out / "reviser/adaptive/policy.json").stat().st_mtime_ns
    for gone in ("metrics.json", "policy.json", "evolution-1/revised.json", "evolution-1/scores-revised.json"):
        (out / gone).unlink()
    shutil.rmtree(out / "evolution-1/policy")
    assert command("train", config, "-o", out).code == 0
    assert (out / "metrics.json").read_bytes() == written
    assert all(torch.equal(value, weights[key]) for key, value in load_file(final).items())
    assert (out / "reviser/adaptive/policy.json").stat().st_mtime_ns == kept


def test_improvement_rates_by_hand(write: Write, tmp_path: Path) -> None:
    assert command("train", write(evolution=[], ranks=2), "-o", tmp_path / "out").code == 0
    folder = tmp_path / "out/examined/adaptive/test"
    revised, before, after = (read(folder / f"{name}.json") for name in ("revised", "scores", "scores-revised"))
    found = read(tmp_path / "out/metrics.json")
    best_first = sorted(range(len(before)), key=lambda k: -before[k])
    half = best_first[: (len(before) + 1) // 2]
    own = [k for k in half if revised[k][0] != "none"]
    row = found["revisers"]["adaptive"]["test"][0]
    assert (row["responses"], row["revised"]) == (len(half), len(own))
    assert row["improved"] == pytest.approx(np.mean([after[k] > before[k] for k in own]))
    assert row["worsened"] == pytest.approx(np.mean([after[k] < before[k] for k in own]))
    assert row["labels"]["none"] == pytest.approx(1 - len(own) / len(half))
    assert found["outputs"] == []
    assert list(found["policies"]) == ["before"]  # nothing evolved: there is a reviser and no new policy
    assert not (tmp_path / "out/model").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"critic": None}, "critic: must be given"),
        ({"critic": {"python": "none.py:f"}}, "critic: must name a file that exists"),
        ({"labels": {"minor": 2.0}}, "labels.major: must be at least minor"),
        ({"labels": {"kept": 1.5}}, "labels.kept"),
        ({"warmup_share": 0.001}, "warmup_share: must leave pairs on both sides of 18 training pairs"),
        ({"warmup_share": 1.0}, "warmup_share"),
        ({"evolution": ["sideways"]}, "evolution"),
        ({"reviser": "./nowhere"}, "nowhere"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("train", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1
