"""How the scores of an ensemble's members become one, and which of these need members on one scale.

Every aggregate works on scores [M, k] of M members for k texts. Deviations are population deviations (divided by M, not
by M - 1): the members are the whole ensemble, not a sample of one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array


class Aggregate(ABC):
    """One score of several members' scores."""

    needs_identified: ClassVar[bool] = True
    """Whether a constant that one member adds to every response of a prompt changes which response is best."""

    @abstractmethod
    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""


@final
@dataclass(frozen=True)
class Mean(Aggregate):
    """The members' mean."""

    needs_identified: ClassVar[bool] = False

    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""
        return np.asarray(scores.mean(axis=0))


@final
@dataclass(frozen=True)
class Median(Aggregate):
    """The members' median; of an even number the mean of the middle two."""

    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""
        return np.asarray(np.median(scores, axis=0))


@final
@dataclass(frozen=True)
class Minimum(Aggregate):
    """The most pessimistic member (worst-case optimisation)."""

    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""
        return np.asarray(scores.min(axis=0))


@final
@dataclass(frozen=True)
class MeanMinusDeviation(Aggregate):
    """mean - c * population standard deviation."""

    c: float = 1.0

    def __post_init__(self) -> None:
        _check_nonnegative(self.c)

    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""
        return np.asarray(scores.mean(axis=0) - self.c * scores.std(axis=0))


@final
@dataclass(frozen=True)
class UncertaintyWeighted(Aggregate):
    """mean - c * population variance (Coste et al. 2023, uncertainty-weighted optimisation)."""

    c: float = 1.0

    def __post_init__(self) -> None:
        _check_nonnegative(self.c)

    def __call__(self, scores: Array) -> Array:
        """Return [k] of scores [M, k]."""
        return np.asarray(scores.mean(axis=0) - self.c * scores.var(axis=0))


def _check_nonnegative(c: float) -> None:
    if not c >= 0:
        raise InputError(f"c must be >= 0, got {c}")
