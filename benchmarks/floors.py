"""Why goals are missed, beside what profiles say: sentences of numbers that are measured where a goal is missed.

A floor is what a function of numpy or of the link alone takes that no way without compiled code goes without.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.goals import amount, cpu_seconds, duration, heaviest
from rlhf_game.mechanism.arrays import content, row_minima
from rlhf_game.mechanism.regularizers import departures, kl
from rlhf_game.mechanism.regularizers.optimum import added, expectation, scaled

Array = np.ndarray
MODULES = 6
"""Packages in the profile of a start."""


def passes(name: str, weights: Array, rewards: Array, reference: Array, *, whole: bool) -> str:
    """What each step of a settlement takes alone, on blocks in cache, in passes."""
    groups, outcomes = rewards.shape
    width = min(max(1, kl.WIDE // (groups + 1)), outcomes)
    block, out, p = np.full((groups, 1, width), -0.5), np.empty((1, width)), reference[None, :width].copy()
    cuts = [(start, min(width, outcomes - start)) for start in range(0, outcomes, width)]
    rows, scales, memory = [reward[None] for reward in rewards], np.full((groups, 1, 1), -1.0), np.empty(block.size)

    def scaling() -> None:
        for start, size in cuts:
            part = memory[: groups * size].reshape(groups, 1, size)
            scaled(rows, scales, (slice(0, 1), slice(start, start + size)), part)

    def on_blocks(step: Callable[[Array, Array, Array], Any]) -> Callable[[], None]:
        return lambda: [step(block[:, :, :size], out[:, :size], p[:, :size]) for _, size in cuts] and None

    steps: dict[str, Callable[[], Any]] = {
        "scaling each reward into cache": scaling, "their sum": on_blocks(lambda b, o, _: added(b, o)),
    }  # fmt: skip
    if name == "kl":
        powers = np.empty_like(block)
        steps["an exponential of each"] = on_blocks(lambda b, o, _: np.exp(b, out=powers[:, :, : b.shape[2]]))
        steps["two means of each under p"] = on_blocks(lambda b, _, q: (expectation(q, b), expectation(q, b)))
    else:
        steps["the least entry of each"] = lambda: [row_minima(row) for row in rows]
    if whole:
        steps["telling whether one was changed since"] = lambda: [content(reward) for reward in rewards]
    seconds = cpu_seconds({"pass": lambda: weights @ rewards, **steps}, rounds=3)
    taken = {step: seconds[step] / seconds["pass"] for step in steps}
    said = ", ".join(f"{step} {amount(number)}" for step, number in taken.items())
    return (
        f"In passes, by calls that do nothing else: {said}; {amount(sum(taken.values()))} in all. The rest is a dozen "
        f"readings of single rows and the fixed cost of numpy's calls on {len(cuts)} blocks of {width:,} outcomes."
    )


def calls(ours: Callable[[], Any], plain: Callable[[], Any]) -> str:
    """How many calls both sides of a small game are made of."""
    counts = []
    for function in (ours, plain):
        profile = cProfile.Profile()
        profile.runcall(function)
        counts.append(pstats.Stats(profile, stream=io.StringIO()).total_calls)  # type: ignore[attr-defined]
    return (
        f"{counts[0]} calls of Python and numpy against {counts[1]}: objects, checks of what they were given, and the "
        "ways round lost digits, each of fixed cost."
    )


def evaluations(regularizer: Any, weights: Array, rewards: Sequence[Array], reference: Array) -> tuple[float, float]:
    """CPU seconds of moving every outcome without every group once, and of paying for it once: blocks in cache."""
    optimum = regularizer.maximize(weights, rewards, reference)
    link, z = optimum.link, optimum.slacks.at()
    share = np.concatenate([1e-3 * (reward - reward.mean(axis=1, keepdims=True)) for reward in rewards]).ravel()
    slack = np.tile(z.ravel(), len(rewards))
    share *= np.abs(slack)  # a slack that is in the link's domain stays there
    parts = [slice(start, start + departures.PIECE) for start in range(0, share.size, departures.PIECE)]
    density = link.density(slack[None])

    def moving(part: slice) -> tuple[Array, Array]:
        own, h = slack[None, part], -share[None, part]
        other = own + h
        link.response(own, density[:, part], other, h)
        return other, h

    def paying() -> None:
        for part in parts:
            other, h = moving(part)
            link.bregman(slack[None, part], other, h)

    seconds = cpu_seconds({"moving": lambda: [moving(part) for part in parts], "paying": paying}, rounds=3)
    return seconds["moving"], seconds["paying"]


def searches(once: tuple[float, float], unit: float, name: str) -> str:
    """What a step of a search for every group, and the payments at its end, take alone: in units of so many seconds."""
    moved, paid = (amount(seconds / unit) for seconds in once)
    return (
        f"A step of the search for the policy without each group evaluates the link at every outcome: {moved} {name} "
        f"alone; paying at its end takes {paid}. A search takes two steps or more, and the policy of all comes first."
    )


def lost_digits(exact: Array, plain: Array) -> str:
    """What the plain way loses that ours makes again with care."""
    wrong = np.abs(plain - exact) > 1e-9 * np.abs(exact)
    worst = float(np.max(np.abs(plain - exact) / np.maximum(np.abs(exact), 1e-300)))
    return (
        f"The peer checks nothing, and {wrong.mean():.1%} of its payments are off by more than 1e-9, the worst by "
        f"{worst:.1e} of itself: what may be among them is made again with care."
    )


def command_profile(*arguments: str) -> tuple[str, ...]:
    """The functions of a command with most time of their own."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "profile"
        _run("-m", "cProfile", "-o", str(kept), "-m", "rlhf_game", *arguments)
        return heaviest(pstats.Stats(str(kept), stream=io.StringIO()))


def import_profile(*arguments: str) -> tuple[str, ...]:
    """The packages whose imports take most of a command's start, with their shares."""
    said = _run("-X", "importtime", "-m", "rlhf_game", *arguments).stderr
    own: dict[str, int] = {}
    for micro, module in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", said):
        own[module.partition(".")[0]] = own.get(module.partition(".")[0], 0) + int(micro)
    total, largest = sum(own.values()), sorted(own.items(), key=lambda item: -item[1])[:MODULES]
    return tuple(f"{micro / total:.0%} importing {package}" for package, micro in largest)


def interpreter(seconds: Callable[[Sequence[str]], float], libraries: str) -> str:
    """What the interpreter, and the libraries that a command stands on, take alone."""
    alone, with_them = (seconds([sys.executable, "-c", code]) for code in ("pass", f"import {libraries}"))
    return f"The interpreter alone takes {duration(alone)}, with {libraries} imported {duration(with_them)}."


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment: Mapping[str, str] = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, env=dict(environment)
    )
