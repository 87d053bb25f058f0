"""Settlements from tapes: log-mean bills, log Z, and intervals that hold the truth as often as they say."""

from itertools import combinations

import numpy as np
import pytest

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.log_mean import doublings, log_means, pivots, symmetric_means
from rlhf_game.mechanism.draws.partition import mean_rejections, rejections_of_each, void_probability
from rlhf_game.mechanism.draws.settlement import (
    DrawsSettlement,
    Estimator,
    choose_estimator,
    expected_proposals,
    regret_bounds,
    settle_tapes,
)
from tests.mechanism.enumerable_draws import FAR, Model, distances, golden, several, steep


@pytest.mark.parametrize("name", ["golden", "steep"])
def test_the_log_mean_bill_is_unbiased_with_its_tail_and_not_without(name: str) -> None:
    """Exact draws from the table. The series cut at T = 8, and the logarithm of a mean, fail the same test."""
    model = {"golden": golden, "steep": lambda: steep(2.5)}[name]()
    problem, rng, exact = model.problem, np.random.default_rng(3), model.settled().payments
    pivot = pivots(problem.shares, problem.ceilings, problem.strength)
    found: dict[str, list[Array]] = {"with its tail": [], "cut": [], "plug-in": []}
    pool = model.drawn(0, 1_000_000, rng)
    at = 0
    for _ in range(2500):
        count = 8 * 2 ** min(doublings(rng), 7)
        drawn, at = pool[:, at : at + count], at + count
        y = np.exp(-problem.shares[:, None] * drawn / problem.strength)
        base = y[:, :8]
        values = problem.sizes * drawn.mean(axis=1)
        few = problem.sizes * drawn[:, :8].mean(axis=1)
        statistics = symmetric_means(1 - base / pivot[:, None]) / np.arange(1, 9)
        found["with its tail"].append(values + problem.strength * log_means(y, pivot, 8))
        found["cut"].append(few + problem.strength * (np.log(pivot) - statistics.sum(axis=1)))
        found["plug-in"].append(few + problem.strength * np.log(base.mean(axis=1)))
    assert at < pool.shape[1]
    assert (np.abs(distances(found["with its tail"], exact)) < FAR).all()
    for wrong in ("cut", "plug-in"):
        assert (np.abs(distances(found[wrong], exact)) > FAR).any(), wrong


def test_symmetric_means_are_means_over_tuples() -> None:
    z = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 6))
    for k, mean in enumerate(symmetric_means(z).T, start=1):
        assert mean == pytest.approx([np.mean([np.prod(c) for c in combinations(row, k)]) for row in z], abs=1e-15)


def test_the_random_tail_takes_2_21_times_the_draws() -> None:
    rng = np.random.default_rng(0)
    found = np.array([doublings(rng) for _ in range(60_000)])
    assert (found >= 1).mean() == pytest.approx(2**-1.5, abs=0.01)
    exact = 1 + sum(2.0 ** (j - 1) * 2.0 ** (-1.5 * j) for j in range(1, 60))
    assert exact == pytest.approx(2.2071, abs=1e-4)
    assert np.mean(2.0 ** np.minimum(found, 8)) == pytest.approx(exact, abs=0.15)


def test_e_values_over_prompts_are_shorter_than_intervals_of_each() -> None:
    """The theory's example, 64 prompts and T = 8: a width of .231 against 2.34."""
    rng = np.random.default_rng(6)
    rates = rng.uniform(0.01, 0.1, 64)
    proposals = 8 + rng.negative_binomial(8, rates)
    joint = mean_rejections(proposals, np.full(64, 8), np.full(64, 1 / 64), 0.95)
    assert joint.width == pytest.approx(0.231, abs=0.01)
    each = rejections_of_each(proposals, np.full(64, 8), 1 - 0.05 / 64)
    assert each.width.mean() == pytest.approx(2.34, abs=0.15)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.3, 0.2], [0.85, 0.05, 0.05, 0.05]])
@pytest.mark.parametrize("draws", [1, 8])
def test_intervals_of_log_z_hold_it(weights: list[float], draws: int) -> None:
    rng, rho = np.random.default_rng(draws), np.array(weights)
    rates = rng.uniform(0.02, 0.5, len(rho))
    truth, missed, count = float(rho @ -np.log(rates)), 0, 1000
    for _ in range(count):
        proposals = draws + rng.negative_binomial(draws, rates)
        missed += not mean_rejections(proposals, np.full(len(rho), draws), rho, 0.9).contains(truth)
    assert missed <= 0.1 * count + 3.1 * np.sqrt(0.09 * count)


