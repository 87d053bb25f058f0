"""Small automata for tests, with every sequence written out; nothing here uses the package's recursions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import rlhf_game as rg
from rlhf_game.mechanism.spaces.chain import Chain
from tests import oracles
from tests.strategies import sizes, strengths


@dataclass(frozen=True)
class AutomatonGame:
    """A game over an automaton's sequences, in plain lists."""

    next_state: list[list[int]]
    reference: list[list[float]]
    horizon: int
    initial: int
    strength: float
    rewards: list[list[list[float]]]
    sizes: list[int]

    def space(self, normalization: str = "none") -> Chain:
        return Chain(
            self.next_state,
            self.reference,
            rg.KL(self.strength),
            horizon=self.horizon,
            initial=self.initial,
            normalization=normalization,
        )

    def reports(self) -> list[Any]:
        return [rg.Report(table, size=size) for table, size in zip(self.rewards, self.sizes, strict=True)]

    def paths(self) -> list[list[tuple[int, int]]]:
        """Every complete sequence as its (state, token) pairs, in lexicographic order."""
        return list(self._paths([], self.initial))

    def _paths(self, path: list[tuple[int, int]], state: int) -> Iterator[list[tuple[int, int]]]:
        if state == -1 or len(path) == self.horizon:
            yield path
            return
        for token, after in enumerate(self.next_state[state]):
            yield from self._paths([*path, (state, token)], after)

    def sequences(self) -> list[tuple[int, ...]]:
        return [tuple(token for _, token in path) for path in self.paths()]

    def probability(self, path: list[tuple[int, int]]) -> float:
        return float(np.prod([self.reference[state][token] for state, token in path]))

    def along(self, table: list[list[float]]) -> list[float]:
        """The reward of every sequence (exact in floating point for multiples of 1/64)."""
        return [sum(table[state][token] for state, token in path) for path in self.paths()]

    def table(self) -> tuple[list[float], list[list[float]]]:
        """The reference and the rewards over the enumerated sequences."""
        return [self.probability(path) for path in self.paths()], [self.along(reward) for reward in self.rewards]

    def exact(self) -> oracles.Exact:
        reference, rewards = self.table()
        return oracles.settle_exactly("kl", self.strength, [reference], [[row] for row in rewards], self.sizes)


@st.composite
def automaton_games(draw: st.DrawFn, exponent: float = 1e6) -> AutomatonGame:
    """Up to 3 states, 3 tokens, 4 steps: dead ends, loops, unreachable states, early ends, probabilities of zero.

    Rewards are multiples of 1/64, so that the sum along a sequence is the same number in every order.
    """
    states, tokens, horizon = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))

    def rows(entry: st.SearchStrategy[Any]) -> Any:
        row = st.lists(entry, min_size=tokens, max_size=tokens)
        return draw(st.lists(row, min_size=states, max_size=states))

    masses = [
        row if sum(row) > 0 else [1.0] * tokens
        for row in rows(st.one_of(st.sampled_from([0.0, 1e-12, 1.0]), st.integers(1, 64).map(float)))
    ]
    count = draw(st.integers(1, 3))
    sized = [draw(sizes()) for _ in range(count)]
    return AutomatonGame(
        next_state=rows(st.integers(-1, states - 1)),
        reference=[[mass / sum(row) for mass in row] for row in masses],
        horizon=horizon,
        initial=draw(st.integers(0, states - 1)),
        strength=max(draw(strengths()), horizon * sum(sized) / exponent),
        rewards=[rows(st.integers(0, 64).map(lambda k: k / 64)) for _ in range(count)],
        sizes=sized,
    )
