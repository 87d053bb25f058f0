"""Measures every goal of speed and memory, and says which are met: see benchmarks/goals.py."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import goals_rates, goals_speed
from benchmarks.conftest import Scoreboard
from benchmarks.goals import Row, judge

ROWS = (*goals_speed.ROWS, *goals_rates.ROWS)


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=f"{row.work} against {row.peer}", marks=[pytest.mark.slow] * row.is_slow) for row in ROWS],
)
@pytest.mark.benchmark(group="goals")
def test_goal(benchmark: Any, scoreboard: Scoreboard, row: Row) -> None:
    scoreboard.verdicts.append(benchmark.pedantic(judge, args=(row,), rounds=1))
