"""What a group may say, as arrays: rows of numbers, how a point is brought back into the domain, and what it moves.

A row is one prompt (a menu and an automaton have one row). Misreports work on [..., B, m]: any number of alternatives
at once. Where bounds are declared, a group may say any reward within them. Where nothing is, an audit lets a group say
any reward with the same sum as its true one, and no entry below 0 (below its own least entry, where that is negative);
with several prompts that holds for each prompt.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.reports import Normalization

STEP: Final = 1e-5
"""Step of a difference of policies, as a share of what moves them by their own size."""

Sheets: TypeAlias = tuple[Array, ...]
"""One array [rows, m] per number of outcomes m that occurs."""


class Domain(ABC):
    """The rewards that may be reported, for B rows at once (or for C groups, [C, B] rows)."""

    low: Array
    """The least entry of a reward: [B] or [C, B]."""

    @abstractmethod
    def project(self, rewards: Array) -> Array:
        """Return points of the domain near ``rewards`` (the nearest ones, unless said otherwise): [..., B, m]."""

    @abstractmethod
    def shaped(self, weights: Array) -> Array:
        """Return the rewards with these proportions above ``low``: [..., B, m], from weights >= 0."""

    @abstractmethod
    def rows(self, which: NDArray[np.intp]) -> "Domain":
        """Return the domain of some rows (with repetitions)."""

    @abstractmethod
    def together(self, others: Sequence["Domain"]) -> "Domain":
        """Return the domain [C, B] of C groups that report at once, this one [B] first."""

    @final
    def draw(self, rng: np.random.Generator, count: int, outcomes: int) -> Array:
        """Return random rewards, most of them uneven: [count, B, m]."""
        return self.shaped(rng.gamma(0.4, size=(count, *self.low.shape, outcomes)))


@final
@dataclass(frozen=True, eq=False)
class FixedSum(Domain):
    """r >= low and sum(r) = total."""

    low: Array
    total: Array
    """Shaped like low, at least m * low."""

    def project(self, rewards: Array) -> Array:
        """Return the nearest point of a scaled simplex (by sorting)."""
        heights = rewards - self.low[..., None]
        mass = self.total - heights.shape[-1] * self.low
        ordered = -np.sort(-heights, axis=-1)
        excess = ordered.cumsum(axis=-1) - mass[..., None]
        count = np.arange(1, heights.shape[-1] + 1)
        held = (ordered * count > excess).sum(axis=-1, keepdims=True)
        held = np.maximum(held, 1)
        tau = np.take_along_axis(excess, held - 1, axis=-1) / held
        return np.asarray(np.maximum(heights - tau, 0.0) + self.low[..., None])

    def shaped(self, weights: Array) -> Array:
        """Return low + the rest of the total in these proportions; equal ones where all weights are 0."""
        mass = self.total - weights.shape[-1] * self.low
        return np.asarray(self.low[..., None] + mass[..., None] * _proportions(weights, weights.sum(axis=-1)))

    def rows(self, which: NDArray[np.intp]) -> "FixedSum":
        """Return the domain of some rows."""
        return FixedSum(self.low[..., which], self.total[..., which])

    def together(self, others: Sequence[Domain]) -> "FixedSum":
        """Return the domain of several groups."""
        totals = [self.total, *(other.total for other in others if isinstance(other, FixedSum))]
        return FixedSum(np.stack([self.low, *(other.low for other in others)]), np.stack(totals))


@final
@dataclass(frozen=True, eq=False)
class MaxOne(Domain):
    """0 <= r and max(r) = 1."""

    low: Array

    def project(self, rewards: Array) -> Array:
        """Return the nearest point: clipped to [0, 1], and the largest entry raised to 1."""
        out = np.clip(rewards, 0.0, 1.0)
        top = rewards.argmax(axis=-1)[..., None]
        np.put_along_axis(out, top, 1.0, axis=-1)
        return out

    def shaped(self, weights: Array) -> Array:
        """Return the weights divided by the largest; ones where all are 0."""
        top = weights.max(axis=-1)
        return np.where(top[..., None] > 0, _proportions(weights, top), 1.0)

    def rows(self, which: NDArray[np.intp]) -> "MaxOne":
        """Return the domain of some rows."""
        return MaxOne(self.low[..., which])

    def together(self, others: Sequence[Domain]) -> "MaxOne":
        """Return the domain of several groups."""
        return MaxOne(np.stack([self.low, *(other.low for other in others)]))


@final
@dataclass(frozen=True, eq=False)
class Within(Domain):
    """low <= r <= high."""

    low: Array
    high: Array
    top: Array
    """The largest entry of the true reward, which rewards of given proportions have too. All three are shaped alike."""

    def project(self, rewards: Array) -> Array:
        """Return the nearest point: clipped."""
        return np.clip(rewards, self.low[..., None], self.high[..., None])

    def shaped(self, weights: Array) -> Array:
        """Return the rewards with these proportions above ``low`` and the largest entry ``top``."""
        span = (self.top - self.low)[..., None]
        return np.asarray(self.low[..., None] + span * _proportions(weights, weights.max(axis=-1)))

    def rows(self, which: NDArray[np.intp]) -> "Within":
        """Return the domain of some rows."""
        return Within(self.low[..., which], self.high[..., which], self.top[..., which])

    def together(self, others: Sequence[Domain]) -> "Within":
        """Return the domain of several groups."""
        same = [self, *(other for other in others if isinstance(other, Within))]
        return Within(*(np.stack([getattr(one, end) for one in same]) for end in ("low", "high", "top")))


def _proportions(weights: Array, size: Array) -> Array:
    """Return weights / size; equal parts where the size is 0."""
    safe = np.where(size > 0, size, 1.0)[..., None]
    return np.where(size[..., None] > 0, weights / safe, 1 / weights.shape[-1])


class DifferentiableOptimum(Protocol):
    """The optimum of max ASW on B rows, as far as a search by gradient looks at it."""

    welfare: Array
    """max ASW: [B]."""

    def probabilities(self) -> Array:
        """Return its gradient by the score, which is the policy: [B, m]."""
        ...

    def sensitivity(self, direction: Array) -> Array:
        """Return its Hessian times a direction [B, m]: [B, m]."""
        ...


class Solver(ABC):
    """s -> max ASW(s) on rows of numbers: what a search by gradient climbs on."""

    @abstractmethod
    def maximize(self, parts: Sequence[Array]) -> DifferentiableOptimum:
        """Return the optimum for the sum of the parts, each [B, m]."""

    @abstractmethod
    def rows(self, which: NDArray[np.intp]) -> "Solver":
        """Return the solver of some rows (with repetitions)."""


class Coordinates(ABC):
    """Rewards of one space as sheets of rows, and back; and how policies move with them."""

    pace: ClassVar[Literal["rows", "iterated", "whole"]] = "rows"
    entries: ClassVar[bool] = False
    """Whether a policy is one of finitely many, so that all a report can do is to push one of them up."""

    @abstractmethod
    def sheets(self, reward: Any) -> Sheets:
        """Return a reward as sheets [B, m], one for each number of outcomes; raise InputError if it does not fit."""

    @abstractmethod
    def reward(self, sheets: Sheets) -> Any:
        """Return a reward as people write it, from its sheets."""

    @abstractmethod
    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return what a group with this reward may say, for each sheet."""

    @abstractmethod
    def least_value(self, reward: Any) -> float | None:
        """Return min over all policies of v(p), in units of reward; None where it is not known."""

    @abstractmethod
    def prompt_weights(self) -> Sheets:
        """Return what each row of each sheet counts."""

    @abstractmethod
    def solver(self, sheet: int) -> Solver | None:
        """Return how policies move with the rows of a sheet; None where that is not known."""


