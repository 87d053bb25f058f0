"""Prices of responses and tokens: their mean is the bill, their sum telescopes, and what is left is always the same."""

from typing import Any

import numpy as np
import pytest

from rlhf_game import KL, AffineWelfare, Chain, Mechanism, Menu, Report, SquaredL2, Table
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.mechanism.prices import response_prices, token_prices
from rlhf_game.mechanism.spaces.trie import Trie
from rlhf_game.mechanism.training import Trained


def trained(space: Any, rewards: Any, sizes: Any, weights: Any = None, boost: Any = None) -> Any:
    rule = AffineWelfare(weights, boost)
    profile = read_profile([Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)], space)
    return Trained(rule, profile, space, rule.train(profile, space))


def test_the_prices_of_the_theory() -> None:
    """Theory section 12, the golden game: group 1 pays .480084, -.419916 and -1.019916."""
    one = trained(Table([0.7, 0.2, 0.1], KL(0.5)), [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], [3, 2])
    np.testing.assert_allclose(response_prices(one)[0][0], [0.480084, -0.419916, -1.019916], atol=5e-7)


def test_the_mean_price_is_the_bill_and_what_is_left_is_the_same_after_every_response() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        prompts, n, m = (int(k) for k in rng.integers([1, 1, 2], [4, 5, 6]))
        weights, rho = rng.uniform(0.5, 2, n), rng.dirichlet(np.ones(prompts))
        rewards, sizes = rng.random((n, prompts, m)), rng.integers(1, 6, n)
        space = Table(rng.dirichlet(np.ones(m), prompts), KL(float(10 ** rng.uniform(-1.5, 3))), prompt_weights=rho)
        one = trained(space, rewards, sizes, weights, rng.normal(size=(prompts, m)))
        p, prices = one.policy.probabilities, response_prices(one)
        bill = sum(rho[b] * prices[b] @ p[b] for b in range(prompts))
        np.testing.assert_allclose(bill, AffinePayments().charge(one), rtol=1e-9, atol=1e-12)
        for b in range(prompts):
            left = sizes[:, None] * rewards[:, b] - prices[b]
            np.testing.assert_allclose(left, np.broadcast_to(left[:, :1], left.shape), rtol=1e-11, atol=1e-11)


def test_prices_are_log_ratios_of_the_policies_with_and_without_the_group() -> None:
    """The definition, by training again without the group."""
    q, rewards, sizes = [0.5, 0.3, 0.2], np.array([[1.0, 0.2, 0.0], [0.0, 0.5, 1.0]]), [2, 1]
    space = Table(q, KL(0.4))
    one = trained(space, rewards, sizes, [1.0, 3.0])
    alone = trained(space, rewards[1:], sizes[1:], [3.0])
    wanted = 0.4 * np.log(one.policy.probabilities / alone.policy.probabilities)
    np.testing.assert_allclose(response_prices(one)[0][0], wanted, rtol=1e-12)
    assert wanted.min() < 0  # a rebate: capping it would change the bill
    assert np.maximum(wanted, 0) @ one.policy.probabilities > AffinePayments().charge(one)[0] + 0.01


def test_tokens_add_up_to_the_response_and_their_mean_is_the_bill() -> None:
    rng = np.random.default_rng(2)
    following = np.array([[1, 0, -1], [0, -1, 1]])
    space = Chain(following, rng.dirichlet(np.ones(3), 2), KL(0.6), horizon=4)
    rewards, weights = rng.random((3, 2, 3)), np.array([1.0, 2.0, 0.5])
    one = trained(space, rewards, [2, 1, 3], weights)
    bill = AffinePayments().charge(one)

    def whole(prefix: tuple[int, ...]) -> list[tuple[int, ...]]:
        if one.policy.is_complete(prefix):
            return [prefix]
        return [found for token in range(3) for found in whole((*prefix, token))]

    mean = np.zeros(3)
    utility = one.sizes * one.values() - bill
    for sequence in whole(()):
        prices = token_prices(one, sequence)
        earned = np.zeros(3)
        state = 0
        for token in sequence:
            earned += rewards[:, state, token]
            state = following[state, token]
        np.testing.assert_allclose(prices.sum(axis=1), one.sizes * earned - utility, atol=1e-12)
        mean += np.exp(one.policy.log_probability(sequence)) * prices.sum(axis=1)
    np.testing.assert_allclose(mean, bill, rtol=1e-10)


