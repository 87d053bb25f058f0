"""A mean over independent rows, as metrics have it."""

from typing import Any

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.estimates import student_interval


def interval(values: Array, known: tuple[float, float] = (-np.inf, np.inf)) -> dict[str, Any]:
    """Return the mean of n independent values with Student's interval at 95 %: {estimate, low, high, level}.

    known: what the mean keeps to. One value alone of which nothing is known has an interval of no width.
    """
    found: dict[str, Any] = student_interval(values, known=known).document()
    return found
