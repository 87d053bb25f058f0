"""Rules without money: goldens, optimality by itself, who can manipulate what, and how much welfare it costs."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.rules.social_choice import MaximalLottery, NashFeedback, RandomDictatorship, distortion
from tests.cli.runner import run

Q = [0.7, 0.2, 0.1]
G3 = [rg.Report([0.6, 0.3, 0.1], 3), rg.Report([0.1, 0.2, 0.7], 2)]


def trained(rule: Any, reports: list[rg.Report], q: Any = Q) -> np.ndarray:
    settled = rg.Mechanism(rule, rg.NoPayments()).settle(reports, rg.Table(q, rg.KL(0.5)))
    return np.asarray(settled.policy.probabilities)  # type: ignore[attr-defined]


def cycle() -> list[rg.Report]:
    """Condorcet's: x over y over z, and round."""
    return [rg.Report([1.0, 0.5, 0.0]), rg.Report([0.0, 1.0, 0.5]), rg.Report([0.5, 0.0, 1.0])]


def test_nash_feedback_is_that_of_the_theory_and_an_equilibrium() -> None:
    found = trained(NashFeedback(slope=5.0, temperature=0.1), G3)
    np.testing.assert_allclose(found, [0.878842, 0.062306, 0.058853], atol=5e-7)
    rng = np.random.default_rng(0)
    for _ in range(20):
        q, slope, tau = rng.dirichlet(np.ones(5)), rng.uniform(0.5, 20), rng.uniform(0.01, 1)
        reports = [rg.Report(r, int(w)) for r, w in zip(rng.random((4, 5)), rng.integers(1, 9, 4), strict=True)]
        p = trained(NashFeedback(slope, tau), reports, q)
        shares = np.array([report.size for report in reports]) / sum(report.size for report in reports)
        gaps = np.array([np.subtract.outer(report.reward, report.reward) for report in reports])
        against = np.einsum("i,ixy->xy", shares, 1 / (1 + np.exp(-slope * gaps))) @ p
        reply = q * np.exp(against / tau - (against / tau).max())  # the best reply to p, in closed form
        np.testing.assert_allclose(p, reply / reply.sum(), atol=1e-10)


def test_a_cycle_with_equal_margins_is_drawn_evenly() -> None:
    np.testing.assert_allclose(trained(MaximalLottery(), cycle(), [0.2, 0.3, 0.5]), np.full(3, 1 / 3), atol=1e-9)


def test_the_maximal_lottery_is_beaten_by_no_outcome_and_chooses_a_condorcet_winner() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        rewards, sizes = rng.random((5, 4)), rng.integers(1, 6, 5)
        p = trained(MaximalLottery(), [rg.Report(r, int(w)) for r, w in zip(rewards, sizes, strict=True)], [0.25] * 4)
        margins = np.einsum("i,ixy->xy", sizes, np.sign(rewards[:, :, None] - rewards[:, None, :]))
        assert (p @ margins >= -1e-9).all()
        winner = (margins + np.eye(4) > 0).all(axis=1)
        if winner.any():
            np.testing.assert_allclose(p, winner.astype(float), atol=1e-9)


def test_pref_voting_finds_the_same_maximal_lotteries() -> None:
    graphs = pytest.importorskip("pref_voting.weighted_majority_graphs", reason="pref_voting is not installed")
    from pref_voting.probabilistic_methods import maximal_lottery

    rng = np.random.default_rng(0)
    for _ in range(10):
        count = int(rng.integers(3, 6))
        rewards = np.array([rng.permutation(count) + 1.0 for _ in range(4)])
        sizes = 2.0 ** np.arange(4)  # no margin is 0, so that there is one lottery only
        margins = np.einsum("i,ixy->xy", sizes, np.sign(rewards[:, :, None] - rewards[:, None, :])).astype(int)
        edges = [(x, y, int(margins[x, y])) for x, y in np.argwhere(margins > 0).tolist()]
        known = maximal_lottery(graphs.MarginGraph([*range(count)], edges))
        found = MaximalLottery().row(sizes, rewards, np.full(count, 1 / count))
        np.testing.assert_allclose(found, [known.get(x, 0.0) for x in range(count)], atol=1e-6)