def test_standard_errors_are_the_spread_of_the_estimates() -> None:
    model, rng = several(1.0), np.random.default_rng(3)
    drawn = [
        settle_tapes(tapes, 8, estimator="tape", prompt_weights=model.prompt_weights)
        for tapes in model.tapes(8, 80, rng)
    ]
    for name in ("values", "payments", "utilities", "social_welfare", "affine_welfare", "divergence", "log_z"):
        spread = np.std([getattr(one, name).value for one in drawn], axis=0)
        errors = np.array([getattr(one.errors, name) for one in drawn])
        assert np.sqrt((errors**2).mean(axis=0)) == pytest.approx(spread, rel=0.25), name


@pytest.mark.parametrize("estimator", ["rao_blackwell", "tape"])
@pytest.mark.parametrize("draws", [1, 6])
def test_every_interval_of_a_settlement_holds_the_truth(estimator: Estimator, draws: int) -> None:
    check_coverage(several(), estimator, draws, 40)


@pytest.mark.slow
def test_intervals_hold_the_truth_over_2000_repetitions() -> None:
    check_coverage(several(), "rao_blackwell", 16, 2000)


def check_coverage(model: Model, estimator: Estimator, draws: int, count: int) -> None:
    rng, exact = np.random.default_rng(draws), model.settled()
    truths = {
        "values": exact.values, "payments": exact.payments, "utilities": exact.utilities,
        "social_welfare": exact.social_welfare, "affine_welfare": exact.affine_social_welfare,
        "divergence": exact.policy.divergence, "log_z": model.log_z(),
    }  # fmt: skip
    missed = {name: np.zeros(np.shape(truth)) for name, truth in truths.items()}
    for tapes in model.tapes(draws, count, rng):
        drawn = settle_tapes(tapes, draws, estimator=estimator, prompt_weights=model.prompt_weights)
        assert (drawn.errors.payments is None) == (draws == 1)
        assert (drawn.least_utilities >= 0).all()
        assert_consistent(drawn, model)
        for name, truth in truths.items():
            found = getattr(drawn, name)
            missed[name] += (found.low > truth) | (found.high < truth)
    for name, misses in missed.items():
        assert (misses <= 0.05 * count + 3.1 * np.sqrt(0.05 * count)).all(), (name, misses)


def assert_consistent(drawn: DrawsSettlement, model: Model) -> None:
    kept = model.problem.sizes * drawn.values.value - drawn.payments.value
    assert drawn.utilities.value == pytest.approx(kept, abs=1e-12)
    for found in (drawn.values, drawn.payments, drawn.utilities, drawn.log_z):
        assert found.contains(found.value)


def test_log_mean_settles_tapes_of_random_length_and_says_its_small_error() -> None:
    """Unbiased over whole settlements, with a standard error that is the spread of the estimates."""
    model, rng = several(3.0), np.random.default_rng(8)
    exact, found, errors = model.settled(), [], []
    for _ in range(60):
        tapes = [model.tape(b, 4 * 2 ** doublings(rng), rng) for b in range(3)]
        pilot = [model.drawn(b, 8, rng) for b in range(3)]
        drawn = settle_tapes(tapes, 4, estimator="log_mean", prompt_weights=model.prompt_weights, pilot=pilot)
        assert drawn.payments.contains(drawn.payments.value)
        found.append(drawn.payments.value)
        assert drawn.errors.payments is not None
        errors.append(drawn.errors.payments)
    assert (np.abs(distances(found, exact.payments)) < FAR).all()
    assert np.mean(errors, axis=0) == pytest.approx(np.std(found, axis=0), rel=0.5)
    plain = [settle_tapes(tapes, 4, prompt_weights=model.prompt_weights) for tapes in model.tapes(4, 20, rng)]
    assert (np.std(found, axis=0) < 0.5 * np.std([one.payments.value for one in plain], axis=0)).all()


def test_a_pilot_chooses_the_estimator() -> None:
    rng = np.random.default_rng(0)
    assert choose_estimator(several(3.0).problem, [several(3.0).drawn(b, 30, rng) for b in range(3)]) == "log_mean"
    assert choose_estimator(golden().problem, [golden().drawn(0, 30, rng)]) == "rao_blackwell"


def test_the_bound_on_regret_is_the_risk_of_being_void() -> None:
    problem = golden((0.6, 0.7)).problem
    rate = 1 / expected_proposals(problem, 3, 1)
    assert rate == pytest.approx(np.exp(-3 * 1.3 / 0.5))
    tight, loose = (regret_bounds(problem, 3, 4, most, 2) for most in (200_000, 6_000))
    assert (tight < 1e-6).all()
    assert loose == pytest.approx(void_probability(4, rate, 6_000, 2) * np.array([6 * 0.6, 5 * 0.7]))
    assert (loose > 0.1).all()
