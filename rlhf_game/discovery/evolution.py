"""Proposals without a network: random expressions, and mutation and crossover of the best ones so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.discovery.archive import Entry, ExpressionProposal, ranked
from rlhf_game.discovery.expressions import (
    OF_BATCH,
    UNARY,
    Apply,
    Expression,
    Limits,
    Name,
    Number,
    depth,
    parse,
    parts_of,
    size,
    write,
)
from rlhf_game.discovery.proposers import ExpressionProposer

ARITHMETIC = ("add", "subtract", "multiply", "divide")
NUMBERS = (0.1, 0.5, 1.0, 2.0, 5.0)
_LEAVES = (*("z",) * 9, "tau", "chosen", "rejected")
ATTEMPTS = 50


@final
@dataclass(frozen=True)
class Evolution(ExpressionProposer):
    """Tournaments choose parents among those with a score; children are mutants or crossings, some are new."""

    seed: int
    limits: Limits = Limits()
    elite: int = 12
    """How many of the best may be parents."""
    tournament: int = 3
    newcomers: float = 0.15
    """The share of candidates that are random, once there are parents."""
    parsimony: float = 0.001
    """Of the score, what each number, name and operation of a parent has to be worth."""

    def propose(self, archive: Sequence[Entry], generation: int, count: int) -> list[ExpressionProposal]:
        """Return ``count`` proposals; the same archive gives the same ones. No text is proposed that is known."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(generation,)))
        parents = self._parents(archive)
        known = {entry.text for entry in archive}
        found: list[ExpressionProposal] = []
        while len(found) < count:
            for _ in range(ATTEMPTS):
                proposal = self._one(parents, rng)
                if proposal.text not in known:
                    break
            known.add(proposal.text)
            found.append(proposal)
        return found

    def _parents(self, archive: Sequence[Entry]) -> list[tuple[str, Expression]]:
        """Return the names and expressions of the best, the best first."""
        found = [(entry, parse(entry.text, self.limits)) for entry in ranked(archive)]
        found.sort(key=lambda one: self.parsimony * size(one[1]) - (one[0].score or 0.0))
        return [(entry.name, expression) for entry, expression in found[: self.elite]]

    def _one(self, parents: Sequence[tuple[str, Expression]], rng: np.random.Generator) -> ExpressionProposal:
        for _ in range(ATTEMPTS):
            child, origin = self._child(parents, rng)
            if size(child) <= self.limits.size and depth(child) <= self.limits.depth:
                return ExpressionProposal(write(child), origin)
        return ExpressionProposal(write(grow(rng, 3)), "random")

    def _child(self, parents: Sequence[tuple[str, Expression]], rng: np.random.Generator) -> tuple[Expression, str]:
        if not parents or rng.random() < self.newcomers:
            return grow(rng, 3), "random"
        name, first = self._chosen(parents, rng)
        if len(parents) > 1 and rng.random() < 0.35:
            other, second = self._chosen(parents, rng)
            return cross(first, second, rng), f"crossing of {name} and {other}"
        child = first
        for _ in range(1 + int(rng.geometric(0.6))):
            child = mutate(child, rng)
        return child, f"mutant of {name}"

    def _chosen(self, parents: Sequence[tuple[str, Expression]], rng: np.random.Generator) -> tuple[str, Expression]:
        return parents[int(rng.integers(len(parents), size=self.tournament).min())]  # they are in order


def grow(rng: np.random.Generator, most: int) -> Expression:
    """Return a random expression of at most ``most`` levels of operations."""
    if most == 0 or rng.random() < 0.15:
        if rng.random() < 0.35:
            return Number(float(rng.choice(NUMBERS)))
        return Name(str(rng.choice(_LEAVES)))
    draw = rng.random()
    if draw < 0.45:
        return Apply(str(rng.choice(UNARY)), (grow(rng, most - 1),))
    if draw < 0.50:
        return Apply(str(rng.choice(OF_BATCH)), (grow(rng, most - 1),))
    if draw < 0.58:
        return Apply("negate", (grow(rng, most - 1),))
    if draw < 0.95:
        return Apply(str(rng.choice(ARITHMETIC)), (grow(rng, most - 1), grow(rng, most - 1)))
    condition = Apply("less", (Name("z"), Number(float(np.round(rng.normal(), 2)))))
    return Apply("where", (condition, grow(rng, most - 1), grow(rng, most - 1)))


def mutate(expression: Expression, rng: np.random.Generator) -> Expression:
    """Return the expression with one change at a random place."""
    places = list(_places(expression))
    place = places[int(rng.integers(len(places)))]
    old = _at(expression, place)
    draw = rng.random()
    if draw < 0.30:
        new: Expression = grow(rng, 2)
    elif draw < 0.45:
        new = Apply(str(rng.choice(UNARY)), (old,))
    elif draw < 0.65:
        new = Apply(str(rng.choice(ARITHMETIC)), (old, grow(rng, 1)))
    elif draw < 0.75 and parts_of(old):
        inner = parts_of(old)
        new = inner[int(rng.integers(len(inner)))]
    elif isinstance(old, Number):
        new = Number(float(f"{old.value * np.exp(rng.normal(scale=0.5)):.3g}"))
    elif isinstance(old, Name):
        new = Name(str(rng.choice(_LEAVES)))
    else:
        new = _other(old, rng)
    return _with(expression, place, new)


def _other(old: Apply, rng: np.random.Generator) -> Expression:
    """Return the operation with another one of as many parts in its place."""
    for family in (UNARY, ARITHMETIC, OF_BATCH):
        if old.operation in family:
            return Apply(str(rng.choice(family)), old.parts)
    return Apply("negate", (old,))


def cross(first: Expression, second: Expression, rng: np.random.Generator) -> Expression:
    """Return the first expression with a part of the second in the place of one of its own."""
    places, others = list(_places(first)), list(_places(second))
    place, other = places[int(rng.integers(len(places)))], others[int(rng.integers(len(others)))]
    return _with(first, place, _at(second, other))


def _places(expression: Expression) -> Iterator[tuple[int, ...]]:
    """Yield the way to every part: the number of the part at each operation."""
    yield ()
    for k, part in enumerate(parts_of(expression)):
        yield from ((k, *rest) for rest in _places(part))


def _at(expression: Expression, place: tuple[int, ...]) -> Expression:
    for k in place:
        expression = parts_of(expression)[k]
    return expression


def _with(expression: Expression, place: tuple[int, ...], new: Expression) -> Expression:
    if not place or not isinstance(expression, Apply):
        return new
    k, *rest = place
    parts = tuple(_with(part, tuple(rest), new) if i == k else part for i, part in enumerate(expression.parts))
    return Apply(expression.operation, parts)
