"""Rewards that need no model: sentiment, readability, brevity, and the absence of profanity."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, final

from rlhf_game.errors import InputError, MissingExtra
from rlhf_game.rewards.texts import Text, plain, whole_words
from rlhf_game.rewards.words import count_words, is_unspaced


@final
@dataclass(frozen=True)
class Sentiment:
    """How positive a text is, from -1 to 1: the compound score of VADER (Hutto and Gilbert 2014)."""

    __name__: ClassVar[str] = "sentiment"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises MissingExtra without vaderSentiment."""
        analyzer = _vader()
        return [float(analyzer.polarity_scores(plain(text))["compound"]) for text in completions]


@final
@dataclass(frozen=True)
class Readability:
    """Flesch reading ease (1948): near 0 for dense, 100 for very plain English; cut to -100..121.22; no words: -100.

    It counts syllables of words between spaces, so it has nothing to say of Chinese or Thai.
    """

    __name__: ClassVar[str] = "readability"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises MissingExtra, and InputError where there are no spaces."""
        measure = _flesch()
        texts = [plain(text) for text in completions]
        for text in texts:
            if is_unspaced(text):
                raise InputError(f"readability must have texts with spaces between words, got {text[:20]!r}")
        return [
            min(121.22, max(-100.0, float(measure(text)))) if any(map(str.isalnum, text)) else -100.0 for text in texts
        ]


@final
@dataclass(frozen=True)
class Brevity:
    """1 for no word, falling in a straight line to 0 at ``words`` words and more.

    Each letter of a script that puts no spaces between words (Chinese, Thai) counts as a word.
    """

    words: int = 100
    __name__: ClassVar[str] = "brevity"

    def __post_init__(self) -> None:
        if self.words < 1:
            raise InputError(f"words must be >= 1, got {self.words}")

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion."""
        return [max(0.0, 1.0 - count_words(plain(text)) / self.words) for text in completions]

    def upper_bounds(self, beginnings: Sequence[str]) -> list[float]:
        """Return the most that any completion which begins so can score: words that are whole stay."""
        return self([], [whole_words(text) for text in beginnings])


@final
@dataclass(frozen=True)
class Clean:
    """exp(-number of profane words), from the word list of better-profanity: 1 for a clean text."""

    __name__: ClassVar[str] = "clean"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises MissingExtra without better-profanity."""
        profanity = _profanity()
        return [math.exp(-sum(profanity.contains_profanity(word) for word in plain(t).split())) for t in completions]

    def upper_bounds(self, beginnings: Sequence[str]) -> list[float]:
        """Return the most that any completion which begins so can score: words that are whole stay."""
        return self([], [whole_words(text) for text in beginnings])


@cache
def _vader() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ModuleNotFoundError as error:
        raise MissingExtra("text", "vaderSentiment") from error
    return SentimentIntensityAnalyzer()


@cache
def _flesch() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # textstat 0.7.4 imports pkg_resources
            warnings.simplefilter("ignore", UserWarning)
            import textstat
    except ModuleNotFoundError as error:
        raise MissingExtra("text", "textstat") from error
    return textstat.flesch_reading_ease


@cache
def _profanity() -> Any:
    try:
        from better_profanity import Profanity
    except ModuleNotFoundError as error:
        raise MissingExtra("text", "better-profanity") from error
    return Profanity()
