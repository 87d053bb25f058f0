"""Mechanisms that are not ours: any function from reports to a policy and payments, as a mechanism that can be audited.

The function is called as ``function(rewards [n, m], sizes [n])`` and returns the policy [m] and the payments [n]. It is
asked about every lie that a search tries; nothing is known of it otherwise, so there is no bound on regret.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np

from rlhf_game.errors import CombinationError, RlhfGameError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.given import GivenPolicy
from rlhf_game.mechanism.training import Trained, TrainingRule

Function: TypeAlias = Callable[[Array, Array], tuple[Any, Any]]
SUM: Final = 1e-6
"""How far the sum of a policy may be from 1; it is then divided by it."""


@final
@dataclass(frozen=True)
class ForeignRule(TrainingRule):
    """What the function trains. name: for messages."""

    function: Function
    name: str = "the mechanism"

    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the policy that the function gives, with its payments.

        Raises CombinationError unless the space is a table of one prompt, RunError when the function fails or what it
        returns is no policy on the outcomes with one payment per group.
        """
        table = space.enumeration
        if not table.layout.is_flat:
            raise CombinationError(f"{self.name} needs a game with a table of outcomes for one prompt")
        rewards: Any = profile.rewards
        heard = np.stack([sheets[0][0] for sheets in rewards])
        try:
            said = self.function(heard.copy(), profile.sizes.copy())
            policy, payments = (np.asarray(one, dtype=np.float64) for one in said)
        except RlhfGameError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever somebody's code raises
            raise RunError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        self._check(policy, payments, heard)
        given = GivenPolicy(table, ((policy / policy.sum())[None],), profile.sizes, rewards)
        out: Any = ForeignPolicy(given, payments)
        return out  # type: ignore[no-any-return]

    def _check(self, policy: Array, payments: Array, table: Array) -> None:
        is_policy = policy.shape == table.shape[1:] and np.isfinite(policy).all() and (policy >= -SUM).all()
        if not is_policy or abs(policy.sum() - 1) > SUM:
            raise RunError(
                f"{self.name} must return {table.shape[1]} probabilities that sum to 1, found {_short(policy)}"
            )
        if payments.shape != table.shape[:1] or not np.isfinite(payments).all():
            raise RunError(
                f"{self.name} must return {table.shape[0]} payments, one per group, found {_short(payments)}"
            )


def _short(array: Array) -> str:
    return f"shape {list(array.shape)}: {np.array2string(array, precision=3, threshold=6)}"


@final
class ForeignPolicy(Policy[Sheets]):
    """A policy that comes with its payments, [n]."""

    def __init__(self, policy: GivenPolicy, payments: Array) -> None:
        self._policy = policy
        self.payments = payments
        self.welfare, self.divergence = policy.welfare, policy.divergence

    @property
    def probabilities(self) -> Any:
        """p: [m]."""
        return self._policy.probabilities

    def values(self, rewards: Sequence[Sheets]) -> Array:
        """Return <p, r> for each reward: [k]."""
        return self._policy.values(rewards)

    def externalities(self, weights: Array, rewards: Sequence[Sheets]) -> Array:
        """Raise CombinationError (see GivenPolicy)."""
        return self._policy.externalities(weights, rewards)


@final
@dataclass(frozen=True)
class ForeignPayments(PaymentRule[ForeignRule]):
    """What the function charges."""

    def charge(self, optimum: Trained[ForeignRule]) -> Array:
        """Return the payments that came with the policy."""
        policy: Any = optimum.policy
        return np.asarray(policy.payments)


def foreign(function: Function, name: str = "the mechanism") -> Mechanism:
    """Return a function as a mechanism; see the module for what it is called with and returns."""
    return Mechanism(ForeignRule(function, name), ForeignPayments())
