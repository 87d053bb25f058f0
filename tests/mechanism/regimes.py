"""The hard regimes of exactness as games: each has a name, and the reason why it is hard."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.strategies import NAMES, TableGame


@dataclass(frozen=True)
class Regime:
    """A family of games, one per divergence and seed."""

    name: str
    make: Callable[[str, np.random.Generator], TableGame]
    names: tuple[str, ...] = tuple(NAMES)


def _game(
    name: str,
    strength: float,
    reference: list[float] | np.ndarray,
    rewards: list[list[float]] | np.ndarray,
    sizes: list[int],
) -> TableGame:
    plain = [[[float(entry) for entry in reward]] for reward in rewards]
    return TableGame(name, strength, [[float(q) for q in reference]], plain, sizes, [1.0])


def _uniform(outcomes: int) -> np.ndarray:
    return np.full(outcomes, 1 / outcomes)


def moderate(name: str, rng: np.random.Generator) -> TableGame:
    """Nothing is hard here."""
    return _game(name, 0.5, rng.dirichlet(np.ones(5)), rng.uniform(0, 1, (3, 5)), [1, 2, 3])


def tiny_payments(name: str, rng: np.random.Generator) -> TableGame:
    """Payments of about 1e-19 beside utilities of about 1e-4: a difference of two maxima has no digit left."""
    return _game(name, 0.1, rng.dirichlet(np.ones(5)), 1e-4 + 1e-10 * rng.uniform(0, 1, (3, 5)), [1, 1, 2])


def small_rewards(name: str, rng: np.random.Generator) -> TableGame:
    """Everything is small beside the strength."""
    return _game(name, 1.0, rng.dirichlet(np.ones(6)), 1e-7 * rng.uniform(0, 1, (3, 6)), [1, 2, 1])


def strong(name: str, rng: np.random.Generator) -> TableGame:
    """Strength 1e8: the policy is the reference up to 1e-8, and D(p || q) is about 1e-17."""
    return _game(name, 1e8, rng.dirichlet(np.ones(5)) * 0.8 + 0.04, rng.uniform(0, 1, (3, 5)), [1, 4, 2])


def strong_with_zeros(name: str, rng: np.random.Generator) -> TableGame:
    """Strength 1e8 and outcomes that the reference excludes: under squared L2 they open and close."""
    q = np.array([0.5, 0.0, 0.25, 0.0, 0.25])
    return _game(name, 1e8, q, rng.uniform(0, 1, (3, 5)), [1, 4, 2])


def weak(name: str, rng: np.random.Generator) -> TableGame:
    """Exponents of 1e4: p* underflows to 0 exactly where the policy without a group lives."""
    return _game(name, 1e-4, rng.dirichlet(np.ones(5)), rng.uniform(0, 1, (3, 5)), [1, 1, 1])


def very_weak(name: str, rng: np.random.Generator) -> TableGame:
    """Exponents of 1e6."""
    return _game(name, 1e-6, rng.dirichlet(np.ones(5)), np.round(rng.uniform(0, 1, (3, 5)), 2), [1, 1, 1])


def opposed(name: str, rng: np.random.Generator) -> TableGame:
    """Exponents of 1e4 to 1e6, and each group alone would train a vertex of its own."""
    scale = 10.0 ** rng.integers(-6, -3)
    return _game(name, scale, rng.dirichlet(np.ones(4)), np.eye(4)[:3] + 0.01 * rng.uniform(0, 1, (3, 4)), [3, 2, 1])


def underflow_everywhere(name: str, rng: np.random.Generator) -> TableGame:
    """Exponents of 500 to 900: across the range of a double's exponent, where exp neither works nor fails clearly."""
    return _game(name, 1 / rng.uniform(500, 900), rng.dirichlet(np.ones(6)), rng.uniform(0, 1, (3, 6)), [1, 1, 1])


def nearly_tied(name: str, rng: np.random.Generator) -> TableGame:
    """A large group leaves two outcomes almost tied, and small groups decide between them."""
    top = np.array([0.75, 0.75 + 2.0**-22, 0.25, 0.5])
    return _game(name, 1.0, _uniform(4), np.vstack([top, rng.uniform(0, 1, (2, 4))]), [1_000_000, 1, 1])


