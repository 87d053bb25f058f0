"""log Z and the acceptance rate from the number of proposals alone, without bias, for every number of draws.

Let M be the number of proposals until the T-th acceptance, alpha = Z exp(-H / strength) their acceptance rate. Then
(derived; docs/draws.md)

    E[psi(M) - psi(T)] = -log alpha,    Var[psi(M) - psi(T)] = E[psi'(T) - psi'(M)],
    E[Gamma(M + c) Gamma(T) / (Gamma(M) Gamma(T + c))] = alpha^-c   for every c > -T,

so over prompts b with weights rho_b, with c_b = c rho_b, products of these are e-values for sum_b rho_b (-log alpha_b).
"""

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.estimates import Estimate

MOST = 0.8
"""Share of T that the exponent of an e-value may take away, so that its variance stays finite."""


def rejections(proposals: ArrayLike, draws: ArrayLike) -> Array:
    """Return psi(M) - psi(T), the unbiased estimate of -log alpha: [B]. proposals: M, draws: T, [B] each."""
    from scipy.special import digamma

    return np.asarray(digamma(np.asarray(proposals, float)) - digamma(np.asarray(draws, float)))


def rejection_variances(proposals: ArrayLike, draws: ArrayLike) -> Array:
    """Return psi'(T) - psi'(M), the unbiased estimate of the variance of ``rejections``: [B]."""
    from scipy.special import polygamma

    return np.asarray(polygamma(1, np.asarray(draws, float)) - polygamma(1, np.asarray(proposals, float)))


def rejections_of_each(proposals: ArrayLike, draws: ArrayLike, level: float) -> Estimate:
    """Return -log alpha of each prompt with its exact interval, from the beta distribution: [B]."""
    from scipy.special import betaincinv

    count, wanted = np.asarray(proposals, float), np.asarray(draws, float)
    miss = (1 - level) / 2
    bottom = betaincinv(wanted, count - wanted + 1, miss)
    is_all = count == wanted
    top = np.where(is_all, 1.0, betaincinv(wanted, np.where(is_all, 1.0, count - wanted), 1 - miss))
    value = rejections(count, wanted)
    return _holding(Estimate(value, -np.log(top), -np.log(bottom), level))


def mean_rejections(proposals: ArrayLike, draws: ArrayLike, weights: ArrayLike, level: float) -> Estimate:
    """Return sum_b rho_b (-log alpha_b) with an interval that is valid for all B and T: [].

    weights: rho, [B], > 0, sum 1. One prompt has its exact interval, several the e-values of this module.
    """
    from scipy.special import gammaln, polygamma

    count, wanted, rho = (np.asarray(values, float) for values in (proposals, draws, weights))
    value = np.asarray(rho @ rejections(count, wanted))
    if len(rho) == 1:
        return rejections_of_each(count, wanted, level)[0]
    target = np.log(2 / (1 - level))
    pull = min(float(np.sqrt(2 * target / (rho**2 @ polygamma(1, wanted)))), MOST * float((wanted / rho).min()))

    def log_e_value(c: Array) -> float:
        return float((gammaln(count + c) - gammaln(count) + gammaln(wanted) - gammaln(wanted + c)).sum())

    low = max((log_e_value(pull * rho) - target) / pull, 0.0)
    high = (target - log_e_value(-pull * rho)) / pull
    return _holding(Estimate(value, np.asarray(low), np.asarray(max(high, low)), level))


def void_probability(draws: int, rate: float, most: int, prompts: int) -> float:
    """Return at most how likely some prompt needs more than ``most`` proposals for its draws, at acceptance >= rate."""
    from scipy.special import bdtr

    return min(1.0, prompts * float(bdtr(draws - 1, most, min(rate, 1.0))))


def worthwhile(draws: int, rate: float, most: int, round_cost: float) -> int:
    """Return how many proposals to ask for at once, at most ``most``, where so many draws are wanted.

    One more is in vain where the draws are there before it, and saves a round where it is the last that is needed: it
    is asked for while P(M < j) < round_cost * P(M = j), M negative binomial. round_cost: of a round, in proposals.
    """
    from scipy.special import betainc, betaln

    if draws >= most:
        return most
    j = np.arange(draws + 1, most + 1, dtype=np.float64)
    last = draws * np.log(rate) + (j - draws) * np.log1p(-rate) - betaln(draws, j - draws + 1) - np.log(j)
    is_in_vain = betainc(draws, j - draws, rate) >= round_cost * np.exp(last)
    return draws + int(is_in_vain.argmax()) if is_in_vain.any() else most


def _holding(estimate: Estimate) -> Estimate:
    """Return the interval, stretched to hold the value."""
    value = estimate.value
    return Estimate(value, np.minimum(estimate.low, value), np.maximum(estimate.high, value), estimate.level)
