"""Words in any script, and what counts them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenize import tokenize

from rlhf_game import InputError
from rlhf_game.rewards import Brevity, Readability, call_reward
from rlhf_game.rewards.overlap import rouge
from rlhf_game.rewards.words import count_words, is_unspaced, spaced, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's 2 naïve_cats!", ["it", "s", "2", "naïve", "cats"]),
        ("我爱BERT模型。", ["我", "爱", "bert", "模", "型"]),
        ("ひらがなカタカナ", list("ひらがなカタカナ")),
        ("กิน", ["กิ", "น"]),  # a vowel above is a mark on its consonant
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("cafe\u0301", ["caf\u00e9"]),
        ("\U00020000\U0002a6df", ["\U00020000", "\U0002a6df"]),
        ("\u0301 ... ", []),
    ],
)
def test_words_of_several_scripts(text: str, found: list[str]) -> None:
    assert words(text) == found
    assert words(spaced(text)) == found


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == tokenize(text, None)
    assert spaced(text) == text
    assert count_words(text) == len(text.split())


@given(st.text())
def test_no_letter_is_lost_and_identical_texts_have_rouge_one(text: str) -> None:
    said = words(text)
    assert all(said)
    assert rouge([text], [text])["rougeL"].tolist() == [1.0 if said else 0.0]


def test_rouge_of_chinese_by_hand() -> None:
    # five characters and six, four of them in common and in order; pairs: three of four and five
    found = rouge(["水在百度沸", "今天天气很好"], ["水在一百度沸", "今天天气很好"])
    assert found["rouge1"].tolist() == pytest.approx([2 * 1 * (5 / 6) / (1 + 5 / 6), 1])
    assert found["rougeL"].tolist() == pytest.approx([2 * 1 * (5 / 6) / (1 + 5 / 6), 1])
    assert found["rouge2"].tolist() == pytest.approx([2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5), 1])


def test_brevity_counts_characters_where_there_are_no_spaces() -> None:
    texts = ["今天天气很好。", "so short", "我 love 你!", ":-)"]
    assert [count_words(text) for text in texts] == [6, 2, 3, 1]
    np.testing.assert_allclose(call_reward(Brevity(10), [""] * 4, texts), [0.4, 0.8, 0.7, 0.9])


def test_readability_refuses_what_it_cannot_count() -> None:
    assert is_unspaced("今天天气很好, ok?")
    assert not is_unspaced("The word 水 is water.")
    assert not is_unspaced("")
    with pytest.raises(InputError, match="readability must have texts with spaces between words, got '今天天气很好。'"):
        call_reward(Readability(), ["", ""], ["The cat sat.", "今天天气很好。"])
