"""Measures how time grows with groups, outcomes and games: see benchmarks/exponents.py."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.conftest import Scoreboard
from benchmarks.exponents import AXES, KINDS, measure


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.benchmark(group="growth")
def test_growth(benchmark: Any, scoreboard: Scoreboard, axis: str, kind: str) -> None:
    scoreboard.growth.append(benchmark.pedantic(measure, args=(axis, kind), rounds=1))
