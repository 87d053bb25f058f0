"""Goals of single settlements: large tables, many groups, small games, and tables in files.

Arrays are ordinary ones, which their author may change. A pass is one ``weights @ rewards`` of the same table.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import to_json

import rlhf_game as rg
from benchmarks import floors, larger_than_memory, peers
from benchmarks.goals import Measured, Row, against, amount, at_least, at_most, child_seconds, cpu_seconds, duration
from benchmarks.goals_rates import DIVERGENCES, MECHANISM, table
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.arrays import BLOCK, LARGE

Array = np.ndarray
LARGEST = (16, 2_000_000)
SIZES = ((16, BLOCK - 1), (16, LARGE // 16 - 1), (1000, 10_000))
"""Just below thresholds, and a thousand groups."""
STRENGTH = 0.2
Policies = tuple[Array, Array]


def settled(name: str, groups: int, outcomes: int) -> Callable[[], Any]:
    """A whole settlement: check and read the input, train, value, charge."""
    weights, rewards, reference = table(groups, outcomes)

    def run() -> Any:
        space = rg.Table(reference, DIVERGENCES[name](1.0))
        return MECHANISM.settle([rg.Report(row, int(w)) for row, w in zip(rewards, weights, strict=True)], space)

    return run


def solved(name: str, weights: Array, rewards: Array, reference: Array, strength: float) -> Callable[[], Any]:
    """Policy, values and payments alone."""
    rows, regularizer = [row[None] for row in rewards], DIVERGENCES[name](strength)
    return lambda: regularizer.settle(weights, rows, reference[None])


def plain_kl(weights: Array, rewards: Array, reference: Array, strength: float) -> Policies:
    """Policy and payments of one table in plain numpy."""
    exponents = np.log(reference) + weights @ rewards / strength
    p = np.exp(exponents - exponents.max())
    p /= p.sum()
    shares = rewards * (weights / strength)[:, None]
    return p, strength * (np.log(np.exp(-shares) @ p) + shares @ p)


def torch_kl(rewards: Array, reference: Array) -> dict[str, Callable[[], Any]]:
    """The same in torch, compiled where there is a compiler; nothing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    r, log_q = torch.from_numpy(rewards), torch.from_numpy(np.log(reference))

    def four_lines() -> Any:
        p = torch.softmax(log_q + r.sum(dim=0), dim=0)
        return p, torch.log(torch.exp(-r) @ p) + r @ p

    found: dict[str, Callable[[], Any]] = {"torch, four lines": four_lines}
    try:
        compiled = torch.compile(four_lines)
        compiled()
    except Exception:  # noqa: BLE001 - no compiler, or one that fails: then only what anybody can run
        return found
    return {**found, "torch.compile of them": compiled}


def passes(name: str, groups: int, outcomes: int, *, whole: bool) -> Measured:
    weights, rewards, reference = table(groups, outcomes)
    ours = settled(name, groups, outcomes) if whole else solved(name, weights, rewards, reference, 1.0)
    others: dict[str, Callable[[], Any]] = {}
    if name == "kl" and (groups, outcomes) == LARGEST:
        others = {"plain numpy": lambda: plain_kl(weights, rewards, reference, 1.0)}
        others |= {} if whole else torch_kl(rewards, reference)
    why = partial(floors.passes, name, weights, rewards, reference, whole=whole)
    return against(ours, {"one weights @ rewards": lambda: weights @ rewards, **others}, rounds=4, why=why)


def copies(name: str) -> Measured:
    """The most memory that numpy held at once in a whole settlement, in vectors of m numbers."""
    run = settled(name, *LARGEST)
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Measured(peak / 8 / LARGEST[1], f"{amount(peak / 2**20)} MiB beside {16 * 16} MiB of rewards", ours=run)


CORES = """
    import json, os, time
    import numpy  # with all its threads: what is imported next tells it to take one
    from benchmarks import peers
    from benchmarks.goals import cpu_seconds, profiled
    from benchmarks.goals_rates import table
    from benchmarks.goals_speed import LARGEST, settled

    cores = str(len(os.sched_getaffinity(0)))
    run = settled("kl", *LARGEST)

    def on(threads):
        os.environ["OMP_NUM_THREADS"] = threads
        return run()

    weights, rewards, reference = table(*LARGEST)
    tools = peers.kl_with_scipy(reference, 1.0)
    contestants = {
        "ours": lambda: on(cores),
        "pass": lambda: weights @ rewards,
        "naive": lambda: peers.clarke(weights, rewards, *tools),
        "one thread": lambda: on("1"),
    }
    seconds = cpu_seconds(contestants, rounds=3, clock=time.perf_counter)
    print(json.dumps({"seconds": seconds, "cores": cores, "profile": profiled(lambda: on(cores))}))
"""


