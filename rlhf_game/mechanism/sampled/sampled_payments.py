"""One training, all payments: every group's payment from samples of the final policy alone (KL; derived).

Z_-i / Z = E_p*[exp(-w_i r_i / strength)], hence, with shares a = w_i r_i / strength,

    pay_i = strength * L_i,   L_i = log E_p*[exp(-c)],   c = a - E_p*[a]:

no training without group i is needed. The formula holds for the optimal policy. For any other p^ it is strength *
KL(p^ || p^ tilted by exp(-a)), and the affine payment max ASW_-i - ASW_-i(p^) is more than it by (derived; tested)

    gap + strength * log(E_p*[exp(-a)] / E_p^[exp(-a)]),   gap = max ASW - ASW(p^),

which can have either sign. So a policy that is not optimal needs the certificate of ``certificates`` beside this.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import BLOCK, Array, finite, positive
from rlhf_game.mechanism.regularizers.links import psi
from rlhf_game.mechanism.regularizers.moments import phi
from rlhf_game.mechanism.sampled.estimates import Estimate, prompt_shares

LARGEST_EXPONENT = 30.0
"""Beyond it the mean of exp(-c) is summed on a logarithmic scale."""
TINY = 1e-300


@final
@dataclass(frozen=True, eq=False)
class SampledPayments:
    """Payments from samples.

    payments: one interval per group, in units of reward: [n].
    effective_sizes: how many equally weighted samples the weights exp(-w r / strength) are worth, of the worst prompt
    (Kish 1965): [n], between 1 and the number of samples. Intervals are not to be trusted where this is small (say,
    below 50). A large one proves nothing: it cannot see outcomes that the samples have missed, which decide a payment
    where w r is many strengths (docs/approximate.md); ``certificates.certified_payments`` is valid there too.
    """

    payments: Estimate
    effective_sizes: Array


@final
@dataclass(frozen=True, eq=False)
class Shares:
    """w r / strength of every sample around its mean, the exponents of the formula: [n, B, N]."""

    centred: Array
    prompt_weights: Array
    strength: float

    @classmethod
    def read(
        cls, rewards: ArrayLike, weights: ArrayLike, strength: float, prompt_weights: ArrayLike | None
    ) -> "Shares":
        """Check and centre; raise InputError on wrong shapes or fewer than two samples."""
        array, by = finite(rewards, "rewards"), finite(weights, "weights")
        if array.ndim == 2:
            array = array[:, None, :]
        if array.ndim != 3 or array.shape[2] < 2:
            raise InputError(
                "must be [groups, samples] or [groups, prompts, samples] with at least two samples", field="rewards"
            )
        if by.shape != array.shape[:1]:
            raise InputError(f"must be one per group ({len(array)}), got {by.size}", field="weights")
        positive(strength, "strength")
        centred = (array - array.mean(axis=2, keepdims=True)) * (by / strength)[:, None, None]
        return cls(centred, prompt_shares(prompt_weights, array.shape[1]), strength)

    def cumulants(self, frequencies: Array | None = None) -> tuple[Array, Array]:
        """Return L and the variance of exp(-c) relative to its squared mean, without cancellation: [R, n, B] both.

        frequencies: R times those of the samples, [B, R, N], sums to 1 over N; None for once 1 / N each.
        """
        c = self.centred
        f = np.full((c.shape[1], 1, c.shape[2]), 1 / c.shape[2]) if frequencies is None else frequencies
        top = np.maximum(0.0, (-c).max(axis=2, keepdims=True) - LARGEST_EXPONENT)
        above = np.expm1(-c - top)
        rise = above.mean(axis=2, keepdims=True)
        above -= rise
        terms = [c, phi(np.maximum(c, -LARGEST_EXPONENT)), above, above * above]
        flat = np.concatenate(terms).transpose(1, 0, 2)  # [B, 4 n, N]
        means = np.matmul(f, flat.transpose(0, 2, 1)).reshape(*f.shape[:2], 4, len(c))
        drift, bend, change, square = means.transpose(2, 1, 3, 0)
        power = 1 + rise[:, :, 0] + change
        excess = np.maximum(bend - drift, TINY - 1)
        near = bend - psi(excess, np.log1p(excess))
        cumulant = np.where(top[:, :, 0] > 0, np.log(power) + top[:, :, 0] + drift, near)
        return cumulant, np.maximum(square - change * change, 0.0) / power**2

    def payments(self, frequencies: Array | None = None) -> Array:
        """Return strength * L, corrected for the bias of a logarithm of a mean to first order: [R, n]."""
        cumulant, variance = self.cumulants(frequencies)
        corrected = cumulant + variance / (2 * self.centred.shape[2])
        return np.asarray(self.strength * (corrected @ self.prompt_weights))

    def errors(self) -> Array:
        """Return the standard errors of the payments by the delta method: [n].

        A sample moves L by c + exp(-c) / E[exp(-c)] = exp(-L) phi(c) - expm1(-L) c, up to a constant.
        """
        c = self.centred
        cumulant = self.cumulants()[0][0, :, :, None]
        near = np.exp(-cumulant) * phi(np.clip(c, -1, 1))
        far = np.exp(-c - cumulant) + np.exp(-cumulant) * (c - 1)
        influence = np.where(np.abs(c) < 1, near, far) - np.expm1(-cumulant) * c
        variance = influence.var(axis=2, ddof=1) / c.shape[2]
        return np.asarray(self.strength * np.sqrt(variance @ self.prompt_weights**2))

    def effective_sizes(self) -> Array:
        """Return 1 / sum of squared normalised weights, the least over prompts: [n]."""
        variance = self.cumulants()[1][0]
        return np.asarray((self.centred.shape[2] / (1 + variance)).min(axis=1))


def sampled_payments(
    rewards: ArrayLike,
    weights: ArrayLike,
    strength: float,
    *,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> SampledPayments:
    """Return payments with intervals by the delta method.

    rewards: r_i of independent samples of the final policy, [n, N], or [n, B, N] with N samples for each of B prompts.
    weights: mu_i w_i, [n]. strength: lambda, in units of reward. level: of each interval on its own, approximate: it
    needs an effective size that is not small. Raises InputError on wrong shapes.
    """
    shares = Shares.read(rewards, weights, strength, prompt_weights)
    value = shares.payments()[0]
    reach = NormalDist().inv_cdf((1 + level) / 2) * shares.errors()
    interval = Estimate(value, np.maximum(value - reach, 0.0), np.maximum(value + reach, 0.0), level)
    return SampledPayments(interval, shares.effective_sizes())


def bootstrapped_payments(
    rewards: ArrayLike,
    weights: ArrayLike,
    strength: float,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
    prompt_weights: ArrayLike | None = None,
) -> SampledPayments:
    """Return payments with percentile intervals of the bootstrap: samples are drawn anew within each prompt.

    Arguments as for ``sampled_payments``; resamples: how often. Slower, and better where a payment is close to 0.
    """
    shares = Shares.read(rewards, weights, strength, prompt_weights)
    prompts, count = shares.centred.shape[1:]
    at_once = max(1, BLOCK // (prompts * count))
    drawn = []
    for start in range(0, resamples, at_once):
        rows = prompts * min(at_once, resamples - start)
        picked = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        frequencies = np.bincount(picked.ravel(), minlength=rows * count) / count
        drawn.append(shares.payments(frequencies.reshape(prompts, -1, count)))
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    interval = Estimate(shares.payments()[0], np.maximum(low, 0.0), np.maximum(high, 0.0), level)
    return SampledPayments(interval, shares.effective_sizes())
