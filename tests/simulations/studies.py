"""Small studies for the tests."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.engines import Engine
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import Study, parse_study
from rlhf_game.simulations.trials import column_of

GAMES: dict[str, Any] = {
    "seed": 5,
    "games": 40,
    "scenario": {"kind": "random", "groups": 3, "outcomes": 6, "sizes": [1, 4]},
    "strength": 0.5,
    "strategies": [{"kind": "polarize"}, {"kind": "resize"}],
    "chunk": 16,
}
MARKET: dict[str, Any] = {
    "kind": "market",
    "seed": 3,
    "games": 20,
    "scenario": {"kind": "random", "groups": 3, "outcomes": 6, "sizes": [1, 4]},
    "strength": 1.0,
    "rounds": 60,
    "menu": [{"kind": "polarize"}, {"kind": "resize", "factor": 3.0}, {"kind": "indifferent"}],
    "learning": {"kind": "multiplicative_weights", "rate": 0.5},
}


EQUILIBRIUM: dict[str, Any] = {
    "kind": "equilibrium",
    "seed": 5,
    "games": 6,
    "scenario": {"kind": "random", "groups": 2, "outcomes": 3, "sizes": [1, 3]},
    "strength": 0.5,
    "beginnings": 2,
    "rounds": 6,
    "steps": 20,
    "chunk": 4,
}


@final
class Interrupted(Engine):
    """Stops after some tasks, as a power cut would between two of them."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.done = 0

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            if self.done == self._after:
                raise KeyboardInterrupt
            self.done += 1
            yield function(task)


def study(changes: dict[str, Any] | None = None, of: dict[str, Any] = GAMES, base: Path = Path()) -> Study:
    return parse_study({**of, **(changes or {})}, "study.yaml", base)


def played(tmp_path: Path, changes: dict[str, Any] | None = None, of: dict[str, Any] = GAMES) -> dict[str, Any]:
    """The summary of a study that is played in ``tmp_path``."""
    return simulate(study(changes, of), tmp_path / "out").summary


def rows(made: Study, at: int = 0) -> dict[str, np.ndarray]:
    """The columns of a point of a study, without a folder; those of the groups, ``gain_i``, as arrays [rows, n]."""
    point = made.points[at]
    table = point.fields.play(point.source, point.layout, point.trials(range(point.fields.games)), {})
    found = {name: np.array(table.column(name).to_pylist()) for name in table.column_names}
    for name in point.layout.by_group:
        found[name] = np.stack([found[column_of(name, i)] for i in range(point.layout.groups)], axis=1)
    return found


def means(summary: dict[str, Any], measure: str, part: str = "measures") -> dict[tuple[str, str], float]:
    """A measure by strategy (empty for a market) and payment rule."""
    return {(one.get("strategy", ""), one["payment"]): one[part][measure]["estimate"] for one in summary["summaries"]}
