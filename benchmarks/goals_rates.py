"""Goals of divergences, batches of games, studies, audits, prompts and chains."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import rlhf_game as rg
from benchmarks import floors
from benchmarks.goals import Measured, Row, amount, at_least, at_most, child_seconds, cpu_seconds, duration
from benchmarks.goals import against as beside
from benchmarks.test_chain import GROUPS, HORIZON, STATES, TOKENS, automaton
from benchmarks.test_chain import settle as settle_chain
from rlhf_game.simulations.study import parse_study, play

Array = np.ndarray

DIVERGENCES: dict[str, Callable[[float], Any]] = {
    "kl": rg.KL,
    "l2": rg.SquaredL2,
    "reverse KL": rg.ReverseKL,
    "chi2": rg.PearsonChi2,
    "Hellinger": rg.Hellinger,
    "JS": rg.JensenShannon,
    "alpha:3": partial(rg.Alpha, order=3.0),
}
DUAL = ("reverse KL", "chi2", "Hellinger", "JS", "alpha:3")
"""Those whose optimum is found by a search for one number."""
GAMES, STUDY_GAMES, STARTS = 100_000, 10_000, 5
MECHANISM = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())


@cache
def table(groups: int, outcomes: int) -> tuple[Array, Array, Array]:
    """Weights [n], rewards [n, m] and reference [m]: ordinary arrays, such as anybody has."""
    rng = np.random.default_rng(0)
    reference = 0.5 * rng.dirichlet(np.ones(outcomes)) + 0.5 / outcomes
    return np.ones(groups), rng.uniform(0, 1, (groups, outcomes)), reference / reference.sum()


def kernel(name: str, groups: int, outcomes: int) -> Callable[[], Any]:
    """Policy and payments of one table."""
    weights, rewards, reference = table(groups, outcomes)
    rows, regularizer = [reward[None] for reward in rewards], DIVERGENCES[name](1.0)
    return lambda: regularizer.maximize(weights, rows, reference[None]).externalities(weights, rows)


# ---- divergences -----------------------------------------------------------------------------------------------------


def passes_of_a_divergence(name: str) -> Measured:
    weights, rewards, reference = table(8, 100_000)

    def why() -> str:
        once = floors.evaluations(DIVERGENCES[name](1.0), weights, [row[None] for row in rewards], reference[None])
        return floors.searches(once, cpu_seconds({"pass": lambda: weights @ rewards}, rounds=3)["pass"], "passes")

    return beside(kernel(name, 8, 100_000), {"one weights @ rewards": lambda: weights @ rewards}, rounds=3, why=why)


def vectors_of_a_divergence(name: str) -> Measured:
    """The most memory that numpy held at once beyond the input, in vectors of m numbers."""
    run = kernel(name, 8, 100_000)
    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Measured(peak / 8 / 100_000, f"{amount(peak / 2**20)} MiB", ours=run)


# ---- many games ------------------------------------------------------------------------------------------------------


@cache
def games() -> tuple[Array, Array, Array]:
    """Rewards [B, 3, 10], sizes [B, 3] and reference [10]."""
    rng = np.random.default_rng(0)
    return rng.random((GAMES, 3, 10)), rng.integers(1, 11, (GAMES, 3)).astype(float), np.full(10, 0.1)


def plain_kl(rewards: Array, sizes: Array, reference: Array, strength: float) -> tuple[Array, Array]:
    """Policies and payments of many games in vectorised numpy, as one would write them."""
    shares = sizes[:, :, None] * rewards / strength
    exponents = np.log(reference) + shares.sum(axis=1)
    exponents -= exponents.max(axis=1, keepdims=True)
    p = np.exp(exponents)
    p /= p.sum(axis=1, keepdims=True)
    means = np.einsum("bnm,bm->bn", shares, p)
    payments = strength * (np.log(np.einsum("bnm,bm->bn", np.exp(-shares), p)) + means)
    return p, payments


def many_games_beside_numpy() -> Measured:
    rewards, sizes, reference = games()
    regularizer = rg.KL(0.2)
    found = rg.settle_many(rewards, sizes, reference, regularizer)
    p, payments = plain_kl(rewards, sizes, reference, 0.2)
    np.testing.assert_allclose(found.policy, p, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(found.payments, payments, rtol=1e-6, atol=1e-12)
    return beside(
        lambda: rg.settle_many(rewards, sizes, reference, regularizer),
        {"plain numpy, unchecked": lambda: plain_kl(rewards, sizes, reference, 0.2)},
        rounds=7,
        why=partial(floors.lost_digits, found.payments, payments),
    )


def time_of_a_game(name: str) -> Measured:
    rewards, sizes, reference = games()

    def run() -> Any:
        return rg.settle_many(rewards, sizes, reference, DIVERGENCES[name](0.2))

    def why() -> str:
        sheets, q = [rewards[:, i] for i in range(rewards.shape[1])], np.broadcast_to(reference, rewards[:, 0].shape)
        once = floors.evaluations(DIVERGENCES[name](0.2), sizes.T, sheets, q)
        return floors.searches(once, GAMES / 1e6, "µs a game")

    seconds = cpu_seconds({"ours": run}, rounds=3)["ours"]
    detail = f"{duration(seconds)} for {GAMES:,}"
    return Measured(seconds / GAMES * 1e6, detail, ours=run, why=why if name in DUAL else None)


def games_a_minute(divergence: str) -> Measured:
    """A study of the truth and one lie, as the tutorial's: draws, lies, settlements and rows of both payment rules."""
    document = {
        "games": STUDY_GAMES,
        "scenario": {"kind": "random", "groups": 3, "outcomes": 10},
        "regularizer": divergence,
        "strength": 0.2,
        "strategies": [{"kind": "polarize"}],
    }
    study = parse_study(document, "benchmark", Path())

    def run() -> None:
        for chunk in study.chunks():
            play([chunk])

    seconds = cpu_seconds({"ours": run}, rounds=3)["ours"]
    return Measured(STUDY_GAMES / seconds * 60, f"{duration(seconds)} for {STUDY_GAMES:,}", ours=run)


