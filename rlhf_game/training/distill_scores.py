"""What answers are worth: overlap with a human's (BLEU, ROUGE), a judge's grades, and the penalty for length."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from rlhf_game.errors import MissingExtra
from rlhf_game.runs.prompts_judge import Judged

ROUGES = ("rouge1", "rouge2", "rougeL")


def score_answers(judged: Sequence[Judged], tokenizer: str) -> dict[str, Any]:
    """Return the scores of judged answers. tokenizer: sacrebleu's, for BLEU (13a, zh, char, ..)."""
    answers, references = [one.answer for one in judged], [one.example.answer for one in judged]
    return {
        "bleu": bleu(answers, references, tokenizer),
        **rouge(answers, references),
        "judge": float(np.mean([one.judge for one in judged])),
        "length_penalty": float(np.mean([one.penalty for one in judged])),
        "score": float(np.mean([one.score for one in judged])),
        "unread_grades": sum(one.unread for one in judged),
        "letters": float(np.mean([len(answer) for answer in answers])),
    }


def check_installed() -> None:
    """Raise MissingExtra unless the libraries of the scores are there."""
    for package in ("sacrebleu", "rouge_score"):
        if find_spec(package) is None:
            raise MissingExtra("text", package)


def bleu(answers: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> float:
    """Return sacrebleu's corpus BLEU-4, from 0 to 100."""
    from sacrebleu import corpus_bleu

    return float(corpus_bleu(list(answers), [list(references)], tokenize=tokenizer).score)


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the means of rouge-score's F1 of ROUGE-1, ROUGE-2 and ROUGE-L, from 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGES), use_stemmer=False)
    found = [scorer.score(reference, answer) for answer, reference in zip(answers, references, strict=True)]
    return {name: float(np.mean([one[name].fmeasure for one in found])) for name in ROUGES}
