"""Hypothesis generators, one per noun; all of them reach the boundaries (BayBE's habit).

Zero and tiny probabilities, one outcome, one group, identical groups, uniform rewards, strengths from 1e-6 to 1e8, a
size of a million beside 1, one prompt, several prompts, ragged prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import rlhf_game as rg
from tests import oracles

NAMES = ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger", "alpha:3", "alpha:1.5", "alpha:0.5", "alpha:-1"]


def regularizer(name: str, strength: float) -> Any:
    """Return the regularizer that contract.md calls ``name``."""
    if name.startswith("alpha:"):
        return rg.Alpha(order=float(name.removeprefix("alpha:")), strength=strength)
    classes = {
        "kl": rg.KL,
        "l2": rg.SquaredL2,
        "reverse_kl": rg.ReverseKL,
        "chi2": rg.PearsonChi2,
        "js": rg.JensenShannon,
        "hellinger": rg.Hellinger,
    }
    return classes[name](strength=strength)


@dataclass(frozen=True)
class TableGame:
    """Everything that a settlement over a table needs, in plain lists: prompts B, groups n, ragged outcomes m_b."""

    name: str
    strength: float
    references: list[list[float]]
    rewards: list[list[list[float]]]
    sizes: list[int]
    prompt_weights: list[float]

    def space(self) -> Any:
        """Return the package's table."""
        flat = len(self.references) == 1
        return rg.Table(
            self.references[0] if flat else self.references,
            regularizer=regularizer(self.name, self.strength),
            prompt_weights=None if flat else self.prompt_weights,
        )

    def reports(self) -> list[Any]:
        """Return the package's reports."""
        flat = len(self.references) == 1
        return [
            rg.Report(table[0] if flat else table, size=size)
            for table, size in zip(self.rewards, self.sizes, strict=True)
        ]

    def exact(self) -> oracles.Exact:
        """Return the settlement by mpmath."""
        return oracles.settle_exactly(
            self.name, self.strength, self.references, self.rewards, self.sizes, prompt_weights=self.prompt_weights
        )

    def exponent(self) -> float:
        """Return the largest sum_i w_i max|r_i| / strength: how far beyond 1 the numbers inside a solver may go."""
        money = sum(
            w * max(abs(entry) for row in table for entry in row)
            for w, table in zip(self.sizes, self.rewards, strict=True)
        )
        return money / self.strength

    def nudged(self, rng: np.random.Generator) -> TableGame:
        """Return the game with every number off by at most one unit in the last place."""

        def nudge(rows: list[list[float]]) -> list[list[float]]:
            return [[float(e * (1 + rng.uniform(-1, 1) * 2.0**-52)) for e in row] for row in rows]

        return TableGame(
            self.name,
            self.strength,
            nudge(self.references),
            [nudge(table) for table in self.rewards],
            self.sizes,
            self.prompt_weights,
        )


def strengths() -> st.SearchStrategy[float]:
    """lambda, from 1e-6 to 1e8."""
    return st.one_of(st.sampled_from([1e-6, 1e-3, 0.1, 1.0, 1e3, 1e8]), st.floats(-6, 8).map(lambda e: 10.0**e))


def sizes() -> st.SearchStrategy[int]:
    """w, ones and a million included."""
    return st.sampled_from([1, 1, 2, 3, 10, 1_000_000])


@st.composite
def references(draw: st.DrawFn, outcomes: int, *, zeros: bool = True) -> list[float]:
    """q [outcomes]: uniform, uneven, with zeros, with a probability of 1e-12."""
    odd = [0.0, 1e-12] if zeros else [1e-12]
    masses = draw(
        st.lists(st.one_of(st.sampled_from([1.0, 1.0, *odd]), st.floats(0.01, 1)), min_size=outcomes, max_size=outcomes)
    )
    if sum(masses) == 0:
        masses = [1.0, *masses[1:]]
    total = sum(masses)
    return [mass / total for mass in masses]


@st.composite
def rewards(draw: st.DrawFn, outcomes: int) -> list[float]:
    """r [outcomes] >= 0: constant, one-hot, with ties, or any numbers in [0, 1]."""
    kind = draw(st.sampled_from(["constant", "one-hot", "ties", "any", "any"]))
    if kind == "constant":
        return [draw(st.sampled_from([0.0, 0.1, 1.0, 1.0 / 3.0]))] * outcomes
    if kind == "one-hot":
        at = draw(st.integers(0, outcomes - 1))
        return [1.0 if x == at else 0.0 for x in range(outcomes)]
    entries = st.sampled_from([0.0, 0.25, 0.5, 1.0]) if kind == "ties" else st.floats(0, 1).map(lambda v: round(v, 6))
    return draw(st.lists(entries, min_size=outcomes, max_size=outcomes))


@st.composite
def table_games(draw: st.DrawFn, names: tuple[str, ...] = tuple(NAMES), exponent: float = np.inf) -> TableGame:
    """A game over a table: up to 3 prompts of 1 to 6 outcomes, up to 3 groups, exponents up to the given one."""
    name = draw(st.sampled_from(names))
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    count = draw(st.integers(1, 3))
    groups = [[draw(rewards(outcomes)) for outcomes in shape] for _ in range(count)]
    if count > 1 and draw(st.booleans()):
        groups[1] = groups[0]  # identical groups
    strength = draw(strengths())
    sized = [draw(sizes()) for _ in range(count)]
    strength = max(strength, sum(sized) / exponent)
    weights = draw(st.lists(st.integers(1, 8), min_size=len(shape), max_size=len(shape)))
    return TableGame(
        name,
        strength,
        [draw(references(outcomes)) for outcomes in shape],
        groups,
        sized,
        [weight / sum(weights) for weight in weights],
    )


@dataclass(frozen=True)
class MenuGame:
    """Everything that a settlement over a menu of K entries needs."""

    divergence: list[float]
    strength: float
    rewards: list[list[float]]
    sizes: list[int]

    def space(self) -> Any:
        """Return the package's menu."""
        return rg.Menu(self.divergence, strength=self.strength)

    def reports(self) -> list[Any]:
        """Return the package's reports."""
        return [rg.Report(row, size=size) for row, size in zip(self.rewards, self.sizes, strict=True)]


@st.composite
def menu_games(draw: st.DrawFn) -> MenuGame:
    """A game over a menu; all numbers are multiples of 1/64, so that a tie is a tie in floating point too."""
    entries, count = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    numbers = st.integers(0, 64).map(lambda k: k / 64)
    row = st.lists(numbers, min_size=entries, max_size=entries)
    return MenuGame(
        draw(row),
        draw(st.sampled_from([2.0**-10, 0.5, 1.0, 64.0])),
        [draw(row) for _ in range(count)],
        [draw(sizes()) for _ in range(count)],
    )
