"""What can be trained (PolicySpace) and what was trained (Policy).

Let Omega*(s) = max_p <p, s> - strength * D(p || q) be the best affine welfare that a space reaches for a score
s = sum_i weights_i r_i. It is convex in s and its gradient is the trained policy, so a group's payment is the Bregman
divergence Omega*(s - w r) - Omega*(s) + <p, w r> >= 0 (theory section 3), here called its externality.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import V


class Policy(ABC, Generic[V]):
    """A trained policy p, which remembers the score s = sum_i weights_i r_i that it was trained on."""

    welfare: Any
    """<p, s> - strength * D(p || q), in units of reward: a number, of a table of games [B]."""
    divergence: Any
    """D(p || q), without the strength."""
    gap: Any
    """A certified bound on max ASW(s) - ASW(p): 0 when exact, the epsilon of epsilon-DSIC otherwise (section 5)."""

    @abstractmethod
    def values(self, rewards: Sequence[V]) -> Array:
        """Return <p, r> for each of k rewards: [k]."""

    def model_of(self, group: int) -> "Policy[V]":
        """Return the policy that serves a group, by its position: this one serves all, unless there are several."""
        return self

    @abstractmethod
    def externalities(self, weights: Array, rewards: Sequence[V]) -> Array:
        """Return max ASW(s - w r) - ASW(s - w r)(p) for each of k pairs: [k], >= 0.

        weights: [k], w r is the part of the score that is taken away. Defined where ``gap`` is 0.
        """


class PolicySpace(ABC, Generic[V]):
    """A reference, the cost of leaving it, and a way to the maximum: the convex function s -> max ASW(s)."""

    @abstractmethod
    def read(self, reward: Any) -> V:
        """Return a reward in this space's coordinates; raise InputError if it does not fit or is outside the domain."""

    def read_boost(self, boost: Any) -> V:
        """Return what the provider itself adds to the score, in this space's coordinates; it has no domain to be in."""
        return self.read(boost)

    @abstractmethod
    def maximize(self, weights: Array, rewards: Sequence[V]) -> Policy[V]:
        """Return argmax_p <p, sum_i weights_i r_i> - strength * D(p || q)."""

    def least_gain(self, weights: Array, rewards: Sequence[V], multiplier: float) -> Any:
        """Return the infimum over rewards r of the domain of max ASW(s + multiplier r) - max ASW(s), >= 0.

        Raises CombinationError where no domain is declared.
        """
        raise CombinationError(f"a least gain needs a space with a declared domain, not {type(self).__name__}")
