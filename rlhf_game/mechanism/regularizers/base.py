"""What it costs to leave the reference: a regulariser, of which everything but its cost has a numerical fallback.

Shapes are those of ``optimum``: a policy and a reference are [B, m], with rows that sum to 1.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array, positive
from rlhf_game.mechanism.regularizers.numerical import NumericalOptimum, cost_slope, slope
from rlhf_game.mechanism.regularizers.optimum import Optimum, Settled


@dataclass(frozen=True)
class Regularizer(ABC):
    """strength * D(p || q): strength is lambda > 0, in units of reward.

    One of one's own says ``divergence`` and either ``argmax`` or ``conjugate``.
    """

    strength: float
    name: ClassVar[str] = "own"
    """What the divergence is called in game files."""
    is_closed: ClassVar[bool] = False
    """Whether the optimum is a formula, so that a policy costs one reading of the score."""
    is_entropic: ClassVar[bool] = False
    """Whether it is the KL divergence, so that the optimum for a score s is q exp(s / strength) / Z."""
    any_scale: ClassVar[bool] = False
    """Whether the optimum for a reference is also that for a multiple of it."""

    def __init_subclass__(cls) -> None:
        """Refuse a class that says neither its optimum nor the means to find it."""
        super().__init_subclass__()
        asked = ("maximize", "divergence", "argmax", "conjugate")
        says = {name for name in asked if getattr(cls, name) is not getattr(Regularizer, name)}
        if "maximize" not in says and not ("divergence" in says and says & {"argmax", "conjugate"}):
            raise CombinationError(
                "must say its divergence, and either its argmax or its conjugate", field=cls.__name__
            )

    def __post_init__(self) -> None:
        positive(self.strength, "strength")

    def maximize(self, weights: Array, rewards: Sequence[Array], reference: Array) -> Optimum:
        """Return the optimum for s = sum_i weights_i r_i on every row.

        Here it is ``argmax``, and what is read off it is done numerically, with the rounding of differences; a
        regulariser that knows better says so.
        """
        return NumericalOptimum(self, weights, rewards, reference)

    def settle(self, weights: Array, rewards: Sequence[Array], reference: Array) -> Settled:
        """Return the optimum as ``maximize`` does, with the values and the externalities of its own rewards."""
        optimum = self.maximize(weights, rewards, reference)
        return Settled(optimum, optimum.values(rewards), optimum.externalities(weights, rewards))

    def divergence(self, policy: Array, reference: Array) -> Array:
        """Return D(p || q) of any policy: [B] of [B, m]. Here it is the shortfall when s = 0, without cancellation."""
        out: Array = self.maximize(np.empty(0), (), reference).shortfall(policy) / self.strength
        return out

    def argmax(self, scores: Array, reference: Array) -> Array:
        """Return argmax_p <p, s> - strength * D(p || q) on every row: [B, m]; here the slope of ``conjugate``."""
        return slope(self, scores, reference)

    def conjugate(self, scores: Array, reference: Array) -> Array:
        """Return max_p <p, s> - strength * D(p || q) on every row: [B]; here its value at ``argmax``."""
        p = self.argmax(scores, reference)
        out: Array = np.vecdot(p, scores) - self.strength * self.divergence(p, reference)
        return out

    def gradient(self, policy: Array, reference: Array) -> Array:
        """Return the derivative of strength * D(p || q) by p, up to a constant of each row: [B, m] of [B, m].

        It is a score for which p is the optimum: exact where p > 0, and where p = 0 the largest that keeps it there
        (-inf where no finite score does). Here it is a difference of divergences.
        """
        return cost_slope(self, policy, reference)
