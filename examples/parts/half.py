"""A payment rule of one's own: half of what each group's report costs the others."""

from dataclasses import dataclass

import rlhf_game as rg
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.training import Trained


@dataclass(frozen=True)
class Half(rg.PaymentRule[rg.AffineRule]):
    """A part of the affine payments; truth is then no longer a dominant strategy, as the audit finds."""

    part: float = 0.5

    def charge(self, optimum: Trained[rg.AffineRule]) -> Array:
        """Return the part of the externalities, in each group's own unit of money."""
        return self.part * optimum.externalities() / optimum.weights
