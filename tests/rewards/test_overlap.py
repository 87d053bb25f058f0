"""ROUGE on texts whose scores a hand can compute."""

import sys

import pytest

from rlhf_game import InputError, MissingExtra
from rlhf_game.rewards import overlap
from rlhf_game.rewards.overlap import RougeL, rouge


def test_scores_are_those_of_a_hand() -> None:
    # "the cat sat on the mat": 6 words; "the mat sat on a cat": common subsequence "the sat on", 3; words 5, pairs 2
    found = rouge(["the mat sat on a cat", "The cat sat on the mat!", "", "dog"], ["the cat sat on the mat"] * 4)
    assert found["rougeL"].tolist() == pytest.approx([3 / 6, 1.0, 0.0, 0.0])
    assert found["rouge1"].tolist() == pytest.approx([5 / 6, 1.0, 0.0, 0.0])
    assert found["rouge2"].tolist() == pytest.approx([2 / 5, 1.0, 0.0, 0.0])
    # precision 2/4, recall 2/2: F1 = 2/3
    assert RougeL()(["?"], ["a b c d"], completion=["a d"]) == pytest.approx([2 / 3])
    assert RougeL("answer")([""], [[{"role": "assistant", "content": "yes"}]], answer=["yes"]) == [1.0]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="needs the column 'completion' beside the prompts, found none"):
        RougeL()(["?"], ["a"])
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    overlap._scorer.cache_clear()
    with pytest.raises(MissingExtra, match=r"rouge-score is not installed.*rlhf-game\[text\]"):
        rouge(["a"], ["a"])
