"""Goals of speed and memory: each a row with the work, a peer, a number to reach, and the function that measures it.

A module of rows holds ``ROWS: tuple[Row, ...]`` and is named in benchmarks/test_goals.py, which measures every row. A
peer is what a user would write instead. Times are CPU times, taken in turns, each the least of several repetitions. A
goal that is missed comes with a profile of our side.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROFILED = 6
"""Functions in the profile of a missed goal."""


@dataclass(frozen=True)
class Goal:
    """A number to reach."""

    bound: float
    unit: str
    is_least: bool = False
    """Whether the number must be at least the bound; else at most."""

    def is_met(self, number: float) -> bool:
        """Return whether a number reaches it."""
        return number >= self.bound if self.is_least else number <= self.bound

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {amount(self.bound)} {self.unit}"


def at_most(bound: float, unit: str) -> Goal:
    return Goal(bound, unit)


def at_least(bound: float, unit: str) -> Goal:
    return Goal(bound, unit, is_least=True)


@dataclass(frozen=True)
class Measured:
    """The number that the goal is about, and what else the same run showed."""

    number: float
    detail: str = ""
    """The two sides, in words."""
    others: Mapping[str, float] = field(default_factory=dict)
    """Further peers: theirs / ours, above 1 where ours is less."""
    ours: Callable[[], Any] | None = None
    """Our side, to be profiled where the goal is missed."""
    profile: Callable[[], tuple[str, ...]] | None = None
    """The profile of our side where it is another process."""
    why: Callable[[], str] | None = None
    """A sentence on what stands in the way, measured where the goal is missed."""


@dataclass(frozen=True)
class Row:
    """One promise."""

    work: str
    peer: str
    goal: Goal
    measure: Callable[[], Measured]
    is_slow: bool = False


@dataclass(frozen=True)
class Verdict:
    """A row with what was measured."""

    row: Row
    measured: Measured
    why: str
    """What stands in the way, and where our time goes, if the goal is missed."""

    @property
    def is_met(self) -> bool:
        """Whether the goal is reached."""
        return self.row.goal.is_met(self.measured.number)

    @property
    def word(self) -> str:
        """What the table says."""
        return "met" if self.is_met else "missed"


def judge(row: Row) -> Verdict:
    """Measure a row, and if it misses its goal, what stands in the way and where our time goes."""
    measured = row.measure()
    if row.goal.is_met(measured.number):
        return Verdict(row, measured, "")
    lines = measured.profile() if measured.profile else profiled(measured.ours) if measured.ours else ()
    said = [measured.why()] if measured.why else []
    return Verdict(row, measured, " ".join([*said, *([f"{'; '.join(lines)}."] if lines else [])]))


def cpu_seconds(
    contestants: Mapping[str, Callable[[], Any]], rounds: int = 5, clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Return the least seconds of each, run in turns so that the machine's mood is the same for all.

    What is over within a millisecond is repeated within its turn.
    """
    least, often = dict.fromkeys(contestants, float("inf")), {}
    for who, function in contestants.items():
        start = time.perf_counter()
        function()
        often[who] = max(1, int(5e-3 / max(time.perf_counter() - start, 1e-7)))
    for _ in range(rounds):
        for who, function in contestants.items():
            start = clock()
            for _ in range(often[who]):
                function()
            least[who] = min(least[who], (clock() - start) / often[who])
    return least


def child_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of the processes that some work starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def against(
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    rounds: int = 5,
    why: Callable[[], str] | None = None,
) -> Measured:
    """Return how many times as long ours takes as the first peer; what the other peers take goes beside it."""
    seconds = cpu_seconds({"ours": ours, **peers}, rounds)
    first, *others = peers
    detail = f"{duration(seconds['ours'])} against {duration(seconds[first])}"
    ratios = {peer: seconds[peer] / seconds["ours"] for peer in others}
    return Measured(seconds["ours"] / seconds[first], detail, ratios, ours, why=why)


def profiled(function: Callable[[], Any]) -> tuple[str, ...]:
    """Return the functions with most time of their own, numpy's included, and their shares: of all threads together."""
    profiles = [cProfile.Profile(time.thread_time)]

    def begin(*_: Any) -> None:  # the first event of a new thread: from here on that thread has a profile of its own
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    threading.setprofile(begin)
    try:
        profiles[0].runcall(function)
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
    return heaviest(pstats.Stats(*profiles))


def heaviest(stats: pstats.Stats) -> tuple[str, ...]:
    """Return the functions with most time of their own, with their shares; waiting for a thread is nobody's time."""
    known = {who: one for who, one in stats.stats.items() if "acquire" not in who[2]}  # type: ignore[attr-defined]
    total = max(sum(one[2] for one in known.values()), 1e-12)
    largest = sorted(known.items(), key=lambda item: -item[1][2])[:PROFILED]
    lines = []
    for (file, _, name), (_, calls, own, _, _) in largest:
        where = f"{Path(file).stem}." if file.endswith(".py") else ""
        if own < total / 100:
            break
        lines.append(f"{own / total:.0%} {where}{name.strip('<>')}, {calls:,} calls")
    return tuple(lines)


def amount(number: float) -> str:
    return f"{number:,.3g}" if number < 1000 else f"{number:,.0f}"


def duration(seconds: float) -> str:
    size, unit = next((one for one in ((1.0, "s"), (1e-3, "ms")) if seconds >= one[0]), (1e-6, "µs"))
    return f"{amount(seconds / size)} {unit}"


def in_order(verdicts: list[Verdict]) -> list[Verdict]:
    """Return what is missed first."""
    return sorted(verdicts, key=lambda verdict: verdict.is_met)


def table_lines(verdicts: list[Verdict]) -> list[str]:
    """Return the table as text, for a terminal."""
    lines = [f"{'work':<64}{'measured':>12}  {'goal':<22}{'verdict':<9}peer"]
    for verdict in in_order(verdicts):
        row, measured = verdict.row, verdict.measured
        lines.append(
            f"{row.work:<64}{amount(measured.number):>12}  {row.goal!s:<22}{verdict.word:<9}{row.peer}"
            + (f" ({measured.detail})" if measured.detail else "")
        )
        lines += [f"    {peer}: {amount(ratio)} times ours" for peer, ratio in measured.others.items()]
        lines += [f"    {verdict.why}"] if verdict.why else []
    return lines


def page_section(verdicts: list[Verdict]) -> str:
    """Return the table in Markdown, what is missed first, and the profiles below it."""
    missed = [verdict for verdict in in_order(verdicts) if not verdict.is_met]
    if not verdicts:
        return ""
    text = f"## Goals\n\n{len(missed)} of {len(verdicts)} goals are missed; they come first.\n\n"
    text += "| work | peer | measured | goal | verdict | both sides | other peers / ours |\n"
    text += "|---|---|---:|---|---|---|---|\n"
    for verdict in in_order(verdicts):
        row, measured = verdict.row, verdict.measured
        word = verdict.word if verdict.is_met else f"**{verdict.word}**"
        others = "; ".join(f"{peer}: {amount(ratio)}" for peer, ratio in measured.others.items())
        cells = (row.work, row.peer, amount(measured.number), str(row.goal), word, measured.detail, others)
        text += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
    if missed:
        text += (
            "\n### Why they are missed\n\nWhat stands in the way, measured in the same run, and where our time goes: "
        )
        text += "functions by their own time, numpy's included, of all threads together.\n\n"
    for verdict in missed:
        text += f"* **{verdict.row.work}** (beside {verdict.row.peer}): {verdict.why}\n"
    return text + "\n"
