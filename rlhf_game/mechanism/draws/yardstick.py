"""What a rule keeps of the gain that the optimum over all outcomes would bring, from draws of the reference alone.

A rule is known here by its ratio l(x) = p(x) / q(x). With draws of q it has welfare mean(l s) - strength mean(l log l);
the optimum has l proportional to exp(s / strength), the reference 1. The draws stand for the reference: everything is
exact for their empirical distribution, and the interval is what the bootstrap says of how far that is from q, so it is
approximate, unlike those of a settlement.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.sampled.estimates import Estimate, prompt_shares

Ratio: TypeAlias = Callable[[Array, float, np.random.Generator], Array]
"""From the scores of K draws of the reference, [K], and the strength to the rule's ratio at each, with mean 1: [K]."""
SETS = 500
"""Sets of other candidates over which a ratio is averaged."""


def optimum(scores: Array, strength: float, rng: np.random.Generator) -> Array:
    """Return exp(s / strength) / Z."""
    powers = np.exp((scores - scores.max()) / strength)
    return np.asarray(powers / powers.mean())


def fresh_candidates(count: int) -> Ratio:
    """Return the rule that draws so many candidates for each response and picks one by exp(s / strength).

    l(x) = E[M w(x) / (w(x) + sum of w over M - 1 others)], w = exp(s / strength) (derived).
    """

    def ratio(scores: Array, strength: float, rng: np.random.Generator) -> Array:
        powers = np.exp((scores - scores.max()) / strength)
        if count == 1:
            return np.ones(len(scores))
        others = powers[rng.integers(len(scores), size=(SETS, count - 1))].sum(axis=1)
        found = (powers[:, None] / (powers[:, None] + others)).mean(axis=1)
        return np.asarray(found / found.mean())

    return ratio


def best_of(count: int) -> Ratio:
    """Return the rule that draws so many responses and keeps one of the highest score (any of equal ones)."""

    def ratio(scores: Array, strength: float, rng: np.random.Generator) -> Array:
        below = np.searchsorted(np.sort(scores), scores, side="left") / len(scores)
        up_to = np.searchsorted(np.sort(scores), scores, side="right") / len(scores)
        return np.asarray((up_to**count - below**count) / (up_to - below))

    return ratio


def welfare(scores: Array, ratio: Array, strength: float) -> float:
    """Return mean(l s) - strength * mean(l log l)."""
    logs = np.log(ratio, where=ratio > 0, out=np.zeros_like(ratio))
    return float((ratio * (scores - strength * logs)).mean())


def kept(
    scores: Sequence[ArrayLike],
    strength: float,
    rule: Ratio,
    rng: np.random.Generator,
    *,
    prompt_weights: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 100,
) -> tuple[Estimate, Estimate]:
    """Return the share of the optimum's gain over the reference that a rule keeps, and that gain: [] both.

    scores: s of independent draws of the reference, of each prompt. The share may be negative: a rule may do worse than
    the reference itself. Intervals are percentiles of the bootstrap, within prompts, and approximate.
    Raises InputError when there are fewer than two draws of a prompt, wrong weights, or nothing to gain.
    """
    rows = [finite(row, f"scores[{b}]") for b, row in enumerate(scores)]
    if not rows or any(row.ndim != 1 or len(row) < 2 for row in rows):
        raise InputError("must be those of at least two draws of each prompt", field="scores")
    rho = prompt_shares(prompt_weights, len(rows))

    def measured(drawn: Sequence[Array]) -> tuple[float, float]:
        best = [welfare(row, optimum(row, strength, rng), strength) - row.mean() for row in drawn]
        reached = [welfare(row, rule(row, strength, rng), strength) - row.mean() for row in drawn]
        return float(rho @ reached), float(rho @ best)

    reached, gain = measured(rows)
    if not gain > 0:
        raise InputError("must differ: there is nothing to gain", field="scores")
    again = [measured([row[rng.integers(len(row), size=len(row))] for row in rows]) for _ in range(resamples)]
    shares = [mine / best for mine, best in again if best > 0]
    return _around(reached / gain, shares, level), _around(gain, [best for _, best in again], level)


def quasi_rejection(
    log_ratios: ArrayLike,
    scores: ArrayLike,
    strength: float,
    bounds: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 200,
) -> tuple[Estimate, Estimate]:
    """Return how many draws of a trained policy quasi-rejection accepts, and what what is served then misses: [k] both.

    A draw x of the policy t is accepted with probability min(1, q(x) exp((s(x) - bound) / strength) / t(x)), which
    serves p proportional to min(q exp(s / strength), t exp(bound / strength)) (Eikema, Kruszewski, Dance, Elsahar and
    Dymetman, TMLR 2022): the larger the bound, the fewer are accepted and the closer is p to the optimum p*. What it
    misses is strength * KL(p || p*), in units of score. log_ratios: log t / q of independent draws of t, [K]. bounds:
    [k]. Exact for the draws' empirical distribution, with percentiles of the bootstrap, as ``kept``.
    Raises InputError when the draws are not pairs of numbers.
    """
    ratios, of = finite(log_ratios, "log_ratios"), finite(scores, "scores")
    if ratios.ndim != 1 or ratios.shape != of.shape or len(of) < 2:
        raise InputError("log_ratios and scores must be those of the same draws, at least two")
    ends = np.atleast_1d(finite(bounds, "bounds"))
    optimal = of / strength - ratios  # log of the weight that makes the draws stand for the optimum, but for log Z

    def measured(rows: NDArray[np.intp]) -> tuple[Array, Array]:
        logs = np.minimum(0.0, optimal[rows] - ends[:, None] / strength)
        rates = np.exp(logs).mean(axis=1)
        served = np.exp(logs - np.logaddexp.reduce(logs, axis=1)[:, None])
        best = optimal[rows] - np.logaddexp.reduce(optimal[rows])
        missed = (served * (logs - np.logaddexp.reduce(logs, axis=1)[:, None] - best)).sum(axis=1)
        return rates, strength * np.maximum(missed, 0.0)

    rates, missed = measured(np.arange(len(of)))
    again = [measured(rng.integers(len(of), size=len(of))) for _ in range(resamples)]
    return tuple(_around(value, np.array([one[k] for one in again]), level) for k, value in enumerate((rates, missed)))  # type: ignore[return-value]


def _around(value: ArrayLike, again: ArrayLike, level: float) -> Estimate:
    low, high = np.quantile(np.asarray(again), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Estimate(np.asarray(value), np.minimum(low, value), np.maximum(high, value), level)