# ---- audits ----------------------------------------------------------------------------------------------------------


def audit_of(groups: int, outcomes: int) -> Measured:
    rng = np.random.default_rng(1)
    space = rg.Table(rng.dirichlet(np.ones(outcomes)), rg.KL(0.2), normalization="sum")
    people = [rg.Group(f"g{i}", reward, 1 + i % 3) for i, reward in enumerate(rng.dirichlet(np.ones(outcomes), groups))]

    def run() -> Any:
        return rg.audit(MECHANISM, people, space)

    seconds = cpu_seconds({"ours": run}, rounds=1)["ours"]
    return Measured(seconds, f"{groups} groups, {outcomes:,} outcomes, payments", ours=run)


# ---- prompts ---------------------------------------------------------------------------------------------------------


def ragged_beside_uniform() -> Measured:
    """1,000 prompts of 33 to 96 outcomes, against 1,000 of 64 (one outcome more or less in all): whole settlements."""
    rng = np.random.default_rng(2)
    widths = np.tile(np.arange(33, 97), 16)[:1000]

    def settle(reference: Any, rewards: Any) -> Callable[[], Any]:
        return lambda: MECHANISM.settle([rg.Report(reward) for reward in rewards], rg.Table(reference, rg.KL(0.2)))

    ragged = settle([np.full(m, 1 / m) for m in widths], [[rng.random(m) for m in widths] for _ in range(8)])
    width = int(np.ceil(widths.mean()))
    uniform = settle(np.full((1000, width), 1 / width), rng.random((8, 1000, width)))
    lists = settle(
        [np.full(width, 1 / width) for _ in range(1000)], [[rng.random(width) for _ in range(1000)] for _ in range(8)]
    )

    def why() -> str:
        given = [[rng.random(m) for m in widths] for _ in range(9)]
        alone = {"joining": lambda: [np.isfinite(np.concatenate(rows)).all() for rows in given], "uniform": uniform}
        seconds = cpu_seconds(alone)
        return (
            f"Putting the arrays of {9 * len(widths):,} prompts end to end, and seeing that they are finite, takes "
            f"{amount(seconds['joining'] / seconds['uniform'])} times the uniform settlement; then each of "
            f"{len(set(widths.tolist()))} numbers of outcomes is settled by itself, at the fixed cost of a small game."
        )

    peers = {"uniform prompts, one array": uniform, "uniform prompts, lists of arrays": lists}
    return beside(ragged, peers, why=why)


PROMPTS = """
    import sys, time
    import numpy as np
    import rlhf_game as rg
    from benchmarks.goals_rates import DIVERGENCES

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    def settle(prompts):
        space = rg.Table(reference[:prompts], DIVERGENCES[sys.argv[1]](0.5))
        mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
        return mechanism.settle([rg.Report(reward[:prompts]) for reward in rewards], space)

    count = int(sys.argv[2])
    reference, rewards = np.full((count, 64), 1 / 64), np.empty((8, count, 64))
    for i in range(8):
        np.random.default_rng(i).random(out=rewards[i])
    settle(10)
    before = peak()
    start = time.process_time()
    settle(count)
    print(time.process_time() - start, 1024 * (peak() - before))
"""


