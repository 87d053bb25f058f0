r"""What a coalition earns, and the gradient of that by its reports, for many reports at once.

C reports with shares x_k = mu_k w_k r_k (as said) add to the others' score; t is what the coalition really gets, the
sum of its members' size * reward. A best response is a coalition of one, a false name a report whose owner is another.
Let p be the policy for s = others + sum x, J its sensitivity (the Hessian of Omega*, symmetric) and p_-k the policy
without x_k. Then, derived from grad Omega* = p (test_the_gradient_is_that_of_the_payoff):

    U = <p, t> - sum_k pay_k,       pay_k = [Omega*(s - x_k) - Omega*(s) + <p, x_k>] / mu_k,
    dU/dx_j = J (t - sum_k x_k / mu_k) + sum_{k != j} (p - p_-k) / mu_k.

For one report that is J (t - x / mu): zero at the truth. Without payments it is J t. What no report changes is left
out: what RevenueOptimal adds and, for one report, Omega*(s - x).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.agents.domains import ChainCoordinates
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.spaces.chain import ChainPolicy

STEP: Final = 1e-5
"""Step of a difference of an automaton's policies, in units of the strength."""


class Payoff(ABC):
    """The money of a coalition of C reports in B independent games, up to what its reports cannot change."""

    @abstractmethod
    def at(self, shares: Array) -> tuple[Array, Array]:
        """Return the payoffs [B] and their gradients [C, B, m] by the shares [C, B, m]."""

    @abstractmethod
    def rows(self, which: NDArray[np.intp]) -> "Payoff":
        """Return the payoffs of some games (with repetitions)."""


@final
@dataclass(frozen=True, eq=False)
class TablePayoff(Payoff):
    """B tables. reference, others (their score), stake (t): [B, m]. multipliers: mu of each report, [C]."""

    regularizer: Regularizer
    reference: Array
    others: Array
    stake: Array
    multipliers: Array
    is_paid: bool

    def rows(self, which: NDArray[np.intp]) -> "TablePayoff":
        """Return the payoffs of some games."""
        tables = (self.reference[which], self.others[which], self.stake[which])
        return TablePayoff(self.regularizer, *tables, self.multipliers, self.is_paid)

    def at(self, shares: Array) -> tuple[Array, Array]:
        """Return payoffs and gradients."""
        count = len(shares)
        optimum = self.regularizer.maximize(np.ones(1 + count), [self.others, *shares], self.reference)
        p = optimum.probabilities()
        payoff = np.einsum("bm,bm->b", p, self.stake)
        if not self.is_paid:
            return payoff, np.broadcast_to(optimum.sensitivity(self.stake), shares.shape)
        said = np.einsum("k,kbm->bm", 1 / self.multipliers, shares)
        gradient = np.broadcast_to(optimum.sensitivity(self.stake - said), shares.shape).copy()
        payoff -= np.einsum("bm,bm->b", p, said)
        payoff += optimum.welfare * (1 / self.multipliers).sum()
        for k, multiplier in enumerate(self.multipliers if count > 1 else ()):
            rest = [share for j, share in enumerate(shares) if j != k]
            without = self.regularizer.maximize(np.ones(count), [self.others, *rest], self.reference)
            payoff -= without.welfare / multiplier
            gradient[np.arange(count) != k] += (p - without.probabilities()) / multiplier
        return payoff, gradient


@final
@dataclass(frozen=True, eq=False)
class ChainPayoff(Payoff):
    """One automaton, B times. others, stake: [m], in the rows of ``coordinates``. multipliers: [C].

    Policies are those of the expected visits; J d is their difference along d.
    """

    coordinates: ChainCoordinates
    others: Array
    stake: Array
    multipliers: Array
    is_paid: bool

    def rows(self, which: NDArray[np.intp]) -> "ChainPayoff":
        """Return itself: all games are the same."""
        return self

    def at(self, shares: Array) -> tuple[Array, Array]:
        """Return payoffs and gradients, one game after the other."""
        games = [self._one(self.coordinates.pairs(shares[:, b])) for b in range(shares.shape[1])]
        gradients = [self.coordinates.spread(gradient) for _, gradient in games]
        return np.array([payoff for payoff, _ in games]), np.stack(gradients, axis=1)

    def _one(self, shares: Array) -> tuple[float, Array]:
        """Return the payoff and its gradient [C, N] in the space's coordinates, for shares [C, N]."""
        others, stake = self.coordinates.pairs(np.stack([self.others, self.stake]))
        policy = self._policy([others, *shares])
        payoff = float(policy.visits @ stake)
        direction = stake
        if self.is_paid:
            direction = stake - (shares / self.multipliers[:, None]).sum(axis=0)
            payoff = float(policy.visits @ direction)
        gradient = np.tile(self._sensitivity([others, *shares], direction), (len(shares), 1))
        if not self.is_paid:
            return payoff, gradient
        payoff += policy.welfare * float((1 / self.multipliers).sum())
        for k, multiplier in enumerate(self.multipliers if len(shares) > 1 else ()):
            rest = [share for j, share in enumerate(shares) if j != k]
            without = self._policy([others, *rest])
            payoff -= without.welfare / multiplier
            gradient[np.arange(len(shares)) != k] += (policy.visits - without.visits) / multiplier
        return payoff, gradient

    def _policy(self, parts: Sequence[Array]) -> ChainPolicy:
        return self.coordinates.space.maximize(np.ones(len(parts)), parts)

    def _sensitivity(self, parts: Sequence[Array], direction: Array) -> Array:
        top = float(np.abs(direction).max())
        if top == 0:
            return np.zeros_like(direction)
        step = STEP * self.coordinates.space.regularizer.strength  # along direction / top: no float is too small
        ahead, behind = (self._policy([*parts, sign * step * (direction / top)]).visits for sign in (1, -1))
        return (ahead - behind) / (2 * step) * top
