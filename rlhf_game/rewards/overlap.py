"""How much of a reference text a response has: ROUGE (Lin 2004), as rouge-score computes it of words in any script."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, final

import numpy as np

from rlhf_game.errors import InputError, MissingExtra
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.texts import Text, plain
from rlhf_game.rewards.words import words

KINDS = ("rouge1", "rouge2", "rougeL")


@final
@dataclass(frozen=True)
class RougeL:
    """The F1 of the longest common subsequence of words with the text in another column, from 0 to 1."""

    column: str = "completion"
    __name__: ClassVar[str] = "rouge_l"

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises InputError without the column, MissingExtra without rouge-score."""
        if self.column not in columns:
            raise InputError(f"the reward rouge_l needs the column {self.column!r} beside the prompts, found none")
        texts = [plain(text) for text in completions]
        return rouge(texts, [plain(text) for text in columns[self.column]])["rougeL"].tolist()  # type: ignore[no-any-return]


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, Array]:
    """Return the F1 of each text against its reference by words, pairs of words and longest common subsequence: [k].

    Raises MissingExtra without rouge-score.
    """
    found = [_scorer().score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {kind: np.array([one[kind].fmeasure for one in found], dtype=np.float64) for kind in KINDS}


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise MissingExtra("text", "rouge-score") from error
    return RougeScorer(list(KINDS), tokenizer=_Words())


@final
class _Words:
    """What rouge-score asks for words; its own tokenizer has none outside a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)
