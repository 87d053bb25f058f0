"""Who plays: populations of groups with known properties, drawn from a stream of their own for every game."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Positive, Strict
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Normalization

LARGEST_CLAIM = 2**31
"""The largest size that a scenario may draw."""

Count: TypeAlias = Annotated[int, Field(ge=1, le=10_000)]
Size: TypeAlias = Annotated[int, Field(ge=1, le=LARGEST_CLAIM)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True, eq=False)
class Population:
    """The truth of one game: rewards [n, m] of one member each, sizes [n], and the reference policy [m]."""

    rewards: Array
    sizes: Array
    reference: Array


class PopulationSource(ABC):
    """Where populations come from."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many groups every population has."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the groups are called."""
        return tuple(f"group_{i}" for i in range(self.count))

    @abstractmethod
    def draw(self, rng: np.random.Generator, normalization: Normalization) -> Population:
        """Return a population whose rewards are in the declared domain."""


class Scenario(Strict, ABC):
    """The part of a study that says who plays."""

    kind: str

    @property
    def entries(self) -> int:
        """How many rewards a game has, all groups together; 300 where that is not known beforehand."""
        return 300

    def files(self) -> tuple[str, ...]:
        """Return the files whose content is part of the study."""
        return ()

    @abstractmethod
    def source(self, base: Path, normalization: Normalization) -> PopulationSource:
        """Return where its populations come from; relative paths start from ``base``.

        Raises InputError when its numbers do not go together, or a file that it names does not fit.
        """


class DrawnScenario(Scenario, PopulationSource, ABC):
    """Groups that are drawn: sizes uniform over integers, a uniform or a random reference."""

    groups: Count = 3
    """How many."""
    outcomes: Count = 10
    """How many."""
    sizes: Annotated[list[Size], Field(min_length=2, max_length=2)] = [1, 10]
    """The least and the largest size; all integers between them are equally likely."""
    reference: Literal["uniform", "random"] = "uniform"
    """random: uniform over the simplex."""

    @abstractmethod
    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return rewards >= 0 of any scale, with one > 0 for each group: [n, m]."""

    def weights(self, rng: np.random.Generator) -> Array:
        """Return the sizes: [n]."""
        low, high = self.sizes
        return rng.integers(low, high, size=self.groups, endpoint=True).astype(np.float64)

    @property
    def count(self) -> int:
        """The groups."""
        return self.groups

    @property
    def entries(self) -> int:
        """Groups times outcomes."""
        return self.groups * self.outcomes

    def fault(self) -> str | None:
        """Return what does not go together (``field: must be ...``), or None."""
        return None if self.sizes[0] <= self.sizes[1] else f"sizes: must be [least, largest], found {self.sizes}"

    @final
    def source(self, base: Path, normalization: Normalization) -> PopulationSource:
        """Return itself, once its numbers go together."""
        fault = self.fault()
        if fault is not None:
            raise InputError(f"scenario.{fault}")
        return self

    @final
    def draw(self, rng: np.random.Generator, normalization: Normalization) -> Population:
        """Return a population."""
        rewards = self.unscaled_rewards(rng)
        if normalization is not Normalization.NONE:
            top = rewards.sum(axis=1) if normalization is Normalization.SUM else rewards.max(axis=1)
            rewards = rewards / top[:, None]
        sizes = self.weights(rng)
        reference = np.full(self.outcomes, 1 / self.outcomes)
        if self.reference == "random":
            reference = rng.dirichlet(np.ones(self.outcomes))
        return Population(rewards, sizes, reference)


@final
class RandomScenario(DrawnScenario):
    """Independent groups: Dirichlet rewards, or independent uniform ones (the setting of theory section 10)."""

    kind: Literal["random"]
    tastes_of: Literal["dirichlet", "uniform"] = "dirichlet"
    """The law of rewards."""
    concentration: Positive = 1.0
    """Of the Dirichlet distribution; small: each group wants few outcomes; large: it cares little."""

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return independent rows."""
        if self.tastes_of == "uniform":
            return rng.random((self.groups, self.outcomes))
        return _dirichlet(rng, self.concentration, self.groups, self.outcomes)


@final
class PolarisedScenario(DrawnScenario):
    """Camps that want different outcomes: group i is of camp i mod camps, outcome x belongs to camp x mod camps."""

    kind: Literal["polarised"]
    camps: Annotated[int, Field(ge=2, le=10_000)] = 2
    """How many."""
    overlap: Share = 0.0
    """The share of a group's rewards that is on outcomes of all camps, its own included."""

    def fault(self) -> str | None:
        """Every camp needs an outcome."""
        if self.camps > self.outcomes:
            return f"camps: must be at most the number of outcomes ({self.outcomes}), found {self.camps}"
        return super().fault()

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return rows of sum 1."""
        out = self.overlap * _dirichlet(rng, 1.0, self.groups, self.outcomes)
        camp = np.arange(self.outcomes) % self.camps
        for i in range(self.groups):
            own = camp == i % self.camps
            out[i, own] += (1 - self.overlap) * rng.dirichlet(np.ones(own.sum()))
        return out


@final
class HeavyScenario(DrawnScenario):
    """Independent groups, of which the first has ``factor`` times as many members as all others together."""

    kind: Literal["heavy"]
    factor: Positive = 3.0
    """How many times the members of all others."""

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return independent rows."""
        return _dirichlet(rng, 1.0, self.groups, self.outcomes)

    def weights(self, rng: np.random.Generator) -> Array:
        """Return the sizes, the first one made heavy."""
        sizes = super().weights(rng)
        sizes[0] = min(max(1.0, round(self.factor * float(sizes[1:].sum()))), LARGEST_CLAIM)
        return sizes