def declared(normalization: Normalization, sheet: Array, bounds: tuple[float, float] | None = None) -> Domain:
    """Return what groups whose true rewards are the rows of ``sheet`` [B, m] may say. bounds: of every reward."""
    zeros = np.zeros(len(sheet))
    if bounds is not None:
        return Within(zeros + bounds[0], zeros + bounds[1], sheet.max(axis=1))
    if normalization is Normalization.MAX:
        return MaxOne(zeros)
    if normalization is Normalization.SUM:
        return FixedSum(zeros, zeros + 1)
    return FixedSum(np.minimum(sheet.min(axis=1), 0.0), sheet.sum(axis=1))


@final
@dataclass(frozen=True, eq=False)
class ArrayCoordinates(Coordinates):
    """Any space whose rewards are arrays of one shape: one row of all numbers. What is not known is done numerically.

    space: a PolicySpace. shape: of the rewards. The policy is read off the values of the unit rewards, and moves by
    differences.
    """

    space: Any
    shape: tuple[int, ...]
    pace: ClassVar[Literal["rows", "iterated", "whole"]] = "whole"

    @staticmethod
    def of(space: Any, reward: Any) -> "ArrayCoordinates":
        """Return the coordinates of rewards like this one; raise CombinationError where it is no array of numbers."""
        try:
            shape = () if callable(reward) else finite(reward, "reward").shape
        except InputError:
            shape = ()
        if shape:
            return ArrayCoordinates(space, shape)
        raise CombinationError(
            f"misreports of rewards on a {type(space).__name__} need rewards that are arrays, or the space's own "
            "`coordinates` (sizes can be misreported)"
        )

    def sheets(self, reward: Any) -> Sheets:
        """Return all numbers in one row."""
        return (finite(reward, "reward").reshape(1, -1),)

    def reward(self, sheets: Sheets) -> Any:
        """Return an array of the shape."""
        return sheets[0][0].reshape(self.shape)

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the declared domain."""
        return (declared(self.space.normalization, truth[0]),)

    def least_value(self, reward: Any) -> float | None:
        """Return None."""
        return None

    def prompt_weights(self) -> Sheets:
        """Return one."""
        return (np.ones(1),)

    def solver(self, sheet: int) -> Solver | None:
        """Return a numerical one; None where the space refuses rewards of any sum or sign."""
        found = SpaceSolver(self.space, self.to_space, self.gradient, self.space.strength)
        try:
            found.maximize([np.zeros((1, int(np.prod(self.shape))))])
        except InputError:
            return None
        return found

    def to_space(self, row: Array) -> Any:
        """Return a row as the space reads it."""
        return self.space.read_boost(self.reward((row[None],)))

    def gradient(self, policy: Any) -> Array:
        """Return the policy's values of the unit rewards, which are the gradient of max ASW."""
        return np.asarray(policy.values([self.to_space(unit) for unit in np.eye(int(np.prod(self.shape)))]))


