"""Speed and memory of settling over token sequences, beside the two limits that no way can beat by much.

(e) 50^400 sequences, 1 and 50 states: settle in milliseconds; the peer is a plain log-space recursion for one policy.
(f) |T| = 50,000, S = 64, K = 64, n = 8: the peer is one exp of every number that has to be read, n S |T|.
(g) The same settlement's peak memory, in a process of its own; the peer is the input (rewards, reference, next states).
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from functools import cache
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from benchmarks.conftest import Scoreboard

TOKENS, STATES, HORIZON, GROUPS = 50_000, 64, 64, 8


@cache
def automaton(states: int, tokens: int, groups: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Next states, reference and rewards of a random automaton that never ends."""
    rng = np.random.default_rng(0)
    reference = rng.random((states, tokens))
    reference /= reference.sum(axis=1, keepdims=True)
    return rng.integers(0, states, (states, tokens)), reference, [rng.random((states, tokens)) for _ in range(groups)]


def settle(states: int, tokens: int, horizon: int, groups: int) -> rg.Settlement:
    """Everything: check the automaton and the reports, train, value, charge."""
    next_state, reference, rewards = automaton(states, tokens, groups)
    chain = rg.Chain(next_state, reference, rg.KL(0.5), horizon=horizon)
    return rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle([rg.Report(r) for r in rewards], chain)


def plain_recursion(states: int, tokens: int, horizon: int, groups: int) -> float:
    """max ASW alone, by the textbook recursion over (step, state, token): no values, no payments."""
    next_state, reference, rewards = automaton(states, tokens, groups)
    log_weights = np.log(reference) + sum(rewards) / 0.5
    following = np.zeros(states)
    for _ in range(horizon):
        following = np.logaddexp.reduce(log_weights + following[next_state], axis=1)
    return 0.5 * float(following[0])


@pytest.mark.parametrize("states", [1, 50])
@pytest.mark.benchmark(group="e: 50^400 sequences, n = 2")
def test_e_fifty_to_the_four_hundred(benchmark: Any, scoreboard: Scoreboard, states: int) -> None:
    claim = f"(e) 50^400 sequences, {states} state{'s' * (states > 1)}, n=2"
    settled = benchmark.pedantic(settle, args=(states, 50, 400, 2), rounds=5, warmup_rounds=1)
    scoreboard.record(claim, "ours", benchmark.stats.stats.min)
    start = time.perf_counter()
    welfare = plain_recursion(states, 50, 400, 2)
    scoreboard.record(claim, "one plain backward recursion", time.perf_counter() - start)
    assert settled.affine_social_welfare == pytest.approx(welfare, rel=1e-9)
    scoreboard.compare(claim, "one plain backward recursion", goal="")
    assert benchmark.stats.stats.min < 5.0


@pytest.mark.benchmark(group="f: |T| = 50,000, S = 64, K = 64, n = 8")
def test_f_a_real_vocabulary(benchmark: Any, scoreboard: Scoreboard) -> None:
    claim = "(f) |T|=50,000, S=64, K=64, n=8"
    automaton(STATES, TOKENS, GROUPS)
    benchmark.pedantic(settle, args=(STATES, TOKENS, HORIZON, GROUPS), rounds=3, warmup_rounds=0)
    scoreboard.record(claim, "ours", benchmark.stats.stats.min)
    rewards = automaton(STATES, TOKENS, GROUPS)[2]
    start = time.perf_counter()
    for reward in rewards:
        np.exp(reward)
    scoreboard.record(claim, "one exp of each reward", time.perf_counter() - start)
    scoreboard.compare(claim, "one exp of each reward", goal="", is_limit=True)
    assert benchmark.stats.stats.min < 60.0


MEMORY = """
    from benchmarks.test_chain import GROUPS, HORIZON, STATES, TOKENS, automaton, settle
    next_state, reference, rewards = automaton(STATES, TOKENS, GROUPS)
    settle(STATES, TOKENS, HORIZON, GROUPS)
    with open("/proc/self/status") as status:  # what a process reports of itself begins with its parent's peak
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    print(sum(a.nbytes for a in (next_state, reference, *rewards)), peak)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc/self/status")
def test_g_memory(benchmark: Any, scoreboard: Scoreboard) -> None:
    claim = "(g) peak memory of (f), input included"

    def measure() -> list[str]:
        script = textwrap.dedent(MEMORY)
        return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()

    given, peak = benchmark.pedantic(measure, rounds=1)
    scoreboard.record(claim, "ours", 1024 * int(peak) / 1e9)
    scoreboard.record(claim, "the input", int(given) / 1e9)
    scoreboard.compare(claim, "the input", goal="", unit="GB")
    assert 1024 * int(peak) < 2e9
