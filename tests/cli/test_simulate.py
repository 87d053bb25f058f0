"""``rlhf-game simulate`` from outside: exit codes, what is printed, the examples."""

import json
import re
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.cli.runner import run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STUDY = """
games: 6
scenario: {kind: random, groups: 2, outcomes: 4}
strength: 0.5
strategies: [{kind: polarize}]
"""


def written(tmp_path: Path, text: str = STUDY) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return path


def test_a_study_is_played_shown_and_only_read_the_second_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("simulate", written(tmp_path), "-o", out, "--engine", "serial")
    assert (first.code, first.err) == (0, "")
    assert "polarize(temperature=4.0)" in first.out
    assert f"study folder: {out}" in first.out
    written_at = (out / "results.parquet").stat().st_mtime_ns
    again = run("simulate", written(tmp_path), "-o", out, "--json", "--workers", "1")
    assert again.code == 0
    assert json.loads(again.out) == json.loads((out / "study.json").read_text())
    assert (out / "results.parquet").stat().st_mtime_ns == written_at


def test_the_folder_is_named_after_the_study_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("simulate", written(tmp_path), "--engine", "serial").code == 0
    assert (tmp_path / "runs/small/results.parquet").exists()


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (STUDY.replace("0.5", "-1"), (), "strength: must be greater than 0, found -1"),
        (STUDY.replace("kind: random", "kind: chaos"), (), "scenario: "),
        (STUDY, ("--engine", "serial", "--workers", "2"), "workers must be 1"),
        (STUDY, ("--address", "auto"), "address must come with engine ray"),
        (STUDY, ("--engine", "cloud"), "cloud"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    tmp_path: Path, text: str, arguments: tuple[str, ...], message: str
) -> None:
    result = run("simulate", written(tmp_path, text), "-o", tmp_path / "out", *arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert message in result.err
    assert not (tmp_path / "out").exists()


STEEP = """
import numpy as np
import rlhf_game as rg


class Steep(rg.PaymentRule[rg.AffineRule]):
    def charge(self, optimum):
        found = optimum.externalities()
        return found * np.where(found.max(axis=-1, keepdims=True) > 0.8, 1e308 * 1e4, 1.0)
"""
"""Payments that some games cannot hold."""


def test_games_that_fail_are_counted(tmp_path: Path) -> None:
    (tmp_path / "steep.py").write_text(STEEP)
    text = STUDY + "seed: 5\npayments: [steep.py:Steep]\n"
    result = run("simulate", written(tmp_path, text), "-o", tmp_path / "out", "--engine", "serial")
    assert result.code == 0
    said = re.search(
        r"(\d+) of (\d+) rows failed; the first: InputError: reports must have results that float64", result.out
    )
    assert said is not None
    assert 0 < int(said[1]) < int(said[2])


def test_the_sweep_example_shows_that_truth_is_best_with_payments_only(tmp_path: Path) -> None:
    result = run("simulate", EXAMPLES / "sweep.yaml", "-o", tmp_path, "--engine", "serial", "--json")
    assert (result.code, result.err) == (0, "")
    summary = json.loads(result.out)
    assert summary["failed"] == 0
    assert len(summary["points"]) == 15
    for one in summary["summaries"]:
        regret = one["measures"]["regret"]
        if one["strategy"] == "truthful" or (one["payment"] == "affine" and "names" not in one["strategy"]):
            assert regret["high"] == 0
        elif "names" not in one["strategy"]:
            assert regret["low"] > 0
    assert len(parquet.read_table(tmp_path / "results.parquet")) == summary["rows"]


def test_the_market_example_learns_the_truth_with_payments_only(tmp_path: Path) -> None:
    result = run("simulate", EXAMPLES / "market.yaml", "-o", tmp_path, "--engine", "serial", "--json")
    assert (result.code, result.err) == (0, "")
    last = {one["payment"]: one["last"] for one in json.loads(result.out)["summaries"]}
    assert last["affine"]["truthful"]["low"] > 0.8
    assert last["none"]["truthful"]["high"] < 0.2
    assert last["affine"]["efficiency"]["low"] > 0.98 > last["none"]["efficiency"]["high"]
