"""What a certificate from samples is to be expected to say, from what is declared alone: before anything is drawn."""

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.sampled_settlement import PolicySamples, SampledGame, welfare_gap

MOST = 2**17
"""Draws of all prompts together that are looked at."""
SPREAD = 0.1
"""Rewards that are foreseen: low nearly everywhere, as of a quality that few responses have."""
POOL = 8
"""Draws of the reference for each one of the policy."""


def foreseen_tightness(game: SampledGame, prompts: int, draws: int, rng: np.random.Generator) -> float:
    """Return the tightness of a certificate where the policy is the optimum and rewards are even over [0, SPREAD].

    Each group's reward of a response is drawn by itself, alike for every prompt; the policy's draws are picked from
    POOL times as many of the reference's by their weights. Real rewards may be kinder, or worse: this is no proof.
    """
    groups = len(game.sizes)
    reference = SPREAD * rng.random((groups, prompts, draws))
    pool = SPREAD * rng.random((groups, prompts, POOL * draws))
    score = np.tensordot(game.shares, pool, 1) / game.strength
    log_ratios = score - np.logaddexp.reduce(score, axis=1, keepdims=True) + np.log(score.shape[1])
    picked = np.stack([_picked(row, draws, rng) for row in log_ratios])
    rewards = np.take_along_axis(pool, picked[None], axis=2)
    delivered = PolicySamples(rewards, np.take_along_axis(log_ratios, picked, axis=1))
    return game.tightness(welfare_gap(game, delivered, PolicySamples(reference, np.zeros((prompts, draws)))))


def draws_that_would_do(game: SampledGame, prompts: int, draws: int, rng: np.random.Generator) -> int | None:
    """Return how many draws of each prompt make the foreseen tightness less than 1: ``draws`` times a power of two.

    None where it is more than MOST for all prompts together.
    """
    while prompts * draws <= MOST:
        if foreseen_tightness(game, prompts, draws, rng) < 1:
            return draws
        draws *= 2
    return None


def _picked(log_ratios: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    weights = np.exp(log_ratios - log_ratios.max())
    return np.asarray(rng.choice(len(weights), size=count, p=weights / weights.sum()), dtype=np.intp)