def indifferent_giant(name: str, rng: np.random.Generator) -> TableGame:
    """A group of a million is indifferent between two outcomes at a small strength; one-member groups break the tie."""
    giant = np.array([1.0, 1.0, 0.3, 0.1])
    return _game(name, 1e-3, _uniform(4), np.vstack([giant, 0.001 * rng.uniform(0, 1, (2, 4))]), [1_000_000, 1, 1])


def million_beside_one(name: str, rng: np.random.Generator) -> TableGame:
    """Sizes of a million beside 1, at a moderate strength per member."""
    return _game(
        name, 10.0 ** rng.integers(3, 7), rng.dirichlet(np.ones(5)), rng.uniform(0, 1, (3, 5)), [1_000_000, 1, 3]
    )


def million_weak(name: str, rng: np.random.Generator) -> TableGame:
    """Sizes of a million beside 1 at a small strength: the small groups pay for what only they decide, or nothing."""
    coarse = np.array([[1.0, 0.5, 0.5, 0.0], rng.uniform(0, 1, 4), rng.uniform(0, 1, 4)])
    return _game(name, 0.1, rng.dirichlet(np.ones(4)), coarse, [1_000_000, 1, 2])


def zero_reference(name: str, rng: np.random.Generator) -> TableGame:
    """Outcomes that the reference excludes, one of them everybody's favourite."""
    q = np.array([0.0, 0.5, 0.25, 0.0, 0.25])
    rewards = rng.uniform(0, 1, (3, 5))
    rewards[:, 0] = 1
    return _game(name, 0.3, q, rewards, [1, 2, 1])


def tiny_reference(name: str, rng: np.random.Generator) -> TableGame:
    """Probabilities down to 1e-300; 1e-100 where the divergence takes powers of p / q up to the third."""
    q = np.array([1e-300 if name in ("kl", "l2") else 1e-100, 0.5, 1e-12, 0.25, 0.25 - 1e-12])
    rewards = rng.uniform(0, 1, (3, 5))
    rewards[0] = [1, 0, 0, 0, 0]
    return _game(name, 0.02, q, rewards, [2, 1, 1])


def one_outcome(name: str, rng: np.random.Generator) -> TableGame:
    """Nothing to choose."""
    return _game(name, 0.3, [1.0], rng.uniform(0, 1, (3, 1)), [1, 2, 1])


def one_group(name: str, rng: np.random.Generator) -> TableGame:
    """It alone moves the policy away from the reference."""
    return _game(name, 0.3, rng.dirichlet(np.ones(4)), rng.uniform(0, 1, (1, 4)), [2])


def identical_groups(name: str, rng: np.random.Generator) -> TableGame:
    """Three times the same report."""
    return _game(name, 0.3, rng.dirichlet(np.ones(4)), np.tile(rng.uniform(0, 1, 4), (3, 1)), [1, 1, 1])


def offset(name: str, rng: np.random.Generator) -> TableGame:
    """Rewards with a common offset of 2^30: only differences matter, and they are exact in the input."""
    fine = rng.integers(0, 2**20, (3, 5)) / 2**20
    return _game(name, 0.5, rng.dirichlet(np.ones(5)), 2.0**30 + fine, [1, 3, 2])


def uneven_offsets(name: str, rng: np.random.Generator) -> TableGame:
    """One group's rewards are near 2^30, the others' near 0."""
    fine = rng.integers(0, 2**20, (3, 5)) / 2**20
    fine[0] += 2.0**30
    return _game(name, 0.5, rng.dirichlet(np.ones(5)), fine, [1, 3, 2])


def negative_rewards(name: str, rng: np.random.Generator) -> TableGame:
    """Rewards below zero are allowed when no domain is declared."""
    return _game(name, 0.4, rng.dirichlet(np.ones(5)), rng.uniform(-1, 1, (3, 5)), [1, 2, 1])


