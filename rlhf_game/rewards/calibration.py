"""Maps from a reward's own unit to [0, 1], declared before any report is seen (theory section 9).

A group's size only means something when all groups speak in one unit. A map that is fitted on the group's own scores
of the same candidates (minimum and maximum, mean and deviation) would be a second report, so there is none here.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array

FLAT = 0.1
"""Rewards that vary by less than this part of [0, 1] leave little to play for; sizes then count for little."""
SPREAD = 0.5
"""The scale of a logistic map that leaves something to play for, in standard deviations of scores."""


def is_flat(rewards: Sequence[float] | Array) -> bool:
    """Return whether rewards, of nine responses in ten, keep within a tenth of their range [0, 1]."""
    low, high = np.quantile(np.asarray(rewards, dtype=np.float64), [0.05, 0.95])
    return bool(high - low < FLAT)


class Calibration(ABC):
    """A declared map from scores to rewards in [0, 1]."""

    is_pointwise: ClassVar[bool] = True
    """Whether a score's reward does not depend on the other scores."""

    @abstractmethod
    def __call__(self, scores: Array, prompts: Sequence[Hashable]) -> Array:
        """Return the rewards, [k], of scores [k]; prompts: which prompt each one belongs to, [k]."""


@final
@dataclass(frozen=True)
class Unit(Calibration):
    """The scores are rewards in [0, 1] already; any other is an error."""

    def __call__(self, scores: Array, prompts: Sequence[Hashable]) -> Array:
        """Return the scores; raise InputError when one is outside [0, 1]."""
        wrong = (scores < 0) | (scores > 1)
        if wrong.any():
            raise InputError(
                f"scores must be in [0, 1], got {scores[int(np.argmax(wrong))]:.6g}; declare a calibration such as "
                "{kind: affine, low: .., high: ..}"
            )
        return scores


@final
@dataclass(frozen=True)
class Affine(Calibration):
    """(score - low) / (high - low), cut to [0, 1]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"low must be below high, got low {self.low} and high {self.high}")

    def __call__(self, scores: Array, prompts: Sequence[Hashable]) -> Array:
        """Return the rewards."""
        return np.clip((scores - self.low) / (self.high - self.low), 0.0, 1.0)


@final
@dataclass(frozen=True)
class Logistic(Calibration):
    """1 / (1 + exp(-(score - center) / scale)), with constants from elsewhere (a public calibration set, say)."""

    center: float
    scale: float

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InputError(f"scale must be > 0, got {self.scale}")

    def __call__(self, scores: Array, prompts: Sequence[Hashable]) -> Array:
        """Return the rewards; tanh, so that no exponential overflows."""
        return (1.0 + np.tanh((scores - self.center) / (2.0 * self.scale))) / 2.0


def logistic_of(scores: Array, spread: float = SPREAD) -> Logistic:
    """Return the logistic map around scores that are not all the same. spread: its scale, in their deviations."""
    return Logistic(float(scores.mean()), spread * float(scores.std()))


@final
@dataclass(frozen=True)
class Rank(Calibration):
    """The share of the prompt's other candidates that do not score higher: the best gets 1, ties get the same.

    What a group can say is then a ranking, however it scales its scores; every prompt's largest reward is 1.
    """

    is_pointwise: ClassVar[bool] = False

    def __call__(self, scores: Array, prompts: Sequence[Hashable]) -> Array:
        """Return the rewards; a prompt's only candidate gets 1."""
        rewards = np.ones(len(scores))
        rows: dict[Hashable, list[int]] = {}
        for k, prompt in enumerate(prompts):
            rows.setdefault(prompt, []).append(k)
        for members in rows.values():
            if len(members) > 1:
                own = scores[members]
                rewards[members] = (np.searchsorted(np.sort(own), own, side="right") - 1) / (len(members) - 1)
        return rewards