@final
class DuplicatesScenario(DrawnScenario):
    """Outcomes that are nearly the same: outcome x is a copy of outcome x mod distinct, up to ``jitter``."""

    kind: Literal["duplicates"]
    distinct: Count = 3
    """Outcomes that are no copies."""
    jitter: Share = 0.01
    """The largest relative difference of a reward from that of the outcome that it copies."""

    def fault(self) -> str | None:
        """There must be something to copy."""
        if self.distinct > self.outcomes:
            return f"distinct: must be at most the number of outcomes ({self.outcomes}), found {self.distinct}"
        return super().fault()

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return rows of copied entries."""
        base = _dirichlet(rng, 1.0, self.groups, self.distinct)
        noise = rng.uniform(-self.jitter, self.jitter, (self.groups, self.outcomes))
        return np.asarray(base[:, np.arange(self.outcomes) % self.distinct] * (1 + noise))


@final
class NicheScenario(DrawnScenario):
    """A majority with tastes over common outcomes, and minorities that each want one outcome of their own.

    The last ``niches`` groups are minorities, the last of them wants the last outcome, and so on; they are of the least
    size. Nobody of the majority wants a niche.
    """

    kind: Literal["niche"]
    niches: Count = 1
    """Minorities."""
    focus: Share = 0.9
    """The share of a minority's rewards that is on its own outcome; the rest is on common outcomes."""

    def fault(self) -> str | None:
        """There must be a majority, and something that it wants."""
        most = min(self.groups, self.outcomes) - 1
        if self.niches > most:
            return f"niches: must be at most {most}, one less than groups and outcomes, found {self.niches}"
        return super().fault()

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return rows of sum 1."""
        common = self.outcomes - self.niches
        out = np.zeros((self.groups, self.outcomes))
        out[:, :common] = _dirichlet(rng, 1.0, self.groups, common)
        minority = np.arange(self.groups - self.niches, self.groups)
        out[minority] *= 1 - self.focus
        out[minority, np.arange(common, self.outcomes)] = self.focus
        return out

    def weights(self, rng: np.random.Generator) -> Array:
        """Return the sizes, those of the minorities the least."""
        sizes = super().weights(rng)
        sizes[self.groups - self.niches :] = self.sizes[0]
        return sizes


@final
class CorrelatedScenario(DrawnScenario):
    """Groups whose rewards for an outcome have this ``correlation`` over games, every two of them.

    With D_i independent and Dirichlet(1, ..., 1), of one variance, r_i is in proportion to a C + (1 - a) D_i for a
    common C where the correlation c is >= 0, a^2 / (a^2 + (1 - a)^2) = c; and to b (n - 1) + D_i - b sum of the other
    D_j where it is below 0, ((n - 2) b^2 - 2 b) / (1 + (n - 1) b^2) = c, which has a solution b in [0, 1 / (n - 1)]
    down to c = -1 / (n - 1), the least that n groups can have. No entry is below 0, and all rows have one sum.
    (Derived; test_correlated_tastes_correlate_as_they_should.)
    """

    kind: Literal["correlated"]
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Of two groups' rewards for an outcome, over games."""

    def fault(self) -> str | None:
        """More than two groups cannot all be opposed to each other."""
        least = -1 / max(1, self.groups - 1)
        if self.correlation < least - 1e-12:
            return f"correlation: must be at least {least:.6g} for {self.groups} groups, found {self.correlation}"
        return super().fault()

    def unscaled_rewards(self, rng: np.random.Generator) -> Array:
        """Return rows of one sum."""
        if self.correlation < 0:
            return self._opposed(_dirichlet(rng, 1.0, self.groups, self.outcomes))
        shared, own = np.sqrt(self.correlation), np.sqrt(1 - self.correlation)
        common = rng.dirichlet(np.ones(self.outcomes))
        rows = _dirichlet(rng, 1.0, self.groups, self.outcomes)
        return np.asarray((shared * common + own * rows) / (shared + own))

    def _opposed(self, rows: Array) -> Array:
        n, c = self.groups, self.correlation
        curve = n - 2 - c * (n - 1)
        away = (1 - np.sqrt(max(0.0, 1 + c * curve))) / curve
        others = rows.sum(axis=0) - rows
        return np.asarray(np.maximum(away * (n - 1) + rows - away * others, 0.0))


def _dirichlet(rng: np.random.Generator, concentration: float, groups: int, outcomes: int) -> Array:
    return rng.dirichlet(np.full(outcomes, concentration), groups)
