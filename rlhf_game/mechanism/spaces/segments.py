r"""Arrays cut into consecutive pieces, and the two recursions that exact inference over token sequences is made of.

Both merge the pieces of a whole, given the log probabilities log p_b of the pieces:

* log partition: log sum_b exp(x_b);
* mean and cumulant. A share a has under p the mean mu = E_p[a] and the cumulant L = log E_p[exp(-(a - mu))] >= 0 (the
  payment of KL in units of the strength, theory section 3). If piece b has mean mu_b and cumulant L_b, then with
  d_b = mu_b - mu and phi(c) = exp(-c) - 1 + c >= 0

      exp(L) = sum_b p_b exp(L_b - d_b) = 1 + sum_b p_b [phi(d_b - L_b) + L_b]        since sum_b p_b d_b = 0

  (derived), a sum of non-negative terms: nothing cancels, however small the payment. d_b is taken around the likeliest
  piece first and around the mean second, so that it keeps its digits when one piece has nearly all the mass.
  Where exp(L_b - d_b) would overflow, p_b is as small as it is large: the terms are then added in log space.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.moments import phi

Indices = NDArray[np.intp]

DIRECT = 32.0
"""Up to this exponent p_b * phi is computed as it stands: what underflows in it is below exp(-700 + 32) of the rest."""
PLAIN, LARGE_ENOUGH = 16.0, 1e-3
"""Up to this exponent, and from this sum on, sum_b p_b (exp(-d_b) - 1) has its digits: sum_b p_b d_b is rounding."""
OVERFLOW = 600.0
"""From this exponent on log(phi(-c) + L) is c to the last digit."""


@final
@dataclass(frozen=True, eq=False)
class Segments:
    """``size`` entries cut into consecutive non-empty segments that begin at ``starts`` (increasing, from 0)."""

    starts: Indices
    size: int

    @staticmethod
    def of(owners: Indices) -> "Segments":
        """Return the segments of equal values of ``owners`` [N], which is sorted."""
        changes = np.flatnonzero(np.diff(owners)) + 1
        return Segments(np.concatenate([np.zeros(1, dtype=np.intp), changes]), len(owners))

    @cached_property
    def lengths(self) -> Indices:
        """Entries per segment: [M]."""
        return np.diff(self.starts, append=self.size)

    @cached_property
    def owners(self) -> Indices:
        """The segment of each entry: [N]."""
        return np.repeat(np.arange(len(self.starts)), self.lengths)

    def sum(self, entries: Array) -> Array:
        """Return the sum of each segment: [..., M] of [..., N]."""
        out: Array = np.add.reduceat(entries, self.starts, axis=-1)
        return out

    def max(self, entries: Array) -> Array:
        """Return the maximum of each segment: [..., M] of [..., N]."""
        out: Array = np.maximum.reduceat(entries, self.starts, axis=-1)
        return out

    def spread(self, segments: Array) -> Array:
        """Return each segment's number at each of its entries: [..., N] of [..., M]."""
        out: Array = np.repeat(segments, self.lengths, axis=-1)
        return out

    def log_sum(self, entries: Array) -> Array:
        """Return log sum exp of each segment: [..., M] of [..., N]; entries may be -inf."""
        top = self.max(entries)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            out: Array = top + np.log(self.sum(np.exp(entries - self.spread(top))))
        return out

    def log_softmax(self, entries: Array) -> tuple[Array, Array]:
        """Return the log probabilities of the entries in their segments [..., N], and log sum exp of each [..., M]."""
        top = self.max(entries)
        relative = entries - self.spread(top)
        log_total = np.log(self.sum(np.exp(relative)))
        relative -= self.spread(log_total)
        return relative, top + log_total

    def pieces(self, entries: int) -> Iterator[tuple["Segments", slice, slice]]:
        """Cut into pieces of whole segments, about ``entries`` each: the piece, its entries and its segments."""
        first = 0
        while first < len(self.starts):
            begin = int(self.starts[first])
            last = max(first + 1, int(np.searchsorted(self.starts, begin + entries, side="right")) - 1)
            last = len(self.starts) if begin + entries >= self.size else last
            end = self.size if last == len(self.starts) else int(self.starts[last])
            yield Segments(self.starts[first:last] - begin, end - begin), slice(begin, end), slice(first, last)
            first = last

    def modes(self, log_p: Array) -> Indices:
        """Return the first likeliest entry of each segment: [M]."""
        at_top = np.flatnonzero(log_p == self.spread(self.max(log_p)))
        first = np.diff(self.owners[at_top], prepend=-1) > 0
        out: Indices = at_top[first]
        return out

    def merge(self, log_p: Array, means: Array, cumulants: Array | None = None) -> tuple[Array, Array]:
        """Return the mean and the cumulant of each segment, [k, M] each, from those of its entries.

        log_p: log probabilities of the entries in their segment, [N]. means, cumulants: [k, N]; cumulants >= 0,
        default 0. No unit: shares are divided by the strength already.
        """
        inner = np.zeros(1) if cumulants is None else cumulants
        modes = self.modes(log_p)
        at_mode = means[:, modes]
        c = means - self.spread(at_mode)
        p = np.exp(log_p)
        drift = self.sum(p * c)
        c -= self.spread(drift)
        c -= inner
        largest = np.abs(c).max()
        if cumulants is None and largest <= PLAIN:
            terms = np.expm1(-c)
            terms *= p
            totals = self.sum(terms)
            if totals.min() >= LARGE_ENOUGH:
                return at_mode + drift, np.log1p(totals)
        if largest <= DIRECT:
            terms = phi(c)
            terms += inner
            terms *= p
            return at_mode + drift, np.log1p(self.sum(terms))
        with np.errstate(divide="ignore"):
            log_terms = np.where(c < -OVERFLOW, -c, np.log(phi(np.maximum(c, -OVERFLOW)) + inner))
        return at_mode + drift, np.logaddexp(0.0, self.log_sum(log_p + log_terms))
