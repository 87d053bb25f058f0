"""Reports of trainings: the tables of their kind, and the curves that are in the metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.trainings import curves_of
from tests.report.pages import data_of, page_of

CONFIG = {
    "kind": "reward_model",
    "data": {"file": "p.jsonl"},
    "backbone": "b",
    "method": "head",
    "files": {"p.jsonl": "0"},
}
JUDGED = {"pairs": 29, "accuracy": 0.759, "brier": 0.188, "calibration_error": 0.161, "length_correlation": 0.392}
METRICS: dict[str, Any] = {
    "kind": "reward_model",
    "model": {"test": JUDGED},
    "log": [{"step": k, "loss": 1.0 / (1 + k), "note": "x", "rare": None} for k in range(5)],
    "calibration": {"model": [{"confidence": 0.6, "accuracy": 0.5}, {"confidence": 0.8, "accuracy": 0.9}]},
    "best": 0.25,
}


def folder_of(path: Path, config: dict[str, Any], metrics: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.json").write_text(json.dumps(metrics))
    return path


def test_the_tables_of_the_kind_and_every_curve_are_on_the_page(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "model", CONFIG, METRICS)))
    assert page.one("h1").text == "Training: reward model"
    row = data_of(page, "table-0")[0]
    assert (row["reward"], row["on"], row["accuracy"]) == ("model", "test", "0.759")
    assert [float(r["loss"]) for r in data_of(page, "curves-0")] == [1.0 / (1 + k) for k in range(5)]
    assert [float(r["accuracy"]) for r in data_of(page, "curves-1")] == [0.5, 0.9]
    assert (page.one("dt").text, page.one("dd").text) == ("best", "0.2500")


def test_curves_are_found_wherever_they_are() -> None:
    found = dict(curves_of({"a": {"b": [{"x": 1, "y": 2}, {"x": 2, "y": 3}]}, "c": [1, 2], "d": [{"x": 1}]}))
    assert list(found) == [("a", "b")]


def test_a_folder_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: kind: must be"):
        write_report(folder_of(tmp_path / "model", {**CONFIG, "kind": "magic"}, METRICS))
