"""Policies trained on preference pairs: losses of the margin, one trainer for all of them, and implicit rewards."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.trainers.preferences.exact_task": ("ExactTask", "TaskSettings", "TaskResult"),
    "rlhf_game.training_backends.trainers.preferences.preference_judging": (
        "JudgedPairs",
        "implicit_scorer",
        "judge_pairs",
        "sequence_kl",
    ),
    "rlhf_game.training_backends.trainers.preferences.losses": ("LOSSES", "PairBatch", "PreferenceLoss", "find_loss"),
    "rlhf_game.training_backends.trainers.preferences.operations": ("OPERATIONS", "check_trainable", "values_of"),
    "rlhf_game.training_backends.trainers.preferences.preference_settings": ("PreferenceTraining",),
    "rlhf_game.training_backends.trainers.preferences.preference_training": (
        "TrainedOnPreferences",
        "read_trained",
        "train_preferences",
    ),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.preferences.exact_task import ExactTask, TaskResult, TaskSettings
    from rlhf_game.training_backends.trainers.preferences.losses import LOSSES, PairBatch, PreferenceLoss, find_loss
    from rlhf_game.training_backends.trainers.preferences.operations import OPERATIONS, check_trainable, values_of
    from rlhf_game.training_backends.trainers.preferences.preference_judging import (
        JudgedPairs,
        implicit_scorer,
        judge_pairs,
        sequence_kl,
    )
    from rlhf_game.training_backends.trainers.preferences.preference_settings import PreferenceTraining
    from rlhf_game.training_backends.trainers.preferences.preference_training import (
        TrainedOnPreferences,
        read_trained,
        train_preferences,
    )
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "LOSSES", "OPERATIONS", "ExactTask", "JudgedPairs", "PairBatch", "PreferenceLoss", "PreferenceTraining",
    "TaskResult", "TaskSettings", "TrainedOnPreferences", "check_trainable", "find_loss", "implicit_scorer",
    "judge_pairs", "read_trained", "sequence_kl", "train_preferences", "values_of",
]  # fmt: skip
