"""Policies trained on preference pairs: losses of the margin, one trainer for all of them, and implicit rewards."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.preferences.judging": ("JudgedPairs", "implicit_scorer", "judge_pairs", "sequence_kl"),
    "rlhf_game.training_backends.preferences.losses": ("LOSSES", "PairBatch", "PreferenceLoss", "find_loss"),
    "rlhf_game.training_backends.preferences.settings": ("PreferenceTraining",),
    "rlhf_game.training_backends.preferences.training": ("TrainedOnPreferences", "read_trained", "train_preferences"),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.preferences.judging import (
        JudgedPairs,
        implicit_scorer,
        judge_pairs,
        sequence_kl,
    )
    from rlhf_game.training_backends.preferences.losses import LOSSES, PairBatch, PreferenceLoss, find_loss
    from rlhf_game.training_backends.preferences.settings import PreferenceTraining
    from rlhf_game.training_backends.preferences.training import TrainedOnPreferences, read_trained, train_preferences
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "LOSSES", "JudgedPairs", "PairBatch", "PreferenceLoss", "PreferenceTraining", "TrainedOnPreferences", "find_loss",
    "implicit_scorer", "judge_pairs", "read_trained", "sequence_kl", "train_preferences",
]  # fmt: skip
