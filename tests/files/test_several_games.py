"""Games with several models: receipts, their verification, audits, and what does not go together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.runner import run

GAME: dict[str, Any] = {
    "reference": [0.7, 0.2, 0.1],
    "strength": 0.5,
    "models": {"at_most": 3, "cost": 0.15},
    "groups": [
        {"name": "a", "size": 3, "reward": [0.6, 0.3, 0.1]},
        {"name": "b", "size": 2, "reward": [0.1, 0.2, 0.7]},
        {"name": "c", "size": 1, "reward": [0.3, 0.4, 0.3]},
    ],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    content = {**GAME, **changes}
    path = tmp_path / "game.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def settled(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    result = run("settle", written(tmp_path, **changes), "--json", "-o", tmp_path / "receipt.json")
    assert (result.code, result.err) == (0, "")
    document: dict[str, Any] = json.loads(result.out)
    return document


def test_each_group_is_served_by_its_own_model(tmp_path: Path) -> None:
    found = settled(tmp_path)
    assert [model["groups"] for model in found["models"]] == [["a"], ["b", "c"]]
    assert found["policy"] is None
    assert found["affine_social_welfare"] == pytest.approx(2.234732535, abs=1e-9)
    assert [g["payment"] for g in found["groups"]] == pytest.approx([0.25144616, 0.41245344, 0.00133795], abs=1e-8)
    assert found["provider"]["cost"] == pytest.approx(0.3)
    assert found["provider"]["surplus"] == pytest.approx(found["provider"]["revenue"] - 0.3)
    own = {name: np.array(model["policy"]) for model in found["models"] for name in model["groups"]}
    for group, said in zip(found["groups"], GAME["groups"], strict=True):
        assert group["value"] == pytest.approx(own[group["name"]] @ np.array(said["reward"]))


@pytest.mark.parametrize(("cost", "trained"), [(0.01, True), (0.2, False)])
def test_training_happens_where_it_is_worth_its_cost(tmp_path: Path, cost: float, trained: bool) -> None:
    found = settled(tmp_path, models=None, training_cost=cost)
    assert found["trained"] == trained
    assert (found["policy"] == pytest.approx(GAME["reference"])) == (not trained)
    assert found["provider"]["cost"] == (cost if trained else 0)


def test_a_receipt_of_several_models_is_verified_whole(tmp_path: Path) -> None:
    document = settled(tmp_path)
    game, receipt = tmp_path / "game.json", tmp_path / "receipt.json"
    assert run("verify", receipt, game).code == 0
    document["models"][1]["policy"][0] += 1e-3
    receipt.write_text(json.dumps(document))
    assert run("verify", receipt, game).code == 3
    document = settled(tmp_path)
    document["provider"]["surplus"] += 1e-3
    receipt.write_text(json.dumps(document))
    assert run("verify", receipt, game).code == 3


@pytest.mark.parametrize("size_limit", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_no_lie_gains_with_payments_and_it_is_proved_and_some_do_without(
    size_limit: int | None, tmp_path: Path
) -> None:
    paid = run("audit", written(tmp_path, size_limit=size_limit), "--json", "--starts", "4", "--assert")
    assert paid.code == 0
    assert [group["regret_bound"] for group in json.loads(paid.out)["groups"]] == [0, 0, 0]
    free = run("audit", written(tmp_path, size_limit=size_limit, payment="none"), "--json", "--starts", "4", "--assert")
    assert free.code == 3
    assert max(group["regret_found"] for group in json.loads(free.out)["groups"]) > 0.01


def test_the_table_and_the_report_say_what_is_trained(tmp_path: Path) -> None:
    path = written(tmp_path, size_limit=3)
    out = run("settle", path).out
    assert "a; b, c" in out
    assert "surplus" in out
    assert run("report", path).code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_cost": 1.0}, "training_cost: must be left out with models"),
        ({"payment": "revenue", "normalization": "sum"}, "models: must come with payment affine or none"),
        ({"training": {"rule": "egalitarian"}}, "models: must come with training social_welfare"),
        ({"boosts": [0, 0, 1]}, "models: must come with training social_welfare"),
        ({"models": {"at_most": 0, "cost": 1.0}}, "models.at_most: must be"),
        ({"models": {"at_most": 2}}, "models.cost: must be given"),
        ({"missing": [0.1], "bounds": [0.0, 1.0], "reference": [[0.7, 0.2, 0.1]],
          "groups": [{"name": "a", "reward": [[1.0, 0.0, 0.0]]}]}, "models: must come with a game that misses"),
        ({"groups": [{"name": str(i), "reward": [1.0, 0.0, 0.0]} for i in range(13)]}, "groups: must be at most 12"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    result = run("settle", written(tmp_path, **changes))
    assert (result.code, result.out) == (2, "")
    assert message in result.err
