"""docs/benchmarks.md, written by the run that measured it: no number on it is typed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import exponents
from benchmarks.goals import Verdict, page_section

if TYPE_CHECKING:
    from benchmarks.conftest import Comparison

PACKAGES = ("numpy", "scipy", "cvxpy", "clarabel", "torch", "transformers", "pyarrow")
INTRODUCTION = """# Benchmarks

Written by `make bench-page`, which runs what is in [benchmarks/](../benchmarks): no number below is typed, and what a
run left out (`PYTEST_FLAGS`) is not on the page. Each row compares two numbers of one run, taken in turns where they
are times, each the least of several repetitions; absolute times are those of the machine below, the ratios carry over
better. A *pass* is one `weights @ rewards` of the same table on one thread; a *vector* is one array of as many numbers
as there are outcomes.

"""
SIDES = """## Ours beside others

* **Peers** do the same job another way. The ratio is theirs / ours: above 1 we are faster (or smaller).
* **Limits** are what no exact way can go below by much: one reading of the rewards (`weights @ rewards` with BLAS), one
  exponential per reward (n leave-one-out optima need n different exponentials of every outcome; the exponentials are
  taken block by block, as ours are), one vector of m numbers in memory. The ratio is ours / limit: how many times the
  limit we take.

"""
REMARKS = """
## Where much of a limit is left

* KL beside `weights @ rewards`: that pass has no exponential in it. The rewards are read once: each is scaled into
  cache (every group has an array of its own), summed into the score, averaged under p, exponentiated, and averaged
  again; what each of these takes alone is measured above. Each is one reading of a block in cache by one numpy call;
  fusing them would take compiled code, which the package does without (`read_block` is where it would go). On small
  tables the fixed cost of numpy's calls is all there is.
* Squared L2: rewards are read for the score and for their least entries; after that only outcomes that may hold mass
  with or without some group are looked at. On small tables sorting wins: there the exact bookkeeping of who enters and
  leaves the support is all fixed cost.
* Tables in files: the command checks every number, hashes the files, reads them to settle, and writes and hashes the
  policy; parquet is decoded and written to a temporary file first.
* Token sequences: see [Exactly over token sequences](sequences.md).
* A share of memory bandwidth counts the rewards once: what a program that reads them once and nothing else would need.
"""


def machine() -> dict[str, str]:
    """Return what the numbers depend on, in words."""
    here = {
        "CPU": _cpu(),
        "cores": f"{os.cpu_count()}; everything on one thread, except what says all cores, and language models",
        "load when it ended": f"{os.getloadavg()[0]:.1f} (1 minute); above 1, others worked too, and times are uneven",
        "GPU": _gpu(),
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }
    return here | {name: _version(name) for name in PACKAGES}


def write_page(
    path: Path, verdicts: Sequence[Verdict], growth: Sequence[exponents.Growth], comparisons: Sequence[Comparison]
) -> None:
    """Write the page and the figure of growth; it begins with what is missed."""
    grown = exponents.page_section(growth, path.parent / "figures/growth.svg") if growth else ""
    lines = [INTRODUCTION, page_section(list(verdicts)), grown, "## The machine\n\n", "| | |\n|---|---|\n"]
    lines += [f"| {key} | {value} |\n" for key, value in machine().items()]
    lines.append(f"\n{SIDES}")
    for title, is_limit, heads in (
        ("Beside peers", False, "what | ours | peer | peer's | peer / ours | goal"),
        ("Beside limits", True, "what | ours | limit | limit's | ours / limit | goal"),
    ):
        rule = "|".join(["---", "---:", "---", "---:", "---:", "---"])
        lines.append(f"\n### {title}\n\n| {heads} |\n|{rule}|\n")
        for row in comparisons:
            if row.is_limit == is_limit:
                cells = [row.claim, _amount(row.ours, row.unit), row.peer_name, _amount(row.peer, row.unit)]
                cells += [f"{row.ratio:,.3g}" if row.ratio < 1000 else f"{row.ratio:,.0f}", row.goal]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    path.write_text("".join(lines) + REMARKS, encoding="utf-8")


def _amount(number: float, unit: str) -> str:
    if unit == "s" and number < 1e-3:
        return f"{number * 1e6:.3g} µs"
    if unit == "s" and number < 1:
        return f"{number * 1e3:.3g} ms"
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def _gpu() -> str:
    try:
        import torch
    except ModuleNotFoundError:
        return "none that could be used: torch is not installed"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none that could be used in this run"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
