r"""The finished sequences of an autoregressive model, with certified intervals for all of its sequences.

The mechanism that runs is the one over the finished sequences F that were found before any report was heard, with the
reference q restricted to them: a table, exactly truthful and exactly paid for, whatever its size. What it stands for
is the game over *all* sequences of the model. The others, U, have a known mass delta = q(U), and on them a reward is
only known to lie between its bounds. The intervals here contain the numbers of that whole game (theory section 7,
derived; each is tested against all sequences).

For one prompt, with lambda the strength, S = s / lambda in [S_lo, S_hi] on U, W = log E[exp(S)] under q given F, and
everything with index F a number of the table on F:

* u = p*(U) = sigmoid(log(delta / (1 - delta)) + S_U - W), S_U = log E[exp(S)] under q given U, in [S_lo, S_hi].
* max ASW = lambda log((1 - delta) exp(W) + delta exp(S_U)), increasing in S_U.
* v = (1 - u) v_F + u v_U, v_U in [lo, hi] which contain v_F: the ends are at the largest u.
* D = (1 - u) D_F + u D_U + d(u || delta), the chain rule, with d the divergence of coins. D_U is the divergence of an
  exponential tilt by numbers within a range R = S_hi - S_lo, so 0 <= D_U <= min(R, R^2 / 8) (Hoeffding's lemma). The
  expression is convex in u: its maximum is at an end of u's range, its minimum at logit(u) = logit(delta) + D_F.
* pay = lambda KL(p* || p_-i) >= lambda (1 - u) KL_F, the chain rule with its other terms dropped.
* pay / lambda = E[A] + log E[exp(-A)] with A = w r / lambda under p*. Since log y <= y exp(c) - 1 - c for every c,
  pay / lambda <= E[phi(A - c)], phi(x) = exp(-x) - 1 + x convex. On F this is phi(a_F - c) + KL_F with
  a_F = -log E_F[exp(-A)]; on U at most the larger of phi at the two bounds of A. Every c gives a bound, which is linear
  in u; the best c is looked for, and the bound is valid wherever the search ends.
* a truthful group's utility is -lambda log((1 - u) exp(-a_F) + u exp(-A_U)), A_U within the bounds of A.

All of them close as delta -> 0 (u -> 0). They hold up to the rounding of float64, for the q that the model computed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen
from rlhf_game.mechanism.certified import certify
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.moments import phi
from rlhf_game.mechanism.reports import Reward
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.expansion import Expansion
from rlhf_game.mechanism.spaces.table import Table, TablePolicy

STEPS = 80
"""Golden sections of the search for c: they shorten the bracket by a factor of 1e-17."""
GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
LARGEST_EXPONENT = 600.0
"""Its exp is finite."""
ENORMOUS = 1e300
"""Stands for infinity where a share of it is taken."""


@final
@dataclass(frozen=True, eq=False)
class Bounded:
    """A reward on the finished sequences, and the bounds that it keeps on all sequences."""

    sheets: Sheets
    low: float
    high: float


@final
class Trie(PolicySpace[Bounded]):
    """The policies over the finished sequences of an autoregressive model that were found.

    reference: q given F: [m], [B, m] or a list of B lists, as for Table. missing: delta of each prompt, [B], each in
    [0, 1). regularizer: KL(strength). bounds: [lo, hi], in units of reward, which every reward keeps on every sequence,
    found or not: a promise of whoever calibrates the rewards; a reward outside it on a finished sequence is refused.
    outcomes, prompt_weights: as for Table. ``Trie.over`` makes one from expansions.

    Rewards are numbers or functions, as for Table. A boost is taken to stay, on other sequences, within its own range.
    """

    def __init__(
        self,
        reference: ArrayLike | Sequence[ArrayLike],
        missing: ArrayLike,
        regularizer: Regularizer,
        *,
        bounds: Sequence[float] = (0.0, 1.0),
        outcomes: Sequence[Any] | None = None,
        prompt_weights: ArrayLike | None = None,
    ) -> None:
        if not getattr(regularizer, "is_entropic", False):
            raise CombinationError(f"intervals for missing mass are known under KL, not {type(regularizer).__name__}")
        self.regularizer, self.strength = regularizer, regularizer.strength
        self.table = Table(reference, regularizer, outcomes=outcomes, prompt_weights=prompt_weights, bounds=bounds)
        deltas, prompts = finite(missing, "missing"), len(self.table.layout.widths)
        if deltas.shape != (prompts,) or (deltas < 0).any() or (deltas >= 1).any():
            raise InputError(
                f"must be {prompts} numbers in [0, 1), one per prompt, got {deltas.tolist()}", field="missing"
            )
        self.missing: Sheets = tuple(frozen(deltas[members]) for members in self.table.layout.members)

    @classmethod
    def over(
        cls,
        expansions: Expansion | Sequence[Expansion],
        regularizer: Regularizer,
        *,
        bounds: Sequence[float] = (0.0, 1.0),
        outcomes: Sequence[Any] | None = None,
        prompt_weights: ArrayLike | None = None,
    ) -> "Trie":
        """Return the space of one expansion, or of one per prompt.

        outcomes: labels (texts) shaped like the expansions' sequences, which callable rewards are called on; default
        the sequences themselves.
        """
        if isinstance(expansions, Expansion):
            reference: Any = expansions.conditional
            labels: Any = expansions.sequences
            missing = [expansions.missing]
        else:
            reference = [expansion.conditional for expansion in expansions]
            labels = [expansion.sequences for expansion in expansions]
            missing = [expansion.missing for expansion in expansions]
        return cls(
            reference,
            missing,
            regularizer,
            bounds=bounds,
            outcomes=labels if outcomes is None else outcomes,
            prompt_weights=prompt_weights,
        )

    @property
    def running(self) -> Table:
        """The table over the finished sequences."""
        return self.table

    def read(self, reward: Reward | ArrayLike) -> Bounded:
        """Return a reward on the finished sequences; raise InputError if it leaves the bounds."""
        return Bounded(self.table.read(reward), *self.bounds)

    @property
    def bounds(self) -> tuple[float, float]:
        """What every reward keeps on every sequence."""
        assert self.table.bounds is not None
        return self.table.bounds

    def read_boost(self, boost: Any) -> Bounded:
        """Return a boost on the finished sequences, with its own range as bounds."""
        sheets = self.table.read_boost(boost)
        return Bounded(sheets, min(float(s.min()) for s in sheets), max(float(s.max()) for s in sheets))

    def combine(self, weights: Array, rewards: Sequence[Bounded]) -> Bounded:
        """Return sum_i weights_i r_i, with its bounds."""
        sheets = tuple(
            frozen(np.sum([w * r.sheets[k] for w, r in zip(weights, rewards, strict=True)], axis=0))
            for k in range(len(self.missing))
        )
        return Bounded(sheets, *_range(weights, rewards))

    def maximize(self, weights: Array, rewards: Sequence[Bounded]) -> "TriePolicy":
        """Return the exact optimum over the finished sequences."""
        table = self.table.maximize(weights, [reward.sheets for reward in rewards])
        return TriePolicy(self, table, _range(weights, rewards))

    def settle(self, weights: Array, rewards: Sequence[Bounded]) -> "TriePolicy":
        """Return what ``maximize`` does, as the table settles it."""
        table = self.table.settle(weights, [reward.sheets for reward in rewards])
        return TriePolicy(self, table, _range(weights, rewards))


@final
class TriePolicy(Policy[Bounded]):
    """The exact optimum over the finished sequences, and intervals for the optimum over all sequences.

    The plain numbers (welfare, values, externalities) are those of the mechanism that runs. The ``..._bounds`` contain
    the numbers of the game over all sequences, with certainty (level 1); their ``value`` is the plain number.
    """

    def __init__(self, space: Trie, table: TablePolicy, score: tuple[float, float]) -> None:
        """score: the bounds of the score on every sequence, in units of reward."""
        self.space = space
        self.table = table
        self.welfare = table.welfare
        self.divergence = table.divergence
        self.gap = 0.0
        strength = space.regularizer.strength
        self._score = (score[0] / strength, score[1] / strength)
        self._odds = [
            tuple(_log_odds(delta) + (end - optimum.welfare / strength) for end in self._score)
            for delta, optimum in zip(space.missing, table.optima, strict=True)
        ]

    @property
    def probabilities(self) -> Any:
        """p on the finished sequences: [m], [B, m] or a list of B arrays."""
        return self.table.probabilities

    def certified(self, settlement: Any) -> Any:
        """Return what a settlement of this policy would be over all sequences of the model, as intervals."""
        return certify(settlement.mechanism, settlement.trained.profile, settlement)

    def pieces(self) -> Iterable[Array]:
        """Yield p in pieces."""
        return self.table.pieces()

    def values(self, rewards: Sequence[Bounded]) -> Array:
        """Return <p, r> for k rewards: [k]."""
        return self.table.values([reward.sheets for reward in rewards])

    def prices(self, weights: Array, rewards: Sequence[Bounded]) -> list[Array]:
        """Return the prices of the finished sequences that were found, of the mechanism that runs."""
        return self.table.prices(weights, [reward.sheets for reward in rewards])

    def log_tokens(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return log p of each token of a finished sequence that was found, given that it is one of them."""
        return self.table.log_tokens(sequence, prompt)

    def externalities(self, weights: Array, rewards: Sequence[Bounded]) -> Array:
        """Return strength * KL(p || p without w r), for k pairs: [k]."""
        return self.table.externalities(weights, [reward.sheets for reward in rewards])

    def welfare_bounds(self) -> Estimate:
        """Return the interval of max ASW over all sequences: []."""
        strength = self.space.regularizer.strength
        lows, highs = [], []
        for delta, optimum in zip(self.space.missing, self.table.optima, strict=True):
            low, high = (_log_mixture(_log_odds(delta), end - optimum.welfare / strength) for end in self._score)
            lows.append(optimum.welfare + strength * low)
            highs.append(optimum.welfare + strength * high)
        return self._estimate(np.asarray(self.welfare), lows, highs)

    def divergence_bounds(self) -> Estimate:
        """Return the interval of D(p* || q) over all sequences: []."""
        reach = self._score[1] - self._score[0]
        most = reach * min(1.0, reach / 8)
        lows, highs = [], []
        for delta, optimum, odds in zip(self.space.missing, self.table.optima, self._odds, strict=True):
            inside = optimum.divergence
            lowest = _share(np.clip(_log_odds(delta) + inside, *odds))
            lows.append((1 - lowest) * inside + _binary_divergence(lowest, delta))
            ends = [(1 - u) * inside + u * most + _binary_divergence(u, delta) for u in map(_share, odds)]
            highs.append(np.maximum(*ends))
        return self._estimate(np.asarray(self.divergence), lows, highs)

    def value_bounds(self, rewards: Sequence[Bounded]) -> Estimate:
        """Return the intervals of <p*, r> over all sequences: [k]."""
        low, high = _ends(rewards)
        lows, highs = [], []
        for k, (optimum, odds) in enumerate(zip(self.table.optima, self._odds, strict=True)):
            inside = optimum.values([reward.sheets[k] for reward in rewards])
            largest = _share(odds[1])
            lows.append(inside - largest * (inside - low))
            highs.append(inside + largest * (high - inside))
        return self._estimate(self.values(rewards), lows, highs)

    def externality_bounds(self, weights: Array, rewards: Sequence[Bounded]) -> Estimate:
        """Return the intervals of strength * KL(p* || p_-i) over all sequences: [k]."""
        strength = self.space.regularizer.strength
        lows, highs = [], []
        for k, odds in enumerate(self._odds):
            shares = [_share(end) for end in odds]
            cumulants, inside = self._inside(k, weights, rewards)
            low, high = (np.broadcast_to(end, inside.shape) for end in self._share_ends(weights, rewards))
            lows.append(strength * (1 - shares[1]) * cumulants)
            highs.append(strength * _most_cumulant(cumulants, inside, low, high, shares))
        return self._estimate(self.externalities(weights, rewards), lows, highs)

    def gain_bounds(self, weights: Array, rewards: Sequence[Bounded]) -> Estimate:
        """Return the intervals of max ASW(s) - max ASW(s - w r), a truthful utility, over all sequences: [k]."""
        strength = self.space.regularizer.strength
        low, high = self._share_ends(weights, rewards)
        lows, highs = [], []
        for k, (_, largest) in enumerate(self._odds):
            _, inside = self._inside(k, weights, rewards)
            lows.append(strength * (inside - _log_mixture(largest, inside - low)))
            highs.append(strength * (inside - _log_mixture(largest, inside - high)))
        value = weights * self.values(rewards) - self.externalities(weights, rewards)
        return self._estimate(value, lows, highs)

    def _inside(self, k: int, weights: Array, rewards: Sequence[Bounded]) -> tuple[Array, Array]:
        """Return on the finished sequences of sheet k: KL_F and a_F = -log E_F[exp(-A)], [k, rows] each."""
        strength = self.space.regularizer.strength
        sheets = [reward.sheets[k] for reward in rewards]
        cumulants = self.table.optima[k].externalities(weights, sheets) / strength
        means = weights[:, None] / strength * self.table.optima[k].values(sheets)
        return cumulants, means - cumulants

    def _share_ends(self, weights: Array, rewards: Sequence[Bounded]) -> tuple[Array, Array]:
        low, high = _ends(rewards)
        scale = weights[:, None] / self.space.regularizer.strength
        return scale * low, scale * high

    def _estimate(self, value: Array, lows: Sequence[Array], highs: Sequence[Array]) -> Estimate:
        """Return the mean over prompts as an estimate; the table on F is a completion of F, so its number is inside."""
        low, high = (self.space.table.mean(ends) for ends in (lows, highs))
        return Estimate(value, np.minimum(low, value), np.maximum(high, value))


