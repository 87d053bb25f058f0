"""Ready-made automata against Python's own strings and regular expressions, and their chains against enumeration."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rlhf_game as rg
from rlhf_game.errors import InputError
from rlhf_game.mechanism.automata import Reference, RewardMachine, characters, combine, keywords, length, ngram, pattern
from rlhf_game.mechanism.spaces.chain import END

ALPHABET = ["a", "b", "ab", "ba ", "c", " ", ""]
"""Several ways to spell the same text, a token across a word border, and a special token."""


def texts(longest: int = 5) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(ALPHABET) - 1), max_size=longest)


def spelled(sequence: list[int]) -> str:
    return "".join(ALPHABET[token] for token in sequence)


def occurrences(word: str, text: str) -> int:
    return sum(text.startswith(word, k) for k in range(len(text)))


@given(texts(8), st.dictionaries(st.text("abc ", min_size=1, max_size=4), st.integers(-3, 5), max_size=4))
def test_keywords_earn_at_each_occurrence_across_tokens(sequence: list[int], values: dict[str, int]) -> None:
    wanted = sum(value * occurrences(word, spelled(sequence)) for word, value in values.items())
    assert keywords(values, ALPHABET).along(sequence) == wanted


PATTERNS = [
    "ab", "a|b", "(ab)+c", "a*", "a+b?", "[ab]{2}c", "[^a]b", r"\s", r"b\sa", ".b.", "a{2,3}", "a{2,}", "(a|b)*c",
    "(?:ab|ba) ", "a(b|)c", "[a-c]{3}", r"\w\W", "[]a]b", "",
]  # fmt: skip


@given(texts(7), st.sampled_from(PATTERNS), st.booleans())
@settings(max_examples=400)
def test_patterns_match_what_python_matches(sequence: list[int], expression: str, is_whole: bool) -> None:
    match = re.fullmatch if is_whole else re.search
    text = spelled(sequence)
    wanted = bool(match(expression, text)) - bool(match(expression, ""))
    assert pattern(expression, ALPHABET, value=2.0, is_whole=is_whole).along(sequence) == 2.0 * wanted


def test_patterns_stay_small() -> None:
    """Expressions that are equal up to order and repetition are one state, so these do not grow without end."""
    assert len(pattern("(a|b)*a(a|b)(a|b)", list("ab"), is_whole=True).next_state) == 8
    assert len(pattern("((a*b)*c?)*abc", list("abc")).next_state) < 10


@pytest.mark.parametrize(
    "wrong", ["(", "a)", "[a", "*a", "a**", "a+?", "^a", "a$", r"\1", r"\b", "a{x}", "a{3,2}", "(?=a)", "\\"]
)
def test_what_is_no_plain_regular_expression_is_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="pattern must be a plain regular expression"):
        pattern(wrong, ALPHABET)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=5), texts(8))
def test_length_earns_its_level(totals: list[int], sequence: list[int]) -> None:
    wanted = totals[min(len(sequence), len(totals) - 1)] - totals[0]
    assert length(totals, len(ALPHABET)).along(sequence) == wanted


def test_an_ngram_by_hand() -> None:
    """Samples 0 1 2 and 0 0 2 (2 ends), alpha = 1: counts 3 1 2 of 6 tokens; after 0: 1 1 1; after 1: 0 0 1."""
    model = ngram([[0, 1, 2], [0, 0, 2]], 3, 2, smoothing=1.0, ends=[2])
    unigram = (np.array([3, 1, 2]) + 1 / 3) / 7
    assert model.probabilities == pytest.approx(
        np.stack([unigram, (np.array([1, 1, 1]) + unigram) / 4, (np.array([0, 0, 1]) + unigram) / 2])
    )
    assert model.next_state.tolist() == [[1, 2, END]] * 3
    exact = ngram([[0, 1, 2], [0, 0, 2]], 3, 2, smoothing=0.0, ends=[2])
    assert exact.probabilities == pytest.approx(np.array([[3, 1, 2], [2, 2, 2], [0, 0, 6]]) / 6)


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.5, 2.0]),
    st.lists(st.integers(0, 2), max_size=6),
)
def test_an_ngram_goes_on_from_the_longest_tail_that_occurred(
    samples: list[list[int]], order: int, smoothing: float, walk: list[int]
) -> None:
    model = ngram(samples, 3, order, smoothing=smoothing)
    assert model.probabilities.sum(axis=1) == pytest.approx(1.0)
    seen = [tuple(s[k - n : k]) for s in samples for k in range(len(s)) for n in range(min(order - 1, k) + 1)]
    state = model.initial
    for token in walk:
        state = model.next_state[state, token]
    tail = next(
        tuple(walk[k:]) for k in range(len(walk) + 1) if len(walk) - k < order and tuple(walk[k:]) in [*seen, ()]
    )

    def smoothed(context: tuple[int, ...]) -> np.ndarray:
        below = smoothed(context[1:]) if context else np.full(3, 1 / 3)
        counts = np.zeros(3)
        for s in samples:
            for k in range(len(context), len(s)):
                counts[s[k]] += tuple(s[k - len(context) : k]) == context
        return (counts + smoothing * below) / (counts.sum() + smoothing)

    assert model.probabilities[state] == pytest.approx(smoothed(tail))


def test_a_larger_order_predicts_a_text_better() -> None:
    alphabet, samples = characters(["the cat sat on the mat", "the rat sat on the cat", "a cat and a rat"])
    surprise = []
    for order in (1, 2, 3):
        model = ngram(samples, len(alphabet), order, smoothing=0.1, ends=[len(alphabet) - 1])
        total, count = 0.0, 0
        for sample in samples:
            state = model.initial
            for token in sample:
                total -= np.log(model.probabilities[state, token])
                count += 1
                state = model.next_state[state, token]
        surprise.append(total / count)
    assert surprise[0] > surprise[1] + 0.5 > surprise[2] + 0.5


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_the_chain_of_a_product_settles_like_the_table_of_all_texts(seed: int, horizon: int) -> None:
    alphabet, samples = characters(["abca", "aabb", "cab"])
    reference = ngram(samples, len(alphabet), 2, smoothing=0.5, ends=[len(alphabet) - 1])
    earnings = [
        keywords({"ab": 1.0, "b": 0.25}, alphabet),
        pattern("a+b|c.a", alphabet, value=2.0),
        length([0.0, 0.5, 1.0, 0.25], len(alphabet)),
    ]
    sizes = np.random.default_rng(seed).integers(1, 4, 3)
    both = combine(reference, earnings)
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    chain = both.chain(rg.KL(0.7), horizon=horizon)
    exact = mechanism.settle([rg.Report(r, size=int(w)) for r, w in zip(both.rewards, sizes, strict=True)], chain)
    sequences, q = [], []
    for n in range(1, horizon + 1):
        for sequence in itertools.product(range(len(alphabet)), repeat=n):
            ended = [reference.next_state[0, token] == END for token in sequence]
            if any(ended[:-1]) or not (ended[-1] or n == horizon):
                continue
            state, probability = reference.initial, 1.0
            for token in sequence:
                probability *= reference.probabilities[state, token]
                state = reference.next_state[state, token]
            sequences.append(sequence)
            q.append(probability)
    tables = [[earning.along(sequence) for sequence in sequences] for earning in earnings]
    reports = [rg.Report(table, size=int(w)) for table, w in zip(tables, sizes, strict=True)]
    enumerated = mechanism.settle(reports, rg.Table(q, rg.KL(0.7)))
    assert exact.payments == pytest.approx(enumerated.payments, rel=1e-9)
    assert exact.values == pytest.approx(enumerated.values, rel=1e-9)


def test_a_product_keeps_only_what_can_be_reached_and_refuses_other_alphabets() -> None:
    reference = Reference(np.array([[1, END], [1, END]]), np.full((2, 2), 0.5))
    counter = RewardMachine(np.array([[1, 0], [2, 0], [2, 2]]), np.array([[0.0, 1.0], [0.0, 0.0], [3.0, 0.0]]))
    both = combine(reference, [counter])
    assert both.reference.next_state.tolist() == [[1, END], [2, END], [2, END]]
    assert both.rewards[0].tolist() == [[0.0, 1.0], [0.0, 0.0], [3.0, 0.0]]
    with pytest.raises(InputError, match=r"rewards\[0\] must be over 2 tokens, got 7"):
        combine(reference, [length([0.0, 1.0], 7)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0, 5]], 3, 2), r"samples\[0\]\[1\] must be a token from 0 to 2, got 5"),
        (([[0]], 3, 0), "order and tokens must be >= 1"),
    ],
)
def test_an_ngram_that_cannot_be_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ngram(*arguments)
    with pytest.raises(InputError, match="smoothing must be >= 0"):
        ngram([[0]], 1, 1, smoothing=-1.0)
    with pytest.raises(InputError, match="at least one token"):
        ngram([], 2, 1, smoothing=0.0)
    with pytest.raises(InputError, match="keywords must not be empty"):
        keywords({"": 1.0}, ALPHABET)
