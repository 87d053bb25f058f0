"""The oracles themselves: they agree with each other, with calculus, and with a conic solver, without the package."""

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

from tests import oracles

NAMES = ["kl", "reverse_kl", "chi2", "js", "hellinger", "alpha:3", "alpha:0.5", "alpha:-1", "alpha:1.5"]


@pytest.mark.parametrize("name", NAMES)
def test_slope_curvature_and_inverse_are_those_of_f(name):
    divergence = oracles.divergence_named(name)
    with mpmath.workdps(40):
        for t in (mpf("0.3"), mpf(1), mpf("4.5")):
            assert abs(mp.diff(divergence.f, t) - divergence.slope(t)) < mpf("1e-15")
            assert abs(mp.diff(divergence.slope, t) - divergence.curvature(t)) < mpf("1e-15")
            assert abs(divergence.inverse(divergence.slope(t)) - t) < mpf("1e-30")
        assert abs(divergence.f(mpf(1))) < mpf("1e-30")


@pytest.mark.parametrize(("name", "twin", "factor"), [("chi2", "alpha:2", 2), ("hellinger", "alpha:0.5", 0.25)])
def test_known_members_of_the_alpha_family(name, twin, factor):
    with mpmath.workdps(40):
        for t in (mpf("0.2"), mpf("3.5")):
            assert abs(oracles.divergence_named(name).f(t) - factor * oracles.divergence_named(twin).f(t)) < mpf(
                "1e-30"
            )


@pytest.mark.parametrize("name", ["kl", "chi2"])
def test_root_finding_agrees_with_the_closed_form(name):
    with mpmath.workdps(60):
        reference = [mpf(1) / 2, mpf(0), mpf(3) / 8, mpf(1) / 8]
        score = [mpf(3), mpf(9), mpf(-1), mpf("3.5")]
        closed = oracles.best_policy(name, score, reference, mpf("0.7"))
        found = oracles.root_policy(oracles.divergence_named(name), score, reference, mpf("0.7"))
        assert max(abs(a - b) for a, b in zip(closed, found, strict=True)) < mpf("1e-45")


@pytest.mark.parametrize("name", ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger", "alpha:3"])
@pytest.mark.parametrize("strength", [0.2, 2.0])
def test_conic_solver_agrees_with_mpmath(name, strength):
    rng = np.random.default_rng(7)
    reference = rng.dirichlet(np.ones(6)) * 0.9 + 0.1 / 6
    score = rng.uniform(0, 2, 6)
    policy, welfare = oracles.conic_maximum(name, strength, score, reference)
    exact = oracles.settle_exactly(name, strength, [reference], [[score]], [1])
    # Clarabel stops at a duality gap of about 1e-8; a policy is known to about the square root of that
    assert welfare == pytest.approx(float(exact.welfare), abs=2e-6)
    np.testing.assert_allclose(policy, [float(p) for p in exact.policy[0]], atol=2e-3)


def test_hand_game():
    exact = oracles.settle_exactly("kl", 1.0, [[0.5, 0.5]], [[[1, 0]], [[0, 1]]], [1, 1])
    assert [float(p) for p in exact.payments] == pytest.approx([0.120114506958] * 2, abs=1e-12)  # theory section 10


def test_least_utility_is_below_random_rewards_of_the_domain():
    rng = np.random.default_rng(8)
    policy = rng.dirichlet(np.ones(5))
    for domain, strength in (("sum", 0.3), ("sum", 5.0), ("max", 0.3)):
        least, reward = oracles.least_utility(policy, strength, domain)
        assert float(sum(reward) if domain == "sum" else max(reward)) == pytest.approx(1, abs=1e-14)
        for _ in range(200):
            other = rng.dirichlet(np.ones(5) * 0.5) if domain == "sum" else rng.uniform(0, 1, 5)
            other = other if domain == "sum" else other / other.max()
            assert strength * np.log(policy @ np.exp(other / strength)) >= float(least) - 1e-14
