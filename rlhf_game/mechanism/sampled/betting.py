"""Intervals for means of bounded numbers by betting: valid for every N, and shorter than Hoeffding's or Bernstein's.

The hedged capital of Waudby-Smith and Ramdas (2023, JRSS B 86(1), section 4.4, theorem 3). Whoever bets that the mean
is m, with bets fixed before each number is seen, has a capital that is a non-negative martingale if m is the mean, so
it ever exceeds 2 / (1 - level) with a probability of at most (1 - level) / 2 (Ville). One bettor bets on more than m,
one on less; m is in the interval while neither has won so much. Both capitals are monotone in m, so the ends are found
by bisection, with no grid.

The numbers must have one common conditional mean in the order in which they were drawn: independent draws of the same
thing. Draws of several prompts one prompt after the other have not. Drawn in rounds, one draw of each of B prompts,
they can be pooled: if the bets of a round are one multiple l of the weights, fixed before the round, then (derived)

    E prod_b (1 + l B rho_b (X_b - m)) = prod_b (1 + l B rho_b (mu_b - m)) <= exp(l B sum_b rho_b (mu_b - m)) = 1

where m = sum_b rho_b mu_b is the mean over prompts. So the capital is a supermartingale over rounds, as if B N numbers
had been drawn, and the interval narrows with the prompts.
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.sampled.estimates import Estimate

SLACK = 1e-9
"""How far, relative to their length, a number may be outside its bounds (rounding)."""
LARGEST_BET = 0.75
"""Share of the capital that a bet may lose at most."""
TINY = 1e-300
HALVINGS = 40
"""Ends are found to 2^-HALVINGS of the bounds, rounded outwards."""


def betting_interval(samples: ArrayLike, bounds: tuple[ArrayLike, ArrayLike], level: float = 0.95) -> Estimate:
    """Return the mean of each row and an interval for its expectation: [...] of [..., N], in the order drawn.

    bounds: what every number is known to keep to, one pair for all rows or one for each. The interval lies within
    them; of one number it is the bounds.
    Raises InputError when there is no number, or one is out of bounds, or the level is not between 0 and 1.
    """
    array = finite(samples, "samples")
    if array.ndim == 0 or array.shape[-1] < 1:
        raise InputError("must be at least one number", field="samples")
    return pooled_interval(array[..., None, :], bounds, level)


def pooled_interval(
    samples: ArrayLike, bounds: tuple[ArrayLike, ArrayLike], level: float = 0.95, weights: ArrayLike | None = None
) -> Estimate:
    """Return the mean over prompts and an interval for its expectation: [...] of [..., B, N], N rounds of B prompts.

    weights: rho of the prompts, [B], sum 1, by default equal. bounds and errors as of ``betting_interval``.
    """
    array = finite(samples, "samples")
    low, high = (finite(end, "bounds") for end in bounds)
    length = high - low
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise InputError("must be at least one number of each prompt", field="samples")
    if not (length >= 0).all():
        raise InputError(f"must be two finite numbers, the lower first, got {bounds}", field="bounds")
    if not 0 < level < 1:
        raise InputError(f"must be between 0 and 1, got {level!r}", field="level")
    slack = SLACK * length
    if (array.min(axis=(-2, -1)) < low - slack).any() or (array.max(axis=(-2, -1)) > high + slack).any():
        raise InputError(f"must be within {bounds}, got {array.min():.6g} to {array.max():.6g}", field="samples")
    prompts = array.shape[-2]
    by = np.full(prompts, 1.0) if weights is None else prompts * finite(weights, "prompt_weights")
    room = np.where(length > 0, length, 1.0)
    unit = np.clip((array - low[..., None, None]) / room[..., None, None], 0.0, 1.0)
    target = np.log(2 / (1 - level))
    both = np.stack([unit, 1.0 - unit])
    bottom, top = lower_end(both[..., None, :], bets(unit, target), by, target, (0.0, 1.0), 0.0)
    ends = np.stack([bottom, 1.0 - top])
    # Both bettors win of every m where the numbers have no common mean, and rarely otherwise: what is between is kept.
    mean = np.clip(np.tensordot(array.mean(axis=-1), by / prompts, 1), low, high)
    return Estimate(mean, low + length * ends.min(axis=0), low + length * ends.max(axis=0), level)


def bets(unit: Array, target: float) -> Array:
    """Return what is bet in each round, from the rounds before it: [..., N]; the same for both bettors.

    unit: numbers [..., B, N], in units of their length. target: log of the capital that refutes.
    """
    prompts, rounds = unit.shape[-2:]
    seen = prompts * np.arange(1, rounds + 1)
    means = (0.5 + unit.sum(axis=-2).cumsum(axis=-1)) / (seen + 1)
    spread = ((unit - means[..., None, :]) ** 2).sum(axis=-2)
    variances = (0.25 + spread.cumsum(axis=-1)) / (seen + 1)
    before = np.concatenate([np.full((*means.shape[:-1], 1), 0.25), variances[..., :-1]], axis=-1)
    return np.asarray(np.sqrt(2 * target / (prompts * rounds * before)))


def lower_end(
    numbers: Array, stakes: Array, by: Array, target: float, ends: tuple[ArrayLike, ArrayLike], floor: ArrayLike
) -> Array:
    """Return the least m, within ``ends``, that a bettor on more than m has not refuted: [...] of [..., B, C, N].

    C candidates stand for each prompt's numbers, and one of each prompt's has the mean: what counts is the capital of
    the worst of them. stakes: the bets, [..., N]. by: B rho, [B]. floor: what the numbers of a round keep to,
    [..., N] or [..., 1]; a bet loses LARGEST_BET at most.
    """
    bottom, top = (np.broadcast_to(end, numbers.shape[:-3]) for end in ends)
    if numbers.shape[-1] == 1:
        return bottom
    for _ in range(HALVINGS):
        middle = (bottom + top) / 2
        m = middle[..., None]
        most = LARGEST_BET / np.maximum((m - floor) * by.max(), TINY)
        bet = np.minimum(stakes, most)[..., None, :] * by[:, None]
        capital = np.log1p(bet[..., None, :] * (numbers - m[..., None, None])).cumsum(axis=-1).min(axis=-2)
        is_refuted = capital.sum(axis=-2).max(axis=-1) >= target
        bottom, top = np.where(is_refuted, middle, bottom), np.where(is_refuted, top, middle)
    return bottom
