"""What a reward model is worth: accuracy, calibration, agreement, best of n, and what optimising it costs.

margins: r(chosen) - r(rejected) of n pairs, [n]. scores: rewards of candidates, [B, N]: N for each of B prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array


def accuracy(margins: Array) -> float:
    """Return the share of pairs that the reward orders as the label does; a tie counts half."""
    return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def preferred(margins: Array) -> Array:
    """Return the Bradley-Terry probability sigma(margin) that the chosen response is preferred, [n]."""
    return np.asarray(0.5 * (1.0 + np.tanh(margins / 2.0)))


def brier(margins: Array) -> float:
    """Return the mean of (1 - sigma(margin))^2 (Brier 1950); 0.25 knows nothing."""
    return float(np.mean((1.0 - preferred(margins)) ** 2))


@final
@dataclass(frozen=True)
class CalibrationBin:
    """Pairs of about the same confidence: how many, its mean, and how often the label agrees."""

    pairs: int
    confidence: float
    accuracy: float


def calibration_bins(margins: Array, bins: int = 10) -> tuple[CalibrationBin, ...]:
    """Return the bins that hold pairs, of ``bins`` equal ones of [1/2, 1], by the confidence in the preferred side.

    A pair's confidence is max(p, 1 - p), p = sigma(margin); a tie agrees half.
    """
    confidence = preferred(np.abs(margins))
    agrees = (margins > 0) + 0.5 * (margins == 0)
    place = np.minimum((2.0 * (confidence - 0.5) * bins).astype(int), bins - 1)
    held = [place == k for k in range(bins)]
    return tuple(
        CalibrationBin(int(one.sum()), float(confidence[one].mean()), float(agrees[one].mean()))
        for one in held
        if one.any()
    )


def calibration_error(margins: Array, bins: int = 10) -> float:
    """Return the expected calibration error (Naeini et al. 2015) of the side that the reward prefers.

    It is the mean over pairs of |accuracy - confidence| of their bins.
    """
    gaps = [one.pairs * abs(one.accuracy - one.confidence) for one in calibration_bins(margins, bins)]
    return float(sum(gaps) / len(margins))


def spearman(first: Array, second: Array) -> float:
    """Return the rank correlation of two scores of the same things, [k] each; NaN when one of them is constant."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


