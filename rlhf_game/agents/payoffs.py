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

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Solver


@final
@dataclass(frozen=True, eq=False)
class Payoff:
    """The money of a coalition of C reports in B independent games, up to what its reports cannot change.

    others (their score), stake (t): [B, m]. multipliers: mu of each report, [C].
    """

    solver: Solver
    others: Array
    stake: Array
    multipliers: Array
    is_paid: bool

    def rows(self, which: NDArray[np.intp]) -> "Payoff":
        """Return the payoffs of some games (with repetitions)."""
        tables = (self.others[which], self.stake[which])
        return Payoff(self.solver.rows(which), *tables, self.multipliers, self.is_paid)

    def at(self, shares: Array) -> tuple[Array, Array]:
        """Return the payoffs [B] and their gradients [C, B, m] by the shares [C, B, m].

        Where the regulariser refuses the numbers of a game, nothing is to be gained: its payoff is -inf.
        """
        try:
            return self._at(shares)
        except InputError:
            count = shares.shape[1]
            if count == 1:
                return np.full(1, -np.inf), np.zeros_like(shares)
            halves = np.arange(count // 2), np.arange(count // 2, count)
            found = [self.rows(half).at(shares[:, half]) for half in halves]
            payoffs, gradients = zip(*found, strict=True)
            return np.concatenate(payoffs), np.concatenate(gradients, axis=1)

    def _at(self, shares: Array) -> tuple[Array, Array]:
        optimum = self.solver.maximize([self.others, *shares])
        p = optimum.probabilities()
        payoff = np.einsum("bm,bm->b", p, self.stake)
        if not self.is_paid:
            return payoff, np.broadcast_to(optimum.sensitivity(self.stake), shares.shape)
        said = np.einsum("k,kbm->bm", 1 / self.multipliers, shares)
        gradient = np.broadcast_to(optimum.sensitivity(self.stake - said), shares.shape).copy()
        payoff -= np.einsum("bm,bm->b", p, said)
        payoff += optimum.welfare * (1 / self.multipliers).sum()
        for k, multiplier in enumerate(self.multipliers if len(shares) > 1 else ()):
            without = self.solver.maximize([self.others, *(share for j, share in enumerate(shares) if j != k)])
            payoff -= without.welfare / multiplier
            gradient[np.arange(len(shares)) != k] += (p - without.probabilities()) / multiplier
        return payoff, gradient
