"""What one served response tells about a group's reward: differential privacy of the optimum under KL.

The optimum p proportional to q exp(s / strength) is the exponential mechanism, which is truthful with affine payments
and private (Huang and Kannan, FOCS 2012, arXiv:1204.1255). Exchanging group i's reward for another one of range R moves
s by g_i R at most, where g_i = mu_i w_i, hence log p(x) by 2 g_i R / strength at most: one response is epsilon-private
with that epsilon (derived; sharp as q(x) goes to 0). Against leaving, only the score moves by at most g_i R from one
side: log(p / p_-i) lies in an interval of length g_i R / strength around 0. T responses to one prompt compose to
T epsilon, one to each of B prompts to B epsilon.

Only responses are private. Weights, probabilities, the number of proposals of a draw and its tape are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import BLOCK, Array, extremes
from rlhf_game.mechanism.regularizers.optimum import dots


@final
@dataclass(frozen=True)
class Privacy:
    """Of one group and one served response, in nats."""

    epsilon: float | None
    """Against exchanging its reward for any of the domain; None where the domain bounds no reward."""
    epsilon_leaving: float | None
    """Against leaving."""
    realised_loss: float | None
    """max |log p / p_-i| over responses and prompts: what leaving would have changed at this policy; None where p is
    not known."""

    def after(self, responses: int) -> float | None:
        """Return epsilon of so many served responses together."""
        return None if self.epsilon is None else responses * self.epsilon


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def privacy(
    policies: Sequence[Array], rewards: Sequence[Array], *, share: float, strength: float, span: float | None
) -> Privacy:
    """Return the privacy of one group under KL.

    policies, rewards: p and its own r of each prompt, B of [m_b]; none where p is not known. share: mu_i w_i. span: the
    range of rewards that the domain allows; None: unbounded. p_-i is proportional to p exp(-share r / strength).
    Raises InputError where a number overflows.
    """
    losses = [_loss(p, r, share / strength) for p, r in zip(policies, rewards, strict=True)]
    leaving = None if span is None else share * span / strength
    if not np.isfinite([2 * (leaving or 0.0), *losses]).all():
        raise InputError("must be such that float64 holds what a response tells, found an overflow", field="strength")
    return Privacy(None if leaving is None else 2 * leaving, leaving, max(losses, default=None))


def _loss(p: Array, r: Array, scale: float) -> float:
    """Return max |log p / p_-i| = max |a - low + log E_p[exp(low - a)]|, where a = scale r and low its least entry."""
    there = p > 0
    if not there.all():
        p, r = p[there], r[there]
    low, high = (scale * end for end in extremes(r))

    def mean(power: np.ufunc) -> float:
        parts = (slice(start, start + BLOCK) for start in range(0, len(p), BLOCK))
        return sum(float(dots(p[part], power(low - scale * r[part]))) for part in parts)

    lost = mean(np.expm1)  # exactly 0 where the group minds nothing
    log_mean = np.log1p(lost) if lost > -0.5 else np.log(mean(np.exp))
    return float(max(abs(log_mean), abs(high - low + log_mean)))