def vertex(name: str, rng: np.random.Generator) -> TableGame:
    """Squared L2 and chi-squared at a vertex: everybody wants the same outcome, and a group alone is not decisive."""
    rewards = np.array([[1, 0, 0, 0], [1, 0.5, 0, 0], [0.75, 1, 0, 0.25]])
    return _game(name, 0.125, _uniform(4), rewards, [4, 1, 1])


def exactly_at_vertex(name: str, rng: np.random.Generator) -> TableGame:
    """Dyadic numbers that put the policy just on a face: a multiplier and a probability are both exactly 0."""
    return _game(name, 0.5, [0.5, 0.5, 0, 0], np.array([[1, 0, 0, 0], [0, 0.5, 0.5, 0]]), [1, 1])


def ties(name: str, rng: np.random.Generator) -> TableGame:
    """Many equal entries."""
    return _game(name, 0.25, _uniform(8), rng.choice([0.0, 0.5, 1.0], (4, 8)), [1, 1, 2, 1])


def many_outcomes(name: str, rng: np.random.Generator) -> TableGame:
    """More outcomes, most of them of small probability."""
    return _game(
        name, 0.05, rng.dirichlet(np.full(20, 0.3)) * 0.999 + 0.001 / 20, rng.uniform(0, 1, (4, 20)), [1, 2, 1, 3]
    )


def many_groups(name: str, rng: np.random.Generator) -> TableGame:
    """Thirty groups, each a small part of the score."""
    return _game(
        name, 1.0, rng.dirichlet(np.ones(4)), rng.uniform(0, 0.1, (30, 4)), [int(w) for w in rng.integers(1, 9, 30)]
    )


def cancelling_groups(name: str, rng: np.random.Generator) -> TableGame:
    """Two large groups want the opposite and cancel exactly; what is left is a small group's."""
    side = rng.integers(0, 1024, 4) / 1024
    return _game(
        name, 0.5, rng.dirichlet(np.ones(4)), np.array([side, 1 - side, rng.uniform(0, 1, 4)]), [1000, 1000, 1]
    )


def decided_by_others(name: str, rng: np.random.Generator) -> TableGame:
    """A group that changes only what has almost no probability: payments of 1e-30 and less."""
    rewards = np.array([[1, 0, 0, 0], [0, 0, 0.5, 1]], dtype=float)
    return _game(name, 1.0, _uniform(4), rewards, [int(rng.integers(60, 90)), 1])


def enters_beside_certainty(name: str, rng: np.random.Generator) -> TableGame:
    """Without the large group an excluded outcome enters (squared L2) with a mass of 1e-11, beside one of 1."""
    small, other = rng.uniform(0.5, 1, 2)
    rewards = [[5e-6 * small, 5e-12], [0.74 * other, 0.045], [4.8e-10, 3.7e-6]]
    return _game(name, 6e4, [1.0, 0.0], np.array(rewards), [2, 1000, 5])


def rare_outcome(name: str, rng: np.random.Generator) -> TableGame:
    """One outcome has nearly all the probability; large groups want the rare one, small ones hardly care."""
    u = rng.uniform(0.5, 1, 8)
    rewards = [
        [4e-9 * u[0], 4e-3 * u[1]],
        [0.02 * u[2], 4e-12 * u[3]],
        [2e-9 * u[4], 9e-10 * u[5]],
        [1e-3 * u[6], 9e-7],
    ]
    return _game(name, 3.0, [1 - 4e-7 * u[7], 4e-7 * u[7]], np.array(rewards), [1_000_000, 1000, 1000, 1])


REGIMES = [
    Regime(make.__name__, make)
    for make in (
        moderate,
        tiny_payments,
        small_rewards,
        strong,
        strong_with_zeros,
        weak,
        very_weak,
        opposed,
        underflow_everywhere,
        nearly_tied,
        indifferent_giant,
        million_beside_one,
        million_weak,
        zero_reference,
        tiny_reference,
        one_outcome,
        one_group,
        identical_groups,
        offset,
        uneven_offsets,
        negative_rewards,
        vertex,
        exactly_at_vertex,
        ties,
        many_outcomes,
        many_groups,
        cancelling_groups,
        decided_by_others,
        enters_beside_certainty,
        rare_outcome,
    )
]
