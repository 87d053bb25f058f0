r"""The KL regulariser: Gibbs policies, and payments that are sums of non-negative terms.

p_x = q_x exp(s_x / strength) / Z. A group with share a = w r / strength pays strength * L, where

    L = log E_p[exp(-c)] = log1p(E_p[phi(c)]),   c = a - E_p[a],   phi(c) = exp(-c) - 1 + c >= 0      (theory section 3)

which is the cumulant of a under p (and KL(p || p_-i)). Cumulants merge from block to block (see moments), so one
reading of the rewards gives the policy, every group's value and every group's payment. D(p || q) is the cumulant of the
whole score s / strength.

Where the exponents are so large that exp(-c) overflows, p is negligible exactly where the policy without i lives. There
exp(log p - c) is taken from the sum of the *other* groups' rewards, and no probability is exponentiated first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import BLOCK, TEMPORARIES, Array, blocks, each_block, stack
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.moments import (
    SMALL_CUMULANT,
    Moments,
    Read,
    cumulants_of,
    is_plain,
    log,
    merge,
    merge_plain,
    phi,
    read_block,
    underflows,
)
from rlhf_game.mechanism.regularizers.optimum import (
    RECOMPUTE,
    WHOLE,
    Block,
    Optimum,
    Score,
    Settled,
    at,
    by_row,
    dots,
    expectation,
    score,
    simplex_thresholds,
)

FAR = 30.0
"""A probability that is exp(-FAR) times the optimum's counts as leaving it altogether."""
WIDE = 4 * BLOCK
"""Entries of a block of all rewards that is read once."""
NARROW = 512
"""Outcomes that such a block has at least, or all of them: with more groups the score is read first."""


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
            return log(q) + s / self.strength

        return Gibbs(self.strength, reference, score(weights, rewards, reference, self.strength, potential))

    def settle(self, weights: Array, rewards: Sequence[Array], reference: Array) -> Settled:
        """Return the Gibbs policy, values and externalities in one reading; in more where that would lose digits."""
        with np.errstate(all="ignore"):
            return self._in_one_reading(weights, rewards, reference) or self._in_two(weights, rewards, reference)

    def _in_two(self, weights: Array, rewards: Sequence[Array], reference: Array) -> Settled:
        gibbs = self.maximize(weights, rewards, reference)
        shares = by_row(weights, len(reference))
        if not rewards or (shares == 0).any():
            return Settled(gibbs, gibbs.values(rewards), gibbs.externalities(weights, rewards))
        means, cumulants = gibbs.shares(shares, rewards)
        values = at(rewards, gibbs.score.anchor) + means * self.strength / shares
        return Settled(gibbs, values, self.strength * cumulants)

    def _in_one_reading(self, weights: Array, rewards: Sequence[Array], reference: Array) -> Settled | None:
        """Return None where scores or probabilities must be summed more carefully."""
        if not rewards or len(rewards) * min(reference.shape[1], NARROW) > WIDE:
            return None
        by, total = by_row(weights, len(reference)), np.empty(reference.shape)
        scales = (by / -self.strength)[:, :, None]

        def read(block: Block, workspace: Array) -> tuple[Block, Read]:
            own = scales[:, block[0]]
            return block, read_block(rewards, own, self.strength, reference, block, total[block], workspace)

        found = each_block(read, reference.shape, len(rewards) + 1, [reference, *rewards], WIDE)
        whole = _joined(found)
        (log_mass, means, cumulants), anchor, _, lowest, highest = whole
        is_small = np.maximum(-lowest, highest) <= RECOMPUTE * np.minimum(1, highest - lowest)
        if not (is_small.all() and by.all()) or np.isnan(means).any():
            return None
        offset = total[np.arange(len(total)), anchor]
        total -= offset[:, None]
        summed, part = Score(by, tuple(rewards), total, anchor, offset), offset / self.strength
        gibbs = Gibbs(self.strength, reference, summed, (log_mass - part, means[-1:] - part, cumulants[-1:]))
        externalities = self.strength * cumulants[:-1]
        lost = np.isnan(externalities)
        if lost.any():
            externalities[lost] = gibbs.some_externalities(lost)
        return Settled(gibbs, means[:-1] * self.strength / by, externalities)

    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return strength * log(p / q): [B, m]; -inf where p = 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(policy > 0, self.strength * (np.log(policy) - np.log(reference)), -np.inf)