def on_all_cores(peer: str) -> Measured:
    """Wall time in a process of its own, where BLAS and ours use all cores."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    command = [sys.executable, "-c", textwrap.dedent(CORES)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    ours, one_pass, naive, alone = found["seconds"].values()
    return Measured(
        ours / one_pass if peer == "pass" else naive / ours,
        f"{duration(ours)}; a pass {duration(one_pass)}, n + 1 solves {duration(naive)}",
        profile=lambda: tuple(found["profile"]),
        why=lambda: (
            f"{found['cores']} threads are {amount(alone / ours)} times as fast as one, which takes {duration(alone)}: "
            "they share the way to the memory, and what comes before and after the one reading has one thread."
        ),
    )


def many_groups(name: str) -> Measured:
    """3,000 groups of 1,000 outcomes, shares 1 / n, beside 20 lines of numpy."""
    rng, groups, outcomes = np.random.default_rng(0), 3000, 1000
    weights, rewards = np.full(groups, 1 / groups), rng.uniform(0, 1, (groups, outcomes))
    reference = rng.dirichlet(np.ones(outcomes))
    reference /= reference.sum()
    plain = {"20 lines of numpy": lambda: plain_kl(weights, rewards, reference, STRENGTH)}
    return against(solved(name, weights, rewards, reference, STRENGTH), plain, rounds=3)


def checked(rewards: Array, sizes: list[int], reference: Array) -> tuple[Array, list[Array]]:
    """The checks of a careful author."""
    rows = [np.asarray(row, dtype=float) for row in rewards]
    if any(row.shape != reference.shape or not np.isfinite(row).all() for row in rows):
        raise ValueError("rewards")
    if (reference < 0).any() or abs(reference.sum() - 1) > 1e-6 or min(sizes) < 1:
        raise ValueError("reference or sizes")
    return np.array(sizes, dtype=float), rows


def small_game(name: str) -> Measured:
    """Table, reports and settlement, 3 groups of 10 outcomes, beside plain numpy with the same checks."""
    rng, sizes, reference = np.random.default_rng(0), [1, 2, 3], np.full(10, 0.1)
    rewards, regularizer = rng.uniform(0, 1, (3, 10)), DIVERGENCES[name](STRENGTH)

    def ours() -> Any:
        reports = [rg.Report(row, size=size) for row, size in zip(rewards, sizes, strict=True)]
        return MECHANISM.settle(reports, rg.Table(reference, regularizer))

    def plain() -> Policies:
        weights, rows = checked(rewards, sizes, reference)
        if name == "kl":
            return plain_kl(weights, np.stack(rows), reference, STRENGTH)
        welfare, policy = peers.l2_with_sorting(reference, STRENGTH)
        return policy(weights @ np.stack(rows)), peers.clarke(weights, np.stack(rows), welfare, policy)

    np.testing.assert_allclose(ours().payments, plain()[1], rtol=1e-9)
    return against(ours, {"plain numpy with the same checks": plain}, rounds=40, why=partial(floors.calls, ours, plain))


def command_seconds(game: Path) -> float:
    """CPU seconds of settling a game by the command line."""
    return child_seconds(lambda: larger_than_memory.settle(game, "--json"))


def receipt_below_the_limit() -> Measured:
    """A policy of just too few outcomes for a file of its own, against one with just enough."""
    least = {LARGE: float("inf"), 4_194_000: float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        games = {}
        for outcomes in least:
            (Path(folder) / str(outcomes)).mkdir()
            games[outcomes] = larger_than_memory.write_game(Path(folder) / str(outcomes), outcomes)
        for _ in range(3):
            for outcomes, game in games.items():
                least[outcomes] = min(least[outcomes], command_seconds(game))
        lines = floors.command_profile(
            "settle", str(games[4_194_000]), "-o", str(Path(folder) / "receipt.json"), "--json"
        )

    def why() -> str:
        policy = np.random.default_rng(0).dirichlet(np.ones(4_194_000)).tolist()
        seconds = cpu_seconds({"text": lambda: to_json(policy)}, rounds=2)["text"]
        return (
            f"Writing {len(policy):,} numbers as text takes {duration(seconds)}, {seconds / least[LARGE]:.0%} of what "
            "the larger game takes, whose policy is a file of its own; that text goes to the receipt and is printed."
        )

    ratio = least[4_194_000] / least[LARGE]
    detail = f"{duration(least[4_194_000])} against {duration(least[LARGE])}"
    return Measured(ratio, detail, profile=lambda: lines, why=why)


def parquet(outcomes: int) -> Measured:
    """CPU time of the command beside reading the file's bytes once."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        game = larger_than_memory.write_game(Path(folder), outcomes, ".parquet")

        def reading() -> None:
            with (Path(folder) / "table.parquet").open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass

        def decoding() -> None:
            with pq.ParquetFile(Path(folder) / "table.parquet", pre_buffer=False) as file:
                for batch in file.iter_batches(2**17, use_threads=False):
                    [column.to_numpy() for column in batch.columns]

        parts = {"reading": reading, "decoding": decoding, "hashing": lambda: digest(Path(folder) / "table.parquet")}
        alone = cpu_seconds(parts, rounds=2)
        once, seconds = alone["reading"], command_seconds(game)
        lines = floors.command_profile("settle", str(game), "-o", str(Path(folder) / "receipt.json"), "--json")
    why = (
        f"Decoding the columns alone takes {amount(alone['decoding'] / once)} times reading the file, the SHA-256 of "
        f"its bytes {amount(alone['hashing'] / once)}; numbers that need not fit the memory are then kept in a "
        "temporary file, which is written once and read for the checks and to settle."
    )
    detail = f"{duration(seconds)} against {duration(once)}"
    return Measured(seconds / once, detail, profile=lambda: lines, why=lambda: why)


