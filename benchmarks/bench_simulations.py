"""Studies of many games: games settled a second on one core, two workers against one, what Ray adds to a chunk.

Everything counts: seeds, drawn populations, lies, settlements under both payment rules, rows written as parquet.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from benchmarks.conftest import Scoreboard
from rlhf_game.engines import Engine, Local, Ray, Serial
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import Chunk, Study, parse_study, play

STRATEGIES = [{"kind": "polarize"}, {"kind": "raise_and_lower", "epsilon": 0.01}, {"kind": "resize"}]
SETTLED = 1 + 3 * len(STRATEGIES)
"""Games settled for each game of the study: the truth, and every lie of each of the three groups."""
LIMIT = 50.0
"""Microseconds: 20,000 settled games a second on a core."""
TRIVIAL = 64


def study(games: int, chunk: int = 2_000) -> Study:
    """3 groups, 10 outcomes, KL, four strategies: the truth and three lies."""
    document = {
        "games": games,
        "scenario": {"kind": "random", "groups": 3, "outcomes": 10},
        "strength": 0.2,
        "strategies": STRATEGIES,
        "chunk": chunk,
    }
    return parse_study(document, "benchmark", Path())


def nothing(number: int) -> int:
    return number


def exhaust(engine: Engine, made: Study) -> int:
    return sum(len(part.content) for part in engine.map(play, ([chunk] for chunk in made.chunks())))


def elapsed(engine: Engine, made: Study) -> float:
    start = time.perf_counter()
    exhaust(engine, made)
    return time.perf_counter() - start


@pytest.mark.benchmark(group="simulations: settled games", timer=time.process_time)
def test_settled_games_a_second_on_one_core(benchmark: Any, scoreboard: Scoreboard) -> None:
    made = study(10_000)
    benchmark.pedantic(exhaust, args=(Serial(), made), rounds=3, warmup_rounds=1)
    claim = "simulate: CPU time of a settled 3 x 10 game"
    scoreboard.record(claim, "ours", benchmark.stats.stats.min / made.fields.games / SETTLED * 1e6)
    rng = np.random.default_rng(0)
    table = rg.Table(np.full(10, 0.1), rg.KL(0.2))
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    reports = [rg.Report(row, size=3) for row in rng.dirichlet(np.ones(10), 3)]
    start = time.process_time()
    for _ in range(200):
        mechanism.settle(reports, table)
    scoreboard.record(claim, "settle, one game at a time", (time.process_time() - start) / 200 * 1e6)
    scoreboard.record(claim, "20,000 a second", LIMIT)
    scoreboard.compare(claim, "settle, one game at a time", goal="report", unit="us")
    scoreboard.compare(claim, "20,000 a second", goal=">= 1", unit="us")


@pytest.mark.slow
@pytest.mark.benchmark(group="simulations: a whole study")
def test_a_study_of_100_000_games_and_four_strategies(benchmark: Any, scoreboard: Scoreboard) -> None:
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    workers = min(2, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = (study(100_000), Path(folder) / "study", Local(workers))
        benchmark.pedantic(simulate, args=arguments, rounds=1)
    claim = f"simulate: 100,000 games, 4 strategies, {workers} workers"
    scoreboard.record(claim, "ours", benchmark.stats.stats.min)
    scoreboard.record(claim, "a minute", 60.0)
    scoreboard.compare(claim, "a minute", goal=">= 1")


def timed(chunk: Chunk) -> tuple[int, float]:
    """Who played the chunk, and its CPU time."""
    start = time.process_time()
    play([chunk])
    return os.getpid(), time.process_time() - start


def busiest(engine: Engine, made: Study) -> float:
    """CPU seconds of the process that has most to do, this one included: what wall time is on an idle machine."""
    start = time.process_time()
    spent: dict[int, float] = {}
    for process, seconds in engine.map(timed, made.chunks()):
        spent[process] = spent.get(process, 0.0) + seconds
    spent[os.getpid()] = time.process_time() - start
    return max(spent.values())


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.benchmark(group="simulations: workers")
def test_two_workers_against_one(benchmark: Any, scoreboard: Scoreboard) -> None:
    """The pool is there already: starting it is a matter of seconds whatever the work.

    Wall time needs a machine that does nothing else; the CPU time of the busiest process shows how even the split is.
    """
    pytest.importorskip("joblib", reason="needs joblib, of the extra 'parallel'")
    made = study(60_000)
    exhaust(Local(2), study(4_000))
    claim, even = "simulate: 60,000 games, wall time", "simulate: 60,000 games, CPU time of the busiest process"

    def in_turns() -> None:  # the machine's mood is the same for both
        scoreboard.record(claim, "one worker", elapsed(Local(1), made))
        scoreboard.record(claim, "ours", elapsed(Local(2), made))
        scoreboard.record(even, "one worker", busiest(Local(1), made))
        scoreboard.record(even, "ours", busiest(Local(2), made))

    benchmark.pedantic(in_turns, rounds=3)
    for each in (claim, even):
        scoreboard.compare(each, "one worker", goal=">= 1.7")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.benchmark(group="simulations: workers")
def test_what_ray_adds_to_a_chunk(benchmark: Any, scoreboard: Scoreboard) -> None:
    """Trivial tasks on a cluster of one machine that runs already, against a chunk of 2,000 games."""
    ray = pytest.importorskip("ray", reason="needs ray, of the extra 'ray'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        list(Ray(1).map(nothing, range(TRIVIAL)))
        benchmark.pedantic(lambda: list(Ray(1).map(nothing, range(TRIVIAL))), rounds=5)
    finally:
        ray.shutdown()
    claim = "simulate: what Ray adds to a chunk"
    scoreboard.record(claim, "ours", benchmark.stats.stats.min / TRIVIAL)
    made = study(2_000)
    scoreboard.record(claim, "playing the chunk, 2,000 games", min(elapsed(Serial(), made) for _ in range(3)))
    scoreboard.compare(claim, "playing the chunk, 2,000 games", goal="report")
