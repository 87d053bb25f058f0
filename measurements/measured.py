"""What the measuring scripts share: tables written into pages, figures without a date in them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write_table(page: str, name: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Put a table between ``<!-- measured: NAME -->`` and ``<!-- until here -->`` of a page."""
    lines = [" | ".join(str(cell) for cell in row) for row in (heads, ["---"] * len(heads), *rows)]
    body = "\n".join(f"| {line} |" for line in lines)
    path = DOCS / page
    pattern = re.compile(rf"(<!-- measured: {name} -->\n).*?(<!-- until here -->)", re.DOTALL)
    text, count = pattern.subn(lambda part: f"{part[1]}{body}\n{part[2]}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{page} needs one place for the table {name!r}, has {count}")
    path.write_text(text, encoding="utf-8")


def write_figure(name: str, draw: Any, size: tuple[float, float] = (9.0, 3.4), panels: int = 2) -> None:
    """Call draw(*axes) and save the figure as docs/figures/NAME.svg, the same bytes for the same numbers."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "rlhf-game", "axes.grid": True, "grid.alpha": 0.3, "font.size": 9})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained")
    draw(*([axes] if panels == 1 else axes))
    (DOCS / "figures").mkdir(exist_ok=True)
    figure.savefig(DOCS / "figures" / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
