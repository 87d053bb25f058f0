"""How a tape is asked for: batches that are not passed, prompts that are done left alone, little drawn in vain."""

from collections.abc import Sequence
from math import comb

import numpy as np
import pytest

from rlhf_game import RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.partition import worthwhile
from rlhf_game.mechanism.draws.tapes import Problem
from rlhf_game.outcomes.draws.drawing import ProposalRow, TapeSettings
from rlhf_game.outcomes.draws.proposals import Counts, Draw, Proposal

PROBLEM = Problem(np.array([2.0, 1.0]), np.ones(2), 0.5, np.ones(2))
TEXTS = 50


class Asked:
    """A reference of fifty texts for each of four prompts, which notes what it is asked for."""

    def __init__(self, seed: int, batch_size: int, most: int = 10**6) -> None:
        self.seed, self.rounds = seed, list[list[Draw]]()
        self.rewards = np.random.default_rng(seed).beta(3, 1.5, (2, 4, TEXTS))
        self.drawing = TapeSettings(PROBLEM, self.propose, self.score, self.exponentials, most, batch_size)

    def propose(self, wanted: Sequence[Draw], counts: Counts | None) -> list[Proposal]:
        self.rounds.append(list(wanted))
        picked = [np.random.default_rng([self.seed, b, j]).integers(TEXTS) for b, j in wanted]
        return [Proposal(str(k), 1, True) for k in picked]

    def score(self, prompts: Sequence[int], texts: Sequence[str]) -> tuple[Array, Array]:
        found = self.rewards[:, list(prompts), [int(text) for text in texts]]
        return found, found

    def exponentials(self, prompt: int, count: int) -> Array:
        return np.random.default_rng([self.seed, 99, prompt]).standard_exponential(count)


def shown(tapes: Sequence[Sequence[ProposalRow]]) -> list[list[tuple[str, bool]]]:
    return [[(row.proposal.text, row.is_accepted) for row in tape] for tape in tapes]


def test_no_round_passes_the_batch_and_little_is_drawn_in_vain() -> None:
    """A batch and a few more would take nearly as long as two; sixteen draws of each of four prompts."""
    asked, used, rounds, least = 0, 0, 0, 0
    for seed in range(8):
        one = Asked(seed, 64)
        tapes = one.drawing.draw([16] * 4)
        assert max(map(len, one.rounds)) <= 64
        assert sum(map(len, one.rounds[1:4])) >= 3 * 60 or len(one.rounds) < 6  # and whole batches are used
        assert [sum(row.is_accepted for row in tape) for tape in tapes] == [16] * 4
        asked, used = asked + sum(map(len, one.rounds)), used + sum(map(len, tapes))
        rounds, least = rounds + len(one.rounds), least + -(-sum(map(len, tapes)) // 64)
    assert used < asked < 1.12 * used
    assert rounds < 1.6 * least


@pytest.mark.parametrize(
    ("draws", "rate", "most", "cost"),
    [(16, 0.07, 256, 21.0), (1, 0.3, 256, 21.0), (3, 0.9, 50, 10.0), (16, 0.01, 256, 5.0)],
)
def test_proposals_are_asked_for_while_they_are_likelier_to_save_a_round(
    draws: int, rate: float, most: int, cost: float
) -> None:
    def chance(j: int) -> float:  # that the j-th proposal is the last that is needed
        return comb(j - 1, draws - 1) * rate**draws * (1 - rate) ** (j - draws)

    wanted = draws
    while wanted < most and sum(map(chance, range(draws, wanted + 1))) < cost * chance(wanted + 1):
        wanted += 1
    assert worthwhile(draws, rate, most, cost) == wanted
    assert worthwhile(most + 1, rate, most, cost) == most


def test_a_tape_is_the_same_whatever_is_asked_at_a_time() -> None:
    first, *others = (shown(Asked(3, size).drawing.draw([5] * 4)) for size in (2, 7, 64, 4000))
    assert all(other == first for other in others)


def test_a_prompt_that_has_its_draws_is_asked_no_more() -> None:
    one = Asked(4, 32)
    tapes = one.drawing.draw([1, 1, 1, 30])
    made = [0] * 4
    for wanted in one.rounds:
        done = [made[b] >= len(tapes[b]) for b in range(4)]
        assert not any(done[b] for b, _ in wanted)
        for b, j in wanted:
            assert j == made[b]
            made[b] += 1


def test_the_most_is_never_passed() -> None:
    one = Asked(5, 64, most=20)
    with pytest.raises(RunError, match=r"of 16 draws after 20 proposals"):
        one.drawing.draw([16] * 4)
    assert max(j for wanted in one.rounds for _, j in wanted) < 20
