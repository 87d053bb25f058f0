"""A mean over independent rows, as metrics have it."""

from typing import Any

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.estimates import Estimate

LEVEL = 0.95
QUANTILE = 1.959963984540054
"""Of the normal distribution, at (1 + LEVEL) / 2."""


def interval(values: Array) -> dict[str, Any]:
    """Return the mean of n independent values with its normal interval: {estimate, low, high, level}.

    One value alone has an interval of no width, which says nothing.
    """
    mean = float(np.mean(values))
    half = QUANTILE * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    found: dict[str, Any] = Estimate(np.array(mean), np.array(mean - half), np.array(mean + half), LEVEL).document()
    return found
