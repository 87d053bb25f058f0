"""Rewards for keywords and for length, as automata over tokens."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import finite
from rlhf_game.mechanism.automata.machines import RewardMachine, lift


def keywords(values: Mapping[str, float], alphabet: Sequence[str]) -> RewardMachine:
    """Return the reward that earns ``values[word]`` at each occurrence of a word, overlapping ones too.

    alphabet: the text of each token (empty for special ones); words are found across the borders of tokens. The states
    are the beginnings of words that the text so far ends with (Aho and Corasick 1975). Raises InputError for an empty
    word.
    """
    if not all(values):
        raise InputError("must not be empty, got an empty one", field="keywords")
    beginnings = {"", *(word[:k] for word in values for k in range(len(word) + 1))}

    def step(state: str, character: str) -> tuple[str, float]:
        seen = state + character
        gain = sum(value for word, value in values.items() if seen.endswith(word))
        return next(seen[k:] for k in range(len(seen) + 1) if seen[k:] in beginnings), float(gain)

    return lift("", step, alphabet)[0]


def length(totals: ArrayLike, tokens: int) -> RewardMachine:
    """Return the reward that is ``totals[n] - totals[0]`` for a sequence of n tokens, the last one for longer ones.

    It is earned as the differences totals[n + 1] - totals[n], which add up.
    """
    levels = finite(totals, "totals")
    if levels.ndim != 1 or not levels.size:
        raise InputError(f"must be a list of numbers, got shape {list(levels.shape)}", field="totals")
    after = np.minimum(np.arange(1, len(levels) + 1), len(levels) - 1)
    gains = levels[after] - levels
    return RewardMachine(np.tile(after[:, None], (1, tokens)), np.tile(gains[:, None], (1, tokens)))
