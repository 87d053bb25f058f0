"""Rounds that start from the last policy: what they add up to, why truth in each is not best, and a reserve."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy.special import logsumexp

import rlhf_game as rg
from rlhf_game.errors import InputError
from rlhf_game.mechanism.several import ModelPayments, SeveralModels
from rlhf_game.report import write_report
from rlhf_game.simulations.batches import Batch, Reports
from rlhf_game.simulations.learners import RepeatedMarkets
from rlhf_game.simulations.responses import best_responses
from rlhf_game.simulations.simulation_pipeline import simulate
from tests.simulations.studies import MARKET, rows, study
from tests.simulations.test_batches import GROUPS, batch, lies
from tests.simulations.test_market import shaped

STRENGTH, ROUNDS = 2.0, 6
HONEST = {
    "rounds": ROUNDS,
    "games": 4,
    "strength": STRENGTH,
    "reference": "last",
    "keep": "rewards",
    "scenario": {**MARKET["scenario"], "reference": "random"},
    "learning": {"kind": "best_response", "start": "truthful"},
}


def market(**changes: Any) -> dict[str, np.ndarray]:
    return rows(study({**HONEST, **changes}, MARKET))


def truth_of(found: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards [B, n, m], sizes [B, n] and references [B, m] of the markets."""
    one = (found["payment"] == "affine") & (found["round"] == 0)
    return np.array(found["reward_i"][one].tolist()), found["size_i"][one], np.array(found["reference"][one].tolist())


def level(q: np.ndarray, score: np.ndarray) -> np.ndarray:
    """L(S) = strength log E_q exp(S / strength), the best welfare of a score."""
    return STRENGTH * logsumexp(score / STRENGTH + np.log(q), axis=-1)


def policy(q: np.ndarray, score: np.ndarray) -> np.ndarray:
    return np.exp(score / STRENGTH + np.log(q) - level(q, score)[..., None] / STRENGTH)


def test_constant_reports_add_up_to_the_softmax_of_all_scores_so_far() -> None:
    found = market()
    assert (shaped(found, "truthful", "affine") == 1).all()
    r, w, q = truth_of(found)
    s = np.einsum("bn,bnm->bm", w, r)
    for t in range(ROUNDS):
        p, before = policy(q, (t + 1) * s), policy(q, t * s)
        np.testing.assert_allclose(shaped(found, "value_i", "affine")[:, t], np.einsum("bm,bnm->bn", p, r), rtol=1e-12)
        divergence = np.sum(p * np.log(p / before), axis=1)
        np.testing.assert_allclose(shaped(found, "divergence", "affine")[:, t], divergence, rtol=1e-9)
        without = (t + 1) * s[:, None] - w[..., None] * r
        paid = level(q[:, None], without) - level(q, (t + 1) * s)[:, None] + w * np.einsum("bm,bnm->bn", p, r)
        np.testing.assert_allclose(shaped(found, "payment_i", "affine")[:, t], paid, rtol=1e-7, atol=1e-12)
    assert np.abs(shaped(found, "loss", "affine")).max() < 1e-12  # of what one round can bring
    assert (np.diff(shaped(found, "value_i", "affine").sum(axis=2), axis=1) > -1).all()


def always(q: np.ndarray, own: np.ndarray, said: np.ndarray, others: np.ndarray, rounds: int) -> np.ndarray:
    """What one group gets in all rounds by saying the same; own, said, others: scores [B, m]."""
    total = np.zeros(len(q))
    for t in range(1, rounds + 1):
        reached = t * (said + others)
        p = policy(q, reached)
        total += np.sum(p * (own - said), axis=1) + level(q, reached) - level(q, reached - said)
    return total


def test_truth_in_every_round_is_not_best_where_the_next_one_starts_from_the_last_policy() -> None:
    """What is said today moves where tomorrow starts: a larger size pays, though it loses where nothing is carried on.

    Exactly: with L as above and others who say the truth, an item said in all rounds brings sum over t of
    <p_t, own - said> + L(t (said + others)) - L(t (said + others) - said).
    """
    menu = [{"kind": "resize", "factor": 2.0}]
    found = market(menu=menu, always=True, payments=["affine"], games=6)
    r, w, q = truth_of(found)
    s = np.einsum("bn,bnm->bm", w, r)
    limit = 4 * w.max(axis=1)
    brought = np.array(found["always_i"].tolist()).reshape(6, ROUNDS, 3, 2)
    for i in range(3):
        own = w[:, i, None] * r[:, i]
        claimed = np.minimum(2 * w[:, i], limit)[:, None] * r[:, i]
        for k, said in enumerate((own, claimed)):
            for t in (0, 1, ROUNDS - 1):
                known = always(q, own, said, s - own, t + 1) / (t + 1)
                np.testing.assert_allclose(brought[:, t, i, k], known, rtol=1e-9, atol=1e-12)
    gain = shaped(found, "lie_gain_i", "affine")
    np.testing.assert_allclose(gain, (brought[..., 1] - brought[..., 0]), atol=1e-15)
    assert (gain[:, 0] <= 1e-12).all()  # in one round the truth is dominant
    assert (gain[:, -1] > 1e-3).mean() > 0.5
    apart = market(menu=menu, always=True, payments=["affine"], games=6, reference="first")
    assert (shaped(apart, "lie_gain_i", "affine") <= 1e-12).all()
    np.testing.assert_allclose(shaped(apart, "truth_gain_i", "affine"), 0, atol=1e-15)  # they say the truth anyway


