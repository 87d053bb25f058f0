"""Any policy on a table, whatever trained it, judged by the affine social welfare of the reports."""

from collections.abc import Sequence
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
        optimum = space.maximize(weights, rewards)
        divergences = [
            space.regularizer.divergence(p, reference) for p, reference in zip(sheets, space.reference, strict=True)
        ]
        shortfalls = [best.shortfall(p) for best, p in zip(optimum.optima, sheets, strict=True)]
        self.divergence = space.mean(divergences)
        self.gap = space.mean(shortfalls)
        self.welfare = (weights * self.values(rewards)).sum(axis=0) - space.regularizer.strength * self.divergence

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
