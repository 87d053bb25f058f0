"""The linear head: hand-computed minima, the same minimum by L-BFGS, and what the eta term identifies."""

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize

from rlhf_game import InputError
from rlhf_game.rewards.bradley_terry import Likelihood, fit_head


def pairs(seed: int, n: int = 60, d: int = 5, truth: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of pairs labelled by a true linear reward, with Bradley-Terry noise."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n, d))
    weights = truth * rng.normal(size=d)
    wins = rng.random(n) < 1 / (1 + np.exp(-(first - second) @ weights))
    return np.where(wins[:, None], first, second), np.where(wins[:, None], second, first)


def test_one_feature_by_hand() -> None:
    # Every pair has margin w. At the minimum sigma(-w) = ridge * w; ridge = sigma(-1) puts it at w = 1.
    ridge = 1 / (1 + np.e)
    head = fit_head(np.full((3, 1), 1.0), np.zeros((3, 1)), Likelihood(0.0, ridge))
    assert head.weights[0] == pytest.approx(1.0, abs=1e-9)
    assert head.bias == 0.0
    assert head.loss == pytest.approx(np.log1p(np.exp(-1)) + ridge / 2, abs=1e-12)


def test_smoothing_by_hand() -> None:
    # With wrong labels expected at rate 1/4 and no ridge to speak of, sigma(w) = 3/4: w = log 3.
    head = fit_head(np.ones((2, 1)), np.zeros((2, 1)), Likelihood(0.0, 1e-12, smoothing=0.25))
    assert head.weights[0] == pytest.approx(np.log(3), abs=1e-6)  # the ridge moves it by 1e-12 / curvature


@pytest.mark.parametrize(
    "likelihood", [Likelihood(), Likelihood(0.3, 0.1, 0.2), Likelihood(0.0), Likelihood(0.1, 1e-5)]
)
def test_the_minimum_is_that_of_an_independent_method(likelihood: Likelihood) -> None:
    chosen, rejected = pairs(1)
    head = fit_head(chosen, rejected, likelihood)
    margins = np.hstack([chosen - rejected, np.zeros((60, 1))])
    sums = np.hstack([chosen + rejected, np.full((60, 1), 2.0)])

    def plain(point: np.ndarray) -> float:
        d, s = margins @ point, sums @ point
        fit = (1 - likelihood.smoothing) * np.log1p(np.exp(-d)) + likelihood.smoothing * np.log1p(np.exp(d))
        return float(np.mean(fit + likelihood.eta * s**2) + likelihood.ridge / 2 * point[:-1] @ point[:-1])

    other = minimize(plain, np.zeros(6), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000})
    assert head.loss == pytest.approx(plain(np.append(head.weights, head.bias)), abs=1e-12)
    assert head.loss <= other.fun + 1e-12
    np.testing.assert_allclose(head.weights, other.x[:-1], atol=2e-4)  # L-BFGS with differences stops about there
    assert head.gradient_norm < 1e-7


def test_the_gradient_is_that_of_the_loss() -> None:
    chosen, rejected = pairs(2)
    margins = np.hstack([chosen - rejected, np.zeros((60, 1))])
    sums = np.hstack([chosen + rejected, np.full((60, 1), 2.0)])
    likelihood = Likelihood(0.2, 0.1, 0.1)
    error = check_grad(
        lambda x: likelihood.loss(x, margins, sums),
        lambda x: likelihood.slope(x, margins, sums)[0],
        np.random.default_rng(0).normal(size=6),
    )
    assert error < 1e-5


def test_the_eta_term_makes_levels_comparable() -> None:
    # The same pairs seen through features that are shifted: without eta the head is the same and its level is not.
    chosen, rejected = pairs(3)
    shift = np.array([30.0, 0.0, -10.0, 20.0, 5.0])
    levels = []
    for eta in (0.0, 0.01):
        a = fit_head(chosen, rejected, Likelihood(eta))
        b = fit_head(chosen + shift, rejected + shift, Likelihood(eta))
        levels.append(abs(np.mean(a(chosen)) - np.mean(b(chosen + shift))))
    assert levels[0] > 0.5
    assert levels[1] < 1e-6


def test_a_true_head_is_recovered() -> None:
    chosen, rejected = pairs(4, n=4000, truth=1.0)
    weights = np.random.default_rng(4)
    weights.normal(size=(2, 4000, 5))
    truth = weights.normal(size=5)
    np.testing.assert_allclose(fit_head(chosen, rejected, Likelihood(0.0, 1e-9)).weights, truth, atol=0.15)


def test_separable_pairs_have_a_minimum_too() -> None:
    chosen, rejected = np.eye(3) * 50, -np.eye(3) * 50
    head = fit_head(chosen, rejected, Likelihood(0.0, 1e-9))
    assert (head(chosen) > head(rejected)).all()
    assert head.gradient_norm < 1e-7


def test_wrong_constants_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="ridge > 0"):
        Likelihood(ridge=0.0)
    with pytest.raises(InputError, match=r"smoothing in \[0, 0.5\)"):
        Likelihood(smoothing=0.5)
    with pytest.raises(InputError, match="of one shape"):
        fit_head(np.ones((2, 3)), np.ones((3, 3)), Likelihood())
