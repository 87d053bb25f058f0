"""A settlement over a trie, with every number as an interval that holds for the game over all sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism, Settlement
from rlhf_game.mechanism.payments import AffinePayments, NoPayments
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.training import AffineRule


@runtime_checkable
class HasBounds(Protocol):
    """A policy over some sequences that bounds its numbers over all of them, in the units of a settlement."""

    @property
    def space(self) -> Any:
        """The space; it combines rewards."""
        ...

    def value_bounds(self, rewards: Sequence[Any]) -> Estimate:
        """Return v_i: [n]."""
        ...

    def externality_bounds(self, weights: Array, rewards: Sequence[Any]) -> Estimate:
        """Return what the others lose through each group, times its weight: [n]."""
        ...

    def gain_bounds(self, weights: Array, rewards: Sequence[Any]) -> Estimate:
        """Return what each group adds to the affine welfare: [n]."""
        ...

    def welfare_bounds(self) -> Estimate:
        """Return the affine social welfare: []."""
        ...

    def divergence_bounds(self) -> Estimate:
        """Return D(p || q), no unit: []."""
        ...


@final
@dataclass(frozen=True, eq=False)
class CertifiedSettlement:
    """Intervals of level 1, in units of reward; their values are the settlement's own numbers.

    values, payments, utilities: [n]. social_welfare, divergence (no unit), affine_social_welfare: [].
    """

    values: Estimate
    payments: Estimate
    utilities: Estimate
    social_welfare: Estimate
    divergence: Estimate
    affine_social_welfare: Estimate


def certify(mechanism: Mechanism, profile: Profile[Any], settlement: Settlement) -> CertifiedSettlement:
    """Return what the settlement of this profile would be over all sequences of the model, as intervals.

    Raises CombinationError for payments other than affine ones or none, and for a rule that is no affine maximiser.
    """
    training, policy, sizes = mechanism.training, settlement.policy, profile.sizes
    if not isinstance(training, AffineRule) or not isinstance(policy, HasBounds):
        raise CombinationError(f"intervals need an affine training rule over a trie, not {type(training).__name__}")
    values = policy.value_bounds(profile.rewards)
    if type(mechanism.payment) is AffinePayments:  # a proof for the exact type
        multipliers = training.multipliers(len(sizes))
        payments = policy.externality_bounds(multipliers * sizes, profile.rewards).scaled(1 / multipliers)
        utilities = policy.gain_bounds(multipliers * sizes, profile.rewards).scaled(1 / multipliers)
    elif type(mechanism.payment) is NoPayments:
        nothing = np.zeros(len(sizes))
        payments, utilities = Estimate(nothing, nothing, nothing), values.scaled(sizes)
    else:
        raise CombinationError(
            f"intervals are known for affine payments or none, not {type(mechanism.payment).__name__}"
        )
    return CertifiedSettlement(
        values=values,
        payments=payments,
        utilities=utilities,
        social_welfare=policy.value_bounds([policy.space.combine(sizes, profile.rewards)])[0],
        divergence=policy.divergence_bounds(),
        affine_social_welfare=policy.welfare_bounds(),
    )
