"""Simple ways to lie. Each says what it uses: a lie that needs to know less is easier to tell.

A misreport of a reward is one array operation on [..., B, m]: any number of groups or games at once (``distort``).
Called as a strategy it does that to one group's reward in the coordinates of a space. Every misreport stays in the
domain that the mechanism declared, or keeps the sum where none is declared; only Scale leaves that.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Final, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Domain
from rlhf_game.mechanism.regret import World
from rlhf_game.mechanism.reports import Group, Normalization, Report

OWN: Final = "the group's own reward"
DOMAIN: Final = "the declared domain"
OTHERS: Final = "the report of another group"


class RewardMisreport(ABC):
    """A lie about the reward that needs to know no other group; the size is told truly."""

    uses: ClassVar[str]
    """What it needs to know."""

    @abstractmethod
    def distort(self, truth: Array, domain: Domain, rng: np.random.Generator) -> Array:
        """Return what is said instead of ``truth`` [..., B, m], in the domain of the B rows: [..., B, m]."""

    @final
    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the report; raises CombinationError when the space's rewards are not tables."""
        system = world.space.coordinates(group.reward)
        truth = system.sheets(group.reward)
        domains = system.domains(truth)
        said = tuple(self.distort(sheet, domain, rng) for sheet, domain in zip(truth, domains, strict=True))
        return Report(system.reward(said), group.size)


@final
@dataclass(frozen=True)
class Truthful:
    """Say the truth. Uses the group's own reward."""

    uses: ClassVar[str] = OWN

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the group's own reward and size."""
        return Report(group.reward, group.size)


@final
@dataclass(frozen=True)
class Polarize(RewardMisreport):
    """Sharpen towards the favourite outcomes: rewards above the least possible, to a power. Uses the own reward.

    temperature: the power, > 0; 1 is the truth, 4 is nearly all on the favourite, below 1 everything is alike.
    """

    temperature: float = 4.0
    uses: ClassVar[str] = OWN

    def __post_init__(self) -> None:
        _positive(self.temperature, "temperature")

    def distort(self, truth: Array, domain: Domain, rng: np.random.Generator) -> Array:
        """Return rewards in proportion to truth^temperature."""
        above = np.maximum(truth - domain.low[..., None], 0.0)
        top = above.max(axis=-1, keepdims=True)
        return domain.shaped((above / np.where(top > 0, top, 1.0)) ** self.temperature)


@final
@dataclass(frozen=True)
class RaiseAndLower(RewardMisreport):
    """Raise the favourite outcome by epsilon, lower the least favourite by as much (Thm 3.3). Uses the own reward.

    Never lower than what a reward may be, so the step is min(epsilon, least entry). Where rewards have maximum 1 the
    favourite is there already, and only the least favourite is lowered. epsilon: > 0, in units of reward.
    """

    epsilon: float = 0.1
    uses: ClassVar[str] = OWN

    def __post_init__(self) -> None:
        _positive(self.epsilon, "epsilon")

    def distort(self, truth: Array, domain: Domain, rng: np.random.Generator) -> Array:
        """Return the truth with two entries moved."""
        out = truth.copy()
        best, worst = truth.argmax(axis=-1)[..., None], truth.argmin(axis=-1)[..., None]
        room = np.take_along_axis(truth, worst, axis=-1) - domain.low[..., None]
        step = np.clip(room, 0.0, self.epsilon)
        np.put_along_axis(out, worst, np.take_along_axis(out, worst, axis=-1) - step, axis=-1)
        np.put_along_axis(out, best, np.take_along_axis(out, best, axis=-1) + step, axis=-1)
        return domain.project(out)


@final
@dataclass(frozen=True)
class Indifferent(RewardMisreport):
    """Ask for nothing and ride free: every outcome is alike. Uses nothing but the declared domain."""

    uses: ClassVar[str] = DOMAIN

    def distort(self, truth: Array, domain: Domain, rng: np.random.Generator) -> Array:
        """Return equal rewards."""
        return domain.shaped(np.ones_like(truth))


@final
@dataclass(frozen=True)
class Noisy(RewardMisreport):
    """The truth plus independent normal noise, brought back into the domain. Uses the own reward.

    scale: the standard deviation, > 0, as a share of the range of the reward in its row.
    """

    scale: float = 0.1
    uses: ClassVar[str] = OWN

    def __post_init__(self) -> None:
        _positive(self.scale, "scale")

    def distort(self, truth: Array, domain: Domain, rng: np.random.Generator) -> Array:
        """Return noisy rewards."""
        spread = truth.max(axis=-1, keepdims=True) - truth.min(axis=-1, keepdims=True)
        return domain.project(truth + self.scale * spread * rng.standard_normal(truth.shape))


@final
@dataclass(frozen=True)
class Blend:
    """Move towards another group's report, or away from it. Uses the own reward and that group's report.

    share: of the way; 0 is the truth, 1 the other's report, below 0 away from it. other: which of the other groups.
    """

    share: float = 0.5
    other: int = 0
    uses: ClassVar[str] = OTHERS

    def __post_init__(self) -> None:
        if not isfinite(self.share):
            raise InputError(f"share must be a finite number, got {self.share!r}")

    def distort(self, truth: Array, other: Array, domain: Domain) -> Array:
        """Return the mixture of truth [..., B, m] and another report of the same shape, in the domain."""
        alike = domain.shaped(np.maximum(other - np.minimum(other.min(axis=-1, keepdims=True), 0.0), 0.0))
        return domain.project(truth + self.share * (alike - truth))

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the report; raises InputError when there is no such group."""
        if not 0 <= self.other < len(world.others):
            raise InputError(f"other must be one of the {len(world.others)} other groups, got {self.other}")
        system = world.space.coordinates(group.reward)
        truth, others = system.sheets(group.reward), system.sheets(world.others[self.other].reward)
        said = tuple(map(self.distort, truth, others, system.domains(truth)))
        return Report(system.reward(said), group.size)


@final
@dataclass(frozen=True)
class Scale:
    """All rewards times a factor; only where no domain is declared. Uses the own reward.

    factor: > 0. It is the same as a size times the factor, except that the size is an integer.
    """

    factor: float = 2.0
    uses: ClassVar[str] = OWN

    def __post_init__(self) -> None:
        _positive(self.factor, "factor")

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the report; raises CombinationError where the domain fixes the scale."""
        declared = world.space.normalization
        if declared is not Normalization.NONE:
            raise CombinationError(
                f"Scale needs rewards of any scale, not normalization {declared}; use Resize instead"
            )
        system = world.space.coordinates(group.reward)
        said = tuple(self.factor * sheet for sheet in system.sheets(group.reward))
        return Report(system.reward(said), group.size)


@final
@dataclass(frozen=True)
class Resize:
    """Claim more members (factor above 1) or fewer; the reward is told truly. Uses the size limit.

    factor: > 0; the size is rounded, and kept from 1 to the limit.
    """

    factor: float = 2.0
    uses: ClassVar[str] = DOMAIN

    def __post_init__(self) -> None:
        _positive(self.factor, "factor")

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the report."""
        size = round(min(self.factor * group.size, world.largest_size))
        return Report(group.reward, max(1, size))


def _positive(value: Any, what: str) -> None:
    if not isfinite(value) or value <= 0:
        raise InputError(f"{what} must be a finite number > 0, got {value!r}")
