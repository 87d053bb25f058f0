"""Other rules beside ours: each is what it says, and the audit tells who gains by lying to it."""

import numpy as np
import pytest
from scipy.integrate import quad

import rlhf_game as rg
from rlhf_game.agents.baselines import (
    Baseline,
    compare,
    mosaic,
    pay_as_bid,
    proportional_cost_sharing,
    second_price,
    token_auction,
)  # fmt: skip
from rlhf_game.errors import CombinationError

Q, STRENGTH = np.array([0.7, 0.2, 0.1]), 0.5
REWARDS = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3]])
SIZES = np.array([3.0, 2.0, 1.0])
GROUPS = [rg.Group(name, r, int(w)) for name, r, w in zip("abc", REWARDS, SIZES, strict=True)]


@pytest.fixture(scope="module")
def found() -> dict[str, Baseline]:
    space = rg.Table(Q, rg.KL(STRENGTH), normalization="sum")
    return {one.name: one for one in compare(GROUPS, space, size_limit=12, starts=1)}


def test_only_rules_that_charge_for_the_harm_leave_nothing_to_gain(found: dict[str, Baseline]) -> None:
    assert found["affine payments (ours)"].worst.found == 0
    assert found["affine payments (ours)"].worst.bound == 0
    assert found["MOSAIC"].worst.found == 0
    assert found["MOSAIC"].worst.bound is None
    for name in ("no payments", "pay as bid", "proportional cost sharing", "token auction"):
        assert found[name].worst.found > 0.01, name


def test_welfare_and_revenue_stand_beside_ours(found: dict[str, Baseline]) -> None:
    ours = found["affine payments (ours)"]
    assert ours.affine_welfare == max(one.affine_welfare for one in found.values())
    assert found["no payments"].revenue == 0
    assert found["pay as bid"].least_utility == pytest.approx(0, abs=1e-12)
    assert found["second price on the favourite"].affine_welfare < ours.affine_welfare
    assert all(one.least_utility >= -1e-12 for one in found.values())


def test_every_rule_is_what_it_says() -> None:
    p, paid = pay_as_bid(Q, STRENGTH, REWARDS, SIZES)
    np.testing.assert_allclose(paid, SIZES * (REWARDS @ p))
    p, paid = proportional_cost_sharing(Q, STRENGTH, REWARDS, SIZES)
    assert paid.sum() == pytest.approx(STRENGTH * np.sum(p * np.log(p / Q)))  # the cost, no more and no less
    p, paid = second_price(Q, STRENGTH, REWARDS, SIZES)
    np.testing.assert_array_equal(p, [1, 0, 0])
    np.testing.assert_allclose(paid, [1.4, 0, 0])


def test_the_token_auction_charges_the_bid_at_which_the_token_changes() -> None:
    """By quadrature, and by drawing tokens that change at most once while one bid rises."""
    rng = np.random.default_rng(0)
    p, paid = token_auction(Q, STRENGTH, REWARDS, SIZES)
    own = Q * np.exp(REWARDS / STRENGTH)
    own /= own.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, SIZES @ own / SIZES.sum())
    for i, bid in enumerate(SIZES):
        rest = SIZES.sum() - bid
        below = quad(lambda b, rest=rest: b / (b + rest), 0, bid)[0]
        others = (SIZES @ own - bid * own[i]) / rest
        moved = np.maximum(own[i] - others, 0)
        assert paid[i] == pytest.approx(moved.sum() * (bid * bid / SIZES.sum() - below))
        # stable draws: one uniform number a piece for what p and q_i share, what q_i gives up, and the level x of it
        is_moved = rng.random(200_000) < moved.sum()
        level = rng.random(200_000)  # the share x at which the token changes: drawn from p_i above it, from q_i below
        critical = rest * level / (1 - level)
        charged = np.where(is_moved & (level < bid / SIZES.sum()), critical, 0.0)
        assert charged.mean() == pytest.approx(paid[i], abs=4 * charged.std() / np.sqrt(len(charged)))
        gone = np.maximum(others - own[i], 0) / moved.sum()
        token = np.where(
            level < bid / SIZES.sum(), rng.choice(3, 200_000, p=moved / moved.sum()), rng.choice(3, 200_000, p=gone)
        )
        kept = rng.choice(3, 200_000, p=np.minimum(own[i], others) / (1 - moved.sum()))
        drawn = np.bincount(np.where(is_moved, token, kept), minlength=3) / 200_000
        np.testing.assert_allclose(drawn, p, atol=0.006)
    alone = token_auction(Q, STRENGTH, REWARDS[:1], SIZES[:1])[1]
    np.testing.assert_allclose(alone, 0)


def test_mosaic_is_the_affine_rule_on_its_candidates() -> None:
    drawn = np.random.default_rng(0).multinomial(64, Q) / 64
    p, paid = mosaic(Q, STRENGTH, REWARDS, SIZES)
    settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(
        [rg.Report(r, int(w)) for r, w in zip(REWARDS, SIZES, strict=True)], rg.Table(drawn, rg.KL(STRENGTH))
    )
    np.testing.assert_allclose(p, settled.policy.probabilities)  # type: ignore[attr-defined]
    np.testing.assert_allclose(paid, settled.payments, rtol=1e-8)


def test_few_candidates_charge_something_else_on_average_and_many_nearly_the_exact_payments() -> None:
    """The comparison of docs/draws.md: what MOSAIC charges is off by more than chance on few candidates."""
    reports = [rg.Report(r, int(w)) for r, w in zip(REWARDS, SIZES, strict=True)]
    exact = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, rg.Table(Q, rg.KL(STRENGTH))).payments

    def off(count: int) -> np.ndarray:
        paid = np.array([mosaic(Q, STRENGTH, REWARDS, SIZES, seed, count)[1] for seed in range(400)])
        return np.abs((paid.mean(axis=0) - exact) / (paid.std(axis=0) / np.sqrt(len(paid))))

    assert off(4).max() > 8
    assert off(4096).max() < 4
    weights = np.random.default_rng(1).dirichlet(np.ones(len(Q)))
    settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, rg.Table(weights, rg.KL(STRENGTH)))
    paid = mosaic(weights, STRENGTH, REWARDS, SIZES, candidates=None)[1]
    np.testing.assert_allclose(paid, settled.payments, rtol=1e-8)


def test_they_need_one_prompt_and_kl() -> None:
    with pytest.raises(CombinationError, match="the baselines are defined on a table for one prompt with KL"):
        compare(GROUPS, rg.Table(Q, rg.SquaredL2(1.0)), size_limit=4)
