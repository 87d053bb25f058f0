"""Projected gradient ascent on many reports at once, each with a step of its own."""

from typing import Final

import numpy as np

from rlhf_game.agents.payoffs import Payoff
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Domain

GROW: Final = 2.0
SHRINK: Final = 0.25
SHORTEST: Final = 1e-9
"""An ascent whose steps are shorter, relative to the range of rewards, has arrived."""


def ascend(payoff: Payoff, domain: Domain, scales: Array, rewards: Array, steps: int) -> tuple[Array, Array]:
    """Return the payoffs [B] and the rewards [C, B, m] after at most ``steps`` steps from ``rewards`` [C, B, m].

    scales: the share of a report is its scale [C, B] (mu * size) times its reward. The payoff of a row never falls: a
    step that does not raise it is taken back and shortened. Only the direction of a gradient is used, so that a payoff
    that is nearly flat (probabilities of 1e-100) is climbed like any other.
    """
    scale = scales[..., None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        value, slope = payoff.at(scale * rewards)
        width = np.maximum(np.ptp(rewards, axis=(0, 2)), np.abs(rewards).max(axis=(0, 2)))
        length = 0.5 * np.where(width > 0, width, 1.0)
        shortest = SHORTEST * length
        for _ in range(steps):
            direction = np.nan_to_num(scale * slope, posinf=0.0, neginf=0.0)
            top = np.abs(direction).max(axis=(0, 2))
            going = (top > 0) & (length > shortest)
            if not going.any():
                break
            direction /= np.where(top > 0, top, 1.0)[:, None]
            moved = domain.project(rewards + length[:, None] * direction)
            reached, steeper = payoff.at(scale * moved)
            better = reached > value
            value = np.where(better, reached, value)
            rewards = np.where(better[:, None], moved, rewards)
            slope = np.where(better[:, None], steeper, slope)
            length = np.where(better, length * GROW, length * SHRINK)
            length = np.minimum(length, 4 * np.where(width > 0, width, 1.0))
    return value, rewards