def test_a_random_dictator_is_strategyproof_in_rewards_but_not_in_sizes() -> None:
    rng = np.random.default_rng(2)
    others = [rg.Report(r, int(w)) for r, w in zip(rng.random((3, 4)), (1, 2, 3), strict=True)]
    for _ in range(20):
        truth = rng.random(4)

        def worth(report: rg.Report, truth: np.ndarray = truth) -> float:
            return float(trained(RandomDictatorship(), [report, *others], [0.1, 0.2, 0.3, 0.4]) @ truth)

        honest = worth(rg.Report(truth, 2))
        assert max(worth(rg.Report(rng.random(4), 2)) for _ in range(20)) <= honest + 1e-12
        assert worth(rg.Report(truth, 8)) > honest  # more members than there are


def test_ties_and_impossible_outcomes() -> None:
    both = trained(RandomDictatorship(), [rg.Report([1.0, 1.0, 0.0])], [0.2, 0.3, 0.5])
    np.testing.assert_allclose(both, [0.4, 0.6, 0.0])
    for rule in (RandomDictatorship(), MaximalLottery(), NashFeedback()):
        assert trained(rule, cycle(), [0.5, 0.5, 0.0])[2] == 0


@pytest.mark.parametrize("order", list(permutations(range(3)))[:4])
def test_rankings_of_the_same_votes_in_another_order_change_nothing(order: tuple[int, ...]) -> None:
    for rule in (RandomDictatorship(), MaximalLottery(), NashFeedback(3.0, 0.2)):
        np.testing.assert_allclose(trained(rule, [cycle()[i] for i in order]), trained(rule, cycle()), atol=1e-9)


def test_distortion_is_what_welfare_is_lost() -> None:
    sizes, rewards = np.array([3.0, 2.0]), np.array([report.reward for report in G3])
    best = np.eye(3)[(sizes @ rewards).argmax()]
    assert distortion(best, sizes, rewards) == 1
    dictator = trained(RandomDictatorship(), G3)
    np.testing.assert_allclose(dictator, [0.6, 0.0, 0.4])
    assert distortion(dictator, sizes, rewards) == pytest.approx(2.0 / (0.6 * 2.0 + 0.4 * 1.7))
    assert distortion(np.array([0, 0, 1.0]), np.array([1.0]), np.array([[1.0, 1.0, 0.0]])) == np.inf


@pytest.mark.parametrize(
    ("training", "policy"),
    [
        ("random_dictatorship", [0.6, 0.0, 0.4]),
        ("maximal_lottery", [1.0, 0.0, 0.0]),
        ({"rule": "nash_feedback", "slope": 5.0, "temperature": 0.1}, [0.878842, 0.062306, 0.058853]),
    ],
)
def test_game_files_name_them(tmp_path: Any, training: Any, policy: list[float]) -> None:
    import json

    groups = [{"name": str(i), "size": int(r.size), "reward": r.reward} for i, r in enumerate(G3)]
    game = {"reference": Q, "strength": 0.5, "training": training, "payment": "none", "groups": groups}
    (tmp_path / "g.json").write_text(json.dumps(game))
    found = run("settle", tmp_path / "g.json", "--json")
    assert json.loads(found.out)["policy"] == pytest.approx(policy, abs=5e-7)
    (tmp_path / "g.json").write_text(json.dumps({**game, "payment": "affine"}))
    assert run("settle", tmp_path / "g.json").code == 2


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="temperature must be a number > 0"):
        NashFeedback(temperature=0.0)
    with pytest.raises(CombinationError, match="MaximalLottery needs a Table"):
        rg.Mechanism(MaximalLottery(), rg.NoPayments()).settle([rg.Report([1.0, 0.0])], rg.Menu([0.0, 0.0], 1.0))
