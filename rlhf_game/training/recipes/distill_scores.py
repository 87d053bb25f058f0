"""What answers are worth: overlap with a human's (BLEU, ROUGE), a judge's grades, and the penalty for length."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from rlhf_game.errors import MissingExtra
from rlhf_game.outcomes.prompts.prompts_judge import JudgedAnswer
from rlhf_game.rewards.overlap import rouge
from rlhf_game.rewards.words import spaced


def score_answers(judged: Sequence[JudgedAnswer], tokenizer: str) -> dict[str, Any]:
    """Return the scores of judged answers. tokenizer: for BLEU (see ``bleu``)."""
    answers, references = [one.answer for one in judged], [one.example.answer for one in judged]
    return {
        "bleu": bleu(answers, references, tokenizer),
        **{kind: float(found.mean()) for kind, found in rouge(answers, references).items()},
        "judge": float(np.mean([one.judge for one in judged])),
        "length_penalty": float(np.mean([one.penalty for one in judged])),
        "score": float(np.mean([one.score for one in judged])),
        "ungraded": sum(one.ungraded for one in judged),
        "letters": float(np.mean([len(answer) for answer in answers])),
    }


def check_installed() -> None:
    """Raise MissingExtra unless the libraries of the scores are there."""
    for package in ("sacrebleu", "rouge_score"):
        if find_spec(package) is None:
            raise MissingExtra("text", package)


def bleu(answers: Sequence[str], references: Sequence[str], tokenizer: str = "auto") -> float:
    """Return sacrebleu's corpus BLEU-4, from 0 to 100.

    tokenizer: sacrebleu's (13a, zh, char, ..), or auto: 13a, with each letter of a script without spaces as a word.
    """
    from sacrebleu import corpus_bleu

    ours, theirs = list(answers), list(references)
    if tokenizer == "auto":
        ours, theirs, tokenizer = [spaced(text) for text in ours], [spaced(text) for text in theirs], "13a"
    return float(corpus_bleu(ours, [theirs], tokenize=tokenizer).score)
