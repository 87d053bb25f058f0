"""Rewards on texts: hand-computed values, TRL's signature, and one clear line for what is wrong."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError, RunError
from rlhf_game.registry import load
from rlhf_game.rewards import (
    Affine,
    Brevity,
    Clean,
    Logistic,
    Mix,
    MixPart,
    Rank,
    Readability,
    RewardModel,
    Sentiment,
    Similarity,
    TextTable,
    Unit,
    call_reward,
)
from rlhf_game.rewards.functions import PythonFunction
from tests import tiny


def scores(reward: Any, *texts: Any) -> np.ndarray:
    return call_reward(reward, ["a prompt"] * len(texts), texts)


def test_sentiment_is_vaders_compound_score() -> None:
    # The first is the example of VADER's own documentation; the second negates it.
    found = scores(Sentiment(), "VADER is smart, handsome, and funny.", "VADER is not smart, handsome, nor funny.", "")
    np.testing.assert_allclose(found, [0.8316, -0.7424, 0.0], atol=1e-12)


def test_readability_is_fleschs_formula() -> None:
    # 6 words, 1 sentence, 6 syllables: 206.835 - 1.015 * 6 - 84.6 * 1, to two digits as textstat rounds.
    assert scores(Readability(), "The cat sat on the mat.")[0] == pytest.approx(116.15, abs=0.01)
    assert (
        scores(Readability(), "Incomprehensibility characterises bureaucratic organisations.", "", "!!!").tolist()
        == [-100.0] * 3
    )


def test_brevity_falls_in_a_straight_line() -> None:
    assert scores(Brevity(4), "", "one", "one two three four", "one two three four five").tolist() == [1, 0.75, 0, 0]
    with pytest.raises(InputError, match="words must be >= 1"):
        Brevity(0)


def test_clean_counts_profane_words() -> None:
    assert scores(Clean(), "You are kind.", "You damn fool.", "damn, damn").tolist() == [1, math.exp(-1), math.exp(-2)]


def test_a_table_gives_the_numbers_written_down() -> None:
    assert scores(TextTable({"a": 1, "b": 2}, default=0.5), "b", "c", "a").tolist() == [2, 0.5, 1]
    with pytest.raises(InputError, match="found none for 'c'"):
        scores(TextTable({"a": 1}), "a", "c")


def test_conversations_are_read_as_their_contents() -> None:
    said = [{"role": "assistant", "content": "one two"}]
    assert scores(Brevity(4), said, "one two").tolist() == [0.5, 0.5]


def test_a_mix_is_the_weighted_mean_of_calibrated_parts() -> None:
    mix = Mix((MixPart(Brevity(10), Unit()), MixPart(TextTable({"a b": 30.0, "a": -5.0}), Affine(0, 60), weight=3)))
    assert scores(mix, "a b", "a").tolist() == pytest.approx([0.25 * 0.8 + 0.75 * 0.5, 0.25 * 0.9 + 0.75 * 0.0])
    with pytest.raises(InputError, match="parts must hold"):
        Mix(())


def test_columns_of_the_prompts_reach_the_function() -> None:
    def agrees(prompts: list[str], completions: list[str], answer: list[str], **columns: Any) -> list[float]:
        assert columns["level"] == [1, 2]
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    found = call_reward(agrees, ["p", "p"], ["x", "y"], {"answer": ["x", "x"], "level": [1, 2]})
    assert found.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "must return a list of numbers, got NoneType|must return 2 numbers"),
        ([1.0], "must return 2 numbers, one per completion, got a list of 1"),
        ([1.0, None], "with None in it|finite numbers"),
        (["a", "b"], "must return a list of numbers"),
        ([1.0, float("nan")], "must return finite numbers, got nan for completion 1"),
        ([[1.0], [2.0]], "must return 2 numbers"),
    ],
)
def test_a_reward_that_returns_something_else_is_named(returned: Any, said: str) -> None:
    def odd(prompts: list[str], completions: list[str]) -> Any:
        return returned

    with pytest.raises(RunError, match="the reward odd") as caught:
        scores(odd, "a", "b")
    assert any(part in str(caught.value) for part in said.split("|"))


def test_a_reward_that_fails_is_named_with_its_error() -> None:
    def broken(prompts: list[str], completions: list[str]) -> list[float]:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(RunError, match="the reward broken failed: ZeroDivisionError: by nothing"):
        scores(broken, "a")


def test_functions_are_found_in_files_beside_the_configuration_and_in_packages(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def length(prompts, completions):\n    return [len(c) for c in completions]\n")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "inner.py").write_text("def one(prompts, completions):\n    return [1] * len(completions)\n")
    assert scores(PythonFunction("mine.py:length", tmp_path), "abc", "a").tolist() == [3, 1]
    assert scores(PythonFunction("mine:length", tmp_path), "abc").tolist() == [3]
    assert scores(PythonFunction("pack.inner:one", tmp_path), "abc").tolist() == [1]
    assert load("math:sqrt", tmp_path) is math.sqrt
    assert "mine" not in sys.modules
    assert len(PythonFunction("mine.py:length", tmp_path).provenance["sha256"]) == 64


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine.py", "must be package.module:Name"),
        ("mine.py:", "must be package.module:Name"),
        ("nowhere.py:f", "found none at"),
        ("no_such_package.module:f", "found no no_such_package.module installed"),
        ("math:no_such", "found none called 'no_such' in math"),
        ("math:pi", "must name a function, found float as 'math:pi'"),
    ],
)
def test_a_function_that_is_not_there_is_said(tmp_path: Path, target: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        scores(PythonFunction(target, tmp_path), "a")
    assert said in str(caught.value)


def test_a_file_that_cannot_be_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("1 / 0\n")
    with pytest.raises(RunError, match="cannot be run: ZeroDivisionError"):
        scores(PythonFunction("mine.py:f", tmp_path), "a")


def test_a_reward_model_scores_through_transformers(tmp_path: Path) -> None:
    tiny.save_reward_model(tmp_path / "model")
    reward = RewardModel("model", base=tmp_path)
    found = scores(reward, "good", "bad bad")
    assert len(set(found)) == 2
    assert len(reward.provenance["sha256"]) == 64


@pytest.mark.weights
def test_similarity_is_one_for_the_text_itself() -> None:
    found = scores(Similarity("Ask a doctor."), "Ask a doctor.", "Please see a physician.", "Buy now!")
    assert found[0] == pytest.approx(1.0)
    assert found[0] > found[1] > found[2]


def test_nothing_is_loaded_before_a_reward_is_called() -> None:
    code = (
        "import sys\nfrom rlhf_game.rewards import *\n"
        "Sentiment(), Readability(), Clean(), Similarity('x'), RewardModel('y')\n"
        "print(sorted({'torch', 'transformers', 'textstat', 'vaderSentiment', 'better_profanity'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_rewards_have_the_name_that_trl_logs() -> None:
    assert [reward.__name__ for reward in (Sentiment(), Brevity(), PythonFunction("a:b"))] == [
        "sentiment",
        "brevity",
        "a:b",
    ]


def test_affine_and_logistic_maps_are_what_they_say() -> None:
    given = np.array([-1.0, 0.0, 5.0, 10.0, 11.0])
    np.testing.assert_allclose(Affine(0, 10)(given, [0] * 5), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(Logistic(1, 2)(given, [0] * 5), 1 / (1 + np.exp(-(given - 1) / 2)), rtol=1e-14)
    assert Logistic(0, 1)(np.array([-1e4, 1e4]), [0, 0]).tolist() == [0, 1]
    with pytest.raises(InputError, match="low must be below high"):
        Affine(1, 1)
    with pytest.raises(InputError, match="scale must be > 0"):
        Logistic(0, 0)


def test_rank_is_within_a_prompt_and_ties_share_the_better_place() -> None:
    given = np.array([0.1, 7.0, 7.0, 3.0, 100.0, 5.0, 2.0])
    found = Rank()(given, ["a", "a", "a", "a", "b", "c", "c"])
    np.testing.assert_allclose(found, [0, 1, 1, 1 / 3, 1, 1, 0])
    np.testing.assert_array_equal(found, Rank()(np.exp(given / 10), ["a", "a", "a", "a", "b", "c", "c"]))


def test_scores_outside_the_unit_interval_need_a_declared_map() -> None:
    assert Unit()(np.array([0.0, 1.0]), [0, 0]).tolist() == [0, 1]
    with pytest.raises(InputError, match=r"scores must be in \[0, 1\], got 1.5; declare a calibration"):
        Unit()(np.array([0.5, 1.5]), [0, 0])
