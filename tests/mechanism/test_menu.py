"""Menus against exact rational arithmetic, their boundary cases, and a table as the limit of menus."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

import rlhf_game as rg
from tests import oracles
from tests.strategies import MenuGame, menu_games


def settle(game: MenuGame) -> rg.Settlement:
    return rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(game.reports(), game.space())


@given(menu_games())
def test_entry_and_payments_are_those_of_exact_fractions(game: MenuGame) -> None:
    chosen, payments = oracles.settle_menu_exactly(game.divergence, game.strength, game.rewards, game.sizes)
    settled = settle(game)
    np.testing.assert_array_equal(settled.policy.probabilities, np.eye(len(game.divergence))[chosen])
    # the numbers are multiples of 2^-16 below 2^22: sums and differences of them are exact in floating point
    assert [Fraction(float(payment)) for payment in settled.payments] == payments
    assert settled.policy.divergence == game.divergence[chosen]
    np.testing.assert_array_equal(settled.values, [reward[chosen] for reward in game.rewards])


def test_a_million_members_cost_the_small_groups_payment_no_digit() -> None:
    rng = np.random.default_rng(61)
    for _ in range(20):
        divergence = rng.uniform(0, 1, 4).tolist()
        giant = np.full(4, 0.3)
        giant[rng.integers(4)] = 0.0
        rewards = [giant.tolist(), *rng.uniform(0, 1, (3, 4)).tolist()]
        game = MenuGame(divergence, 0.3, rewards, [1_000_000, 1, 2, 1])
        _, payments = oracles.settle_menu_exactly(game.divergence, game.strength, game.rewards, game.sizes)
        for found, exact in zip(settle(game).payments, payments, strict=True):
            assert found == pytest.approx(float(exact), rel=1e-9, abs=1e-300)


def test_weights_and_boosts_of_a_menu() -> None:
    rng = np.random.default_rng(62)
    for _ in range(50):
        divergence, weights = (rng.integers(0, 9, 5) / 8).tolist(), (2.0 ** rng.integers(-2, 3, 3)).tolist()
        rewards, boost = (rng.integers(0, 9, (3, 5)) / 8).tolist(), (rng.integers(-8, 9, 5) / 8).tolist()
        chosen, payments = oracles.settle_menu_exactly(divergence, 0.5, rewards, [1, 2, 3], weights, boost)
        rule = rg.Mechanism(rg.AffineWelfare(weights=weights, boost=boost), rg.AffinePayments())
        reports = [rg.Report(reward, size=size) for reward, size in zip(rewards, [1, 2, 3], strict=True)]
        settled = rule.settle(reports, rg.Menu(divergence, strength=0.5))
        assert settled.policy.probabilities[chosen] == 1
        assert [Fraction(float(payment)) for payment in settled.payments] == payments


def test_ties_go_to_the_first_entry() -> None:
    menu = rg.Menu([0.0, 0.0, 0.0])
    settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle([rg.Report([0, 1, 1])], menu)
    np.testing.assert_array_equal(settled.policy.probabilities, [0, 1, 0])
    np.testing.assert_array_equal(settled.payments, [0])


def test_no_lie_gains_on_a_menu_and_some_gain_without_payments() -> None:
    rng = np.random.default_rng(63)
    menu = rg.Menu([0.0, 0.2, 0.4], strength=0.5)
    paid, free = (rg.Mechanism(rg.SocialWelfare(), payment) for payment in (rg.AffinePayments(), rg.NoPayments()))
    gained = 0
    for _ in range(60):
        rewards = rng.uniform(0, 1, (3, 3))
        truth = [rg.Report(reward) for reward in rewards]
        for lie in (*rng.uniform(0, 1, (6, 3)), rewards[0] * 5, np.eye(3)[rewards[0].argmax()] * 3):
            told = [rg.Report(lie), *truth[1:]]
            at_truth, at_lie = paid.settle(truth, menu), paid.settle(told, menu)
            utility = at_lie.policy.values([rewards[0]])[0] - at_lie.payments[0]
            assert utility <= at_truth.utilities[0] + 1e-14
            gained += free.settle(told, menu).policy.values([rewards[0]])[0] > free.settle(truth, menu).values[0] + 1e-6
    assert gained > 20
