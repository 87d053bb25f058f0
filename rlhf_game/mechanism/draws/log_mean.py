"""The log-mean bill: w E[r] + (strength / mu) log E[exp(-g r / strength)] over draws of the optimum, without bias.

With y = exp(-g r / strength), a pivot c and z = 1 - y / c, log E y = log c - sum over k of (E z)^k / k, and (E z)^k has
the unbiased U-statistic U_k, the mean of z over all k-tuples of distinct draws. T draws give U_1, ..., U_T only; cut
there, the bias depends on the report and invites lies. So the number of draws is N = T 2^J with a random J,
P(J >= j) = 2^(-3 j / 2), drawn before them, and the k-th term is divided by P(N >= k) (derived; docs/draws.md).
"""

import numpy as np

from rlhf_game.mechanism.arrays import Array

DECAY = 1.5
"""P(J >= j) = 2^-(DECAY j): above 1, so that the expected number of draws is finite, 2.21 T."""
DEEPEST = 40


def doublings(rng: np.random.Generator) -> int:
    """Return J."""
    return min(DEEPEST, int(rng.standard_exponential() / (DECAY * np.log(2))))


def pivots(shares: Array, ceilings: Array, strength: float, pilot: Array | None = None) -> Array:
    """Return a pivot for each group: [n]. pilot: its rewards of other draws of the optimum, [n, k].

    E y^2 / E y of the pilot has the least variance; it is kept above half of the largest y, where every |z| < 1 and so
    the variance is finite whatever the rewards are. Without a pilot the middle of the range of y, which is minimax.
    """
    if pilot is None:
        return np.asarray((1 + np.exp(-shares * ceilings / strength)) / 2)
    y = np.exp(-shares[:, None] * pilot / strength)
    return np.asarray(np.maximum((y**2).mean(axis=1) / y.mean(axis=1), 0.55))


def log_means(y: Array, pivot: Array, draws: int) -> Array:
    """Return the unbiased estimates of log E y: [n]. y: of the N = draws 2^J draws, [n, N], in (0, 1]."""
    count = y.shape[1]
    z = 1 - y / pivot[:, None]
    statistics = symmetric_means(z)
    k = np.arange(1, count + 1)
    survival = 2.0 ** (-DECAY * np.ceil(np.log2(np.maximum(k / draws, 1.0)) - 1e-12))
    return np.asarray(np.log(pivot) - (statistics / (k * survival)).sum(axis=1))


def symmetric_means(z: Array) -> Array:
    """Return the mean of the products of all k-tuples of distinct entries of each row, k = 1..N: [n, N].

    By m_k(t) = m_k(t - 1) (t - k) / t + m_{k-1}(t - 1) z_t k / t, averages throughout, so nothing overflows.
    """
    rows, count = z.shape
    means = np.zeros((rows, count + 1))
    means[:, 0] = 1.0
    k = np.arange(1, count + 1, dtype=np.float64)
    for t in range(1, count + 1):
        head = k[:t]
        means[:, 1 : t + 1] = means[:, 1 : t + 1] * ((t - head) / t) + means[:, :t] * z[:, t - 1 : t] * (head / t)
    return means[:, 1:]