@cache
def prompts_at(name: str, count: int) -> tuple[float, float]:
    """CPU seconds and bytes beyond the input of ``count`` prompts with 64 outcomes each and 8 groups."""
    command = [sys.executable, "-c", textwrap.dedent(PROMPTS), name, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(done[0]), float(done[1])


def growth_in_prompts(name: str) -> Measured:
    few, many = prompts_at(name, 12_500)[0], prompts_at(name, 100_000)[0]
    return Measured(many / few / 8, f"{duration(few)} at 12,500, {duration(many)} at 100,000")


def memory_of_prompts(name: str) -> Measured:
    beyond = prompts_at(name, 100_000)[1]
    return Measured(beyond / 1e9, f"{amount(beyond / 2**20)} MiB")


# ---- chains ----------------------------------------------------------------------------------------------------------


def exps_of_a_chain() -> Measured:
    rewards = automaton(STATES, TOKENS, GROUPS)[2]
    out = np.empty_like(rewards[0])

    def exps() -> None:
        for reward in rewards:
            np.exp(reward, out=out)

    def run() -> Any:
        return settle_chain(STATES, TOKENS, HORIZON, GROUPS)

    return beside(run, {"one exp of each reward": exps}, rounds=3)


def process_seconds(command: Sequence[str]) -> float:
    """The least CPU seconds of a process."""
    run = partial(subprocess.run, command, check=True, capture_output=True)
    return min(child_seconds(run) for _ in range(STARTS))


def start_up(command: str) -> Measured:
    """CPU seconds of a whole command, the interpreter included."""
    with tempfile.TemporaryDirectory() as folder:
        game = Path(folder) / "game.json"
        groups = [{"name": name, "reward": [i, 1 - i]} for i, name in enumerate("ab")]
        game.write_text(json.dumps({"reference": [0.5, 0.5], "strength": 0.5, "groups": groups}))
        arguments = ["--help"] if command == "--help" else ["settle", str(game)]
        start = time.perf_counter()
        least = process_seconds([sys.executable, "-m", "rlhf_game", *arguments])
        elapsed = (time.perf_counter() - start) / STARTS
        lines = floors.import_profile(*arguments)
    libraries = "typer" if command == "--help" else "typer, numpy, pydantic"
    why = partial(floors.interpreter, process_seconds, libraries)
    return Measured(least, f"{duration(elapsed)} of wall time", profile=lambda: lines, why=why)


PASS = "one weights @ rewards"
ROWS = (
    *(
        Row(
            f"{name}, n = 8, m = 100,000, policy and payments",
            PASS,
            at_most(150, "passes"),
            partial(fn, name),
        )
        for fn in (passes_of_a_divergence,)
        for name in DUAL
    ),
    *(
        Row(f"{name}, n = 8, m = 100,000, peak", "one vector of m", at_most(6, "vectors"), partial(fn, name))
        for fn in (vectors_of_a_divergence,)
        for name in DUAL
    ),
    Row("settle_many, 100,000 games 3 x 10, KL", "plain numpy", at_most(1.2, "x"), many_games_beside_numpy),
    *(
        Row(f"settle_many, 100,000 games 3 x 10, {name}", "a number", at_most(5, "µs a game"), partial(fn, name))
        for fn in (time_of_a_game,)
        for name in DIVERGENCES
    ),
    Row("simulate, 3 x 10, KL", "a number", at_least(1_200_000, "games a minute"), partial(games_a_minute, "kl")),
    Row("simulate, 3 x 10, chi2", "a number", at_least(400_000, "games a minute"), partial(games_a_minute, "chi2")),
    Row("audit, 3 groups x 10,000 outcomes", "a number", at_most(2, "s"), partial(audit_of, 3, 10_000)),
    Row("audit, 100 groups x 10 outcomes", "a number", at_most(2, "s"), partial(audit_of, 100, 10)),
    Row("1,000 ragged prompts, whole settle", "uniform prompts", at_most(1.5, "x"), ragged_beside_uniform),
    *(
        row
        for name in ("kl", "chi2")
        for row in (
            Row(
                f"{name}, 8 times the prompts", "8 times the time", at_most(1.1, "x"), partial(growth_in_prompts, name)
            ),
            Row(
                f"{name}, 100,000 prompts x 64 x 8 groups",
                "the input",
                at_most(1, "GB more"),
                partial(memory_of_prompts, name),
            ),
        )
    ),
    Row("chain, T = 50,000, S = 64, K = 64, n = 8", "one exp of each reward", at_most(20, "exps"), exps_of_a_chain),
    Row("rlhf-game --help", "a number", at_most(0.10, "s"), partial(start_up, "--help")),
    Row("rlhf-game settle of a small game", "a number", at_most(0.45, "s"), partial(start_up, "settle")),
)
