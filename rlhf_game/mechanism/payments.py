"""Payment rules: what each group owes for the policy that was trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineRule, TrainingRule


class PaymentRule(ABC):
    """Payments for the training rules that it names."""

    pays_for: ClassVar[tuple[type[TrainingRule], ...]]
    """The training rules that it can charge for."""

    @abstractmethod
    def charge(
        self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]
    ) -> Array:
        """Return what each group owes, in units of reward: [n]."""


@final
@dataclass(frozen=True)
class NoPayments(PaymentRule):
    """Nobody pays; truth is then dominated under most training rules (Thm 3.3)."""

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (TrainingRule,)

    def charge(
        self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]
    ) -> Array:
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

    def charge(
        self, training: TrainingRule, profile: Profile[V], policy: Policy[V], space: PolicySpace[V]
    ) -> Array:
        """Return the externalities of the groups, in each group's own unit of money."""
        assert isinstance(training, AffineRule)  # Mechanism checked it
        multipliers = training.multipliers(len(profile.rewards))
        return policy.externalities(multipliers * profile.sizes, profile.rewards) / multipliers
