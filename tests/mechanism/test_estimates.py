"""Estimates: the rules of intervals, and the receipt's form."""

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.mechanism.sampled.estimates import Estimate, student_interval, student_total


def test_sums_and_multiples_keep_the_truth_inside() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        truths, halves = rng.normal(size=(2, 3)), rng.random((2, 3))
        one, two = (Estimate(t + h / 2, t - h, t + h) for t, h in zip(truths, halves, strict=True))
        factor = rng.normal(size=3)
        both = (one + two).scaled(factor)
        assert both.contains(factor * truths.sum(axis=0), slack=1e-12)
        assert both.width == pytest.approx(np.abs(factor) * 2 * halves.sum(axis=0))
        assert not both.contains(factor * truths.sum(axis=0) + both.width)


def test_a_sum_may_miss_as_often_as_its_parts_together() -> None:
    part = Estimate(np.zeros(()), np.zeros(()), np.ones(()), level=0.95)
    certain = Estimate(np.zeros(()), np.zeros(()), np.ones(()))
    assert (part + part).level == pytest.approx(0.9)
    assert (part + certain).level == pytest.approx(0.95)


def test_the_document_is_the_receipts() -> None:
    estimate = Estimate(np.array([1.0, 2.0]), np.array([0.5, 2.0]), np.array([1.5, 3.0]), level=0.9)
    assert estimate.document() == [
        {"estimate": 1.0, "low": 0.5, "high": 1.5, "level": 0.9},
        {"estimate": 2.0, "low": 2.0, "high": 3.0, "level": 0.9},
    ]
    assert estimate[0].document() == estimate.document()[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (([0.0], [1.0], [0.5]), "low must be <= high"),
        (([0.0], [np.nan], [0.5]), "low must be <= high"),
        (([0.0], [0.0, 0.0], [0.5]), "must have one shape"),
        (([0.0], [0.0], [0.5], 0.0), r"level must be in \(0, 1\], got 0.0"),
    ],
)
def test_what_is_no_interval_is_refused(fields: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Estimate(*fields)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_mean_of_few_values_is_covered_as_often_as_stated(count: int) -> None:
    """The negative control is the normal quantile, which covers 70 % with two values."""
    values = np.random.default_rng(count).normal(size=(20_000, count)) + 1
    found = student_interval(values)
    inside = ((found.low <= 1) & (found.high >= 1)).mean()
    assert inside == pytest.approx(0.95, abs=0.007)
    normal = 1.959964 * values.std(axis=1, ddof=1) / np.sqrt(count)
    assert (np.abs(values.mean(axis=1) - 1) <= normal).mean() < 0.94
    if count == 2:
        assert (np.abs(values.mean(axis=1) - 1) <= normal).mean() == pytest.approx(0.70, abs=0.01)


def test_a_total_of_further_values_is_covered_as_often_as_stated() -> None:
    """1,000 seeded totals of two laws; the interval of their means alone misses most: it is the negative control."""
    rng, counts, covered, by_means = np.random.default_rng(4), np.array([6.0, 30.0]), 0, 0
    for _ in range(1000):
        known = rng.normal([[1.0], [-2.0]], [[1.0], [0.5]], (2, 100))
        total = rng.normal(1.0, 1.0, 6).sum() + rng.normal(-2.0, 0.5, 30).sum()
        covered += student_total(known, counts).contains(total)
        means = student_interval(known)
        by_means += bool(counts @ means.low <= total <= counts @ means.high)
    assert 930 <= covered <= 985
    assert by_means < 800
    assert student_total(np.zeros((3, 0, 2)), np.zeros(0)).value.tolist() == [0.0] * 3


def test_a_mean_keeps_to_what_is_known() -> None:
    found = student_interval([-0.13, -0.02], known=(0.0, np.inf))  # a divergence, by two draws
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high > 0.5
    one = student_interval([0.3], known=(0.0, 1.0))
    assert (one.low, one.value, one.high) == (0.0, 0.3, 1.0)
    alone = student_interval([0.3])
    assert alone.width == 0.0
