"""A mean over independent rows, as metrics have it."""

from typing import Any

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.betting import betting_interval
from rlhf_game.mechanism.sampled.estimates import share_interval, student_interval


def interval(values: Array, known: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, Any]:
    """Return the mean of n independent values with Student's interval at 95 %: {estimate, low, high, level}.

    known: what the values keep to. One value alone of which nothing is known has an interval of no width. Values that
    are all the same say nothing of their spread: where they keep to finite bounds, the interval is that of bets.
    """
    is_alike = bool(np.isfinite(known).all()) and np.ptp(values) == 0
    estimate = betting_interval(values, known) if is_alike else student_interval(values, known=known)
    found: dict[str, Any] = estimate.document()
    return found


def standard_error(values: Array) -> float | None:
    """Return the standard error of the mean of n independent values; of one value nothing is known."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def shown_number(value: float | None) -> str:
    """Return a number as a table shows it, also where none is known."""
    return "unknown" if value is None else f"{value:.3f}"


def shown_share(share: float, count: int) -> tuple[str, str]:
    """Return a share of ``count`` rows as a table shows it, and its 95 % interval (Clopper and Pearson)."""
    found = share_interval(share, count)
    return f"{share:.3f}", f"{found.low:.3f} to {found.high:.3f}"
