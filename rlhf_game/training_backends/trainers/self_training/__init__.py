"""Policies that learn from what they write themselves: judged in pairs (OSP), or revised (SEFT)."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.trainers.self_training.judge": (
        "JudgePrompt",
        "PairJudge",
        "Verdicts",
        "judge_examples",
    ),
    "rlhf_game.training_backends.trainers.self_training.revising": (
        "Label",
        "Revision",
        "adaptive_rows",
        "examples_of_revisions",
        "label_of",
        "revise",
    ),
    "rlhf_game.training_backends.trainers.self_training.supervised": (
        "Example",
        "SupervisedTraining",
        "train_supervised",
    ),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.self_training.judge import (
        JudgePrompt,
        PairJudge,
        Verdicts,
        judge_examples,
    )
    from rlhf_game.training_backends.trainers.self_training.revising import (
        Label,
        Revision,
        adaptive_rows,
        examples_of_revisions,
        label_of,
        revise,
    )
    from rlhf_game.training_backends.trainers.self_training.supervised import (
        Example,
        SupervisedTraining,
        train_supervised,
    )
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "Example", "JudgePrompt", "Label", "PairJudge", "Revision", "SupervisedTraining", "Verdicts", "adaptive_rows",
    "examples_of_revisions", "judge_examples", "label_of", "revise", "train_supervised",
]  # fmt: skip
