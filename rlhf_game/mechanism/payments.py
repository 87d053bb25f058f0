"""Payment rules: what each group owes for the policy that was trained."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import numpy as np

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineRule, TrainingRule


class PaymentRule(ABC):
    """Payments for the training rules that it names."""

    pays_for: ClassVar[tuple[type[TrainingRule], ...]]
    """The training rules that it can charge for."""

    @abstractmethod
    def charge(self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]) -> Array:
        """Return what each group owes, in units of reward: [n]."""


@final
@dataclass(frozen=True)
class NoPayments(PaymentRule):
    """Nobody pays; truth is then dominated under most training rules (Thm 3.3)."""

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (TrainingRule,)

    def charge(self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]) -> Array:
        """Return zeros."""
        return np.zeros(len(profile.rewards))


@final
@dataclass(frozen=True)
class AffinePayments(PaymentRule):
    """Weighted VCG payments: each group pays what it costs the others and the provider (Thm 4.2).

    pay_i = (1 / mu_i) [max ASW_-i - ASW_-i(p*)] >= 0; truth is a dominant strategy and utility at truth is >= 0 when
    all rewards are non-negative.
    """

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (AffineRule,)

    def charge(self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]) -> Array:
        """Return the externalities of the groups, in each group's own unit of money."""
        assert isinstance(training, AffineRule)  # Mechanism checked it
        multipliers = training.multipliers(len(profile.rewards))
        return policy.externalities(multipliers * profile.sizes, profile.rewards) / multipliers


@runtime_checkable
class DomainSpace(Protocol):
    """A space that knows its declared domain: what RevenueOptimal needs."""

    def least_gain(self, weights: Array, rewards: Sequence[Any], multiplier: float) -> float:
        """Return the infimum over rewards r of the domain of max ASW(s + multiplier r) - max ASW(s)."""
        ...


@final
@dataclass(frozen=True)
class RevenueOptimal(PaymentRule):
    """The largest payments that keep truth dominant and utilities >= 0 (Cor. 4.6, corrected in theory section 4).

    pay_i = affine payment + inf over types (r', w') of the domain of the truthful utility. The infimum is at w' = 1.
    """

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (AffineRule,)

    def charge(self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]) -> Array:
        """Return affine payments plus the utility of the least favoured type.

        Raises CombinationError when the space has no declared domain.
        """
        assert isinstance(training, AffineRule)  # Mechanism checked it
        if not isinstance(space, DomainSpace):
            raise CombinationError(f"RevenueOptimal needs a space with a declared domain, not {type(space).__name__}")
        affine = AffinePayments().charge(training, profile, policy, space)
        multipliers = training.multipliers(len(profile.rewards))
        boosts = [space.read_boost(boost) for boost in training.boosts()]
        least = np.empty(len(multipliers))
        for i, multiplier in enumerate(multipliers):
            shares = multipliers * profile.sizes
            shares[i] = 0.0
            weights = np.append(shares, np.ones(len(boosts)))
            least[i] = space.least_gain(weights, [*profile.rewards, *boosts], float(multiplier)) / multiplier
        return affine + least
