"""Training rules psi: what the provider trains when it has heard the reports."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace


class TrainingRule(ABC):
    """psi: reports -> policy."""

    @abstractmethod
    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the policy that this rule trains on the profile."""


class AffineRule(TrainingRule):
    """argmax_p sum_i mu_i w_i <p, r_i> + <b, p> - strength * D(p || q): an affine maximiser (Roberts 1979)."""

    @abstractmethod
    def multipliers(self, groups: int) -> Array:
        """Return mu: one weight > 0 per group, [groups]."""

    @abstractmethod
    def boosts(self) -> Sequence[Any]:
        """Return the rewards that the provider itself adds to the score (none or one), not yet read by a space."""

    @final
    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the maximiser over the space."""
        shares = self.multipliers(len(profile.rewards)) * profile.sizes
        boosts = [space.read_boost(boost) for boost in self.boosts()]
        return space.maximize(np.append(shares, np.ones(len(boosts))), [*profile.rewards, *boosts])


@final
@dataclass(frozen=True)
class SocialWelfare(AffineRule):
    """Maximise sum_i w_i v_i(p) - strength * D(p || q) (Def. 4.1 of arXiv:2405.16276)."""

    def multipliers(self, groups: int) -> Array:
        """Return ones."""
        return np.ones(groups)

    def boosts(self) -> Sequence[Any]:
        """Return none."""
        return ()


@final
@dataclass(frozen=True, eq=False)
class AffineWelfare(AffineRule):
    """The general affine maximiser: group weights mu [n], in the order of the reports, and a boost b of outcomes.

    weights: mu_i > 0, no unit; None means 1 for every group.
    boost: in units of reward, shaped like a reward; None means 0.
    """

    weights: ArrayLike | None = None
    boost: Any = None

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        weights = frozen(finite(self.weights, "weights"))
        if weights.ndim != 1 or (weights <= 0).any():
            raise InputError(f"weights must be one number > 0 per group, got {weights.tolist()}")
        object.__setattr__(self, "weights", weights)

    def multipliers(self, groups: int) -> Array:
        """Return mu; raise InputError if there is not one per group."""
        if self.weights is None:
            return np.ones(groups)
        weights = np.asarray(self.weights)
        if weights.shape != (groups,):
            raise InputError(f"weights must be one per group ({groups}), got {weights.size}")
        return weights

    def boosts(self) -> Sequence[Any]:
        """Return the boost, if there is one."""
        return () if self.boost is None else (self.boost,)
