"""Equilibria: nobody gains by leaving one, truth is one with payments, and what they cost told apart."""

from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.best_response import BestResponse
from rlhf_game.errors import InputError
from rlhf_game.mechanism.regret import World
from tests.simulations.studies import EQUILIBRIUM, rows, study


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return rows(study({"keep": "rewards"}, EQUILIBRIUM))


def test_with_payments_the_truth_is_the_equilibrium_and_it_is_proved(found: dict[str, Any]) -> None:
    paid = found["payment"] == "affine"
    assert (found["equilibria"][paid] == 2).all()
    np.testing.assert_allclose(found["price_of_anarchy"][paid].astype(float), 1, atol=1e-6)
    assert (found["epsilon_bound"][paid].astype(float) < 1e-3).all()
    np.testing.assert_array_equal(found["claim_i"][paid], found["size_i"][paid])


def test_without_payments_groups_claim_more_than_they_are_and_affine_welfare_is_lost(found: dict[str, Any]) -> None:
    free = found["payment"] == "none"
    there = free & (found["equilibria"] > 0)
    assert there.sum() >= 4
    assert (found["claimed"][there].astype(float) > 1.5).mean() > 0.8
    anarchy, stability = (found[name][there].astype(float) for name in ("price_of_anarchy", "price_of_stability"))
    assert (anarchy >= stability - 1e-12).all()
    assert (stability >= 1 - 1e-9).all()
    assert anarchy.mean() > 1.005
    np.testing.assert_allclose(anarchy, (found["optimum"] / found["affine_welfare"])[there].astype(float))
    plain = (found["welfare_optimum"] / found["welfare"])[there].astype(float)
    np.testing.assert_allclose(found["welfare_price_of_anarchy"][there].astype(float), plain)
    assert (found["epsilon"][there] <= found["epsilon_bound"][there] + 1e-12).all()


def test_another_search_ends_where_these_equilibria_are(found: dict[str, Any]) -> None:
    """The same dynamics from the truth by another search end between the worst and the best equilibrium found."""
    free = np.flatnonzero((found["payment"] == "none") & (found["equilibria"] > 0))[:2]
    for k in free:
        space = rg.Table(found["reference"][k], rg.KL(0.5), normalization="sum")
        mechanism = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
        limit = int(4 * found["size_i"][k].max())
        said = [
            rg.Report(reward, int(size)) for reward, size in zip(found["reward_i"][k], found["size_i"][k], strict=True)
        ]
        truth = [rg.Group(str(i), report.reward, int(report.size)) for i, report in enumerate(said)]
        for _ in range(6):  # the same dynamics by the other search
            for i in (0, 1):
                world = World(mechanism, space, (said[1 - i],), i, limit)
                said[i] = BestResponse(4)(truth[i], world, np.random.default_rng(0))
        settled = mechanism.settle(said, space)
        worth = [g.size * float(np.dot(settled.policy.probabilities, g.reward)) for g in truth]  # type: ignore[attr-defined]
        affine = sum(worth) - 0.5 * settled.policy.divergence
        assert found["affine_welfare"][k] <= affine + 1e-3 <= found["affine_welfare_best"][k] + 2e-2


def test_no_equilibrium_is_claimed_where_none_was_reached() -> None:
    early = rows(study({"rounds": 1, "beginnings": 1, "epsilon": 0.0, "games": 4}, EQUILIBRIUM))
    free = early["payment"] == "none"
    none = free & (early["equilibria"] == 0)
    assert all(value is None for value in early["price_of_anarchy"][none])
    assert all(value is None for value in early["claimed"][none])


def test_rules_without_a_gradient_are_refused() -> None:
    with pytest.raises(InputError, match="payments: must be affine, none or revenue, with training social_welfare"):
        study({"training": "egalitarian", "payments": ["none"]}, EQUILIBRIUM)