def _range(weights: Array, rewards: Sequence[Bounded]) -> tuple[float, float]:
    """Return the bounds of sum_i weights_i r_i."""
    ends = [sorted((float(w) * r.low, float(w) * r.high)) for w, r in zip(weights, rewards, strict=True)]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def _ends(rewards: Sequence[Bounded]) -> tuple[Array, Array]:
    """Return the rewards' bounds: [k, 1] each."""
    return np.array([[reward.low] for reward in rewards]), np.array([[reward.high] for reward in rewards])


def _log_odds(delta: Array) -> Array:
    """Return log(delta / (1 - delta)): -inf where delta is 0, inf where it is 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(delta) - np.log1p(-delta))


def _share(log_odds: Array) -> Array:
    """Return the share u of these log odds."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds)))


def _log_mixture(log_odds: Array, tilt: Array) -> Array:
    """Return log(1 - u + u exp(tilt)) for the share u of these log odds."""
    with np.errstate(over="ignore"):
        small = np.log1p(_share(np.minimum(log_odds, 0.0)) * np.expm1(np.minimum(tilt, LARGEST_EXPONENT)))
    large = np.logaddexp(-np.logaddexp(0.0, log_odds), tilt - np.logaddexp(0.0, -log_odds))
    return np.asarray(np.where((log_odds <= 0) & (tilt <= LARGEST_EXPONENT), small, large))


