"""A payment taken apart: what one group's report costs each of the others, and the provider."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Settlement
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.spaces.base import Policy
from rlhf_game.mechanism.training import AffineRule


@final
@dataclass(frozen=True)
class Breakdown:
    """The payment of one group, as the sum of what it costs each other group and the provider; in units of reward.

    With p the policy, p_-i the one that is trained without group i, mu the weights and b the boost (derived from
    Thm 4.2 of arXiv:2405.16276; tested against the payments of receipts):

        payment_i = sum_{j != i} (mu_j / mu_i) w_j (v_j(p_-i) - v_j(p)) + <b, p_-i - p> / mu_i
                    + strength (D(p) - D(p_-i)) / mu_i + extra
    """

    value: float
    """w_i v_i(p)."""
    value_without: float
    """w_i v_i(p_-i): what it would get if it stayed away."""
    costs: tuple[float, ...]
    """What each group loses because this one takes part, [n]; its own entry is 0."""
    boost: float
    """What the provider's own boost loses."""
    regularizer: float
    """strength * (D(p) - D(p_-i)) / mu_i: how much further from the reference the model is moved."""
    extra: float
    """What the payment rule adds (revenue) or leaves out (none: minus all of the above)."""
    payment: float

    @property
    def externality(self) -> float:
        """The payment under affine payments."""
        return self.payment - self.extra


def take_apart(settlement: Settlement) -> list[Breakdown] | None:
    """Return the payment of each group taken apart, one more training per group; None where no welfare is maximised."""
    trained = settlement.trained
    training, profile, space = trained.rule, trained.profile, trained.space
    if not isinstance(training, AffineRule):
        return None
    boosts = [space.read_boost(boost) for boost in training.boosts()]
    mu, rewards = trained.weights, trained.rewards

    def amounts(policy: Policy[Any]) -> tuple[Array, float, float]:
        boost = float(policy.values(boosts)[0]) if boosts else 0.0
        return mu * profile.sizes * policy.values(rewards), boost, space.strength * policy.divergence

    affine = AffinePayments().charge(trained)
    values, boost, cost = amounts(settlement.policy)
    found = []
    for i in range(len(mu)):
        others = np.where(np.arange(len(mu)) == i, 0.0, profile.sizes)
        without = amounts(training.train(Profile(rewards, others), space))
        lost = (without[0] - values) / mu[i]
        own, lost[i] = float(values[i] / mu[i]), 0.0
        found.append(
            Breakdown(
                value=own,
                value_without=float(without[0][i] / mu[i]),
                costs=tuple(lost.tolist()),
                boost=(without[1] - boost) / float(mu[i]),
                regularizer=(cost - without[2]) / float(mu[i]),
                extra=float(settlement.payments[i] - affine[i]),
                payment=float(settlement.payments[i]),
            )
        )
    return found