def test_charging_for_the_whole_history_makes_truth_in_every_round_best_again() -> None:
    """Derived: p_t is also the affine maximiser of the mean reports so far with weights t, from the first reference.

    So [L(S_t - A_i) - L(S_t) + <p_t, A_i>] / t, for A_i the sum of what group i has said, makes each round's utility
    largest at the truth in all of them, against whatever the others say; random histories of lies never gain.
    """
    rng = np.random.default_rng(0)
    q, r, w = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4)), 3.0

    def total(said: np.ndarray, others: np.ndarray) -> float:
        out = 0.0
        for t in range(1, len(said) + 1):
            own, rest = said[:t].sum(axis=0), others[:t].sum(axis=0)
            p = policy(q, own + rest)
            out += w * p @ r - (level(q, rest) - level(q, own + rest) + p @ own) / t
        return float(out)

    for _ in range(60):
        others = rng.integers(0, 6, (5, 1)) * rng.dirichlet(np.ones(4), 5)
        lie = rng.integers(0, 13, (5, 1)) * rng.dirichlet(np.ones(4), 5)
        assert total(lie, others) <= total(np.tile(w * r, (5, 1)), others) + 1e-12


def tilted(strength: float) -> tuple[Batch, Batch]:
    """The same games, started from a policy by a tilt and by a reference."""
    truth = batch(noise=0.03).with_strength(np.full(batch().strength.shape, strength))
    said = lies(truth, 4)
    moved = truth.after(said, np.ones(len(truth.strength))).after(lies(truth, 5), np.ones(len(truth.strength)))
    start = moved.start.probabilities()
    return moved, Batch(truth.rules, truth.rewards, truth.sizes, start, truth.strength, truth.noise)


def test_starting_from_a_policy_is_that_policy_as_the_reference() -> None:
    moved, plain = tilted(1.5)
    said, item = lies(moved, 6), lies(moved, 7)
    for rule in ("affine", "none", "revenue"):
        one, other = (games.settle(said, [rule])[rule] for games in (moved, plain))
        for name in ("worth", "payments", "divergence", "affine_welfare", "loss"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-11, err_msg=name)
    for payment, reserves in (("affine", (None, 0.3)), ("none", (None, 0.3)), ("revenue", (None,))):
        for reserve in reserves:
            payoffs = [
                RepeatedMarkets(games, (games.truth, item), 5, payment, reserve).payoffs(games, said, range(GROUPS))
                for games in (moved, plain)
            ]
            np.testing.assert_allclose(*payoffs, rtol=1e-8, atol=1e-11)
    answers = [best_responses(one, 0, is_paid=True, starts=2, steps=5) for one in (moved, plain)]
    for found, known in zip(*answers, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-6)


def test_an_outcome_that_float64_would_round_away_comes_back() -> None:
    """A hundred rounds against it leave e^-5000 of it; a hundred for it undo them, exactly."""
    truth = batch().with_strength(np.full(batch().strength.shape, 0.05))
    ones, games = np.ones(len(truth.strength)), truth
    toward = np.zeros_like(truth.rewards)
    toward[:, :, 0] = 1.0
    for outcome in (0, 1):
        said = Reports(np.roll(toward, outcome, axis=2), truth.sizes, truth.truth.owners)
        for _ in range(100):
            games = games.after(said, ones)
        assert (games.start.probabilities()[:, 2] < 1e-300).all()
    p = games.start.probabilities()
    np.testing.assert_allclose(p[:, 0] / p[:, 1], truth.reference[:, 0] / truth.reference[:, 1], rtol=1e-8)


