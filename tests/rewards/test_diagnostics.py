"""Diagnostics on hand-computed values, against scipy, and on the numbers of the theory."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlhf_game import InputError
from rlhf_game.rewards.aggregates import Mean, MeanMinusDeviation, Median, Minimum, UncertaintyWeighted
from rlhf_game.rewards.diagnostics import (
    accuracy,
    best_of_n_agreement,
    best_of_n_divergence,
    best_of_n_divergence_exact,
    best_of_n_policy,
    brier,
    calibration_bins,
    calibration_error,
    expected_best,
    length_correlation,
    optimised_to,
    overoptimisation,
    spearman,
    spearman_by_prompt,
)

THREE = np.log(3)  # sigma(log 3) = 3/4


def test_aggregates_by_hand() -> None:
    scores = np.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])  # population variances 14/3 and 2
    assert Mean()(scores).tolist() == [3, 1]
    assert Median()(scores).tolist() == [2, 0]
    assert Minimum()(scores).tolist() == [1, 0]
    np.testing.assert_allclose(MeanMinusDeviation(0.5)(scores), [3 - 0.5 * np.sqrt(14 / 3), 1 - 0.5 * np.sqrt(2)])
    np.testing.assert_allclose(UncertaintyWeighted(0.5)(scores), [3 - 7 / 3, 0])
    assert [a.needs_identified for a in (Mean(), Median(), Minimum())] == [False, True, True]
    with pytest.raises(InputError, match="c must be >= 0"):
        MeanMinusDeviation(-1.0)


def test_accuracy_counts_ties_half() -> None:
    assert accuracy(np.array([1.0, 2.0, -1.0, 0.0])) == 0.625


def test_brier_by_hand() -> None:
    assert brier(np.array([THREE, -THREE, 0.0])) == pytest.approx((1 / 16 + 9 / 16 + 1 / 4) / 3)


def test_calibration_error_by_hand() -> None:
    # Confidence 3/4 on four pairs of which two are right, 1/2 on two ties that count as half right.
    margins = np.array([THREE, THREE, -THREE, -THREE, 0.0, 0.0])
    assert calibration_error(margins) == pytest.approx((4 * 0.25 + 2 * 0.0) / 6)
    # Right three times in four at confidence 3/4: calibrated.
    assert calibration_error(np.array([THREE, THREE, THREE, -THREE])) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(np.array([1e9, 1e9])) == 0.0


def test_calibration_bins_by_hand() -> None:
    low, high = calibration_bins(np.array([THREE, THREE, -THREE, 0.0]), bins=2)
    assert (low.pairs, low.confidence, low.accuracy) == (1, 0.5, 0.5)
    assert (high.pairs, high.accuracy) == (3, pytest.approx(2 / 3))
    assert high.confidence == pytest.approx(0.75)


def test_spearman_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, size=(2, 40)).astype(float)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert np.isnan(spearman(a, np.ones(40)))


def test_constants_of_a_prompt_do_not_matter_for_agreement() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(5, 8))
    shifted = np.exp(a) + rng.normal(size=(5, 1))
    assert spearman_by_prompt(a, shifted) == pytest.approx(1.0)
    assert spearman(a.ravel(), shifted.ravel()) < 0.95
    assert best_of_n_agreement(a, shifted, 4, rng) == 1.0
    assert length_correlation(a, -a) == pytest.approx(-1.0)


def test_agreement_of_unrelated_rewards_is_chance() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 400, 16))
    for n in (2, 4, 16):
        # The standard error over 400 prompts is at most 0.025 at n = 2 with shared draws.
        assert best_of_n_agreement(a, b, n, rng) == pytest.approx(1 / n, abs=0.07)
    with pytest.raises(InputError, match="n must be between 1 and the 16"):
        best_of_n_agreement(a, b, 17, rng)


@pytest.mark.parametrize(
    ("n", "bound", "exact"),
    [
        (2, 0.193147, 0.189318),
        (4, 0.636294, 0.628825),
        (8, 1.204442, 1.177486),
        (16, 1.835089, 1.733063),
        (32, 2.496986, 2.149249),
        (64, 3.174508, 2.293451),
    ],
)
def test_best_of_n_divergences_are_the_published_numbers(n: int, bound: float, exact: float) -> None:
    uniform = np.full(10, 0.1)
    assert best_of_n_divergence(n) == pytest.approx(bound, abs=5e-7)
    assert best_of_n_divergence_exact(uniform, np.arange(10.0), n) == pytest.approx(exact, abs=5e-7)


def test_best_of_n_policy_is_what_sampling_gives() -> None:
    reference, scores = np.array([0.5, 0.2, 0.2, 0.1, 0.0]), np.array([0.0, 1.0, 1.0, 2.0, 9.0])
    # Of three draws: all in {0}: 1/8; none is 3 and some is 1 or 2: 0.9^3 - 1/8, split equally; the rest is outcome 3.
    middle = (0.9**3 - 0.125) / 2
    np.testing.assert_allclose(best_of_n_policy(reference, scores, 3), [0.125, middle, middle, 1 - 0.9**3, 0])
    assert best_of_n_divergence_exact(reference, np.zeros(5), 3) == pytest.approx(0.0, abs=1e-12)


def test_optimising_a_proxy_by_hand() -> None:
    # q = (1/2, 1/2), proxy (log 3, 0) and strength 1: p = (3/4, 1/4).
    curve = overoptimisation(np.array([[THREE, 0.0]]), np.array([[0.0, 1.0]]), [1.0, 1e9])
    assert curve.divergence[0] == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert (curve.proxy[0], curve.gold[0]) == (pytest.approx(0.75 * THREE), pytest.approx(0.25))
    assert (curve.divergence[1], curve.gold[1]) == (pytest.approx(0.0, abs=1e-9), pytest.approx(0.5))
    assert curve.peak == pytest.approx(0.0, abs=1e-9)  # the proxy is wrong: any step costs gold


def test_the_limits_of_optimisation_do_not_overflow() -> None:
    proxy, gold = np.array([[1.0, 0.0, -5.0]]), np.array([[3.0, 2.0, 1.0]])
    curve = overoptimisation(proxy, gold, [1e-6])
    assert (curve.divergence[0], curve.gold[0]) == (pytest.approx(np.log(3)), 3.0)
    assert expected_best(proxy, gold, 1) == (pytest.approx(-4 / 3), pytest.approx(2.0))
    assert expected_best(proxy, gold, 200)[1] == pytest.approx(3.0)


def test_a_curve_at_given_divergences_is_on_the_curve() -> None:
    rng = np.random.default_rng(4)
    proxy, gold = rng.normal(size=(2, 6, 9))
    whole = overoptimisation(proxy, gold, [0.7])
    at = optimised_to(proxy, gold, whole.divergence.tolist())
    assert at.divergence == pytest.approx(whole.divergence, abs=1e-9)
    assert (at.proxy[0], at.gold[0]) == (pytest.approx(whole.proxy[0]), pytest.approx(whole.gold[0]))
    assert len(optimised_to(proxy, gold, [0.5, np.log(9) + 0.01]).gold) == 1  # nine candidates reach log 9 at most
    assert len(optimised_to(np.zeros((2, 3)), np.ones((2, 3)), [0.1]).gold) == 0
