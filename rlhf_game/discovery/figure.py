"""The figure of a search: every candidate's score by generation, the best so far, and the known losses."""

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from rlhf_game.discovery.archive import Entry
from rlhf_game.errors import MissingExtra


def check_installed() -> None:
    """Raise MissingExtra without matplotlib: before a search, not after it."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("report", "matplotlib")


def draw_search(entries: Sequence[Entry], baselines: Mapping[str, Any]) -> bytes:
    """Return the figure as SVG, the same bytes for the same numbers. Scores below -0.5 are drawn there."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scored = [entry for entry in entries if entry.score is not None]
    with mpl.rc_context({"svg.hashsalt": "rlhf-game", "font.size": 9}):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.subplots()
        lowest = [max(-0.5, entry.score or 0.0) for entry in scored]
        axes.plot([e.generation for e in scored], lowest, "o", alpha=0.35, markersize=4, label="candidates")
        generations = sorted({entry.generation for entry in entries})
        best = [max((s for e, s in zip(scored, lowest, strict=True) if e.generation == g), default=-0.5)
                for g in generations]  # fmt: skip
        axes.step(generations, list(accumulate(best, max)), where="post", color="black", label="best so far")
        for k, (name, one) in enumerate(baselines.items()):
            axes.axhline(one["score"], color=f"C{k + 1}", linestyle="--", linewidth=1, label=name)
        axes.set_xlabel("generation")
        axes.set_ylabel("score (0 reference, 1 optimum)")
        axes.legend(fontsize=8, ncols=2)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
