r"""A bill that the billed group can check alone: from the delivered policy and its own report, and nothing else.

The delivered policy p is the optimum for a score s that p itself tells where p > 0: it is the gradient of strength * D
at p (KL: s = strength log(p / q), so that p_-i is proportional to p exp(-g_i r_i / strength)). The bill is the Bregman
divergence of max ASW from s to s - g_i r_i, over mu_i. Where p is 0 the score is only known to be at most the gradient
there. The bill grows with it (max ASW of s - g_i r_i does, and the rest stays), so computing it with the largest and
with no score there gives an interval that holds for every profile of the others (derived; test_own_bill.py).

What is proved is the bill *given* p. It is not proved that p is optimal for the true reports of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.spaces.chain import END
from rlhf_game.mechanism.spaces.segments import Segments

TINIEST = 5e-324
"""The smallest number that is not 0: a probability that is written as 0 is below it."""

ROUNDING = 1e-12
"""How far below its threshold, relatively, a score is put that keeps an outcome out."""


@final
@dataclass(frozen=True)
class OwnBill:
    """What one group pays and why, in units of reward; its payment may be known as an interval only."""

    value: float
    """One member's value of the policy, <p, r>."""
    payment: Estimate
    """Level 1: the interval holds for all reports of the others that lead to this policy."""


def own_bill(
    policies: Sequence[Array],
    references: Sequence[Array],
    rewards: Sequence[Array],
    prompt_weights: Array,
    regularizer: Regularizer,
    *,
    size: int,
    weight: float = 1.0,
) -> OwnBill:
    """Return the bill of one group under affine payments over tables.

    policies, references, rewards: p, q and the group's own r of each of B prompts, [m_b] each, in one order.
    prompt_weights: [B], sum 1. size: w_i. weight: mu_i. Raises InputError when a policy holds what its reference
    excludes (under a regulariser that forbids it).
    """
    values, low, high = [], [], []
    for p, q, r in zip(policies, references, rewards, strict=True):
        values.append(float(p @ r))
        ends = _prompt(p[None], q[None], r[None], regularizer, size * weight)
        low.append(min(ends))
        high.append(max(ends))
    ends_of_mean = [float(prompt_weights @ np.array(end)) / weight for end in (low, high)]
    if not np.isfinite([*values, *ends_of_mean]).all():
        raise InputError("must give a bill that float64 can hold, found numbers that overflow it", field="reward")
    middle = np.array(sum(ends_of_mean) / 2)
    return OwnBill(
        float(prompt_weights @ np.array(values)), Estimate(middle, np.array(ends_of_mean[0]), np.array(ends_of_mean[1]))
    )


def _prompt(p: Array, q: Array, r: Array, regularizer: Regularizer, share: float) -> tuple[float, float]:
    """Return the externality of one prompt with nothing, and with the most, where the policy is 0: [1, m] each."""
    score = regularizer.gradient(p, q)
    zero = (p == 0) & ((q > 0) | (score > -np.inf))
    if np.isposinf(score).any() or np.isnan(score).any():
        raise InputError("must be 0 where the reference is, found mass there", field="policy")
    least, most = score.copy(), score.copy()
    known = score[p > 0]
    if zero.any():
        span = float(np.ptp(r)) * share  # how far the threshold moves at most when the group's share is taken away
        written = zero & np.isneginf(score)  # not 0 but below the smallest number there is
        most[written] = regularizer.gradient(np.full_like(p, TINIEST), q)[written]
        most[zero & ~written] -= ROUNDING * (regularizer.strength + np.abs(known).max())  # strictly outside the support
        least[zero] = most[zero] - 2 * span
        least[written] = known.min() - span - 800 * regularizer.strength
    excluded = ~np.isfinite(most)
    for end in (least, most):
        end[excluded] = known.min()
    return tuple(_externality(end, r, q, regularizer, share) for end in (least, most))  # type: ignore[return-value]


def _externality(score: Array, r: Array, q: Array, regularizer: Regularizer, share: float) -> float:
    optimum = regularizer.maximize(np.ones(1), [score], q)
    return float(optimum.externalities(np.array([share]), [r])[0, 0])


def own_chain_bill(
    policy: Array,
    next_state: Array,
    reward: Array,
    *,
    initial: int,
    strength: float,
    size: int,
    weight: float = 1.0,
) -> OwnBill:
    """Return the bill of one group under KL over the sequences of an automaton.

    policy: [K, S, T], next-token probabilities step by step. next_state: [S, T], END where the sequence ends. reward:
    the group's own, [S, T]. The mean and the cumulant of the group's share are merged backwards, step by step
    (mechanism.spaces.segments), so that nothing cancels.
    """
    steps, states, tokens = policy.shape
    owners = Segments(np.arange(0, states * tokens, tokens), states * tokens)
    target = np.where(next_state == END, states, next_state).ravel()
    share = (size * weight / strength * np.asarray(reward, dtype=np.float64)).ravel()
    means, cumulants = np.zeros(states + 1), np.zeros(states + 1)
    for step in range(steps - 1, -1, -1):
        rows = policy[step]
        reached = rows.sum(axis=1) > 0
        safe = np.where(reached[:, None], rows, 1.0 / tokens)
        with np.errstate(divide="ignore"):
            log_p = np.log(safe / safe.sum(axis=1, keepdims=True)).ravel()
        merged = owners.merge(log_p, (share + means[target])[None], cumulants[target][None])
        means[:-1] = np.where(reached, merged[0][0], 0.0)
        cumulants[:-1] = np.where(reached, merged[1][0], 0.0)
    payment = np.array(strength * cumulants[initial] / weight)
    return OwnBill(float(means[initial] * strength / (size * weight)), Estimate(payment, payment, payment))