def _mean(u: Array, inside: Array, outside: Array) -> Array:
    """Return (1 - u) inside + u outside; what is infinite does not count where its share is 0."""
    parts = [(1 - u, inside), (u, outside)]
    return np.asarray(sum(np.where(share > 0, share * np.minimum(value, ENORMOUS), 0.0) for share, value in parts))


def _binary_divergence(u: Array, delta: Array) -> Array:
    """Return the divergence of a coin of share u from one of share delta; 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(u < 1, (1 - u) * (np.log1p(-u) - np.log1p(-delta)), 0.0)
        outside = np.where(u > 0, u * (np.log(u) - np.log(delta)), 0.0)
    return np.asarray(np.maximum(inside + outside, 0.0))


def _most_cumulant(cumulants: Array, inside: Array, low: Array, high: Array, shares: list[Array]) -> Array:
    """Return the least upper bound of KL(p* || p_-i) that is found: [k, rows] (see the module's docstring).

    cumulants: KL_F. inside: a_F. low, high: the bounds of A. shares: the ends of u, [rows] each.
    """

    def bound(c: Array) -> Array:
        on_found = phi(inside - c) + cumulants
        elsewhere = np.maximum(phi(low - c), phi(high - c))
        return np.asarray(np.maximum(*(_mean(u, on_found, elsewhere) for u in shares)))

    left, right = low.copy(), high.copy()
    for _ in range(STEPS):
        reach = GOLDEN * (right - left)
        is_left = bound(right - reach) < bound(left + reach)
        right = np.where(is_left, left + reach, right)
        left = np.where(is_left, left, right - reach)
    return np.minimum(bound((left + right) / 2), bound(inside))
