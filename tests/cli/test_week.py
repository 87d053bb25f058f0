"""A researcher's week from files alone: own parts swept and killed, one game settled by hand, exported, compared."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest

from rlhf_game.agents.baselines import compare
from rlhf_game.files.build import build
from rlhf_game.files.games import read_game
from tests.cli.runner import run
from tests.test_own_parts import FILES

STUDY = {
    "seed": 3,
    "games": 30,
    "scenario": {"kind": "fans.py:Fans", "groups": 2, "outcomes": 3, "loyalty": 2.0},
    "strength": 0.5,
    "payments": ["affine", "half.py:Half"],
    "strategies": [{"kind": "spite.py:Spite", "anger": 2.0}, {"kind": "resize"}],
    "sweep": {"strength": [0.3, 1.0]},
    "chunk": 2,
}


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_week(tmp_path: Path, engine: str) -> None:
    pytest.importorskip({"local": "joblib"}.get(engine, engine), reason=f"needs the extra of the engine {engine}")
    for name in ("fans.py", "half.py", "spite.py"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    study, folder = tmp_path / "study.json", tmp_path / "runs"
    study.write_text(json.dumps(STUDY))
    _kill_amidst(study, folder, engine)
    played = len(list(folder.glob("partial/rows-*")))
    assert played
    assert not (folder / "results.parquet").exists()
    for out in (folder, tmp_path / "whole"):
        done = run("simulate", study, "-o", out, "--engine", "serial")
        assert done.code == 0, done.err
    assert (folder / "results.parquet").read_bytes() == (tmp_path / "whole/results.parquet").read_bytes()

    table = pandas.read_parquet(folder / "results.parquet")
    lying = table[table.strategy.str.startswith("spite")].groupby("payment").regret.max()
    assert lying["affine"] == 0
    assert lying["half.py:Half"] > 0  # half the price, and lies gain
    replay = ("simulate", "--replay", folder, "--game", 7, "--point", 1, "-o", tmp_path / "g.yaml")
    assert run(*replay).code == 2  # its code is a folder's
    assert run(*replay, "--trust-code").code == 0
    _settled_by_hand(tmp_path / "g.yaml", table)

    exported = run("export", tmp_path / "g.yaml", "-o", tmp_path / "g.nfg")
    assert "truth, truth" in exported.out
    assert (tmp_path / "g.nfg").read_text().startswith("NFG 1 R")
    assert run("report", folder, "--figures", tmp_path / "paper").code == 0
    kinds = {path.suffix for path in (tmp_path / "paper").iterdir()}
    assert kinds >= {".svg", ".pdf", ".csv", ".tex"}

    space, _, groups = build(read_game(tmp_path / "g.yaml"))
    found = {one.name: one for one in compare(groups, space, size_limit=2, starts=1)}  # type: ignore[arg-type]
    assert found["affine payments (ours)"].worst.found == 0
    assert found["pay as bid"].worst.found > 0
    row = table[(table.point == 1) & (table.game == 7) & (table.strategy == "truthful") & (table.payment == "affine")]
    assert found["affine payments (ours)"].revenue == pytest.approx(row.revenue.item())


def _kill_amidst(study: Path, folder: Path, engine: str) -> None:
    command = [sys.executable, "-m", "rlhf_game", "simulate", study, "-o", folder, "--engine", engine, "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 100
    while not list(folder.glob("partial/rows-*")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def _settled_by_hand(path: Path, table: pandas.DataFrame) -> None:
    game = read_game(path)
    rewards = np.array([group.reward for group in game.fields.groups])
    sizes = np.array([group.size for group in game.fields.groups])
    reference = np.array(game.fields.reference)

    def policy(score: np.ndarray) -> np.ndarray:
        p = reference * np.exp(score)
        return np.asarray(p / p.sum())

    p = policy(sizes @ rewards)  # of strength 1
    without = [policy(np.delete(sizes, i) @ np.delete(rewards, i, axis=0)) for i in range(len(sizes))]
    paid = [float(np.sum(p * np.log(p / one))) for one in without]
    said = json.loads(run("settle", path, "--json").out)
    np.testing.assert_allclose([group["payment"] for group in said["groups"]], paid, rtol=1e-9)
    one = table[(table.point == 1) & (table.game == 7) & (table.strategy == "truthful") & (table.payment == "affine")]
    np.testing.assert_allclose(one[["payment_0", "payment_1"]].to_numpy()[0], paid, rtol=1e-9)