def spearman_by_prompt(first: Array, second: Array) -> float:
    """Return the mean over prompts of the rank correlation of two scores [B, N].

    Prompts where one is constant drop out; NaN when no prompt is left. A constant that a reward adds to a prompt
    changes nothing.
    """
    found = [spearman(a, b) for a, b in zip(first, second, strict=True)]
    known = [value for value in found if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def length_correlation(scores: Array, lengths: Array) -> float:
    """Return the mean over prompts of the rank correlation of scores [B, N] with lengths [B, N]."""
    return spearman_by_prompt(scores, lengths)


def best_of_n_agreement(first: Array, second: Array, n: int, rng: np.random.Generator, draws: int = 200) -> float:
    """Return how often two rewards choose the same of n candidates drawn without replacement; chance is 1 / n.

    first, second: [B, N]; ties go to the candidate that comes first. Every prompt is drawn ``draws`` times (once,
    whole, when n = N). Raises InputError unless 1 <= n <= N.
    """
    if not 1 <= n <= first.shape[1]:
        raise InputError(f"n must be between 1 and the {first.shape[1]} candidates of a prompt, got {n}")
    if n == first.shape[1]:
        return float(np.mean(first.argmax(axis=1) == second.argmax(axis=1)))
    agree = []
    for a, b in zip(first, second, strict=True):
        drawn = rng.permuted(np.tile(np.arange(len(a)), (draws, 1)), axis=1)[:, :n]
        agree.append(float(np.mean(a[drawn].argmax(axis=1) == b[drawn].argmax(axis=1))))
    return float(np.mean(agree))


def best_of_n_divergence(n: int) -> float:
    """Return log n - (n - 1) / n: KL(best of n || reference) when scores have no ties, else an upper bound."""
    if n < 1:
        raise InputError(f"n must be >= 1, got {n}")
    return float(np.log(n) - (n - 1) / n)


def best_of_n_divergence_exact(reference: Array, scores: Array, n: int) -> float:
    """Return KL(best of n || reference), exact, for a reference [m] and scores [m]; equal scores are one outcome.

    Source: derived; an outcome is best with probability F^n - F_below^n of its score (theory section 10's numbers).
    """
    policy = best_of_n_policy(reference, scores, n)
    kept = policy > 0
    return float(np.sum(policy[kept] * np.log(policy[kept] / reference[kept])))


def best_of_n_policy(reference: Array, scores: Array, n: int) -> Array:
    """Return the distribution, [m], of the best of n draws from ``reference``; ties in proportion to the reference."""
    _, place = np.unique(scores, return_inverse=True)
    mass = np.bincount(place, weights=reference)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    up_to[-1] = 1.0
    won = np.diff(up_to**n, prepend=0.0)
    share = np.divide(won, mass, out=np.zeros_like(won), where=mass > 0)
    return np.asarray(reference * share[place])


@final
@dataclass(frozen=True, eq=False)
class Optimised:
    """What a proxy's exact KL-regularised optimum does to the proxy and to the gold reward, along strengths [S]."""

    divergence: Array
    proxy: Array
    gold: Array

    @property
    def peak(self) -> float:
        """The divergence at which the gold reward is highest: from there on it is over-optimised."""
        return float(self.divergence[int(np.argmax(self.gold))])


def overoptimisation(proxy: Array, gold: Array, strengths: Sequence[float]) -> Optimised:
    """Return the curve of p = q exp(proxy / strength) / Z, q uniform over a prompt's candidates, mean over prompts.

    proxy, gold: [B, N]. Larger strengths stay nearer to q. All three are exact on the candidates, no sampling.
    """
    curve = []
    for strength in strengths:
        exponent = proxy / strength
        exponent = exponent - exponent.max(axis=1, keepdims=True)
        policy = np.exp(exponent)
        policy /= policy.sum(axis=1, keepdims=True)
        log_ratio = np.log(policy, out=np.zeros_like(policy), where=policy > 0) + np.log(proxy.shape[1])
        rows = (policy * log_ratio, policy * proxy, policy * gold)
        curve.append([float(np.mean(row.sum(axis=1))) for row in rows])
    divergence, of_proxy, of_gold = np.array(curve).T
    return Optimised(divergence, of_proxy, of_gold)


def optimised_to(proxy: Array, gold: Array, divergences: Sequence[float]) -> Optimised:
    """Return the curve of ``overoptimisation`` at given divergences, in nats, so that proxies can be compared there.

    The strength of each is found between 1e-6 and 1e6 of the proxy's range: the divergence falls as it grows. A
    divergence above what the proxy can reach (log N, less where its best candidates tie) is left out.
    """
    from scipy.optimize import brentq

    unit = float(np.ptp(proxy, axis=1).max())
    kept = []

    def excess(log_strength: float, wanted: float) -> float:
        return float(overoptimisation(proxy, gold, [float(np.exp(log_strength))]).divergence[0]) - wanted

    for wanted in divergences if unit > 0 else ():
        low, high = np.log(unit * 1e-6), np.log(unit * 1e6)
        if excess(low, wanted) < 0:
            continue
        found = brentq(excess, low, high, args=(wanted,)) if excess(high, wanted) < 0 else high
        kept.append(float(np.exp(found)))
    if not kept:
        return Optimised(np.empty(0), np.empty(0), np.empty(0))
    return overoptimisation(proxy, gold, kept)


def expected_best(proxy: Array, gold: Array, n: int) -> tuple[float, float]:
    """Return the mean over prompts of the proxy and the gold reward of the proxy's best of n, exact; [B, N] each."""
    uniform = np.full(proxy.shape[1], 1.0 / proxy.shape[1])
    policies = [best_of_n_policy(uniform, row, n) for row in proxy]
    of_proxy = np.mean([p @ row for p, row in zip(policies, proxy, strict=True)])
    of_gold = np.mean([p @ row for p, row in zip(policies, gold, strict=True)])
    return float(of_proxy), float(of_gold)