PASS = "one weights @ rewards"
AT = "n = 16, m = 2,000,000"
ROWS = (
    Row(f"KL, {AT}, policy and payments", PASS, at_most(4.5, "passes"), partial(passes, "kl", *LARGEST, whole=False)),
    Row(f"KL, {AT}, whole settle", PASS, at_most(5.5, "passes"), partial(passes, "kl", *LARGEST, whole=True)),
    Row(f"KL, {AT}, memory of a whole settle", "one vector of m", at_most(3, "vectors"), partial(copies, "kl")),
    Row(f"KL, {AT}, whole settle on all cores", PASS, at_most(7, "passes"), partial(on_all_cores, "pass")),
    Row(f"KL, {AT}, whole settle on all cores", "n + 1 solves", at_least(8, "times"), partial(on_all_cores, "naive")),
    Row(f"L2, {AT}, policy and payments", PASS, at_most(5, "passes"), partial(passes, "l2", *LARGEST, whole=False)),
    Row(f"L2, {AT}, whole settle", PASS, at_most(6, "passes"), partial(passes, "l2", *LARGEST, whole=True)),
    Row(f"L2, {AT}, memory of a whole settle", "one vector of m", at_most(3, "vectors"), partial(copies, "l2")),
    Row("KL, n = 3,000, m = 1,000, shares 1/n", "20 lines of numpy", at_most(2, "x"), partial(many_groups, "kl")),
    Row("L2, n = 3,000, m = 1,000, shares 1/n", "KL in numpy", at_most(20, "x"), partial(many_groups, "l2")),
    *(
        Row(
            f"{name.upper()}, n = {n:,}, m = {m:,}, whole settle", PASS, at_most(bound, "passes"),
            partial(passes, name, n, m, whole=True),
        )
        for name, bound in (("kl", 5.5), ("l2", 6))
        for n, m in SIZES
    ),
    Row("settle 3 x 10, KL", "numpy, same checks", at_most(3, "x"), partial(small_game, "kl")),
    Row("settle 3 x 10, L2", "numpy, same checks", at_most(3, "x"), partial(small_game, "l2")),
    Row("settle of 4,194,000 outcomes in .npy files", "of 4,194,304", at_most(1.3, "x"), receipt_below_the_limit),
    Row("parquet, 50 million x 8", "reading the file", at_most(15, "x"), partial(parquet, 50_000_000), is_slow=True),
)  # fmt: skip
