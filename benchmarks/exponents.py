"""How time grows with the number of groups, outcomes and games: exponents fitted to times, and their figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rlhf_game as rg
from benchmarks.goals import cpu_seconds, duration

KINDS: dict[str, Callable[[float], Any]] = {
    "kl": rg.KL,
    "l2": rg.SquaredL2,
    "chi2": rg.PearsonChi2,
    "js": rg.JensenShannon,
}
AXES: dict[str, tuple[str, Sequence[int]]] = {
    "n": ("groups, 1,000 outcomes", (4, 16, 64, 256, 1000)),
    "m": ("outcomes, 8 groups", (1000, 4000, 16_000, 64_000, 256_000)),
    "B": ("games of 3 groups and 10 outcomes", (100, 400, 1600, 6400, 25_600)),
}
"""What grows along each axis."""
FITTED = 3
"""The exponent is fitted to the largest sizes: so many."""


@dataclass(frozen=True)
class Growth:
    """CPU seconds of a divergence along one axis."""

    axis: str
    kind: str
    sizes: Sequence[int]
    seconds: Sequence[float]

    @property
    def exponent(self) -> float:
        """The slope of log time over log size, by least squares over the largest sizes."""
        return float(np.polyfit(np.log(self.sizes[-FITTED:]), np.log(self.seconds[-FITTED:]), 1)[0])


def settled(axis: str, kind: str, size: int) -> Callable[[], Any]:
    """Return a whole settlement of that size."""
    rng, regularizer = np.random.default_rng(0), KINDS[kind](0.5)
    if axis == "B":
        rewards, sizes, reference = rng.random((size, 3, 10)), np.ones(3), np.full(10, 0.1)
        return lambda: rg.settle_many(rewards, sizes, reference, regularizer)
    groups, outcomes = (size, 1000) if axis == "n" else (8, size)
    said, reference = rng.random((groups, outcomes)), np.full(outcomes, 1 / outcomes)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    return lambda: mechanism.settle([rg.Report(row) for row in said], rg.Table(reference, regularizer))


def measure(axis: str, kind: str) -> Growth:
    """Return the times along one axis."""
    sizes = AXES[axis][1]
    seconds = [cpu_seconds({"ours": settled(axis, kind, size)}, rounds=3)["ours"] for size in sizes]
    return Growth(axis, kind, sizes, seconds)


def page_section(found: Sequence[Growth], figure: Path) -> str:
    """Draw the figure and return the section of the page."""
    _draw(found, figure)
    text = (
        "## Growth\n\nWhole settlements, uniform rewards, CPU time. An exponent of 1 is linear; each is fitted to the "
    )
    text += f"{FITTED} largest sizes.\n\n![times over sizes](figures/{figure.name})\n\n"
    text += "| what grows | divergence | from | to | exponent |\n|---|---|---:|---:|---:|\n"
    for one in found:
        first, last = (f"{duration(one.seconds[k])} at {one.sizes[k]:,}" for k in (0, -1))
        text += f"| {one.axis}: {AXES[one.axis][0]} | {one.kind} | {first} | {last} | {one.exponent:.2f} |\n"
    return text + "\n"


def _draw(found: Sequence[Growth], figure: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none"}):
        sheet, axes = pyplot.subplots(1, len(AXES), figsize=(11, 3.6), layout="constrained")
        for place, (axis, (words, _)) in zip(axes, AXES.items(), strict=True):
            for one in found:
                if one.axis == axis:
                    label = f"{one.kind}: {one.exponent:.2f}"
                    place.loglog(one.sizes, one.seconds, marker="o", markersize=3, linewidth=1, label=label)
            place.set(xlabel=f"{axis}: {words}", ylabel="CPU seconds")
            place.grid(alpha=0.3)
            place.legend(title="exponent", frameon=False, fontsize="small")
        sheet.savefig(figure, metadata={"Date": None})
        pyplot.close(sheet)
