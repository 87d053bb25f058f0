"""Why payments are needed (Thm 3.3, with its conditions) and that they suffice (Thm 4.2), on declared domains."""

import numpy as np
import pytest

import rlhf_game as rg
from tests.strategies import NAMES, regularizer

PAID = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
FREE = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())


def normalized(reward: np.ndarray, domain: str) -> np.ndarray:
    return reward / (reward.sum() if domain == "sum" else reward.max())


def winning_lie(reward: np.ndarray, domain: str) -> np.ndarray:
    """Thm 3.3: with sum 1, move e from the least favourite to the favourite; with max 1, lower the least favourite."""
    lie, step = reward.copy(), reward.min() / 2
    lie[reward.argmin()] -= step
    if domain == "sum":
        lie[reward.argmax()] += step
    return lie


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", NAMES)
def test_without_payments_the_lie_of_thm_3_3_wins_and_with_them_it_loses(name: str, domain: str) -> None:
    # its conditions: min r > 0, two different values, and an interior policy (strength 40 ensures it)
    rng = np.random.default_rng(71)
    for _ in range(10):
        table = rg.Table(rng.dirichlet(np.full(5, 5)), regularizer=regularizer(name, 40.0), normalization=domain)
        rewards = [normalized(rng.uniform(0.1, 1, 5), domain) for _ in range(3)]
        truth = [rg.Report(reward, size=size) for reward, size in zip(rewards, [2, 1, 3], strict=True)]
        told = [rg.Report(winning_lie(rewards[0], domain), size=2), *truth[1:]]
        honest, lying = PAID.settle(truth, table), PAID.settle(told, table)
        assert honest.policy.probabilities.min() > 0
        mine = table.read(rewards[0])
        value = lying.policy.values([mine])[0]
        assert value > FREE.settle(truth, table).values[0]
        assert 2 * value - lying.payments[0] < honest.utilities[0]


def test_thm_3_3_as_first_printed_fails_when_the_least_reward_is_zero() -> None:
    # nothing is left to lower: no lie of that form exists, and the group already says the most it can about its least
    reward = np.array([0.0, 1.0])
    np.testing.assert_array_equal(winning_lie(reward, "sum"), reward)
    table = rg.Table([0.5, 0.5], regularizer=rg.KL(strength=1.0), normalization="sum")
    truth = FREE.settle([rg.Report(reward), rg.Report([0.5, 0.5])], table).values[0]
    for share in np.linspace(0, 1, 101):
        settled = FREE.settle([rg.Report([1 - share, share]), rg.Report([0.5, 0.5])], table)
        assert settled.policy.values([table.read(reward)])[0] <= truth + 1e-15


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", ["kl", "l2", "chi2", "js"])
@pytest.mark.parametrize("strength", [1e-3, 0.2, 10.0])
def test_no_report_and_no_size_beats_the_truth(name: str, domain: str, strength: float) -> None:
    rng = np.random.default_rng(72)
    table = rg.Table(rng.dirichlet(np.ones(4)), regularizer=regularizer(name, strength), normalization=domain)
    rewards = [normalized(rng.uniform(0, 1, 4), domain) for _ in range(3)]
    truth = [rg.Report(reward, size=size) for reward, size in zip(rewards, [3, 2, 4], strict=True)]
    honest = PAID.settle(truth, table).utilities[0]
    mine = table.read(rewards[0])
    lies = [normalized(rewards[0] ** power, domain) for power in (0.0, 0.3, 3.0, 10.0)]
    lies += [normalized(rng.uniform(0, 1, 4) ** 2, domain) for _ in range(15)]
    for lie in lies:
        for size in (1, 3, 12):
            settled = PAID.settle([rg.Report(lie, size=size), *truth[1:]], table)
            assert 3 * settled.policy.values([mine])[0] - settled.payments[0] <= honest + 1e-12


def test_half_the_payment_would_not_be_truthful() -> None:
    # the negative control: a search that could never find a gain would prove nothing
    rng = np.random.default_rng(73)
    table = rg.Table([0.25] * 4, regularizer=rg.KL(strength=0.3))
    rewards = rng.uniform(0, 1, (3, 4))
    truth = [rg.Report(reward) for reward in rewards]
    honest = PAID.settle(truth, table)
    mine = table.read(rewards[0])
    gains = []
    for factor in (1.2, 1.5, 2.0):
        settled = PAID.settle([rg.Report(factor * rewards[0]), *truth[1:]], table)
        half = settled.policy.values([mine])[0] - settled.payments[0] / 2
        gains.append(half - (honest.values[0] - honest.payments[0] / 2))
    assert max(gains) > 1e-3
