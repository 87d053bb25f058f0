"""From small to large: n = 8 groups, m outcomes, beside plain numpy, scipy, cvxpy and the limits; files; torch.

(h) KL and squared L2 by size: n + 1 separate solves, one reading of the rewards, one exponential per reward. cvxpy with
Clarabel only where all of its nine solves succeed; (a) has 10,000. (i) `rlhf-game settle` on files. (j) KL by torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import larger_than_memory, peers, torch_table
from benchmarks.conftest import Scoreboard
from benchmarks.test_mechanism import STRENGTH, game, kernel, settle
from rlhf_game.mechanism.arrays import BLOCK, LARGE

GROUPS = 8
CASES = [(kind, m) for kind in ("kl", "l2") for m in (10, 100, 1000, 10_000, 100_000, 1_000_000)]
ENOUGH = 0.5
"""Seconds that repetitions of one size take, at least three of them."""


def exponentials(rewards: np.ndarray) -> None:
    """One exponential per reward, block by block."""
    width = BLOCK // len(rewards)
    out = np.empty(width)
    for reward in rewards:
        for start in range(0, rewards.shape[1], width):
            part = reward[start : start + width]
            np.exp(part, out=out[: len(part)])


@pytest.mark.parametrize(("kind", "outcomes"), CASES)
@pytest.mark.benchmark(group="h: growth")
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate", "ignore:.*canonicalization backend")
def test_h_growth(benchmark: Any, scoreboard: Scoreboard, kind: str, outcomes: int) -> None:
    sizes, rewards, reference = game(GROUPS, outcomes)
    claim = f"(h) {kind}, n={GROUPS}, m={outcomes:,}"
    tools = (peers.kl_with_scipy if kind == "kl" else peers.l2_with_sorting)(reference, STRENGTH[kind])
    separate = "n + 1 solves by " + ("scipy's logsumexp" if kind == "kl" else "sorting")
    contestants: dict[str, Callable[[], Any]] = {
        "ours": lambda: kernel(kind, GROUPS, outcomes),
        "settle": lambda: settle(kind, GROUPS, outcomes),
        separate: lambda: peers.clarke(sizes, rewards, *tools),
        "one weights @ rewards": lambda: sizes @ rewards,
    }
    if kind == "kl":
        contestants["one exponential per reward"] = lambda: exponentials(rewards)

    def in_turns() -> None:  # the machine's mood is the same for all
        for who, function in contestants.items():
            start = time.perf_counter()
            function()
            scoreboard.record(claim, who, time.perf_counter() - start)

    start = time.perf_counter()
    in_turns()
    rounds = max(3, min(200, int(ENOUGH / (time.perf_counter() - start))))
    benchmark.pedantic(in_turns, rounds=rounds)
    whole = f"{claim}: whole settle"
    for who, name in (("settle", "ours"), (separate, separate)):
        scoreboard.record(whole, name, scoreboard.measured[claim, who])
    scoreboard.compare(claim, separate, goal="")
    scoreboard.compare(whole, separate, goal="")
    if outcomes <= 100:
        scores = [sizes @ rewards, *(sizes @ rewards - size * row for size, row in zip(sizes, rewards, strict=True))]
        maxima = peers.conic_formulations(kind, reference, STRENGTH[kind])["direct"]
        start = time.perf_counter()
        maxima(scores)
        scoreboard.record(whole, "cvxpy + Clarabel, n + 1 solves", time.perf_counter() - start)
        scoreboard.compare(whole, "cvxpy + Clarabel, n + 1 solves", goal="")
    scoreboard.compare(claim, "one weights @ rewards", goal="", is_limit=True)
    if kind == "kl":
        scoreboard.compare(claim, "one exponential per reward", goal="report", is_limit=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc/self/status")
@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("outcomes", [LARGE, pytest.param(50_000_000, marks=pytest.mark.slow)])
@pytest.mark.benchmark(group="i: tables in files")
def test_i_files(benchmark: Any, scoreboard: Scoreboard, tmp_path: Path, outcomes: int, suffix: str) -> None:
    written = larger_than_memory.write_game(tmp_path, outcomes, suffix)
    memory = f"(i) settle {suffix} files, n=8, m={outcomes:,}, peak resident memory"
    duration = memory.replace("peak resident memory", "time")
    _, seconds, peak, _ = benchmark.pedantic(larger_than_memory.settle, args=(written, "--json"), rounds=1)
    names = sorted(tmp_path.glob("*.npy")) if suffix == ".npy" else [tmp_path / "table.parquet"]
    start = time.perf_counter()
    for name in names:
        with name.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    scoreboard.record(duration, "reading the files' bytes once", time.perf_counter() - start)
    scoreboard.record(duration, "ours", seconds)
    scoreboard.record(memory, "ours", peak)
    scoreboard.record(memory, "the input", 8 * 9 * outcomes / 1e6)
    scoreboard.compare(memory, "the input", goal="< 1000 MB" if outcomes > LARGE else "", unit="MB")
    scoreboard.compare(duration, "reading the files' bytes once", goal="", is_limit=True)
    for file in [*names, *tmp_path.glob("*.npy")]:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("outcomes", [10_000, 2_000_000])
@pytest.mark.benchmark(group="j: KL by torch")
def test_j_torch(benchmark: Any, scoreboard: Scoreboard, outcomes: int) -> None:
    pytest.importorskip("torch", reason="needs torch, of the extra 'train'")
    found = benchmark.pedantic(torch_table.measure, args=(16, outcomes), rounds=1)
    for one in found:
        claim = f"(j) kl, n=16, m={outcomes:,}, {one.device} ({one.share:.0%} of memory bandwidth)"
        scoreboard.record(claim, "ours", one.seconds)
        scoreboard.record(claim, "reading the rewards once, at the speed of a copy", one.reading)
        scoreboard.record(claim, "our table by numpy", found[0].seconds)
        scoreboard.compare(claim, "reading the rewards once, at the speed of a copy", goal="", is_limit=True)
        if one is not found[0]:
            scoreboard.compare(claim, "our table by numpy", goal="")
