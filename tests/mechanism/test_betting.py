"""Betting intervals hold the mean as often as they say, are as short as published, and need one common mean."""

import itertools
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.sampled.betting import betting_interval, pooled_interval

REPETITIONS = 2000
MISSES = 130
"""Of 2000 at a level of 95 %: 100 are expected, and more than 130 have a probability of 0.1 %."""
KINDS = {"half": 0.5, "rare": 0.02, "beta": 2 / 7, "rarest": 0.001}


def numbers(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if kind == "beta":
        return rng.beta(2, 5, shape)
    return (rng.random(shape) < KINDS[kind]).astype(float)


@pytest.mark.parametrize(
    ("kind", "count"), [*itertools.product(KINDS, [2, 16, 64]), ("half", 400), ("rare", 400), ("rarest", 400)]
)
def test_the_mean_is_inside_as_often_as_stated(kind: str, count: int) -> None:
    samples = 3 * numbers(kind, (REPETITIONS, count), np.random.default_rng(count)) - 1
    found = betting_interval(samples, (-1.0, 2.0))
    truth = 3 * KINDS[kind] - 1
    assert ((found.low > truth) | (found.high < truth)).sum() <= MISSES
    assert (found.low >= -1).all()
    assert (found.high <= 2).all()
    normal = 1.96 * samples.std(axis=1, ddof=1) / np.sqrt(count)
    if count * KINDS[kind] < 10 and kind != "beta":  # the negative control: what everybody uses misses rare events
        assert (np.abs(samples.mean(axis=1) - truth) > normal).sum() > MISSES


@pytest.mark.parametrize(("kind", "width"), [("half", 0.294), ("rare", 0.099), ("beta", 0.111)])
def test_widths_are_the_published_ones(kind: str, width: float) -> None:
    """Widths at N = 64 and 95 % of an independent program; Hoeffding and Bernstein are wider."""
    samples = numbers(kind, (REPETITIONS, 64), np.random.default_rng(5))
    found = betting_interval(samples, (0.0, 1.0)).width.mean()
    assert found == pytest.approx(width, abs=0.006)
    assert found < 2 * np.sqrt(np.log(2 / 0.05) / 128)


def test_different_means_in_a_row_break_it_and_their_sums_do_not() -> None:
    rng = np.random.default_rng(2)
    means = np.array([0.05, 0.5, 0.95, 0.2])
    draws = (rng.random((500, 4, 60)) < means[:, None]).astype(float)
    pooled = betting_interval(draws.reshape(500, -1), (0.0, 1.0))
    together = betting_interval(draws.mean(axis=1), (0.0, 1.0))
    truth = means.mean()
    assert ((pooled.low <= truth) & (truth <= pooled.high)).mean() < 0.8
    assert ((together.low <= truth) & (truth <= together.high)).mean() >= 0.95


@pytest.mark.parametrize("rho", [None, [0.4, 0.3, 0.2, 0.1]])
def test_rounds_of_different_prompts_are_pooled_and_narrow_like_one_over_the_root_of_the_prompts(rho: Any) -> None:
    """Bets of one round are the same for all prompts: the product over prompts is then no better than fair."""
    rng = np.random.default_rng(3)
    means = np.array([0.05, 0.5, 0.95, 0.2])
    weights = np.full(4, 0.25) if rho is None else np.array(rho)
    truth = weights @ means
    draws = (rng.random((1000, 4, 60)) < means[:, None]).astype(float)
    found = pooled_interval(draws, (0.0, 1.0), 0.95, rho)
    assert ((found.low > truth) | (found.high < truth)).sum() <= 73  # of 1000 at 95 %, with probability 0.1 % more
    assert found.value == pytest.approx(draws.mean(axis=2) @ weights)
    alone = betting_interval(draws[:, 1], (0.0, 1.0)).width.mean()
    same = (rng.random((200, 16, 60)) < 0.5).astype(float)
    assert pooled_interval(same, (0.0, 1.0)).width.mean() == pytest.approx(alone / 4, rel=0.1)


def test_rare_events_of_one_prompt_are_not_hidden_by_the_others() -> None:
    rng = np.random.default_rng(4)
    chances = np.array([0.004, 0.004, 0.004, 0.3])
    draws = (rng.random((1000, 4, 100)) < chances[:, None]).astype(float)
    found = pooled_interval(draws, (0.0, 1.0))
    assert ((found.low > chances.mean()) | (found.high < chances.mean())).sum() <= 73


def test_one_number_says_nothing_and_no_room_says_all() -> None:
    one = betting_interval([[0.3]], (0.0, 1.0))
    assert (one.low[0], one.high[0], one.value[0]) == (0.0, 1.0, 0.3)
    same = betting_interval([2.0, 2.0], (2.0, 2.0))
    assert (float(same.low), float(same.high)) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("samples", "bounds", "level"),
    [([], (0, 1), 0.9), ([0.5, 2.0], (0, 1), 0.9), ([0.5], (1, 0), 0.9), ([0.5], (0, 1), 1.0), ([np.nan], (0, 1), 0.9)],
)
def test_bad_input_is_refused(samples: list[float], bounds: tuple[float, float], level: float) -> None:
    with pytest.raises(InputError, match="must be"):
        betting_interval(samples, bounds, level)