@final
class Gibbs(Optimum):
    """q exp(s / strength) / Z on every row; probabilities are made block by block from the score, never stored."""

    def __init__(self, strength: float, reference: Array, summed: Score, known: Moments | None = None) -> None:
        """known: the moments of the score relative to its anchor; a cumulant is NaN where it is not known."""
        self.strength = strength
        self.reference = reference
        self.score = summed
        self.log_partition: Array = np.zeros(len(reference))
        """log sum_x q_x exp((s_x - s[anchor]) / strength): [B]."""
        if known is None or np.isnan(known[2]).any():
            whole = np.ones((1, len(reference)))
            self.log_partition, means, cumulants = self._moments(whole, [summed.relative])
            cumulants = self._completed(cumulants, whole, [summed.relative])
        else:
            self.log_partition, means, cumulants = known
        self.divergence: Array = cumulants[0]
        self.welfare: Array = summed.offset + strength * (means[0] - cumulants[0])

    def rows(self, which: NDArray[np.intp]) -> "Gibbs":
        """Return the optimum of some rows, for rewards that are none of those that it was solved for."""
        known = self.log_partition[which], (self.welfare - self.score.offset + self.strength * self.divergence)[which]
        means = known[1][None] / self.strength
        return Gibbs(
            self.strength,
            self.reference[which],
            replace(self.score, rewards=()).rows(which),
            (known[0], means, self.divergence[which][None]),
        )

    def log_probabilities(self, block: Block = WHOLE) -> Array:
        """Return log p on a block: [rows, columns]; -inf where the reference is zero."""
        log_p: Array = self.score.relative[block] / self.strength
        log_p += log(self.reference[block])
        log_p -= self.log_partition[block[0], None]
        return log_p

    def probabilities(self, block: Block = WHOLE) -> Array:
        """Return p, or a block of it: [B, m]."""
        log_p = self.log_probabilities(block)
        return np.exp(log_p, out=log_p)

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <p, r>: [k, B]."""
        out = np.zeros((len(rewards), len(self.reference)))
        for block in blocks(self.reference.shape, TEMPORARIES, [self.reference, *rewards]):
            p = self.probabilities(block)
            for i, reward in enumerate(rewards):
                out[i, block[0]] += dots(p, reward[block])
        return out

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength * KL(p || p_-i): [k, B]."""
        return self.strength * self.shares(by_row(weights, len(self.reference)), rewards)[1]

    def some_externalities(self, pairs: NDArray[np.bool_]) -> Array:
        """Return those of its own rewards that are marked, [n, B], one after the other."""
        groups, rows = np.nonzero(pairs)
        rewards = self.score.rewards
        if len(self.reference) == 1:
            return np.ravel(self.externalities(self.score.weights[groups], [rewards[i] for i in groups]))
        marked = np.concatenate([reward.compress(one, axis=0) for reward, one in zip(rewards, pairs, strict=True)])
        return np.ravel(self.rows(rows).externalities(self.score.weights[None, groups, rows], [marked]))

    def shares(self, weights: Array, rewards: Sequence[Array]) -> tuple[Array, Array]:
        """Return the means, from the reward at the anchor, and the cumulants of w r / strength: [k, B] each."""
        _, means, cumulants = self._moments(weights, rewards)
        return means, self._completed(cumulants, weights, rewards)

    def shortfall(self, policy: Array) -> Array:
        """Return strength * KL(p || p*) as a sum of terms p* - p + p log(p / p*) >= 0: [B]."""
        log_best = self.log_probabilities()
        best = np.exp(log_best)
        log_ratio = np.where(policy > 0, log(policy), 0.0)
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
        scales = (weights / self.strength)[:, :, None]
        held = at(rewards, self.score.anchor)[:, :, None]
        depth = max(TEMPORARIES, min(len(rewards), BLOCK // min(NARROW, self.reference.shape[1])))

        def read(block: Block, workspace: Array) -> tuple[slice, Moments]:
            rows = block[0]
            return rows, self._block_moments(scales[:, rows], rewards, held[:, rows], block, workspace)

        found = each_block(read, self.reference.shape, depth, [self.reference, *rewards], BLOCK)
        for rows, across in groupby(found, itemgetter(0)):
            log_mass[rows], means[:, rows], cumulants[:, rows] = merge([part for _, part in across])
        return log_mass, means, cumulants

    def _block_moments(
        self, scales: Array, rewards: Sequence[Array], held: Array, block: Block, workspace: Array
    ) -> Moments:
        """Return the moments of one block, under p given the block, as many groups at a time as the workspace holds.

        scales, held: [k, b, 1].
        """
        p, log_mass, lost = self._within(block)
        means = np.empty((len(rewards), len(p)))
        cumulants = np.empty_like(means)
        step = max(1, workspace.size // p.size)
        for start in range(0, len(rewards), step):
            some = slice(start, start + step)
            shares = workspace[: len(rewards[some]) * p.size].reshape(-1, *p.shape)
            stack(rewards[some], block, shares)
            shares -= held[some]
            shares *= scales[some]
            means[some], cumulants[some] = _shares_moments(p, shares, lost)
        return log_mass, means, cumulants

    def _within(self, block: Block) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Return p given the block [b, m], the log probability of the block [b], and whether it lost any to underflow.

        Rows of a block without any probability sum to 0.
        """
        log_p = self.score.relative[block] / self.strength
        log_p += log(self.reference[block])
        top = log_p.max(axis=1)
        top[~np.isfinite(top)] = 0.0
        log_p -= top[:, None]
        lost = underflows(log_p)
        p = np.exp(log_p, out=log_p)
        mass = p.sum(axis=1)
        p *= (1 / np.where(mass > 0, mass, 1.0))[:, None]
        return p, top + log(mass) - self.log_partition[block[0]], lost

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
            log_terms += log(self.reference[block]) + constant[:, rows, None]
            p = np.exp(log_p)
            with np.errstate(over="ignore"):
                terms = np.exp(log_terms)
            small_sum[:, rows] += np.where(np.abs(c) < 1, p * phi(np.clip(c, -1, 1)), terms + p * (c - 1)).sum(axis=2)
            log_sum[:, rows] = np.logaddexp(log_sum[:, rows], np.logaddexp.reduce(log_terms, axis=2))
        return np.where(small_sum < 1, np.log1p(np.minimum(small_sum, 1)), log_sum)


def _joined(found: list[tuple[Block, Read]]) -> Read:
    """Return what was read of blocks, in order, as what is known of whole rows."""
    rows = [_merged([part for _, part in across]) for _, across in groupby(found, lambda one: one[0][0])]
    if len(rows) == 1:
        return rows[0]
    log_mass, means, cumulants = (np.concatenate([one.moments[k] for one in rows], axis=-1) for k in range(3))
    return Read((log_mass, means, cumulants), *(np.concatenate([one[k] for one in rows]) for k in range(1, 5)))


def _merged(parts: list[Read]) -> Read:
    """Return what is known of some rows from blocks of their outcomes."""
    moments = merge_plain([part.moments for part in parts])
    if len(parts) == 1:
        return parts[0]._replace(moments=moments)
    anchors, tops, lowest, highest = (np.stack([part[k] for part in parts]) for k in range(1, 5))
    best = tops.argmax(axis=0)
    return Read(moments, anchors[best, np.arange(len(best))], tops.max(axis=0), lowest.min(axis=0), highest.max(axis=0))


def _shares_moments(p: Array, shares: Array, lost: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Return the means and the cumulants of shares [k, b, m] under p [b, m]: [k, b] each. shares: overwritten.

    lost: rows of p where a probability underflows.
    """
    means = expectation(p, shares)
    spread = shares.max(axis=2) - shares.min(axis=2)
    cumulants = np.full_like(means, np.nan)
    hopeful = ~lost & (spread**2 > 8 * SMALL_CUMULANT)  # a cumulant is at most spread^2 / 8 where it is small
    if hopeful.any():
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            plain = np.log(expectation(p, np.exp(-shares))) + means
        cumulants = np.where(hopeful & is_plain(means, plain), plain, np.nan)
    groups, rows = np.nonzero(np.isnan(cumulants))
    if groups.size == cumulants.size and len(p) == 1:
        careful, chosen, slow = shares[:, 0], np.broadcast_to(p, shares[:, 0].shape), np.repeat(lost, len(shares))
    else:
        careful, chosen, slow = shares[groups, rows], p[rows], lost[rows]
    careful -= means[groups, rows, None]
    cumulants[groups, rows] = cumulants_of(chosen, careful, slow)
    return means, cumulants
