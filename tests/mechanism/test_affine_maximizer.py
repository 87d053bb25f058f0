"""Weights and boosts: the general affine maximiser (Roberts) is exact, truthful and individually rational."""

import numpy as np
import pytest
from mpmath import mpf

import rlhf_game as rg
from tests import oracles
from tests.strategies import NAMES, regularizer

WEIGHTS = [0.25, 1.0, 3.0]
SIZES = [4, 1, 2]


def space(name: str, strength: float = 0.4) -> rg.Table:
    return rg.Table([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], regularizer=regularizer(name, strength))


def rewards(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (3, 2, 4))


def mechanism(boost: object = None) -> rg.Mechanism:
    return rg.Mechanism(rg.AffineWelfare(weights=WEIGHTS, boost=boost), rg.AffinePayments())


def reports(tables: np.ndarray) -> list[rg.Report]:
    return [rg.Report(table, size=size) for table, size in zip(tables, SIZES, strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_payments_are_the_difference_of_two_maxima_over_mu(name: str) -> None:
    tables, boost = rewards(31), np.random.default_rng(32).uniform(-1, 1, (2, 4))
    settled = mechanism(boost).settle(reports(tables), space(name))
    exact = oracles.settle_exactly(
        name,
        0.4,
        [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]],
        tables.tolist(),
        SIZES,
        multipliers=WEIGHTS,
        boost=boost.tolist(),
    )
    for payment, wanted in zip(settled.payments, exact.payments, strict=True):
        assert abs(mpf(float(payment)) - wanted) <= abs(wanted) * mpf("1e-11")
    assert settled.affine_social_welfare == pytest.approx(float(exact.welfare), rel=1e-13)
    assert settled.social_welfare == pytest.approx(float(np.dot(SIZES, [float(v) for v in exact.values])), rel=1e-13)


def test_equal_weights_and_no_boost_are_social_welfare() -> None:
    tables = rewards(33)
    affine = rg.Mechanism(rg.AffineWelfare(weights=[1, 1, 1], boost=np.zeros((2, 4))), rg.AffinePayments())
    plain = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    one, other = (rule.settle(reports(tables), space("kl")) for rule in (affine, plain))
    np.testing.assert_allclose(one.payments, other.payments, rtol=1e-13)


def test_doubling_every_weight_boost_and_strength_changes_nothing_that_a_group_sees() -> None:
    tables, boost = rewards(34), np.random.default_rng(34).uniform(0, 1, (2, 4))
    one = mechanism(boost).settle(reports(tables), space("js"))
    doubled = rg.Mechanism(rg.AffineWelfare(weights=np.multiply(2, WEIGHTS), boost=2 * boost), rg.AffinePayments())
    other = doubled.settle(reports(tables), space("js", 0.8))
    np.testing.assert_allclose(one.payments, other.payments, rtol=1e-12)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-13)


def test_a_boost_draws_the_policy_and_is_nobodys_payment() -> None:
    tables = rewards(35)
    boost = np.zeros((2, 4))
    boost[:, 3] = 2.0
    with_boost, without = (mechanism(b).settle(reports(tables), space("kl")) for b in (boost, None))
    assert (with_boost.policy.probabilities[:, 3] > without.policy.probabilities[:, 3]).all()
    alone = mechanism(boost).settle(reports(np.zeros((3, 2, 4))), space("kl"))
    np.testing.assert_allclose(alone.payments, 0, atol=1e-25)


@pytest.mark.parametrize("name", ["kl", "l2", "alpha:3", "js"])
def test_truth_is_dominant_and_rational_with_weights_and_boosts(name: str) -> None:
    rng = np.random.default_rng(36)
    tables, boost = rewards(36), rng.uniform(0, 1, (2, 4))
    rule, table = mechanism(boost), space(name)
    truthful = rule.settle(reports(tables), table).utilities
    assert truthful.min() >= -1e-14
    for i in range(3):
        for _ in range(25):
            lie = tables.copy()
            lie[i] = rng.uniform(0, 1, (2, 4)) if rng.random() < 0.5 else tables[i] ** rng.uniform(0.2, 5)
            told = [rg.Report(row, size=int(rng.integers(1, 9)) if j == i else SIZES[j]) for j, row in enumerate(lie)]
            settled = rule.settle(told, table)
            value = settled.policy.values([table.read(tables[i])])[0]
            assert SIZES[i] * value - settled.payments[i] <= truthful[i] + 1e-12


def test_payments_without_the_weights_would_not_be_truthful() -> None:
    # the negative control of the test above: the same policies, charged as if every weight were 1
    tables, table = rewards(37), space("kl")
    shares = np.multiply(WEIGHTS, SIZES)

    def utility(told: np.ndarray, size: int) -> float:
        read = [table.read(row) for row in told]
        weights = np.array([WEIGHTS[0] * size, *shares[1:]])
        policy = table.maximize(weights, read)
        charged = policy.externalities(weights, read)[0]  # not divided by mu
        return float(SIZES[0] * policy.values([table.read(tables[0])])[0] - charged)

    truthful = utility(tables, SIZES[0])
    gains = [utility(tables, size) - truthful for size in (1, 8, 16, 32)]
    assert max(gains) > 1e-3
