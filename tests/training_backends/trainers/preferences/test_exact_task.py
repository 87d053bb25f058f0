"""Tasks with a known optimum: their values against brute force, and losses that should win do."""

from itertools import product

import numpy as np
import pytest
import torch

from rlhf_game import RunError
from rlhf_game.training_backends.trainers.preferences import LOSSES, ExactTask, PreferenceLoss, TaskSettings

SMALL = TaskSettings(prompts=2, tokens=3, length=2, pairs=50, beta=0.5, steps=60)


def test_the_optimum_is_the_best_of_all_policies_and_scores_one() -> None:
    task = ExactTask(SMALL, seed=0)
    assert task.worth(task.log_reference).score == pytest.approx(0.0, abs=1e-12)
    assert task.worth(task.optimum).score == pytest.approx(1.0)
    q = np.exp(task.log_reference)
    np.testing.assert_allclose((q * task.reward).sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose((q * task.reward**2).sum(axis=1), 1.0)
    # J* = beta log sum q exp(r / beta), by an independent formula
    reward, kl = task.value(task.optimum)
    best = 0.5 * np.log((q * np.exp(task.reward / 0.5)).sum(axis=1)).mean()
    assert reward - 0.5 * kl == pytest.approx(best)
    rng = np.random.default_rng(1)
    for _ in range(50):
        logits = task.optimum + rng.normal(scale=0.3, size=task.optimum.shape)
        moved = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        assert task.worth(moved).score < 1


def test_features_tell_tokens_and_neighbours_apart() -> None:
    task = ExactTask(SMALL, seed=0)
    for row, (first, second) in zip(task.features, product(range(3), repeat=2), strict=True):
        expected = np.zeros(6 + 9)
        expected[[first, 3 + second, 6 + 3 * first + second]] = 1
        np.testing.assert_array_equal(row, expected)


def test_pairs_are_of_the_reference_and_labels_follow_bradley_terry() -> None:
    task = ExactTask(TaskSettings(prompts=1, tokens=3, length=2, pairs=8000), seed=3)
    _, chosen, rejected = task.pairs.T
    assert (chosen != rejected).all()
    gap = np.abs(task.reward[0, chosen] - task.reward[0, rejected])
    is_better = task.reward[0, chosen] > task.reward[0, rejected]
    expected = 1 / (1 + np.exp(-gap))
    assert abs(is_better.mean() - expected.mean()) < 4 * 0.5 / np.sqrt(8000)
    wrong = ExactTask(TaskSettings(prompts=1, tokens=3, length=2, pairs=8000, flip=0.3), seed=3)
    share = (wrong.reward[0, wrong.pairs[:, 1]] > wrong.reward[0, wrong.pairs[:, 2]]).mean()
    assert abs(share - (0.7 * expected.mean() + 0.3 * (1 - expected.mean()))) < 0.02


def test_dpo_with_much_data_comes_near_the_optimum_and_the_wrong_way_round_below_the_reference() -> None:
    much = ExactTask(TaskSettings(prompts=1, tokens=3, length=2, pairs=8000, steps=200, batch_size=1000), seed=0)
    found = much.train(LOSSES["dpo"])
    assert found.score > 0.95
    wrong = PreferenceLoss("wrong", lambda b: torch.nn.functional.softplus(b.margin), "softplus(z)")
    assert much.train(wrong).score < -1
    small = ExactTask(SMALL, seed=0)
    assert small.train(LOSSES["dpo"]) == small.train(LOSSES["dpo"])  # nothing is drawn that the seed does not fix


def test_a_training_that_fails_says_why() -> None:
    task = ExactTask(SMALL, seed=0)
    for of, said in (
        (lambda b: b.margin / 0, "its loss is nan at step 1"),
        (lambda b: torch.sqrt(b.margin.abs()), "its gradient is (inf|nan) at step 1"),
    ):
        with pytest.raises(RunError, match=said):
            task.train(PreferenceLoss("x", of, "x"))
    with pytest.raises(RunError, match="took longer than 0 seconds"):
        task.train(LOSSES["dpo"], seconds=0.0)