@pytest.mark.parametrize("reserve", [0.05, 0.15, 5.0])
def test_a_reserve_is_one_model_that_must_be_worth_it(reserve: float) -> None:
    """Against the exact programme over subsets, game by game, with what the menu's items pay."""
    found = market(reserve=reserve, training_cost=0.2, rounds=2, games=8, keep="rewards", payments=["affine"])
    r, w, q = truth_of(found)
    trained, paid, values = (shaped(found, name, "affine") for name in ("trained", "payment_i", "value_i"))
    start = q
    for t in range(2):
        for b in range(8):
            space = rg.Table(start[b] / start[b].sum(), rg.KL(STRENGTH))
            rule = rg.Mechanism(SeveralModels(rg.SocialWelfare(), 1, reserve), ModelPayments())
            settled = rule.settle([rg.Report(x, int(k)) for x, k in zip(r[b], w[b], strict=True)], space)
            np.testing.assert_allclose(paid[b, t], settled.payments, rtol=1e-7, atol=1e-10)
            np.testing.assert_allclose(values[b, t], settled.values, rtol=1e-10)
            assert trained[b, t] == len(settled.policy.parts)  # type: ignore[attr-defined]
        s = np.einsum("bn,bnm->bm", w, r)
        start = np.where(trained[:, t, None] > 0, start * np.exp(s / STRENGTH), start)
        start = start / start.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        shaped(found, "surplus", "affine"), shaped(found, "revenue", "affine") - 0.2 * trained, atol=1e-15
    )
    assert (reserve < 1) == trained.any()
    utilities = shaped(found, "utility_i", "affine")
    assert utilities.min() >= -1e-12


def test_payoffs_under_a_reserve_are_what_settling_gives() -> None:
    from rlhf_game.simulations.batches import with_reserve

    moved, _ = tilted(1.5)
    said, item = lies(moved, 6), lies(moved, 7)
    for payment, is_paid in (("affine", True), ("none", False)):
        game = RepeatedMarkets(moved, (moved.truth, item), 5, payment, 0.3)
        payoffs = game.payoffs(moved, said, range(GROUPS)) * moved.stakes[..., None]
        trained = set()
        for i in range(GROUPS):
            for k, one in enumerate((moved.truth, item)):
                rewards, sizes = said.rewards.copy(), said.sizes.copy()
                rewards[i], sizes[i] = one.rewards[i], one.sizes[i]
                other = Reports(rewards, sizes, said.owners)
                settled = moved.settle(other, [payment])[payment]
                settled = with_reserve(moved, other, settled, 0.3, is_paid=is_paid)
                np.testing.assert_allclose(payoffs[i, :, k], settled.utilities[i], rtol=1e-7, atol=1e-11)
                trained |= set(settled.trained.tolist())
        assert trained == {0.0, 1.0}


def test_groups_that_leave_stay_in_the_policy_that_they_helped_to_train() -> None:
    found = market(entry={"outside": 0.0, "first": 1, "chance": 0.5}, payments=["affine"], rounds=8)
    r, w, q = truth_of(found)
    there = shaped(found, "claim_i", "affine")
    total = np.einsum("btn,bnm->btm", there.cumsum(axis=1), r)
    assert there[:, -1].astype(bool).sum(axis=1).mean() > 1
    for t in range(8):
        p = policy(q, total[:, t])
        value = np.einsum("bm,bnm->bn", p, r) * (there[:, t] > 0)
        np.testing.assert_allclose(shaped(found, "value_i", "affine")[:, t], value, rtol=1e-10)


def test_points_with_columns_of_their_own_are_one_table(tmp_path: Path) -> None:
    sweep = {
        "always": [True, False],
        "learning": [MARKET["learning"], {"kind": "best_response", "over": "reports", "starts": 2, "steps": 2}],
    }
    made = study({"games": 2, "rounds": 2, "sweep": sweep}, MARKET)
    finished = simulate(made, tmp_path / "out")
    table = pandas.read_parquet(finished.table)
    known = table.groupby("point")[["always_0", "mixture_0", "welfare"]].count() > 0
    assert known.to_numpy().tolist() == [
        [True, True, True],
        [True, False, True],
        [False, True, True],
        [False, False, True],
    ]
    assert write_report(tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "last", "regularizer": "l2"}, "reference: must be first unless .*, regularizer is kl"),
        ({"reference": "last", "training": "egalitarian", "payments": ["none"]}, "reference: must be first unless"),
        ({"reserve": 0.1, "payments": ["revenue"]}, "reserve: must come with .* found revenue"),
        (
            {"reserve": 0.1, "learning": {"kind": "best_response", "over": "reports"}},
            "reserve: must come with learning",
        ),
        (
            {"reserve": 0.1, "provider": {"objective": "welfare", "strengths": [1.0]}},
            "reserve: must come with provider.objective revenue",
        ),
        ({"always": True, "menu": []}, "always: must come with a menu of at least one lie"),
    ],
)
def test_rounds_that_cannot_follow_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        study(changes, MARKET)
