"""The policy's derivative against differences of policies, at scores where the support does not change."""

import numpy as np
import pytest

from tests.strategies import NAMES, regularizer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_sensitivity_is_the_derivative_of_the_policy(name: str, strength: float) -> None:
    rng = np.random.default_rng(7)
    rows, outcomes, step = 40, 5, 1e-5 * strength
    reference = rng.dirichlet(np.ones(outcomes), rows)
    reference[:10, 0] = 0
    reference /= reference.sum(axis=1, keepdims=True)
    score, direction = rng.random((2, rows, outcomes))
    rule = regularizer(name, strength)

    def policy(t: float) -> np.ndarray:
        return rule.maximize(np.ones(1), [score + t * direction], reference).probabilities()

    optimum = rule.maximize(np.ones(1), [score], reference)
    derivative = optimum.sensitivity(direction)
    steady = ((policy(step) > 0) == (policy(-step) > 0)).all(axis=1)
    assert steady.sum() > rows / 2
    differences = (policy(step) - policy(-step)) / (2 * step)
    np.testing.assert_allclose(derivative[steady], differences[steady], atol=1e-6 / strength)
    np.testing.assert_allclose(derivative.sum(axis=1), 0, atol=1e-12 / strength)


@pytest.mark.parametrize("name", NAMES)
def test_sensitivity_is_symmetric_and_never_negative(name: str) -> None:
    rng = np.random.default_rng(8)
    reference = rng.dirichlet(np.ones(4), 30)
    score, one, two = rng.normal(size=(3, 30, 4))
    optimum = regularizer(name, 0.5).maximize(np.ones(1), [score], reference)
    ahead = np.einsum("bm,bm->b", two, optimum.sensitivity(one))
    back = np.einsum("bm,bm->b", one, optimum.sensitivity(two))
    np.testing.assert_allclose(ahead, back, atol=1e-12)
    assert (np.einsum("bm,bm->b", one, optimum.sensitivity(one)) >= -1e-12).all()
