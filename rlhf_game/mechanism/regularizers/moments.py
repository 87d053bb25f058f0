r"""Moments of rewards under a Gibbs policy: from blocks of rewards, and merged from block to block.

The cumulant of a share a = w r / strength is L = log E_p[exp(-c)] with c = a - E_p[a]; it is also log1p(E_p[phi(c)])
with phi(c) = exp(-c) - 1 + c >= 0. The first form loses digits where L is small, the second never does. Cumulants
merge: if a table is cut into blocks with probabilities pi_b, means mu_b and cumulants L_b (each under p given the
block), then with d_b = mu_b - mu

    E_p[exp(-c)] = sum_b pi_b exp(L_b - d_b),   so   L = log1p(sum_b pi_b [phi(d_b - L_b) + L_b])

because sum_b pi_b d_b = 0: a sum of non-negative terms (derived; test_payments_do_not_depend_on_how_a_row_is_cut).

``read_block`` is the one function from a block of rewards to moments that a single reading of all rewards consists of.
"""

from collections.abc import Sequence
from math import factorial
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.optimum import Block, added, expectation, scaled

SHORT = 64
"""Many rows of fewer outcomes are worked on outcome after outcome: numpy sums over long inner loops."""
LARGEST_EXPONENT = 600.0
"""exp of it is finite and can still be summed."""
UNDERFLOW = -700.0
"""A log probability below this has lost digits or is 0."""
LEAST_PROBABILITY = 1e-290
"""A probability below this may have lost digits."""
LARGEST_BESIDE_UNDERFLOW = 100.0
"""A larger exponent could make a probability that underflows count beside a tiny cumulant."""
SMALL_CUMULANT = 1e-4
"""Below it (relative to the exponents' own size) exp(-c) - 1 loses digits, and phi is evaluated term by term."""
SERIES = 0.1
"""Below this |c| phi is its Taylor series."""
TERMS = ((1e-4, 3), (2e-3, 4), (1e-2, 5), (SERIES, 8))
"""How many terms of it are enough up to which |c|: what is left out is below 1e-16 of phi."""

Moments = tuple[Array, Array, Array]
"""Log probability [b] of a block, and the means [k, b] and cumulants [k, b] of k shares under p given the block."""


@final
class Read(NamedTuple):
    """What ``read_block`` finds on a block."""

    moments: Moments
    """Of n shares and of the whole score s / strength: n + 1; cumulants have an absolute error of rounding beside 1 and
    the means, and are NaN where exponents are too large for this way."""
    anchor: NDArray[np.intp]
    """The most likely outcome of each row, in columns of the sheet: [b]."""
    top: Array
    """Its log probability, as the log probability of the block is: [b]."""
    lowest: Array
    """The least s / strength: [b]."""
    highest: Array


def read_block(
    rewards: Sequence[Array],
    scales: Array,
    strength: float,
    reference: Array,
    block: Block,
    score: Array,
    workspace: Array,
) -> Read:
    """Return the moments of one block of all rewards, in one reading; log probabilities are not normalised.

    scales: -w / strength, [n, b, 1]. score: where s of the block goes, [b, c]. workspace: memory for n + 1
    times the block. Moments of a row that loses digits of probabilities are NaN. Divides by 0 without a word only
    where the caller tells numpy so.
    """
    q, groups = reference[block], len(rewards)
    memory = workspace[: (groups + 1) * q.size]
    if q.shape[1] < SHORT < len(q):
        exponents = memory.reshape(q.shape[1], groups + 1, len(q)).transpose(1, 2, 0)
    else:
        exponents = memory.reshape(groups + 1, *q.shape)
    scaled(rewards, scales, block, exponents[:groups])
    below = added(exponents[:groups], exponents[groups])  # -s / strength
    np.multiply(below, -strength, out=score)
    lowest, highest = below.min(axis=1), below.max(axis=1)
    p = lowest[:, None] - below
    np.exp(p, out=p)
    p *= q
    mass = p.sum(axis=1)
    means = expectation(p, exponents)
    means /= -mass
    np.exp(exponents[:groups], out=exponents[:groups])
    cumulants = np.empty_like(means)
    cumulants[:groups] = expectation(p, exponents[:groups])
    cumulants[groups] = q.sum(axis=1)  # of E_p[exp(-s / strength)]: sum q / sum q exp(s / strength)
    cumulants /= mass
    np.log(cumulants, out=cumulants)
    cumulants += means
    cumulants[groups] += lowest
    np.maximum(cumulants, 0.0, out=cumulants)
    held = (cumulants < np.inf) & (np.abs(means) < LARGEST_EXPONENT)  # E_p[exp(-a)] is exp(-mean) or more
    if not held.all():
        cumulants[~held] = np.nan
    if p.min() < LEAST_PROBABILITY:
        means[:, ((p < LEAST_PROBABILITY) & (q > 0)).any(axis=1)] = np.nan  # it may have underflown
        empty = (q == 0).all(axis=1)  # the reference excludes the whole block
        means[:, empty], cumulants[:, empty] = 0.0, 0.0
    anchor = p.argmax(axis=1)
    top = np.log(p[np.arange(len(p)), anchor]) - lowest
    return Read((np.log(mass) - lowest, means, cumulants), anchor + block[1].start, top, -highest, -lowest)


