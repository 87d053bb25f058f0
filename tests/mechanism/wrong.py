"""Payments that are wrong on purpose: what the tests of right ones must catch."""

from dataclasses import dataclass
from typing import final

import numpy as np

import rlhf_game as rg
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.training import Trained


@final
@dataclass(frozen=True)
class WithoutTheRegularizer(rg.PaymentRule[rg.AffineRule]):
    """What the others lose in value alone, as if moving the model cost the provider nothing."""

    def charge(self, optimum: Trained[rg.AffineRule]) -> Array:
        payments = []
        for i in range(len(optimum.rewards)):
            others = np.where(np.arange(len(optimum.rewards)) == i, 0.0, optimum.sizes)
            without = optimum.rule.train(Profile(optimum.rewards, others), optimum.space)
            payments.append(others @ (without.values(optimum.rewards) - optimum.values()))
        return np.array(payments)
