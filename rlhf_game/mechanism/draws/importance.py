"""Candidates from any proposal: base weights that make them stand for the reference (MOSAIC, arXiv:2405.05905).

y_j are drawn from pi_gen before any report is read; each draw gets a weight proportional to pi_ref(y_j) / pi_gen(y_j),
equal draws as often as they were drawn. The mechanism on that table is an affine maximiser, so it is exactly truthful
for every number of draws; its optimum tends to the reference's at the rate of their square root. A complete list, each
outcome once, takes pi_ref itself and is the exact table.
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array


def normalized_weights(log_ratios: ArrayLike) -> Array:
    """Return weights proportional to exp(log ratio), with sum 1: [N]. log_ratios: of each draw, in nats; -inf is 0.

    Raises InputError when there is none above -inf: the draws say nothing about the reference then.
    """
    array = np.asarray(log_ratios, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or np.isnan(array).any() or not np.isfinite(array.max()):
        raise InputError("log ratios must be numbers, at least one of them above minus infinity and none above it")
    with np.errstate(under="ignore"):
        weights = np.exp(array - array.max())
    return np.asarray(weights / weights.sum())


def effective_sample_size(weights: ArrayLike) -> float:
    """Return how many equally weighted draws so many weighted ones are worth, between 1 and N (Kish 1965)."""
    array = np.asarray(weights, dtype=np.float64)
    return float(array.sum() ** 2 / (array**2).sum())