def is_plain(means: Array, cumulants: Array) -> NDArray[np.bool_]:
    """Return where cumulants made as log E_p[exp(-a)] + E_p[a] have their digits."""
    size = np.maximum(1, np.abs(means))
    return np.asarray((cumulants > SMALL_CUMULANT * size) & (cumulants < np.inf) & (size < LARGEST_EXPONENT))


def phi(c: Array) -> Array:
    """Return exp(-c) - 1 + c >= 0, with full relative accuracy for small c too."""
    largest = max(float(c.max(initial=0.0)), -float(c.min(initial=0.0)))
    terms = next((terms for bound, terms in TERMS if largest < bound), None)
    if terms is not None:
        return _series(-c, terms)
    with np.errstate(over="ignore"):
        out: Array = np.expm1(-c) + c
    small = np.abs(c) < SERIES
    if small.any():
        out[small] = _series(-c[small], TERMS[-1][1])
    return out


def _series(x: Array, terms: int) -> Array:
    """Return exp(x) - 1 - x by its first terms."""
    out = np.full_like(x, 1 / factorial(terms + 2))
    for k in range(terms + 1, 1, -1):
        out *= x
        out += 1 / factorial(k)
    out *= x
    out *= x
    return out


def log(q: Array) -> Array:
    """Return the logarithm, -inf of 0."""
    with np.errstate(divide="ignore"):
        out: Array = np.log(q)
    return out


def underflows(log_p: Array) -> NDArray[np.bool_]:
    """Return whether a row holds a probability that is not 0 but underflows: [b]."""
    if log_p.min() >= UNDERFLOW:
        return np.zeros(log_p.shape[:-1], dtype=bool)
    return np.asarray(((log_p < UNDERFLOW) & (log_p > -np.inf)).any(axis=-1))


def cumulants_of(p: Array, c: Array, lost: NDArray[np.bool_], base: Array | None = None) -> Array:
    """Return log E_p[exp(base - c)] for E_p[c] = 0 up to rounding: [b]; NaN where an exponent is too large.

    p: [b, m], rows that sum to 1 (or to 0). c: [b, m]. lost: rows where a probability underflows, [b].
    base: cumulants >= 0 of what each entry stands for, [b, m], default 0.
    """
    c = c - np.vecdot(p, c)[:, None]
    limit = np.where(lost, LARGEST_BESIDE_UNDERFLOW, LARGEST_EXPONENT)
    with np.errstate(invalid="ignore", over="ignore"):
        if base is None:
            largest = -c.min(axis=1)
            total = np.vecdot(p, phi(c))
        else:
            largest = (base - c).max(axis=1)
            total = np.vecdot(p, phi(c - base) + base)
    return np.where(largest > limit, np.nan, np.log1p(total))


def merge_plain(parts: list[Moments]) -> Moments:
    """Return what ``merge`` does of blocks from ``read_block``; a cumulant that has lost digits is NaN.

    An error of L_b counts in L as much as the block's probability, or as that without the share.
    """
    log_mass, means, cumulants = merge(parts)
    size = np.maximum(1, np.abs(means))
    if len(parts) > 1:
        log_shares = np.stack([part[0] for part in parts], axis=-1) - log_mass[:, None]
        inner = np.stack([part[2] for part in parts], axis=-1)
        apart = np.stack([part[1] for part in parts], axis=-1)
        counts = np.exp(log_shares) * (1 + np.exp(inner - apart + means[..., None]))
        size = (counts * np.maximum(1, np.abs(apart))).sum(axis=-1)
    return log_mass, means, np.where(cumulants > SMALL_CUMULANT * size, cumulants, np.nan)


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
    lost = np.repeat(underflows(log_shares), len(means))
    total = cumulants_of(everyone, means - middle[:, None], lost, np.nan_to_num(inner))
    return log_mass, middle[:, None], np.where(np.isnan(inner).any(axis=1), np.nan, total)[:, None]
