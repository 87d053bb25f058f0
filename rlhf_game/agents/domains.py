"""What a group may say, as arrays: rows of numbers, and how a point is brought back into the domain.

A row is one prompt (a menu and an automaton have one row). Misreports work on [..., B, m]: any number of alternatives
at once. Where no domain is declared, an audit lets a group say any reward with the same sum as its true one, and no
entry below 0 (below its own least entry, where that is negative); with several prompts that holds for each prompt.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.spaces.menu import Menu
from rlhf_game.mechanism.spaces.table import Sheets, Table

MOST_COUNTED: Final = 2_000
"""An automaton's pairs are counted over all its sequences up to so many pairs; beyond, reports are only rescaled."""


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


@final
@dataclass(frozen=True, eq=False)
class OverSequences(Domain):
    """Rewards >= 0 of an automaton whose sum or maximum over all sequences is 1, by rescaling."""

    space: Chain
    low: Array

    def project(self, rewards: Array) -> Array:
        """Return the rewards without their negative entries, rescaled (not the nearest point)."""
        return self.shaped(np.maximum(rewards, 0.0))

    def shaped(self, weights: Array) -> Array:
        """Return the weights rescaled; equal ones where all are 0."""
        flat = weights.reshape(-1, weights.shape[-1])
        flat = np.where(flat.max(axis=-1, keepdims=True) > 0, flat, 1.0)
        return np.stack([row / self._size(row) for row in flat]).reshape(weights.shape)

    def rows(self, which: NDArray[np.intp]) -> "OverSequences":
        """Return the domain of some rows."""
        return OverSequences(self.space, self.low[..., which])

    def _size(self, row: Array) -> float:
        table = row.reshape(self.space.shape)
        return (
            self.space.total(table) if self.space.normalization is Normalization.SUM else self.space.extremes(table)[1]
        )


def together(domains: Sequence[Domain]) -> Domain:
    """Return the domain [C, B] of C groups that report at once, from those of each [B]."""
    low = np.stack([domain.low for domain in domains])
    match domains[0]:
        case FixedSum():
            return FixedSum(low, np.stack([domain.total for domain in domains if isinstance(domain, FixedSum)]))
        case OverSequences(space=space):
            return OverSequences(space, low)
    return MaxOne(low)


def _proportions(weights: Array, size: Array) -> Array:
    """Return weights / size; equal parts where the size is 0."""
    safe = np.where(size > 0, size, 1.0)[..., None]
    return np.where(size[..., None] > 0, weights / safe, 1 / weights.shape[-1])


class Coordinates(ABC):
    """Rewards of one space as sheets of rows, and back."""

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
    def least_value(self, reward: Any) -> float:
        """Return min over all policies of v(p), in units of reward."""


def coordinates(space: PolicySpace[Any]) -> Coordinates:
    """Return the coordinates of a space's rewards.

    Raises CombinationError for a space whose rewards are not finite tables.
    """
    if isinstance(space, Table):
        return TableCoordinates(space)
    if isinstance(space, Menu):
        return MenuCoordinates(space)
    if isinstance(space, Chain):
        return ChainCoordinates(space)
    raise CombinationError(
        f"misreports of rewards need a Table, a Menu or a Chain, not {type(space).__name__} (sizes can be misreported)"
    )


def declared(normalization: Normalization, sheet: Array) -> Domain:
    """Return what groups whose true rewards are the rows of ``sheet`` [B, m] may say."""
    zeros = np.zeros(len(sheet))
    if normalization is Normalization.MAX:
        return MaxOne(zeros)
    if normalization is Normalization.SUM:
        return FixedSum(zeros, zeros + 1)
    return FixedSum(np.minimum(sheet.min(axis=1), 0.0), sheet.sum(axis=1))


@final
@dataclass(frozen=True, eq=False)
class TableCoordinates(Coordinates):
    """One row for each prompt."""

    space: Table

    def sheets(self, reward: Any) -> Sheets:
        """Return what the table reads."""
        return self.space.read_boost(reward)

    def reward(self, sheets: Sheets) -> Any:
        """Return a reward shaped like the reference."""
        return self.space.layout.join(sheets)

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the declared domain of each prompt."""
        return tuple(declared(self.space.normalization, sheet) for sheet in truth)

    def least_value(self, reward: Any) -> float:
        """Return the mean over prompts of the least entry."""
        return float(self.space.mean([sheet.min(axis=1) for sheet in self.sheets(reward)]))


@final
@dataclass(frozen=True, eq=False)
class MenuCoordinates(Coordinates):
    """One row: the valuation of each entry."""

    space: Menu

    def sheets(self, reward: Any) -> Sheets:
        """Return what the menu reads."""
        return (self.space.read_boost(reward)[None],)

    def reward(self, sheets: Sheets) -> Any:
        """Return a list of valuations."""
        return sheets[0][0]

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the declared domain."""
        return (declared(self.space.normalization, truth[0]),)

    def least_value(self, reward: Any) -> float:
        """Return the least entry."""
        return float(self.sheets(reward)[0].min())


@final
@dataclass(frozen=True, eq=False)
class ChainCoordinates(Coordinates):
    """One row: the pairs (state, token).

    Under normalization sum a number stands for what the pair adds to the sum over all sequences, so that the domain is
    a simplex; pairs that no sequence takes are left out. Rewards are >= 0 at every pair: a part of the declared domain,
    which only asks for >= 0 along every sequence.
    """

    space: Chain

    def sheets(self, reward: Any) -> Sheets:
        """Return the flattened [S][T] table, in units of the row."""
        table = finite(reward, "reward").ravel()
        return ((table * self._counts)[self._taken][None],)

    def reward(self, sheets: Sheets) -> Any:
        """Return an [S][T] table."""
        out = np.zeros(len(self._counts))
        out[self._taken] = sheets[0][0] / self._counts[self._taken]
        return out.reshape(self.space.shape)

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the simplex, or the table rescaled where there is none."""
        normalization = self.space.normalization
        if normalization is Normalization.NONE or (normalization is Normalization.SUM and self.is_counted):
            return (declared(normalization, truth[0]),)
        return (OverSequences(self.space, np.zeros(1)),)

    def least_value(self, reward: Any) -> float:
        """Return the least reward of any sequence."""
        return self.space.extremes(reward)[0]

    @property
    def is_counted(self) -> bool:
        """Whether rows are in units of the sum over all sequences."""
        return self.space.normalization is Normalization.SUM and len(self.space.next_state.ravel()) <= MOST_COUNTED

    @functools.cached_property
    def _counts(self) -> Array:
        """How often all sequences together take each pair: [S T]; ones where rows are not in units of the sum."""
        size = self.space.next_state.size
        if not self.is_counted:
            return np.ones(size)
        return np.array([self.space.total(one.reshape(self.space.shape)) for one in np.eye(size)])

    @functools.cached_property
    def _taken(self) -> NDArray[np.bool_]:
        return np.asarray(self._counts > 0)

    def pairs(self, rows: Array) -> Array:
        """Return rows [k, m] in the space's own coordinates: [k, N]."""
        out = np.zeros((len(rows), len(self._counts)))
        out[:, self._taken] = rows / self._counts[self._taken]
        return out[:, self.space.graph.pairs]

    def spread(self, visits: Array) -> Array:
        """Return numbers of the space's pairs [k, N] as a gradient by rows: [k, m]."""
        out = np.zeros((len(visits), len(self._counts)))
        out[:, self.space.graph.pairs] = visits
        return np.asarray(out[:, self._taken] / self._counts[self._taken])
