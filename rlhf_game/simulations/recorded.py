"""Populations out of a run directory: candidates of a real language model, scored by real rewards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.build import build
from rlhf_game.files.documents import shown
from rlhf_game.files.games import SUFFIXES, read_game
from rlhf_game.files.schema import Name
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.populations import Population, PopulationSource, Scenario, Size


@final
@dataclass(frozen=True, eq=False)
class Recorded(PopulationSource):
    """A game's prompts, one of which is drawn for each simulated game: rewards [n, m] and reference [m] of each.

    prompt_weights: [B], they sum to 1. sizes: [n]; ``sizes_range``: least and largest of sizes drawn anew, or None.
    """

    rewards: tuple[Array, ...]
    references: tuple[Array, ...]
    prompt_weights: Array
    sizes: Array
    sizes_range: tuple[int, int] | None
    called: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the game."""
        return self.called

    @property
    def count(self) -> int:
        """The groups of the game."""
        return len(self.sizes)

    def draw(self, rng: np.random.Generator, normalization: Normalization) -> Population:
        """Return the groups on a random prompt."""
        at = int(rng.choice(len(self.rewards), p=self.prompt_weights))
        sizes = self.sizes
        if self.sizes_range is not None:
            sizes = rng.integers(*self.sizes_range, size=len(sizes), endpoint=True).astype(np.float64)
        return Population(self.rewards[at], sizes, self.references[at])


@final
class RunScenario(Scenario):
    """The game of ``rlhf-game run``, or any game file with a table of outcomes; each game is on one of its prompts."""

    kind: Literal["run"]
    game: Name
    """The run directory, or the game file."""
    sizes: Annotated[list[Size], Field(min_length=2, max_length=2)] | None = None
    """The least and the largest size, drawn anew for each game; default: the sizes of the file."""

    def files(self) -> tuple[str, ...]:
        """Return the game file."""
        return (self.game if Path(self.game).suffix.lower() in SUFFIXES else f"{self.game}/game.json",)

    def source(self, base: Path, normalization: Normalization) -> PopulationSource:
        """Return the prompts of the file; raises InputError when it holds another kind of game or another domain."""
        if self.sizes is not None and self.sizes[0] > self.sizes[1]:
            raise InputError(f"scenario.sizes: must be [least, largest], found {self.sizes}")
        game = read_game(base / self.files()[0])
        fields = game.fields
        if not fields.is_whole_table or fields.weights is not None or fields.boosts is not None:
            raise InputError(
                "scenario.game: must hold a table of outcomes that lacks none, without weights or boosts; found "
                f"another game in {shown(game.name, 200)}"
            )
        if fields.normalization != normalization:
            raise InputError(
                f"normalization: must be that of the game file ({fields.normalization}), found {normalization}"
            )
        space, _, groups = build(game)
        table = space.enumeration
        for group in groups:
            space.read(group.reward)
        references = _rows(game.reference)
        rewards = [_rows(reward) for reward in game.rewards]
        return Recorded(
            tuple(np.stack(on_prompt) for on_prompt in zip(*rewards, strict=True)),
            tuple(reference / reference.sum() for reference in references),
            table.prompt_weights,
            np.array([float(group.size) for group in fields.groups]),
            None if self.sizes is None else (self.sizes[0], self.sizes[1]),
            tuple(group.name for group in fields.groups),
        )


def _rows(table: Array | list[Array]) -> list[Array]:
    """Return the rows of a table: [m] arrays, one for each prompt."""
    if isinstance(table, list):
        return [np.asarray(row, dtype=np.float64) for row in table]
    return list(np.atleast_2d(np.asarray(table, dtype=np.float64)))
