"""Revenue-optimal payments: against bisection in mpmath, a conic saddle point, and the worst type itself."""

import numpy as np
import pytest

import rlhf_game as rg
from tests import oracles
from tests.strategies import NAMES, regularizer

DOMAINS = ["sum", "max"]


def draw(rng: np.random.Generator, domain: str, shape: tuple[int, ...]) -> np.ndarray:
    reward = rng.uniform(0, 1, shape) ** 3
    total = reward.sum(axis=-1, keepdims=True) if domain == "sum" else reward.max(axis=-1, keepdims=True)
    return reward / total


def reports(rewards: np.ndarray, sizes: list[int]) -> list[rg.Report]:
    return [rg.Report(reward, size=size) for reward, size in zip(rewards, sizes, strict=True)]


def rule(payment: rg.AffinePayments | rg.RevenueOptimal, training: object = None) -> rg.Mechanism:
    return rg.Mechanism(training or rg.SocialWelfare(), payment)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("strength", [0.02, 0.3, 5.0, 1e4])
def test_kl_adds_the_least_utility_of_water_filling(domain: str, strength: float) -> None:
    rng = np.random.default_rng(41)
    for outcomes in (1, 2, 7):
        reference, sizes = rng.dirichlet(np.ones(outcomes)), [1, 3, 2]
        rewards = draw(rng, domain, (3, outcomes))
        table = rg.Table(reference, regularizer=rg.KL(strength=strength), normalization=domain)
        affine, best = (
            rule(p()).settle(reports(rewards, sizes), table) for p in (rg.AffinePayments, rg.RevenueOptimal)
        )
        for i in range(3):
            others = [j for j in range(3) if j != i]
            exact = oracles.settle_at(
                60, "kl", strength, [reference], [[rewards[j]] for j in others], [sizes[j] for j in others]
            )
            least, _ = oracles.least_utility(exact.policy[0], strength, domain)
            assert best.payments[i] - affine.payments[i] == pytest.approx(float(least), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("strength", [0.05, 0.5, 4.0])
def test_kl_water_filling_agrees_with_clarabel(strength: float) -> None:
    import cvxpy as cp

    rng = np.random.default_rng(42)
    reference, rewards = rng.dirichlet(np.ones(6)), draw(rng, "sum", (2, 6))
    table = rg.Table(reference, regularizer=rg.KL(strength=strength), normalization="sum")
    affine, best = (rule(p()).settle(reports(rewards, [1, 2]), table) for p in (rg.AffinePayments, rg.RevenueOptimal))
    for i, size in ((0, 2), (1, 1)):
        without = reference * np.exp((rewards[1 - i] * size - rewards[1 - i].max() * size) / strength)
        reward = cp.Variable(6, nonneg=True)
        least = cp.Minimize(strength * cp.log_sum_exp(np.log(without / without.sum()) + reward / strength))
        value = cp.Problem(least, [cp.sum(reward) == 1]).solve(solver=cp.CLARABEL)
        # Clarabel's own tolerance
        assert best.payments[i] - affine.payments[i] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("name", ["kl", "l2", "chi2", "reverse_kl", "js", "hellinger", "alpha:3"])
@pytest.mark.parametrize("strength", [0.1, 0.5, 4.0])
def test_every_divergence_agrees_with_the_conic_saddle_point(name: str, strength: float) -> None:
    # inf_r max_p <p, s + r> - cost = max_p <p, s> - cost + min_x p_x over rewards with sum 1 (minimax)
    rng = np.random.default_rng(43)
    reference = rng.dirichlet(np.ones(4)) * 0.8 + 0.05
    rewards = draw(rng, "sum", (2, 4))
    table = rg.Table(reference, regularizer=regularizer(name, strength), normalization="sum")
    affine, best = (rule(p()).settle(reports(rewards, [1, 2]), table) for p in (rg.AffinePayments, rg.RevenueOptimal))
    floored = oracles.conic_floor(name, strength, rewards[1] * 2, reference)
    _, alone = oracles.conic_maximum(name, strength, rewards[1] * 2, reference)
    assert best.payments[0] - affine.payments[0] == pytest.approx(floored - alone, abs=1e-5)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", NAMES)
def test_no_type_of_the_domain_loses_and_the_worst_gains_nothing(name: str, domain: str) -> None:
    rng = np.random.default_rng(44)
    kind, reference, weights = regularizer(name, 0.6), rng.dirichlet(np.ones(3), 2), [0.3, 0.7]
    table = rg.Table(reference, regularizer=kind, normalization=domain, prompt_weights=weights)
    others = draw(rng, domain, (2, 2, 3))
    grid = np.array([(a, b, 60 - a - b) for a in range(61) for b in range(61 - a)]) / 60
    types = np.eye(3) if domain == "max" else grid
    least = 0.0
    for b in range(2):  # every type of the grid at once: one sheet with a row for each
        sheets = [types, *(np.tile(other[b], (len(types), 1)) for other in others)]
        optimum = kind.maximize(np.array([1.0, 1.0, 2.0]), sheets, np.tile(reference[b], (len(types), 1)))
        utility = optimum.values(sheets[:1])[0] - optimum.externalities(np.array([1.0]), sheets[:1])[0]
        least += weights[b] * utility.min()
    for _ in range(3):
        profile = np.concatenate([draw(rng, domain, (1, 2, 3)), others])
        affine, best = (
            rule(p()).settle(reports(profile, [1, 1, 2]), table) for p in (rg.AffinePayments, rg.RevenueOptimal)
        )
        extra = best.payments[0] - affine.payments[0]
        assert (best.payments >= affine.payments).all()
        assert best.utilities.min() >= -1e-12
        assert least - 2e-3 <= extra <= least + 1e-12  # the infimum is just below the least on a grid of step 1/60


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_worst_type_itself_has_utility_zero(domain: str) -> None:
    rng = np.random.default_rng(45)
    for strength in (0.05, 0.7, 30.0):
        reference, others = rng.dirichlet(np.ones(5)), draw(rng, domain, (2, 5))
        table = rg.Table(reference, regularizer=rg.KL(strength=strength), normalization=domain)
        without = rule(rg.NoPayments()).settle(reports(others, [2, 1]), table).policy.probabilities
        _, reward = oracles.least_utility(without, strength, domain)
        worst = np.array([float(r) for r in reward])
        settled = rule(rg.RevenueOptimal()).settle(reports(np.stack([worst, *others]), [1, 2, 1]), table)
        assert settled.utilities[0] == pytest.approx(0, abs=1e-13)
        for size in (2, 5):
            bigger = rule(rg.RevenueOptimal()).settle(reports(np.stack([worst, *others]), [size, 2, 1]), table)
            assert bigger.utilities[0] >= -1e-13


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("name", ["kl", "l2", "alpha:3"])
def test_truth_stays_dominant(name: str, domain: str) -> None:
    rng = np.random.default_rng(46)
    table = rg.Table(rng.dirichlet(np.ones(4)), regularizer=regularizer(name, 0.3), normalization=domain)
    true = draw(rng, domain, (3, 4))
    mechanism = rule(rg.RevenueOptimal())
    truthful = mechanism.settle(reports(true, [2, 1, 1]), table).utilities[0]
    for _ in range(25):
        lie = np.concatenate([draw(rng, domain, (1, 4)), true[1:]])
        settled = mechanism.settle(reports(lie, [int(rng.integers(1, 6)), 1, 1]), table)
        assert 2 * settled.policy.values([table.read(true[0])])[0] - settled.payments[0] <= truthful + 1e-12


@pytest.mark.parametrize("domain", DOMAINS)
def test_with_weights_and_boosts(domain: str) -> None:
    rng = np.random.default_rng(47)
    reference, rewards, boost = rng.dirichlet(np.ones(4)), draw(rng, domain, (2, 4)), rng.uniform(-1, 1, 4)
    table = rg.Table(reference, regularizer=rg.KL(strength=0.4), normalization=domain)
    training = rg.AffineWelfare(weights=[0.5, 3.0], boost=boost)
    affine, best = (
        rule(p(), training).settle(reports(rewards, [2, 1]), table) for p in (rg.AffinePayments, rg.RevenueOptimal)
    )
    exact = oracles.settle_at(60, "kl", 0.4, [reference], [[rewards[1]]], [1], multipliers=[3.0], boost=[boost])
    # mu u = strength log E[exp(mu r / strength)]: the least utility at strength / mu
    least, _ = oracles.least_utility(exact.policy[0], 0.4 / 0.5, domain)
    assert best.payments[0] - affine.payments[0] == pytest.approx(float(least), rel=1e-10)


def test_menu_pays_the_least_utility_of_its_domain() -> None:
    rng = np.random.default_rng(48)
    divergence = [0.0, 0.3, 0.6]
    for domain in DOMAINS:
        menu = rg.Menu(divergence, strength=0.5, normalization=domain)
        rewards = draw(rng, domain, (3, 3))
        affine, best = (
            rule(p()).settle(reports(rewards, [1, 2, 1]), menu) for p in (rg.AffinePayments, rg.RevenueOptimal)
        )
        grid = np.array([(a, b, 200 - a - b) for a in range(201) for b in range(201 - a)]) / 200
        grid = np.eye(3) if domain == "max" else grid
        for i in range(3):
            sizes = np.array([1, 2, 1])
            sizes[i] = 0
            others = sizes @ rewards - 0.5 * np.array(divergence)
            least = (others + grid).max(axis=1).min() - others.max()
            assert best.payments[i] - affine.payments[i] == pytest.approx(least, abs=5e-3 if domain == "sum" else 1e-12)


def test_an_undeclared_domain_is_refused() -> None:
    table = rg.Table([0.5, 0.5], regularizer=rg.KL(strength=1.0))
    with pytest.raises(rg.CombinationError):
        rule(rg.RevenueOptimal()).settle([rg.Report([1, 0])], table)
