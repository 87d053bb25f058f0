"""A training rule and a payment rule, checked to fit, and the receipt that they produce."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.reports import Profile, Report, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import Trained, TrainingRule


@final
@dataclass(frozen=True, eq=False)
class Settlement:
    """The receipt. All money and welfare in units of reward; arrays are per group, in the order of the reports."""

    policy: Policy[Any]
    sizes: Array
    """w_i: [n]."""
    values: Array
    """v_i(p) of one member, at the reported reward: [n]."""
    payments: Array
    """What each group owes: [n]."""

    @property
    def utilities(self) -> Array:
        """w_i v_i(p) - payment_i, at the reported reward and size: [n]."""
        return self.sizes * self.values - self.payments

    @property
    def social_welfare(self) -> float:
        """sum_i w_i v_i(p)."""
        return float(self.sizes @ self.values)

    @property
    def affine_social_welfare(self) -> float:
        """The maximised objective: sum_i mu_i w_i v_i(p) + <b, p> - strength * D(p || q)."""
        return self.policy.welfare

    @property
    def revenue(self) -> float:
        """sum_i payment_i."""
        return float(self.payments.sum())


@final
@dataclass(frozen=True)
class Mechanism:
    """The pair (psi, payments); raises CombinationError when the payment rule does not pay for the training rule."""

    training: TrainingRule
    payment: PaymentRule[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.training, TrainingRule):
            raise CombinationError(f"training must be a training rule such as SocialWelfare(), got {self.training!r}")
        if not isinstance(self.payment, PaymentRule):
            raise CombinationError(f"payment must be a payment rule such as AffinePayments(), got {self.payment!r}")
        if not isinstance(self.training, self.payment.pays_for):
            wanted = " or ".join(rule.__name__ for rule in self.payment.pays_for)
            raise CombinationError(
                f"{type(self.payment).__name__} pays for {wanted}, not {type(self.training).__name__}"
            )

    def settle(self, reports: Sequence[Report], space: PolicySpace[V]) -> Settlement:
        """Train on the reports and charge for them.

        Raises InputError when there is no report or a report does not fit the space.
        """
        return self.settle_profile(read_profile(reports, space), space)

    def settle_profile(self, profile: Profile[V], space: PolicySpace[V]) -> Settlement:
        """Train and charge for reports that the space has read already."""
        policy = self.training.train(profile, space)
        trained = Trained(self.training, profile, space, policy)
        values, payments = trained.values(), np.asarray(self.payment.charge(trained), dtype=np.float64)
        if payments.shape != values.shape:
            raise CombinationError(
                f"{type(self.payment).__name__}.charge must return one number per group, {list(values.shape)}, "
                f"got {list(payments.shape)}"
            )
        return Settlement(policy, trained.sizes, values, payments)


def read_profile(reports: Sequence[Report], space: PolicySpace[V]) -> Profile[V]:
    """Return the reports in the space's coordinates; the message of an InputError names the report's position."""
    if not isinstance(reports, Sequence) or not reports:
        raise InputError(f"reports must be a list of at least one report, got {reports!r}")
    rewards = []
    for i, report in enumerate(reports):
        if not isinstance(report, Report):
            raise InputError(f"report {i} must be a Report, such as Report([1, 0, 0], size=2), got {report!r}")
        try:
            rewards.append(space.read(report.reward))
        except InputError as error:
            raise InputError(f"report {i}: {error}") from error
    return Profile(tuple(rewards), np.array([report.size for report in reports], dtype=np.float64))
