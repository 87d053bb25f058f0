"""Many games of one shape, settled at once: every step is one array operation over the games.

A batch holds B games of n groups and m outcomes. What is reported are c reports, each owned by a group (a group under
two names owns two), so n and c may differ. A size of 0 is a group that stays away. Strengths may differ from game to
game: argmax <p, s> - strength * D is the argmax for s / strength at strength 1, and money is strength times the money
there (derived, by dividing the objective; test_a_batch_settles_like_the_mechanism).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.agents.domains import Domain, declared
from rlhf_game.files.build import regularizer_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.audit import SIZES
from rlhf_game.mechanism.regularizers.base import Optimum, Regularizer
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.populations import Population

PAYMENTS: Final = ("affine", "none", "revenue")


@final
@dataclass(frozen=True)
class Rules:
    """What the provider declares: the divergence by name, the domain of rewards."""

    regularizer: Any
    """As a file names it."""
    normalization: Normalization
    base: Path = Path()
    """The folder that paths start from."""

    def at(self, strength: float) -> Regularizer:
        """Return the regulariser of that strength."""
        return regularizer_of(self.regularizer, strength, self.base, "regularizer")


@final
@dataclass(frozen=True, eq=False)
class Reports:
    """What is said in B games: rewards [c, B, m], sizes [c, B] (0: stays away), and the owner of each report [c]."""

    rewards: Array
    sizes: Array
    owners: NDArray[np.intp]


@final
@dataclass(frozen=True, eq=False)
class Settled:
    """What came out of B games, at the true rewards; money in units of reward."""

    worth: Array
    """size * value of each group that takes part, 0 of the others: [n, B]."""
    payments: Array
    """[n, B]."""
    divergence: Array
    """[B]."""
    affine_welfare: Array
    """sum of worth - strength * D: [B]."""
    loss: Array
    """The best affine welfare for the groups that take part minus affine_welfare, >= 0: [B]."""
    welfare: Array
    """Social welfare, the sum of worth: [B]."""
    revenue: Array
    """The sum of payments: [B]."""

    @property
    def utilities(self) -> Array:
        """worth - payments: [n, B]."""
        return self.worth - self.payments


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """The truth of B games. rewards: [n, B, m]; sizes: [n, B]; reference: [B, m]; strength: [B].

    noise: what the mechanism adds to what it hears of each group, [n, B, m] (theory section 5), or None.
    """

    rules: Rules
    rewards: Array
    sizes: Array
    reference: Array
    strength: Array
    noise: Array | None = None

    @property
    def limit(self) -> Array:
        """The largest size that may be said in each game: [B]."""
        return np.asarray(SIZES * self.sizes.max(axis=0))

    @cached_property
    def unit(self) -> Regularizer:
        """The regulariser of strength 1."""
        return self.rules.at(1.0)

    @cached_property
    def truth(self) -> Reports:
        """What all say when all say the truth."""
        return Reports(self.rewards, self.sizes, np.arange(len(self.rewards)))

    def domain(self, rewards: Array) -> Domain:
        """Return what groups with these true rewards [R, m] may say."""
        return declared(self.rules.normalization, rewards)

    def rows(self, which: Any) -> "Batch":
        """Return some of the games, with repetitions."""
        noise = None if self.noise is None else self.noise[:, which]
        tables = (self.rewards[:, which], self.sizes[:, which], self.reference[which], self.strength[which])
        return Batch(self.rules, *tables, noise)

    def with_strength(self, strength: Array) -> "Batch":
        """Return the same games at other strengths [B]."""
        return Batch(self.rules, self.rewards, self.sizes, self.reference, strength, self.noise)

    def train(self, reports: Reports) -> tuple[Array, list[Array], Optimum]:
        """Return the weights [c, B] (sizes over strength) and rewards that are trained on, and what is trained."""
        rewards = reports.rewards if self.noise is None else reports.rewards + self.noise[reports.owners]
        weights = reports.sizes / self.strength
        heard = list(rewards)
        return weights, heard, self.unit.maximize(weights, heard, self.reference)

    def settle(self, reports: Reports, payments: Sequence[str]) -> dict[str, Settled]:
        """Return what comes out under each payment rule; the policy is the same under all."""
        weights, heard, optimum = self.train(reports)
        charges: dict[str, Array] = {}
        if set(payments) & {"affine", "revenue"}:
            charges["affine"] = self.strength * optimum.externalities(weights, heard)
        if "revenue" in payments:
            charges["revenue"] = charges["affine"] + self._least(weights, heard)
        charges["none"] = np.zeros_like(weights)
        present = by_owner(reports.sizes, reports.owners, len(self.rewards)) > 0
        worth = present * self.sizes * optimum.values(list(self.rewards))
        welfare = worth.sum(axis=0)
        affine_welfare = welfare - self.strength * optimum.divergence
        loss = self._loss(present, optimum)
        out = {}
        for rule in payments:
            paid = by_owner(charges[rule], reports.owners, len(self.rewards))
            out[rule] = Settled(worth, paid, optimum.divergence, affine_welfare, loss, welfare, paid.sum(axis=0))
        return out

    def _loss(self, present: NDArray[np.bool_], optimum: Optimum) -> Array:
        best = self.unit.maximize(present * self.sizes / self.strength, list(self.rewards), self.reference)
        return np.asarray(self.strength * best.shortfall(optimum.probabilities()))

    def _least(self, weights: Array, heard: list[Array]) -> Array:
        """Return what RevenueOptimal adds: each report's least truthful utility over the domain, at size 1: [c, B]."""
        is_sum = self.rules.normalization is Normalization.SUM
        out = np.zeros_like(weights)
        for strength in np.unique(self.strength):
            rows = np.flatnonzero(self.strength == strength)
            here, reference = [reward[rows] for reward in heard], self.reference[rows]
            for i in range(len(weights)):
                others = weights[:, rows].copy()
                others[i] = 0.0
                gain = self.unit.maximize(others, here, reference).least_gain(1 / strength, is_sum=is_sum)
                out[i, rows] = strength * gain * (weights[i, rows] > 0)
        return out


def batch_of(
    rules: Rules, populations: Sequence[Population], strength: float, noise: Sequence[Array] | None = None
) -> Batch:
    """Return the batch of populations of one shape."""
    return Batch(
        rules,
        np.stack([one.rewards for one in populations], axis=1),
        np.stack([one.sizes for one in populations], axis=1),
        np.stack([one.reference for one in populations]),
        np.full(len(populations), strength),
        None if noise is None else np.stack(noise, axis=1),
    )


def by_owner(amounts: Array, owners: NDArray[np.intp], groups: int) -> Array:
    """Return the sums of what belongs to each group: [n, B] of [c, B]."""
    if len(owners) == groups and (owners == np.arange(groups)).all():
        return amounts
    out = np.zeros((groups, *amounts.shape[1:]))
    np.add.at(out, owners, amounts)
    return out
