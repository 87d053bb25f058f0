"""Brute force over reports, with policies from formulas of its own: nothing here uses the package's solvers."""

import numpy as np


def simplex_grid(outcomes: int, steps: int) -> np.ndarray:
    """Every point of the simplex whose entries are multiples of 1 / steps."""
    if outcomes == 1:
        return np.array([[steps]]) / steps
    rows = [
        np.concatenate([[first], rest])
        for first in range(steps + 1)
        for rest in (
            simplex_grid(outcomes - 1, steps - first) * (steps - first) if first < steps else [np.zeros(outcomes - 1)]
        )
    ]
    return np.array(rows) / steps


def max_grid(outcomes: int, steps: int) -> np.ndarray:
    """Every point with maximum 1 whose entries are multiples of 1 / steps."""
    axes = np.meshgrid(*[np.arange(steps + 1)] * outcomes, indexing="ij")
    points = np.stack([axis.ravel() for axis in axes], axis=-1)
    return points[points.max(axis=1) == steps] / steps


def kl_policies(scores: np.ndarray, reference: np.ndarray, strength: float) -> np.ndarray:
    heights = np.log(reference) + scores / strength
    grown = np.exp(heights - heights.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def l2_policies(scores: np.ndarray, reference: np.ndarray, strength: float) -> np.ndarray:
    """By bisection on the threshold."""
    heights = reference + scores / (2 * strength)
    low, high = heights.min(axis=1) - 1, heights.max(axis=1)
    for _ in range(100):
        middle = (low + high) / 2
        over = np.maximum(heights - middle[:, None], 0).sum(axis=1) > 1
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return np.maximum(heights - high[:, None], 0)


POLICIES = {"kl": kl_policies, "l2": l2_policies}


def best_gain(
    name: str,
    strength: float,
    reference: np.ndarray,
    others: np.ndarray,
    reward: np.ndarray,
    size: int,
    reports: np.ndarray,
    limit: int,
) -> float:
    """The largest gain in value without payments, over a grid of reports and all sizes up to a limit."""
    policies = POLICIES[name]
    truth = policies((others + size * reward)[None], reference, strength)[0] @ reward
    values = [policies(others + w * reports, reference, strength) @ reward for w in range(1, limit + 1)]
    return size * (float(np.max(values)) - float(truth))
