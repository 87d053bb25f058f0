"""Settle tables larger than memory: ``python -m benchmarks.larger_than_memory [OUTCOMES] [FOLDER]``.

Writes a game of 8 groups and OUTCOMES outcomes (default 50,000,000: 3.2 GB of rewards, 0.4 GB of reference) into a new
folder inside FOLDER (default: the temporary one), settles it by the command line in a process of its own, and prints
its time and its peak resident memory (VmHWM: private memory and mapped pages of files together), then the largest
error of the payments against n + 1 separate block-wise solves in extended precision. Everything is removed at the end.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GROUPS, STRENGTH, CHUNK = 8, 0.5, 1 << 20
SIZES = [1, 2, 3, 4, 1, 2, 9, 1]
COMMAND = """
    import sys
    from rlhf_game.cli import main

    code = main(sys.argv[1:])
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    print(lines["VmHWM"].split()[0], lines["RssAnon"].split()[0], file=sys.stderr)
    sys.exit(code)
"""


def chunks(outcomes: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield parts of the reference (row 0, not normalised) and of the rewards: [1 + GROUPS, part]."""
    for start in range(0, outcomes, CHUNK):
        stop = min(start + CHUNK, outcomes)
        yield slice(start, stop), np.random.default_rng([7, start]).random((1 + GROUPS, stop - start))


def write_game(folder: Path, outcomes: int, suffix: str = ".npy") -> Path:
    """Write the game and its tables; return its path."""
    total = sum(part[0].sum() for _, part in chunks(outcomes))
    names = ["reference", *(f"reward{i}" for i in range(GROUPS))]
    if suffix == ".npy":
        header = {"descr": "<f8", "fortran_order": False, "shape": (outcomes,)}
        files = [(folder / f"{name}.npy").open("wb") for name in names]
        for file in files:
            np.lib.format.write_array_header_1_0(file, header)
        for _, part in chunks(outcomes):
            part[0] /= total
            for file, row in zip(files, part, strict=True):
                file.write(row.data)
        for file in files:
            file.close()
        where = {name: f"{name}.npy" for name in names}
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.float64()) for name in names])
        with pq.ParquetWriter(folder / "table.parquet", schema) as writer:
            for _, part in chunks(outcomes):
                part[0] /= total
                writer.write_table(pa.table(dict(zip(names, part, strict=True)), schema=schema))
        where = {name: f"table.parquet:{name}" for name in names}
    groups = [{"name": f"g{i}", "size": SIZES[i], "reward": {"file": where[f"reward{i}"]}} for i in range(GROUPS)]
    game = folder / "game.json"
    game.write_text(json.dumps({"reference": {"file": where["reference"]}, "strength": STRENGTH, "groups": groups}))
    return game


def settle(game: Path, *options: str) -> tuple[dict[str, Any], float, float, float]:
    """Settle in a process of its own; return the receipt, seconds, and the peak and final private memory in MB."""
    receipt = game.with_name("receipt.json")
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMAND), "settle", str(game), "-o", str(receipt), *options],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    peak, private = (int(number) * 1024 / 1e6 for number in done.stderr.split())
    return json.loads(receipt.read_text()), seconds, peak, private


def payments_apart(outcomes: int) -> np.ndarray:
    """Clarke payments from n + 1 solves, block by block, exponentials and sums in extended precision (80 bits)."""
    sizes = np.array(SIZES, dtype=np.longdouble)
    sums = np.zeros(GROUPS + 1, dtype=np.longdouble)
    held = np.zeros(GROUPS, dtype=np.longdouble)
    middle = sizes / 2 / STRENGTH  # near the exponents, so that nothing overflows
    mass = np.longdouble(0)
    for _, part in chunks(outcomes):
        exponents = part[1:] * (sizes / STRENGTH)[:, None] - middle[:, None]
        everybody = np.zeros(part.shape[1], dtype=np.longdouble)
        for row in exponents:
            everybody += row
        q = part[0].astype(np.longdouble)
        mass += q.sum()
        weighted = q * np.exp(everybody)
        sums[0] += weighted.sum()
        held += exponents @ weighted
        for i, row in enumerate(exponents):
            sums[1 + i] += (q * np.exp(everybody - row)).sum()
    best = np.log(sums[0] / mass)
    return STRENGTH * (np.log(sums[1:] / mass) - best + held / sums[0])


def main() -> None:
    outcomes = int(sys.argv[1].replace("_", "")) if len(sys.argv) > 1 else 50_000_000
    parent = sys.argv[2] if len(sys.argv) > 2 else None
    exact = payments_apart(outcomes)
    for suffix in (".npy", ".parquet"):
        folder = Path(tempfile.mkdtemp(prefix="larger-than-memory-", dir=parent))
        try:
            game = write_game(folder, outcomes, suffix)
            for options in (["--json"], []):
                receipt, seconds, peak, private = settle(game, *options)
                payments = np.array([group["payment"] for group in receipt["groups"]])
                error = float(np.max(np.abs(payments / exact - 1)))
                what = "settle " + (" ".join(options) or "(table with the values without each group)")
                print(
                    f"{suffix} {what}: {outcomes:,} outcomes, {GROUPS} groups, {seconds:.1f} s, "
                    f"peak resident {peak:.0f} MB (VmHWM), payments off by at most {error:.1e} relatively"
                )
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