def test_tokens_of_tries_add_up_to_responses_whose_mean_is_the_bill() -> None:
    """Two prompts of a trie; the tokens' prices are log ratios of conditional probabilities, here by enumeration."""
    rng = np.random.default_rng(7)
    sequences = [[(0,), (1, 0), (1, 1, 0), (1, 1, 1), (2, 0)], [(0, 1), (0, 2), (1,)]]
    reference = [rng.dirichlet(np.ones(len(row))) for row in sequences]
    space = Trie(reference, [0.1, 0.2], KL(0.3), outcomes=sequences, prompt_weights=[0.25, 0.75])
    rewards = [[rng.random(len(row)) for row in sequences] for _ in range(2)]
    settled = Mechanism(AffineWelfare([1.0, 2.0]), AffinePayments()).settle(
        [Report(reward, size) for reward, size in zip(rewards, (3, 1), strict=True)], space
    )
    bill = np.zeros(2)
    alone = trained(Trie(reference, [0.1, 0.2], KL(0.3), outcomes=sequences), rewards[1:], [1], [2.0])
    for b, (row, rho) in enumerate(zip(sequences, (0.25, 0.75), strict=True)):
        p, without = settled.policy.probabilities[b], alone.policy.probabilities[b]
        prices = settled.prices(row, b)
        left = np.array([[3.0], [1.0]]) * [rewards[0][b], rewards[1][b]] - prices
        np.testing.assert_allclose(left, np.broadcast_to(left[:, :1], left.shape), atol=1e-12)
        np.testing.assert_allclose(prices[0], 0.3 * np.log(p / without), atol=1e-12)
        bill += rho * prices @ p
        for x, sequence in enumerate(row):
            tokens = settled.token_prices(sequence, b)
            np.testing.assert_allclose(tokens.sum(axis=1), prices[:, x], atol=1e-12)
            for k in range(len(sequence)):
                mass = [
                    [law[y] for y, other in enumerate(row) if other[:j] == sequence[:j]]
                    for law in (p, without)
                    for j in (k, k + 1)
                ]
                shorter, longer, shorter_without, longer_without = map(sum, mass)
                ratio = longer / shorter / (longer_without / shorter_without)
                assert tokens[0, k] == pytest.approx(0.3 * np.log(ratio), abs=1e-12)
    np.testing.assert_allclose(bill, settled.payments, rtol=1e-10)
    with pytest.raises(InputError, match=r"outcomes must be outcomes of prompt 1, got \(1, 0\)"):
        settled.prices([(1, 0)], 1)


def test_what_has_no_price_is_refused() -> None:
    rewards = [[1.0, 0.0], [0.0, 1.0]]
    for space in (Table([0.5, 0.5], SquaredL2(1.0)), Menu([0.0, 0.0])):
        with pytest.raises(CombinationError, match="under KL over a table"):
            response_prices(trained(space, rewards, [1, 1]))
    chain = Chain([[0, -1]], [[0.5, 0.5]], KL(1.0), horizon=3)
    with pytest.raises(InputError, match="whole outcome"):
        token_prices(trained(chain, [[[1.0, 0.0]]], [1]), (0,))
    for outcomes, regularizer in ((None, KL(1.0)), (["a", "b"], KL(1.0)), ([(0,), (1,)], SquaredL2(1.0))):
        with pytest.raises(CombinationError, match="outcomes are sequences of tokens"):
            token_prices(trained(Table([0.5, 0.5], regularizer, outcomes=outcomes), rewards, [1, 1]), (0,))
    begun = Table([0.5, 0.5], KL(1.0), outcomes=[(0,), (0, 1)])
    for space, sequence in ((begun, (0,)), (Table([0.5, 0.5], KL(1.0), outcomes=[(0,), (1,)]), (2,))):
        with pytest.raises(InputError, match="sequence must be a whole outcome"):
            token_prices(trained(space, rewards, [1, 1]), sequence)
    with pytest.raises(InputError, match="prompt must be one of 1, from 0, got 1"):
        token_prices(trained(begun, rewards, [1, 1]), (0, 1), prompt=1)


def test_a_wrong_price_is_caught_by_who_knows_the_policy_and_its_own_report_and_a_wrong_policy_is_not() -> None:
    """What is left after a response is -(strength / mu) log E_p exp(-g r / strength); the negative control is p.

    A policy that is not the best for the true reports of the others has prices of its own that pass: only who trains
    again, with all reports, finds it.
    """
    rng, strength, size, mu = np.random.default_rng(8), 0.4, 2.0, 0.5
    rewards, rho = rng.random((3, 2, 4)), np.array([0.3, 0.7])
    space = Table(rng.dirichlet(np.ones(4), 2), KL(strength), prompt_weights=rho)
    one = trained(space, rewards, [2, 1, 3], [mu, 1.0, 2.0])

    def wrong(prices: Any, policy: Any) -> float:
        left = size * rewards[0] - prices
        kept = -(strength / mu) * np.log((policy * np.exp(-mu * size * rewards[0] / strength)).sum(axis=1))
        return float(np.abs(left - kept[:, None]).max())

    p, prices = np.asarray(one.policy.probabilities), np.stack([row[0] for row in response_prices(one)])
    assert wrong(prices, p) < 1e-12
    bill = rho @ (p * prices).sum(axis=1)
    single, all_up, moved = np.zeros((2, 4)), np.full((2, 4), 1e-6), np.array([[0.7], [-0.3]]) * np.full((2, 4), 1e-5)
    single[1, 2] = 1e-6
    for change in (single, all_up, moved):  # the last leaves the bill as it is
        assert wrong(prices + change, p) > 1e-7
    assert rho @ (p * (prices + moved)).sum(axis=1) == pytest.approx(bill, abs=1e-15)
    shaded = trained(space, rewards, [2, 1, 1], [mu, 1.0, 2.0])  # the third group was not served as it should be
    other, its = np.asarray(shaded.policy.probabilities), np.stack([row[0] for row in response_prices(shaded)])
    assert np.abs(other - p).max() > 0.01
    assert wrong(its, other) < 1e-12
    assert wrong(its, p) > 1e-3
