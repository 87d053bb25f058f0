"""Every implementation of PolicySpace, one entry each: a new one is done when its entry passes the contract suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import rlhf_game as rg
from rlhf_game.mechanism.spaces.base import PolicySpace
from tests.strategies import NAMES, regularizer

Rng = np.random.Generator


@dataclass(frozen=True)
class Implementation:
    """How to make a space of some strength, and what its rewards look like to the groups that report them."""

    name: str
    build: Callable[[float], PolicySpace[Any]]
    draw: Callable[[Rng], Any]
    """A random reward, >= 0 on every outcome: an array, or a list of arrays."""
    constant: Callable[[float], Any]
    """The reward that gives every outcome the same."""
    strength: float = 0.5
    is_interior: bool = True
    """Whether the optimum leaves every outcome a chance, so that Thm 3.3 holds: without payments exaggeration gains."""


def mix(first: float, one: Any, second: float, other: Any) -> Any:
    """Return first * one + second * other, for rewards as groups report them."""
    if isinstance(one, list):
        return [mix(first, a, second, b) for a, b in zip(one, other, strict=True)]
    return first * np.asarray(one) + second * np.asarray(other)


def table(
    name: str, reference: Any, kind: str, strength: float = 0.5, *, interior: bool = True, **options: Any
) -> Implementation:
    """Return the entry of a Table with this reference and divergence."""
    ragged = isinstance(reference, list)

    def like(fill: Callable[[tuple[int, ...]], Any]) -> Any:
        return [fill(np.shape(row)) for row in reference] if ragged else fill(np.shape(reference))

    return Implementation(
        f"Table-{name}-{kind}",
        build=lambda unit: rg.Table(reference, regularizer=regularizer(kind, unit), **options),
        draw=lambda rng: like(lambda shape: rng.uniform(0, 1, shape)),
        constant=lambda level: like(lambda shape: np.full(shape, level)),
        strength=strength,
        is_interior=interior,
    )


def chain(name: str, next_state: list[list[int]], horizon: int) -> Implementation:
    """Return the entry of an automaton all of whose sequences have ``horizon`` tokens."""
    from rlhf_game.mechanism.spaces.chain import Chain

    shape = np.shape(next_state)
    reference = np.random.default_rng(3).dirichlet(np.ones(shape[1]), shape[0])
    return Implementation(
        f"Chain-{name}",
        build=lambda unit: Chain(next_state, reference, rg.KL(strength=unit), horizon=horizon),
        draw=lambda rng: rng.uniform(0, 1, shape) / horizon,
        constant=lambda level: np.full(shape, level / horizon),
    )


def trie(name: str, missing: list[float]) -> Implementation:
    """Return the entry of a trie over the outcomes of RAGGED; its bounds are wide, since the suite shifts rewards."""
    from rlhf_game.mechanism.spaces.trie import Trie

    return Implementation(
        f"Trie-{name}",
        build=lambda unit: Trie(RAGGED, missing, rg.KL(strength=unit), bounds=(-1e6, 1e6)),
        draw=lambda rng: [rng.uniform(0, 1, len(row)) for row in RAGGED],
        constant=lambda level: [np.full(len(row), level) for row in RAGGED],
        is_interior=False,
    )


def on_torch(entry: Implementation, reference: Any, **options: Any) -> Implementation:
    """Return the entry of a KL table with its arithmetic in torch."""

    def build(unit: float) -> PolicySpace[Any]:
        from rlhf_game.training_backends import TorchTable

        return TorchTable(reference, rg.KL(strength=unit), **options)

    return replace(entry, name=entry.name.replace("Table", "TorchTable"), build=build)


def menu(name: str, divergence: list[float]) -> Implementation:
    """Return the entry of a menu."""
    return Implementation(
        f"Menu-{name}",
        build=lambda unit: rg.Menu(divergence, strength=unit),
        draw=lambda rng: rng.uniform(0, 1, len(divergence)),
        constant=lambda level: np.full(len(divergence), level),
        is_interior=False,
    )


def candidates(name: str) -> Implementation:
    """Return the entry of responses that were drawn before; rewards are numbers, one for each distinct response."""
    from rlhf_game.outcomes.candidates import Candidates

    responses = [["yes", "no", "yes", "maybe"], ["one", "two"], ["so", "so"]]

    def build(unit: float) -> PolicySpace[Any]:
        return Candidates(["a?", "b?", "c?"], responses, rg.KL(strength=unit), prompt_weights=[0.5, 0.3, 0.2])

    return Implementation(
        f"Candidates-{name}",
        build=build,
        draw=lambda rng: [rng.uniform(0, 1, width) for width in (3, 2, 1)],
        constant=lambda level: [np.full(width, level) for width in (3, 2, 1)],
    )


FLAT = np.array([0.4, 0.3, 0.2, 0.1])
MANY = np.random.default_rng(1).dirichlet(np.ones(5), 7)
RAGGED = [np.array([0.5, 0.3, 0.2]), np.array([1.0]), np.array([0.25, 0.75]), np.array([0.1, 0.6, 0.3])]
HOLES = np.array([[0.5, 0.0, 0.5, 0.0], [0.0, 0.25, 0.25, 0.5]])
LONG = np.random.default_rng(2).dirichlet(np.ones(70_000))  # longer than a block

IMPLEMENTATIONS = [
    *(table("flat", FLAT, name, 5.0) for name in NAMES),  # 5.0: no outcome drops out under any divergence
    *(table("weak", FLAT, name, 0.1, interior=False) for name in NAMES),
    *(table("prompts", MANY, name, 0.5, interior=False) for name in NAMES),
    *(
        table("ragged", RAGGED, name, 0.5, interior=False, prompt_weights=[0.4, 0.1, 0.3, 0.2])
        for name in ("kl", "l2", "js", "alpha:3")
    ),
    *(table("holes", HOLES, name, 0.5, interior=False) for name in NAMES),
    *(table("long", LONG, name, 0.5, interior=name == "kl") for name in ("kl", "l2")),
    table("one-outcome", np.array([1.0]), "kl", interior=False),
    on_torch(table("flat", FLAT, "kl", 5.0), FLAT),
    on_torch(table("weak", FLAT, "kl", 0.1, interior=False), FLAT),
    on_torch(table("ragged", RAGGED, "kl", interior=False), RAGGED, prompt_weights=[0.4, 0.1, 0.3, 0.2]),
    on_torch(table("holes", HOLES, "kl", interior=False), HOLES),
    on_torch(table("long", LONG, "kl"), LONG),
    menu("five", [0.0, 0.1, 0.2, 0.4, 0.8]),
    menu("one", [0.3]),
    chain("two-states", [[0, 1, 1], [1, 0, 1]], 4),
    chain("unreachable", [[1, 1], [0, 1], [2, 0]], 3),
    chain("one-state", [[0, 0, 0, 0]], 1),
    trie("prompts", [0.01, 0.0, 0.2, 0.5]),
    candidates("three-prompts"),
]
