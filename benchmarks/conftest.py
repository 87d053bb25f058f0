"""Collects what the benchmarks measured, and prints ours beside the peers of the same run, with the ratios.

Everything runs on one thread: ratios are per core, and a busy machine does not turn into spinning BLAS threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from benchmarks.exponents import Growth
from benchmarks.goals import Verdict, table_lines
from benchmarks.page import machine, write_page

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # read when numpy is first imported
    os.environ[_variable] = "1"


@dataclass
class Comparison:
    """One claim: our number beside a peer's, from the same run."""

    claim: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    goal: str
    ratio: float
    """Peer / ours; ours / peer where the peer is a limit."""
    is_limit: bool


@dataclass
class Scoreboard:
    """Seconds (or other numbers) by claim and contestant; the ratios of the claims."""

    measured: dict[tuple[str, str], float] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)

    def record(self, claim: str, who: str, number: float) -> None:
        """Keep the best number of a contestant."""
        kept = self.measured.get((claim, who))
        self.measured[claim, who] = number if kept is None else min(kept, number)

    def compare(
        self, claim: str, peer: str, *, goal: str, ours: str = "ours", unit: str = "s", is_limit: bool = False
    ) -> None:
        """Add a row: how many times less ours is than the peer's number, or how many times a limit."""
        mine, other = self.measured[claim, ours], self.measured[claim, peer]
        more, less = (mine, other) if is_limit else (other, mine)
        ratio = more / less if less > 0 else float("inf")
        self.comparisons.append(Comparison(claim, unit, mine, other, peer, goal, ratio, is_limit))

    def lines(self) -> Iterator[str]:
        """The table as text."""
        yield f"{'claim':<52}{'ours':>12}{'peer':>12}{'ratio':>11}  {'goal':<9}peer/ours, or ours/limit"
        for row in self.comparisons:
            yield (
                f"{row.claim:<52}{row.ours:>10.4g} {row.unit}{row.peer:>10.4g} {row.unit}{row.ratio:>11.4g}"
                f"  {row.goal:<9}{'limit: ' * row.is_limit}{row.peer_name}"
            )


KEY = pytest.StashKey[Scoreboard]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--page", help="write the comparisons to this page, with the machine that made them")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[KEY] = Scoreboard()


@pytest.fixture(scope="session")
def scoreboard(pytestconfig: pytest.Config) -> Scoreboard:
    return pytestconfig.stash[KEY]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    board = config.stash[KEY]
    if not (board.comparisons or board.verdicts or board.growth):
        return
    terminalreporter.section("ours beside the peers, same data, same run")
    for line in board.lines():
        terminalreporter.write_line(line)
    terminalreporter.section("goals, the missed ones first")
    for line in table_lines(board.verdicts):
        terminalreporter.write_line(line)
    for one in board.growth:
        terminalreporter.write_line(f"time grows with {one.axis} to the power {one.exponent:.2f} ({one.kind})")
    target = Path(config.rootpath) / ".benchmarks" / "ratios.json"
    target.parent.mkdir(exist_ok=True)
    document = {"machine": machine(), "comparisons": [asdict(row) for row in board.comparisons]}
    document["goals"] = [
        {"work": one.row.work, "number": one.measured.number, "goal": str(one.row.goal), "verdict": one.word}
        for one in board.verdicts
    ]
    target.write_text(json.dumps(document, indent=1) + "\n")
    terminalreporter.write_line(f"written to {target}")
    page = config.getoption("--page")
    if page is not None:
        write_page(Path(config.rootpath) / page, board.verdicts, board.growth, board.comparisons)
        terminalreporter.write_line(f"written to {page}")
