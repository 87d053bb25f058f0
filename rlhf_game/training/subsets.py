"""The pairs that a training sees and is judged on, by name: train, train_flipped, test, and others that it names."""

from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.preferences import Preference, flip, read_preferences
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.diagnostics import accuracy, brier, calibration_error, spearman
from rlhf_game.training.config import DataSpec, TrainingConfiguration

Rows: TypeAlias = tuple[Preference, ...]
Rewards: TypeAlias = tuple[Array, Array]
"""Of chosen and of rejected responses, [n] each."""


@final
@dataclass(frozen=True)
class Subsets:
    """What is trained on (labels as they are given to the training), and what is judged on."""

    training: Rows
    judged: dict[str, Rows]
    """train: pairs with true labels; train_flipped: those whose label was turned round, as trained; test; others."""


def read_subsets(configuration: TrainingConfiguration) -> Subsets:
    """Return the pairs of a configuration. Raises InputError that names file and row."""
    fields = configuration.fields
    draws, flips = np.random.default_rng(fields.seed).spawn(2)
    preferences = read_preferences(configuration.base / fields.data.file, _columns(fields.data))
    true, test = preferences.held_out(fields.data.test_share, draws)
    given = flip(true, fields.flip, flips)
    is_wrong = [a != b for a, b in zip(true, given, strict=True)]
    judged = {
        "train": tuple(row for row, wrong in zip(given, is_wrong, strict=True) if not wrong),
        "train_flipped": tuple(row for row, wrong in zip(given, is_wrong, strict=True) if wrong),
        "test": test,
    }
    for name, data in fields.also_test.items():
        if name in judged:
            raise InputError(f"also_test: must have other names than {', '.join(judged)}, found {name!r}")
        rows = read_preferences(configuration.base / data.file, _columns(data)).rows
        judged[name] = tuple(row for row in rows if row.split == "test") or rows
    return Subsets(given, {name: rows for name, rows in judged.items() if rows})


def _columns(data: DataSpec) -> dict[str, str]:
    return {"prompt": data.prompt, "chosen": data.chosen, "rejected": data.rejected}


def judge(rewards: Rewards, rows: Rows) -> dict[str, float | int]:
    """Return what a reward is worth on pairs.

    length_correlation: the rank correlation of rewards and lengths in characters over all responses.
    """
    chosen, rejected = rewards
    margins = chosen - rejected
    lengths = np.array([len(row.chosen) for row in rows] + [len(row.rejected) for row in rows], dtype=np.float64)
    correlation = spearman(np.concatenate(rewards), lengths)
    return {
        "pairs": len(rows),
        "accuracy": accuracy(margins),
        "brier": brier(margins),
        "calibration_error": calibration_error(margins),
        "length_correlation": 0.0 if np.isnan(correlation) else correlation,
    }