@final
@dataclass(frozen=True, eq=False)
class SpaceSolver(Solver):
    """One game, any number of times, solved by its space; it moves by differences of policies.

    to_space: from a row [m] to a reward of the space. gradient: from a policy to the gradient of max ASW by the row.
    """

    space: Any
    to_space: Callable[[Array], Any]
    gradient: Callable[[Any], Array]
    unit: float
    """What moves a policy, in units of reward: the strength."""

    def rows(self, which: NDArray[np.intp]) -> "SpaceSolver":
        """Return itself: all rows are the same game."""
        return self

    def maximize(self, parts: Sequence[Array]) -> "SpaceOptimum":
        """Return the optimum, one row after the other."""
        return SpaceOptimum(self, parts)


@final
class SpaceOptimum:
    """The optima of one space for B scores, as sums of parts [B, m]."""

    def __init__(self, solver: SpaceSolver, parts: Sequence[Array]) -> None:
        self._solver, self._parts = solver, parts
        policies = [self._policy(b, ()) for b in range(len(parts[0]))]
        self.welfare = np.array([float(policy.welfare) for policy in policies])
        self._p = np.stack([solver.gradient(policy) for policy in policies])

    def probabilities(self) -> Array:
        """Return the gradient of max ASW: [B, m]."""
        return self._p

    def sensitivity(self, direction: Array) -> Array:
        """Return a central difference of policies along the direction: [B, m]."""
        out = np.zeros_like(direction)
        for b, row in enumerate(direction):
            top = float(np.abs(row).max())
            if top > 0:
                step = STEP * self._solver.unit  # along row / top: no float is too small
                ahead, behind = (
                    self._solver.gradient(self._policy(b, (sign * step * (row / top),))) for sign in (1, -1)
                )
                out[b] = (ahead - behind) / (2 * step) * top
        return out

    def _policy(self, b: int, more: Sequence[Array]) -> Any:
        rewards = [self._solver.to_space(row) for row in (*(part[b] for part in self._parts), *more)]
        return self._solver.space.maximize(np.ones(len(rewards)), rewards)
