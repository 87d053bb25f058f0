r"""The KL regulariser: Gibbs policies, and payments that are sums of non-negative terms.

p_x = q_x exp(s_x / strength) / Z. A group with share a = w r / strength pays strength * L, where

    L = log E_p[exp(-c)] = log1p(E_p[phi(c)]),   c = a - E_p[a],   phi(c) = exp(-c) - 1 + c >= 0      (theory section 3)

which is the cumulant of a under p (and KL(p || p_-i)). Cumulants merge (derived): if a table is cut into blocks with
probabilities pi_b, means mu_b and cumulants L_b (each under p given the block), then with d_b = mu_b - mu

    E_p[exp(-c)] = sum_b pi_b exp(L_b - d_b),   so   L = log1p(sum_b pi_b [phi(d_b - L_b) + L_b])

because sum_b pi_b d_b = 0: again a sum of non-negative terms. So one reading of the rewards, block by block, gives
every group's payment (test_kl_cumulants_merge). D(p || q) is the cumulant of the whole score s / strength.

Where the exponents are so large that exp(-c) overflows, p is negligible exactly where the policy without i lives. There
exp(log p - c) is taken from the sum of the *other* groups' rewards, and no probability is exponentiated first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import BLOCK, TEMPORARIES, Array, blocks, stack
from rlhf_game.mechanism.regularizers.base import (
    WHOLE,
    Block,
    Optimum,
    Regularizer,
    Score,
    at,
    by_row,
    expectation,
    score,
    simplex_thresholds,
)

LARGEST_EXPONENT = 600.0
"""exp of it is finite and can still be summed."""
UNDERFLOW = -700.0
"""A log probability below this has lost digits or is 0."""
LARGEST_BESIDE_UNDERFLOW = 100.0
"""A larger exponent could make a probability that underflows count beside a tiny cumulant."""
SMALL_CUMULANT = 1e-4
"""Below it (relative to the exponents' own size) exp(-c) - 1 loses digits, and phi is evaluated term by term."""
FAR = 30.0
"""A probability that is exp(-FAR) times the optimum's counts as leaving it altogether."""
SERIES = 0.1
"""Below this |c| phi is its Taylor series."""


Moments = tuple[Array, Array, Array]
"""Log probability [b] of a block, and the means [k, b] and cumulants [k, b] of k shares under p given the block."""


def phi(c: Array) -> Array:
    """Return exp(-c) - 1 + c >= 0, with full relative accuracy for small c too."""
    with np.errstate(over="ignore"):
        out: Array = np.expm1(-c) + c
    small = np.abs(c) < SERIES
    if small.any():
        x = -c[small]
        series = np.full_like(x, 1 / 12)
        for k in range(11, 2, -1):
            series = (1 + x * series) / k
        out[small] = x * x * (1 + x * series) / 2
    return out


@final
@dataclass(frozen=True)
class KL(Regularizer):
    """D(p || q) = sum p log(p / q). Zero probabilities of the reference stay zero."""

    name: ClassVar[str] = "kl"
    is_closed: ClassVar[bool] = True
    is_entropic: ClassVar[bool] = True
    any_scale: ClassVar[bool] = True

    def maximize(self, weights: Array, rewards: Sequence[Array], reference: Array) -> "Gibbs":
        """Return the Gibbs policy of every row."""

        def potential(q: Array, s: Array) -> Array:
            return _log(q) + s / self.strength

        return Gibbs(self.strength, reference, score(weights, rewards, reference, self.strength, potential))

    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return strength * log(p / q): [B, m]; -inf where p = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(policy > 0, self.strength * (np.log(policy) - np.log(reference)), -np.inf)


@final
class Gibbs(Optimum):
    """q exp(s / strength) / Z on every row; probabilities are made block by block from the score, never stored."""

    def __init__(self, strength: float, reference: Array, summed: Score) -> None:
        self.strength = strength
        self.reference = reference
        self.score = summed
        self.log_partition: Array = np.zeros(len(reference))
        """log sum_x q_x exp((s_x - s[anchor]) / strength): [B]."""
        whole = np.ones((1, len(reference)))
        self.log_partition, means, cumulants = self._moments(whole, [summed.relative])
        cumulants = self._completed(cumulants, whole, [summed.relative])
        self.divergence: Array = cumulants[0]
        self.welfare: Array = summed.offset + strength * (means[0] - cumulants[0])

    def log_probabilities(self, block: Block = WHOLE) -> Array:
        """Return log p on a block: [rows, columns]; -inf where the reference is zero."""
        log_p: Array = self.score.relative[block] / self.strength
        log_p += _log(self.reference[block])
        log_p -= self.log_partition[block[0], None]
        return log_p

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        log_p = self.log_probabilities(block)
        return np.exp(log_p, out=log_p)

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        out = np.zeros((len(rewards), len(self.reference)))
        for block in blocks(self.reference.shape, max(len(rewards), 1), [self.reference, *rewards]):
            out[:, block[0]] += expectation(self.probabilities(block), stack(rewards, block))
        return out

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength * KL(p || p_-i): [k, B]."""
        shares = by_row(weights, len(self.reference))
        _, _, cumulants = self._moments(shares, rewards)
        return self.strength * self._completed(cumulants, shares, rewards)

    def shortfall(self, policy: Array) -> Array:
        """Return strength * KL(p || p*) as a sum of terms p* - p + p log(p / p*) >= 0: [B]."""
        log_best = self.log_probabilities()
        best = np.exp(log_best)
        log_ratio = np.where(policy > 0, _log(policy), 0.0)
        log_ratio -= np.where((policy > 0) | (best > 0), log_best, 0.0)
        near = policy * phi(np.clip(log_ratio, -FAR, None))
        far = best + policy * (log_ratio - 1)
        terms = np.where(policy == 0, best, np.where(log_ratio < -FAR, far, near))
        return np.asarray(self.strength * terms.sum(axis=1))

    def sensitivity(self, direction: Array) -> Array:
        """Return (diag p - p p^T) direction / strength: [B, m]."""
        p = self.probabilities()
        return np.asarray(p * (direction - np.einsum("bm,bm->b", p, direction)[:, None]) / self.strength)

    def _completed(self, cumulants: Array, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return cumulants with those that the ordinary way could not tell (NaN) filled in."""
        if not np.isnan(cumulants).any():
            return cumulants
        return np.where(np.isnan(cumulants), self._extreme_cumulants(weights, rewards), cumulants)

    def least_gain(self, multiplier: float, *, is_sum: bool) -> Array:
        """Return the infimum over r of strength * log E_p[exp(multiplier r / strength)]: [B].

        With sum 1 the best r is strength / multiplier * (level - log p)_+ (water-filling, theory section 4, derived):
        p is raised to a floor, and the gain is strength * log1p(what the floor adds). With maximum 1 it stands on the
        least likely outcome. An outcome that the reference excludes takes any reward for nothing.
        """
        log_p = self.log_probabilities()
        unit = self.strength / multiplier
        lowest = log_p.min(axis=1)
        with np.errstate(over="ignore"):
            if is_sum:
                top = np.where(np.isfinite(lowest), lowest, 0.0)
                rows, columns = np.nonzero(unit * (log_p - top[:, None]) < 1)
                heights = unit * (top[rows] - log_p[rows, columns])
                heights[~np.isfinite(lowest[rows])] = 0.0
                floor = top - simplex_thresholds(heights, rows, len(top)) / unit
                raised = np.maximum(log_p, floor[:, None])
                small = np.log1p(np.maximum(np.exp(floor)[:, None] - np.exp(log_p), 0).sum(axis=1))
                gain = np.where(floor < -1, small, np.logaddexp.reduce(raised, axis=1))
            else:
                gain = np.logaddexp(0.0, lowest + 1 / unit + np.log(-np.expm1(-1 / unit)))
        return np.where(np.isfinite(lowest), self.strength * gain, 0.0)

    def _moments(self, weights: Array, rewards: Sequence[Array]) -> Moments:
        """Return the moments of the shares w r / strength on whole rows, in one reading.

        A share counts from the reward at the anchor, so that an offset costs no digit of a mean. The log probability of
        a row is 0 once ``log_partition`` is known, and log Z before. A cumulant is NaN where its exponents are too
        large for this way.
        """
        log_mass = np.empty(len(self.reference))
        means = np.empty((len(rewards), len(self.reference)))
        cumulants = np.empty_like(means)
        workspace = np.empty(min(max(BLOCK, len(rewards)), len(rewards) * self.reference.size))
        held = at(rewards, self.score.anchor)
        read = blocks(self.reference.shape, max(len(rewards), TEMPORARIES), [self.reference, *rewards])
        for rows, across in groupby(read, itemgetter(0)):
            scales = weights[:, rows] / self.strength
            parts = [self._block_moments(scales, rewards, held[:, rows], block, workspace) for block in across]
            log_mass[rows], means[:, rows], cumulants[:, rows] = merge(parts)
        return log_mass, means, cumulants

    def _block_moments(
        self, scales: Array, rewards: Sequence[Array], held: Array, block: Block, workspace: Array
    ) -> Moments:
        """Return the moments of one block, under p given the block. workspace: memory for the block of all rewards."""
        p, log_mass, lost = self._within(block)
        exponents = workspace[: len(rewards) * p.size].reshape(len(rewards), *p.shape)
        for i, reward in enumerate(rewards):
            np.multiply(reward[block], -scales[i, :, None], out=exponents[i])
        means = -expectation(p, exponents)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            powers = np.exp(exponents, out=exponents)
            cumulants = np.log(expectation(p, powers)) + means
            size = np.maximum(1, np.abs(means))
            is_plain = (cumulants > SMALL_CUMULANT * size) & (cumulants < np.inf)
            careful = ~(is_plain & (size < LARGEST_BESIDE_UNDERFLOW)) | lost
        means -= scales * held
        groups, rows = np.nonzero(careful)
        if groups.size:
            few, place = np.unique(groups, return_inverse=True)
            share = stack([rewards[i] for i in few], block)[place, rows]
            share -= held[groups, rows, None]
            share *= scales[groups, rows, None]
            chosen = p[rows]
            mean = np.einsum("km,km->k", chosen, share)
            share -= mean[:, None]
            means[groups, rows], cumulants[groups, rows] = mean, _cumulants(chosen, share, lost[rows])
        return log_mass, means, cumulants

    def _within(self, block: Block) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return p given the block [b, m], the log probability of the block [b], and whether it lost any to underflow.

        Rows of a block without any probability sum to 0.
        """
        log_p = self.score.relative[block] / self.strength
        log_p += _log(self.reference[block])
        top = log_p.max(axis=1)
        top[~np.isfinite(top)] = 0.0
        log_p -= top[:, None]
        lost = _underflows(log_p)
        p = np.exp(log_p, out=log_p)
        mass = p.sum(axis=1)
        p *= (1 / np.where(mass > 0, mass, 1.0))[:, None]
        return p, top + _log(mass) - self.log_partition[block[0]], lost

    def _extreme_cumulants(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return cumulants where exp(-c) overflows, in two more readings: [k, B]."""
        scales = weights / self.strength
        held = at(rewards, self.score.anchor)
        means = np.zeros_like(scales)
        shape = self.reference.shape
        reading = [self.reference, *rewards]
        for block in blocks(shape, len(rewards), reading):
            rows = block[0]
            a = (stack(rewards, block) - held[:, rows, None]) * scales[:, rows, None]
            means[:, rows] += expectation(self.probabilities(block), a)
        small_sum = np.zeros_like(means)
        log_sum = np.full_like(means, -np.inf)
        constant = means - self.log_partition
        for block in blocks(shape, 3 * len(rewards), [*reading, *self.score.rewards]):
            rows = block[0]
            log_p = self.log_probabilities(block)
            c = (stack(rewards, block) - held[:, rows, None]) * scales[:, rows, None] - means[:, rows, None]
            log_terms = self.score.leave_one_out(weights, rewards, block) / self.strength
            log_terms += _log(self.reference[block]) + constant[:, rows, None]
            p = np.exp(log_p)
            with np.errstate(over="ignore"):
                terms = np.exp(log_terms)
            small_sum[:, rows] += np.where(np.abs(c) < 1, p * phi(np.clip(c, -1, 1)), terms + p * (c - 1)).sum(axis=2)
            log_sum[:, rows] = np.logaddexp(log_sum[:, rows], np.logaddexp.reduce(log_terms, axis=2))
        return np.where(small_sum < 1, np.log1p(np.minimum(small_sum, 1)), log_sum)


def _log(q: Array) -> Array:
    with np.errstate(divide="ignore"):
        out: Array = np.log(q)
    return out


def _underflows(log_p: Array) -> NDArray[np.bool_]:
    """Return whether a row holds a probability that is not 0 but underflows: [b]."""
    if log_p.min() >= UNDERFLOW:
        return np.zeros(log_p.shape[:-1], dtype=bool)
    return np.asarray(((log_p < UNDERFLOW) & (log_p > -np.inf)).any(axis=-1))


def _cumulants(p: Array, c: Array, lost: NDArray[np.bool_], base: Array | None = None) -> Array:
    """Return log E_p[exp(base - c)] for E_p[c] = 0 up to rounding: [b]; NaN where an exponent is too large.

    p: [b, m], rows that sum to 1 (or to 0). c: [b, m]. lost: rows where a probability underflows, [b].
    base: cumulants >= 0 of what each entry stands for, [b, m], default 0.
    """
    c = c - np.einsum("bm,bm->b", p, c)[:, None]
    inner = np.zeros_like(c) if base is None else base
    limit = np.where(lost, LARGEST_BESIDE_UNDERFLOW, LARGEST_EXPONENT)
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.einsum("bm,bm->b", p, phi(c - inner) + inner)
    return np.where((inner - c).max(axis=1) > limit, np.nan, np.log1p(total))


def merge(parts: list[Moments]) -> Moments:
    """Return the moments of a row from those of its blocks (the merge law above)."""
    if len(parts) == 1:
        return parts[0]
    log_shares = np.stack([part[0] for part in parts], axis=-1)
    log_mass = np.logaddexp.reduce(log_shares, axis=-1)
    log_shares -= log_mass[:, None]
    shares = np.exp(log_shares)
    shares /= shares.sum()
    means = np.stack([part[1][:, 0] for part in parts], axis=-1)
    inner = np.stack([part[2][:, 0] for part in parts], axis=-1)
    middle = means @ shares[0]
    everyone = np.broadcast_to(shares, means.shape)
    lost = np.repeat(_underflows(log_shares), len(means))
    total = _cumulants(everyone, means - middle[:, None], lost, np.nan_to_num(inner))
    return log_mass, middle[:, None], np.where(np.isnan(inner).any(axis=1), np.nan, total)[:, None]
