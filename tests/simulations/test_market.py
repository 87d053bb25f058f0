"""Groups that learn: with payments truth wins, without it does not; money, entry and the provider's strength."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.simulations.batches import Reports
from tests.simulations.studies import MARKET, means, played, rows, study

CAMPS = {"kind": "polarised", "groups": 4, "outcomes": 6, "camps": 2, "overlap": 0.4, "sizes": [1, 4]}


def market(**changes: Any) -> dict[str, np.ndarray]:
    return rows(study(changes, MARKET))


def shaped(found: dict[str, np.ndarray], name: str, payment: str) -> np.ndarray:
    """A column under one payment rule: [games, rounds, ...]."""
    column = found[name][found["payment"] == payment]
    rounds = int(found["round"].max()) + 1
    return column.reshape(-1, rounds, *column.shape[1:])


@pytest.mark.parametrize("scenario", [MARKET["scenario"], CAMPS], ids=["random", "camps"])
def test_no_regret_learners_learn_the_truth_with_payments_and_to_lie_without(
    tmp_path: Path, scenario: dict[str, Any]
) -> None:
    summary = played(tmp_path, {"scenario": scenario, "rounds": 100}, MARKET)
    truthful, efficiency = means(summary, "truthful", "last"), means(summary, "efficiency", "last")
    assert truthful["", "affine"] > 0.8
    assert efficiency["", "affine"] > 0.98
    assert truthful["", "none"] < 0.2
    assert efficiency["", "none"] < 0.9
    start = summary["summaries"][0]["measures"]["truthful"]["estimate"][0]
    assert start == pytest.approx(1 / 4)  # nobody knows anything yet


def test_regret_of_multiplicative_weights_is_below_its_bound() -> None:
    """Cesa-Bianchi and Lugosi 2006, Theorem 2.2: what the best item would have paid more, summed over the rounds."""
    from rlhf_game.simulations.batches import Reports
    from rlhf_game.simulations.learners import MultiplicativeWeights, RepeatedMarkets
    from tests.simulations.test_batches import GAMES, GROUPS, batch

    truth, rng, rounds = batch(), np.random.default_rng(8), 50
    other = Reports(batch(seed=9).rewards, truth.sizes, truth.truth.owners)
    game = RepeatedMarkets(
        truth, (truth.truth, other, Reports(truth.rewards, 2 * truth.sizes, other.owners)), rounds, "affine"
    )
    learner = MultiplicativeWeights(kind="multiplicative_weights").begin(game, rng.random((GROUPS, GAMES)))
    items, expected = np.zeros((GROUPS, GAMES, 3)), np.zeros((GROUPS, GAMES))
    low, high = np.inf, -np.inf
    present = np.ones((GROUPS, GAMES), dtype=bool)
    for round_ in range(rounds):
        probabilities = learner._probabilities()  # type: ignore[attr-defined]
        said = learner.reports(round_, rng.random((GROUPS, GAMES)))
        payoffs = game.payoffs(truth, said, range(GROUPS))
        low, high = min(low, payoffs.min()), max(high, payoffs.max())
        items += payoffs
        expected += (probabilities * payoffs).sum(axis=2)
        learner.learn(round_, truth, said, np.zeros((GROUPS, GAMES)), payoffs, present)
    regret = (items.max(axis=2) - expected).max()
    assert regret <= max(1.0, (high - low) ** 2) * np.sqrt(rounds * np.log(3) / 2)
    assert regret > 0


def test_what_an_item_would_have_paid_is_what_it_pays() -> None:
    from rlhf_game.simulations.batches import Reports
    from rlhf_game.simulations.learners import RepeatedMarkets
    from tests.simulations.test_batches import GROUPS, batch, lies

    truth = batch(noise=0.03)
    item = lies(truth, 4)
    said = lies(truth, 5)
    for payment in ("affine", "none", "revenue"):
        game = RepeatedMarkets(truth, (truth.truth, item), 10, payment)
        payoffs = game.payoffs(truth, said, range(GROUPS)) * truth.stakes[..., None]
        for i in range(GROUPS):
            for k, one in enumerate((truth.truth, item)):
                rewards, sizes = said.rewards.copy(), said.sizes.copy()
                rewards[i], sizes[i] = one.rewards[i], one.sizes[i]
                settled = truth.settle(Reports(rewards, sizes, said.owners), [payment])[payment]
                np.testing.assert_allclose(payoffs[i, :, k], settled.utilities[i], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("more", [{"rounds": 400, "games": 10}, pytest.param({"rounds": 600}, marks=pytest.mark.slow)])
def test_bandits_say_the_truth_more_with_payments_than_without(more: dict[str, int], tmp_path: Path) -> None:
    learning = {"kind": "bandit", "rate": 0.3, "exploration": 0.1}
    menu = [{"kind": "polarize", "temperature": 8.0}, {"kind": "resize", "factor": 4.0}]
    truthful = means(played(tmp_path, {"learning": learning, "menu": menu, **more}, MARKET), "truthful", "last")
    assert truthful["", "affine"] > 0.4 > 0.25 > truthful["", "none"]


@pytest.mark.parametrize("over", ["menu", "reports"])
def test_best_responses_reach_the_truth_with_payments_and_a_polarised_end_without(over: str) -> None:
    """A dominant strategy is reached in one turn each. Without payments: the race, and its price of anarchy."""
    found = market(learning={"kind": "best_response", "over": over, "start": "random"}, rounds=12, games=10)
    settled = {name: shaped(found, name, "affine")[:, 3:] for name in ("truthful", "loss", "claimed")}
    assert (settled["truthful"] == 1).all()
    assert (settled["loss"] <= 1e-12).all()
    assert (settled["claimed"] == 1).all()
    race = {name: shaped(found, name, "none")[:, -1] for name in ("truthful", "efficiency", "claimed")}
    assert race["truthful"].mean() < 0.1
    assert race["claimed"].mean() > 2
    assert race["efficiency"].mean() < (0.85 if over == "menu" else 0.6)


def test_a_race_from_the_truth_leaves_it_only_without_payments() -> None:
    learning = {"kind": "best_response", "over": "reports", "start": "truthful"}
    found = market(learning=learning, rounds=4, games=6)
    assert (shaped(found, "truthful", "affine") == 1).all()
    falling = shaped(found, "truthful", "none").mean(axis=0)
    assert falling[0] == 1
    assert (np.diff(falling) <= 0).all()
    assert falling[-1] < 0.2


def test_nobody_pays_more_than_the_budget_and_who_is_broke_stays_out() -> None:
    found = market(budget=1.0, rounds=30, games=10)
    paid = shaped(found, "payment_i", "affine").sum(axis=1)
    assert (paid <= 1.0 + 1e-9).all()
    broke = shaped(found, "broke", "affine")
    assert (np.diff(broke, axis=1) >= 0).all()
    assert broke[:, -1].mean() > 1
    np.testing.assert_array_equal(broke + shaped(found, "present", "affine"), 3)
    assert not shaped(found, "broke", "none").any()  # where nobody pays, money never runs out
    rich, free = market(budget=1e6, rounds=30, games=10), market(rounds=30, games=10)
    np.testing.assert_array_equal(rich["welfare"], free["welfare"])


def test_groups_leave_for_better_places_and_come_back() -> None:
    generous = market(entry={"outside": 1.0, "chance": 0.0}, rounds=30, games=5)  # rewards sum to 1: nobody gets it
    assert not shaped(generous, "present", "affine")[:, -1].any()
    assert not shaped(generous, "welfare", "affine")[:, -1].any()
    returning = market(entry={"outside": 1.0, "chance": 0.5}, rounds=30, games=5)
    assert 0 < shaped(returning, "present", "affine")[:, -10:].mean() < 3
    learning = {"kind": "best_response", "start": "truthful"}
    content = market(entry={"outside": 0.0}, learning=learning, rounds=10, games=5)
    assert (shaped(content, "present", "affine") == 3).all()  # truth is never worse than nothing
    entering = market(entry={"outside": 0.0, "first": 1, "chance": 0.3}, learning=learning, rounds=30, games=5)
    present = shaped(entering, "present", "affine")
    assert (present[:, 0] == 1).all()
    assert (present[:, -1] == 3).all()


def test_a_provider_that_looks_for_revenue_finds_more_than_any_fixed_strength() -> None:
    strengths = [0.1, 0.3, 1.0, 3.0]
    learning = {"kind": "best_response", "start": "truthful"}
    fixed = {
        strength: shaped(market(strength=strength, learning=learning, rounds=3), "revenue", "affine")[:, -1]
        for strength in strengths
    }
    provider = {"objective": "revenue", "strengths": strengths, "every": 1}
    adapted = shaped(market(provider=provider, learning=learning, rounds=3), "revenue", "affine")[:, -1]
    np.testing.assert_allclose(adapted, np.max(list(fixed.values()), axis=0), rtol=1e-9)
    assert adapted.mean() > 1.02 * max(revenue.mean() for revenue in fixed.values())
    welfare = market(provider={**provider, "objective": "welfare"}, learning=learning, rounds=3)
    assert (shaped(welfare, "chosen_strength", "affine")[:, -1] == 0.1).all()  # nothing else binds the policy


def test_payment_rules_meet_the_same_markets_and_chances() -> None:
    found = market(rounds=1)
    for name in ("welfare", "claimed", "divergence"):
        np.testing.assert_array_equal(shaped(found, name, "affine"), shaped(found, name, "none"))


def test_markets_do_not_depend_on_each_other() -> None:
    few, many = market(games=3, rounds=20), market(games=9, rounds=20)
    np.testing.assert_allclose(few["welfare"], many["welfare"][: len(few["welfare"])], rtol=1e-9)


def test_more_groups_at_first_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match=r"entry\.first: must be at most the number of groups \(3\), found 4"):
        study({"entry": {"outside": 0.0, "first": 4}}, MARKET)


def test_coarse_regret_is_what_one_item_would_have_gained() -> None:
    """From the rows alone: play the market, settle each item against what was said, round by round."""
    found = market(rounds=6, games=3, payments=["none"], menu=[{"kind": "resize", "factor": 3.0}])
    sizes, claims = shaped(found, "size_i", "none"), shaped(found, "claim_i", "none")
    utilities, regret = shaped(found, "utility_i", "none"), shaped(found, "coarse_regret_i", "none")
    made = study({"rounds": 6, "games": 3, "payments": ["none"], "menu": [{"kind": "resize", "factor": 3.0}]}, MARKET)
    point = made.points[0]
    (games,), _ = point.fields.games_of(point.source, point.trials(range(3)))
    batch = games.batch
    limit = 4 * sizes.max(axis=2)
    missed = np.zeros((2, 3, 3))  # of the two items, games, groups
    for t in range(6):
        for i in range(3):
            for k, factor in enumerate((1.0, 3.0)):
                said = claims[:, t].copy()
                said[:, i] = np.minimum(factor * sizes[:, t, i], limit[:, t])
                settled = batch.settle(Reports(batch.rewards, said.T, batch.truth.owners), ["none"])["none"]
                missed[k, :, i] += settled.utilities[i] - utilities[:, t, i]
        np.testing.assert_allclose(regret[:, t], np.maximum(missed.max(axis=0) / (t + 1), 0), atol=1e-12)
    np.testing.assert_allclose(shaped(found, "coarse_regret", "none"), regret.max(axis=2))


def test_learners_without_regret_reach_coarse_correlated_equilibria() -> None:
    found = market(rounds=150, games=6)
    for payment in ("affine", "none"):
        regret = shaped(found, "coarse_regret", payment)
        assert regret[:, -1].mean() < 0.5 * regret[:, 4].mean()
