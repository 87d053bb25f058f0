"""Bets against the law of draws: their mean is 1 by listing all draws, and they win where the draws are others."""

from itertools import product

import numpy as np
import pytest

from rlhf_game.mechanism.sampled.evidence import CHANCE, REPEATS, bets, other_law

P = np.array([0.5, 0.3, 0.15, 0.05])
OTHERS = {"sharp": P**2 / (P**2).sum(), "cut": np.array([0.625, 0.375, 0.0, 0.0]), "flat": np.full(4, 0.25)}


def logs(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


def test_every_bet_is_worth_what_it_costs() -> None:
    """The mean over all sequences of five draws of two prompts, weighed by their probabilities."""
    total = dict.fromkeys([*OTHERS, REPEATS], 0.0)
    for listed in product(range(4), repeat=5):
        x = list(listed)
        draws = [(k % 2, outcome) for k, outcome in enumerate(x)]
        won = bets(draws, logs(P)[x], {name: logs(q)[x] for name, q in OTHERS.items()})
        for name, one in won.items():
            total[name] += np.exp(logs(P)[x].sum() + one)
    assert total == pytest.approx(dict.fromkeys(total, 1.0), rel=1e-12)


def found(x: np.ndarray) -> str | None:
    return other_law([(0, k) for k in x.tolist()], logs(P)[x], {name: logs(q)[x] for name, q in OTHERS.items()})


@pytest.mark.parametrize("law", OTHERS)
def test_draws_of_another_law_are_known(law: str) -> None:
    x = np.random.default_rng(0).choice(4, size=1000, p=OTHERS[law])
    assert found(x) in {law, REPEATS}


def test_draws_of_the_law_that_is_said_are_not_refused() -> None:
    """Of 200 files of 400 draws; the most that a bet won is far below what refuses, and more than nothing."""
    rng, largest = np.random.default_rng(1), -np.inf
    for _ in range(200):
        x = rng.choice(4, size=400, p=P)
        assert found(x) is None
        won = bets([(0, k) for k in x.tolist()], logs(P)[x], {name: logs(q)[x] for name, q in OTHERS.items()})
        largest = max(largest, max(won.values()))
    assert 0 < largest < -np.log(CHANCE)


def test_rows_that_were_copied_are_known_by_what_is_too_rare_to_come_twice() -> None:
    """A response of 60 nats that comes twice is none that was drawn twice; ten that come once are no evidence."""
    once = [(0, k) for k in range(10)]
    assert other_law(once, np.full(10, -60.0), {}) is None
    assert other_law([*once, (0, 3)], np.full(11, -60.0), {}) == REPEATS
    assert other_law([*once, (1, 3)], np.full(11, -60.0), {}) is None  # of another prompt
    assert other_law([], [], {}) is None
