"""Policies trained on preference pairs: losses of the margin, one trainer for all of them, and implicit rewards."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.preferences.exact_task": ("ExactTask", "TaskSettings", "Worth"),
    "rlhf_game.training_backends.preferences.judging": ("JudgedPairs", "implicit_scorer", "judge_pairs", "sequence_kl"),
    "rlhf_game.training_backends.preferences.losses": ("LOSSES", "PairBatch", "PreferenceLoss", "find_loss"),
    "rlhf_game.training_backends.preferences.operations": ("OPERATIONS", "check_trainable", "values_of"),
    "rlhf_game.training_backends.preferences.settings": ("PreferenceTraining",),
    "rlhf_game.training_backends.preferences.training": ("TrainedOnPreferences", "read_trained", "train_preferences"),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.preferences.exact_task import ExactTask, TaskSettings, Worth
    from rlhf_game.training_backends.preferences.judging import (
        JudgedPairs,
        implicit_scorer,
        judge_pairs,
        sequence_kl,
    )
    from rlhf_game.training_backends.preferences.losses import LOSSES, PairBatch, PreferenceLoss, find_loss
    from rlhf_game.training_backends.preferences.operations import OPERATIONS, check_trainable, values_of
    from rlhf_game.training_backends.preferences.settings import PreferenceTraining
    from rlhf_game.training_backends.preferences.training import TrainedOnPreferences, read_trained, train_preferences
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "LOSSES", "OPERATIONS", "ExactTask", "JudgedPairs", "PairBatch", "PreferenceLoss", "PreferenceTraining",
    "TaskSettings", "TrainedOnPreferences", "Worth", "check_trainable", "find_loss", "implicit_scorer", "judge_pairs",
    "read_trained", "sequence_kl", "train_preferences", "values_of",
]  # fmt: skip
