"""Rewards of an automaton as one row of numbers, for those who search over reports."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.domains import Coordinates, Domain, Sheets, SpaceSolver, declared
from rlhf_game.mechanism.reports import Normalization

MOST_COUNTED: Final = 2_000
"""An automaton's pairs are counted over all its sequences up to so many pairs; beyond, reports are only rescaled."""


@final
@dataclass(frozen=True, eq=False)
class OverSequences(Domain):
    """Rewards >= 0 of an automaton whose sum or maximum over all sequences is 1, by rescaling."""

    space: Any
    """A ``Chain``."""
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

    def together(self, others: Sequence[Domain]) -> "OverSequences":
        """Return the domain of several groups."""
        return OverSequences(self.space, np.stack([self.low, *(other.low for other in others)]))

    def _size(self, row: Array) -> float:
        table = row.reshape(self.space.shape)
        if self.space.normalization is Normalization.SUM:
            return float(self.space.total(table))
        return float(self.space.extremes(table)[1])


@final
@dataclass(frozen=True, eq=False)
class ChainCoordinates(Coordinates):
    """One row: the pairs (state, token).

    Under normalization sum a number stands for what the pair adds to the sum over all sequences, so that the domain is
    a simplex; pairs that no sequence takes are left out. Rewards are >= 0 at every pair: a part of the declared domain,
    which only asks for >= 0 along every sequence.
    """

    space: Any
    """A ``Chain``."""
    pace: ClassVar[Literal["rows", "iterated", "whole"]] = "whole"

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

    def prompt_weights(self) -> Sheets:
        """Return one."""
        return (np.ones(1),)

    def solver(self, sheet: int) -> SpaceSolver:
        """Return the recursion itself; policies are those of the expected visits."""
        return SpaceSolver(
            self.space,
            lambda row: self.pairs(row[None])[0],
            lambda policy: self.spread(policy.visits[None])[0],
            self.space.strength,
        )

    def least_value(self, reward: Any) -> float:
        """Return the least reward of any sequence."""
        return float(self.space.extremes(reward)[0])

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
