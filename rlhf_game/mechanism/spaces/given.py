"""Any policy on a table, whatever trained it, judged by the affine social welfare of the reports."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import numpy as np

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.spaces.base import Policy
from rlhf_game.mechanism.spaces.table import Table


@final
class GivenPolicy(Policy[Sheets]):
    """Probabilities over the outcomes of a table, and what they are worth beside the optimum for s = sum_i w_i r_i.

    sheets: p, one array [rows, m] per sheet of the space. weights: w, [n]. rewards: n rewards that the space has read.
    """

    def __init__(self, space: Table, sheets: Sheets, weights: Array, rewards: Sequence[Sheets]) -> None:
        self.space = space
        self.sheets = sheets
        self.weights = weights
        self.rewards = rewards

    @cached_property
    def divergence(self) -> Any:
        """D(p || q)."""
        cost = self.space.regularizer.divergence
        return self.space.mean([cost(p, q) for p, q in zip(self.sheets, self.space.reference, strict=True)])

    @cached_property
    def gap(self) -> Any:
        """How far its welfare is below the most that there is."""
        return self.space.shortfall(self, self.weights, self.rewards)

    @cached_property
    def welfare(self) -> Any:
        """<p, s> - strength * D(p || q)."""
        strength = self.space.regularizer.strength
        return (self.weights * self.values(self.rewards)).sum(axis=0) - strength * self.divergence

    @property
    def probabilities(self) -> Any:
        """p, shaped like the reference: [m], [B, m] or a list of B arrays."""
        return self.space.layout.join(tuple(sheet.copy() for sheet in self.sheets))

    def values(self, rewards: Sequence[Sheets]) -> Array:
        """Return <p, r> for each reward: [k]."""

        def value(reward: Sheets) -> Any:
            return self.space.mean([(p * r).sum(axis=1) for p, r in zip(self.sheets, reward, strict=True)])

        return np.array([value(reward) for reward in rewards])

    def externalities(self, weights: Array, rewards: Sequence[Sheets]) -> Array:
        """Raise CombinationError: this policy is not the maximiser that affine payments are defined for."""
        raise CombinationError(
            "affine payments are defined for the policy that maximises affine social welfare, and this one was trained "
            f"by another rule (its welfare is {self.gap:.3g} below the maximum); use NoPayments, or train SocialWelfare"
        )
