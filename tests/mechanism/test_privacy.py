"""Privacy: the golden losses of G3, the bound over random games, and the game in which it is sharp."""

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.mechanism.privacy import privacy

Q, STRENGTH = np.array([0.7, 0.2, 0.1]), 0.5
REWARDS = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
SIZES = np.array([3.0, 2.0])


def optimum(q: np.ndarray, score: np.ndarray, strength: float = STRENGTH) -> np.ndarray:
    p = q * np.exp((score - score.max()) / strength)
    return np.asarray(p / p.sum())


def test_the_realised_losses_of_the_golden_game() -> None:
    p = optimum(Q, SIZES @ REWARDS)
    found = [
        privacy([p], [r], share=w, strength=STRENGTH, span=1.0) for r, w in zip(REWARDS, SIZES, strict=True)
    ]  # fmt: skip
    assert [one.realised_loss for one in found] == pytest.approx([2.0398, 2.3141], abs=5e-5)
    assert [one.epsilon for one in found] == [12.0, 8.0]
    assert [one.epsilon_leaving for one in found] == [6.0, 4.0]
    assert found[0].after(10) == 120.0
    for i, one in enumerate(found):  # p_-i by training without the group
        without = optimum(Q, SIZES @ REWARDS - SIZES[i] * REWARDS[i])
        assert one.realised_loss == pytest.approx(np.abs(np.log(p / without)).max(), rel=1e-12)
    assert privacy([p], [REWARDS[0]], share=3.0, strength=STRENGTH, span=None).epsilon is None


def test_no_exchange_of_a_reward_moves_a_response_by_more_and_some_moves_it_by_nearly_as_much() -> None:
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(2000):
        q = rng.dirichlet(np.full(4, 0.3)) + 1e-12
        others, mine, other = rng.random((3, 4)).round(rng.integers(0, 3))
        share, strength = rng.uniform(0.1, 4), rng.uniform(0.2, 2)
        p, changed = (optimum(q / q.sum(), others + share * r, strength) for r in (mine, other))
        moved = np.abs(np.log(p / changed)).max()
        bound = privacy([p], [mine], share=share, strength=strength, span=1.0)
        assert bound.epsilon is not None
        assert bound.epsilon_leaving is not None
        assert moved <= bound.epsilon + 1e-9
        assert bound.realised_loss <= bound.epsilon_leaving + 1e-9
        largest = max(largest, moved / bound.epsilon)
    rare = np.array([1e-9, 1 - 1e-9])
    p, changed = (optimum(rare, 3 * r) for r in (np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    assert np.abs(np.log(p / changed)).max() == pytest.approx(12.0, rel=1e-3)
    assert largest > 0.8


def test_of_several_responses_the_losses_add_up_and_no_game_exceeds_the_sum() -> None:
    """Two prompts, one response each: the exact log ratio of pairs, over exchanges of one group's reward."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        q = rng.dirichlet(np.full(3, 0.5), size=2) + 1e-9
        others, mine, other = rng.random((3, 2, 3)).round()
        policies = [[optimum(q[b] / q[b].sum(), others[b] + 2 * r[b]) for b in (0, 1)] for r in (mine, other)]
        found = privacy(policies[0], list(mine), share=2.0, strength=STRENGTH, span=1.0)
        pairs = [np.log(np.outer(*policies[k])) for k in (0, 1)]
        together = found.after(2)
        assert together is not None
        assert np.abs(pairs[0] - pairs[1]).max() <= together + 1e-9
        assert together == 2 * (found.epsilon or 0)
    assert privacy([], [], share=2.0, strength=STRENGTH, span=0.5).realised_loss is None


def test_who_minds_nothing_loses_exactly_nothing_and_steep_games_lose_no_digits() -> None:
    p = optimum(Q, SIZES @ REWARDS)
    for policy in (p, np.full(10, 0.1)):  # a tenth ten times is not 1
        same = np.full(len(policy), 0.3)
        assert privacy([policy], [same], share=3.0, strength=0.1, span=None).realised_loss == 0.0
    steep = privacy([np.array([1e-9, 1 - 1e-9])], [np.array([0.0, 1.0])], share=60.0, strength=1.0, span=None)
    assert steep.realised_loss == pytest.approx(60 + np.log(1e-9 + (1 - 1e-9) * np.exp(-60.0)), rel=1e-12)


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_a_policy_read_in_pieces_loses_what_its_log_ratios_say(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    p, r = rng.dirichlet(np.ones(11)) * (rng.random(11) > 0.3), rng.random(11)
    p /= p.sum()
    a = scale * r[p > 0]
    wanted = np.abs(a - a.min() + np.log(p[p > 0] @ np.exp(a.min() - a))).max()
    monkeypatch.setattr("rlhf_game.mechanism.privacy.BLOCK", 3)
    found = privacy([p], [r], share=scale * STRENGTH, strength=STRENGTH, span=None)
    assert found.realised_loss == pytest.approx(wanted, rel=1e-12)


def test_what_float64_cannot_hold_is_refused() -> None:
    with pytest.raises(InputError, match="strength must be such that float64 holds"):
        privacy([np.array([0.5, 0.5])], [np.array([0.2, 0.1])], share=3.0, strength=1e-308, span=1.0)
