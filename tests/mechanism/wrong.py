"""Payments that are wrong on purpose: what the tests of right ones must catch."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.spaces.base import Policy
from rlhf_game.mechanism.training import AffineRule, TrainingRule


@final
@dataclass(frozen=True)
class WithoutTheRegularizer(PaymentRule):
    """What the others lose in value alone, as if moving the model cost the provider nothing."""

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (AffineRule,)

    def charge(self, training: TrainingRule, profile: Profile[Any], policy: Policy[Any], space: Any) -> Array:
        payments = []
        for i in range(len(profile.rewards)):
            others = np.where(np.arange(len(profile.rewards)) == i, 0.0, profile.sizes)
            without = training.train(Profile(profile.rewards, others), space)
            payments.append(others @ (without.values(profile.rewards) - policy.values(profile.rewards)))
        return np.array(payments)
