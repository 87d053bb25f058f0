"""cvxpy's Clarabel as an independent method, for every divergence: welfare, policies, payments."""

import numpy as np
import pytest

import rlhf_game as rg
from tests import oracles
from tests.strategies import regularizer

# Clarabel stops at a duality gap of about 1e-8 of the objective; a payment is a difference of two such values, and a
# policy is known to about the square root of the gap.
VALUE = 5e-6
POLICY = 5e-3


@pytest.mark.parametrize("name", ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger", "alpha:3"])
@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_settlement_agrees_with_clarabel(name: str, strength: float) -> None:
    rng = np.random.default_rng(21)
    reference = rng.dirichlet(np.ones(12)) * 0.9 + 0.1 / 12
    rewards, sizes = rng.uniform(0, 1, (3, 12)), np.array([1, 3, 2])
    settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(
        [rg.Report(reward, size=int(size)) for reward, size in zip(rewards, sizes, strict=True)],
        rg.Table(reference, regularizer=regularizer(name, strength)),
    )
    policy, welfare = oracles.conic_maximum(name, strength, sizes @ rewards, reference)
    assert settled.policy.welfare == pytest.approx(welfare, abs=VALUE)
    np.testing.assert_allclose(settled.policy.probabilities, policy, atol=POLICY)
    for i in range(3):
        others = np.arange(3) != i
        _, without = oracles.conic_maximum(name, strength, sizes[others] @ rewards[others], reference)
        expected = without - (welfare - sizes[i] * settled.values[i])
        assert settled.payments[i] == pytest.approx(expected, abs=VALUE)
