"""What valuations known only up to an error cost (section 4.2 of arXiv:2405.16276, theory section 5)."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.base import Regularizer

MOST_OUTCOMES = 14


def worst_loss(
    regularizer: Regularizer, reference: Array, weights: Array, rewards: Array, noisy: float, error: float
) -> tuple[float, Array]:
    """Return the largest loss of welfare found when a reward of weight ``noisy`` is off by up to ``error`` everywhere.

    The policy is trained on s + noisy * d with d in {-error, error}^m, all 2^m patterns, and judged by s. With noisy =
    w_i this is the most that group i could gain by a report other than its truth under affine payments (Thm 4.9:
    <= 2 w_i error, and the gain is the welfare its noise loses, derived); with noisy = sum w it is Lemma 4.8.
    A search over the corners: a lower bound on the worst. reference: [m]; weights: [n]; rewards: [n, m].
    Returns (loss, d). Raises InputError for more than 14 outcomes.
    """
    outcomes = len(reference)
    if outcomes > MOST_OUTCOMES:
        raise InputError(f"every pattern of noise is tried, so at most {MOST_OUTCOMES} outcomes, got {outcomes}")
    noise = error * np.array(list(product((-1.0, 1.0), repeat=outcomes)))
    rows = np.broadcast_to(reference, noise.shape)
    sheets: Sequence[Array] = [np.broadcast_to(reward, noise.shape) for reward in rewards]
    trained = regularizer.maximize(np.append(weights, noisy), [*sheets, noise], rows).probabilities()
    losses = regularizer.maximize(weights, sheets, rows).shortfall(trained)
    worst = int(losses.argmax())
    return float(losses[worst]), noise[worst]
