"""The pairs that a training sees and is judged on, by name: train, train_flipped, test, and others that it names."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.preferences import Preference, Preferences, flip, preferences_of, read_preferences
from rlhf_game.mechanism.arrays import Array
from rlhf_game.rewards.diagnostics import accuracy, brier, calibration_error, spearman
from rlhf_game.training.training_data import DataSpec, PreferenceFields

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
    source: str
    sha256: str
    """Of what is trained on: its name, and of its bytes or rows."""


def read_subsets(fields: PreferenceFields, base: Path) -> Subsets:
    """Return the pairs of a configuration; its paths start from ``base``. Raises InputError that names file and row."""
    draws, flips = np.random.default_rng(fields.seed).spawn(2)
    preferences = read_data(fields.data, base)
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
        rows = read_data(data, base).rows
        judged[name] = tuple(row for row in rows if row.split == "test") or rows
    return Subsets(given, {name: rows for name, rows in judged.items() if rows}, preferences.name, preferences.sha256)


def read_data(data: DataSpec, base: Path) -> Preferences:
    """Return the preferences of a configuration's data. Raises InputError that names file and row."""
    columns = {"prompt": data.prompt, "chosen": data.chosen, "rejected": data.rejected}
    columns |= {} if data.system is None else {"system": data.system}
    if data.file is not None:
        return read_preferences(base / data.file, columns)
    from rlhf_game.training_backends import load_rows

    name = str(data.dataset)
    rows = load_rows(name, split=data.split, revision=data.revision, base=base)
    sha256 = hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()
    return preferences_of(((f"{name}: row {i}", row) for i, row in enumerate(rows, start=1)), name, sha256, columns)


def judge(rewards: Rewards, rows: Rows) -> dict[str, float | int]:
    """Return what a reward is worth on pairs.

    length_correlation: the rank correlation of rewards and lengths in characters over all responses.
    """
    chosen, rejected = rewards
    margins = chosen - rejected
    texts = [row.chosen for row in rows] + [row.rejected for row in rows]
    lengths = np.array([len(str(text)) for text in texts], dtype=np.float64)
    correlation = spearman(np.concatenate(rewards), lengths)
    return {
        "pairs": len(rows),
        "accuracy": accuracy(margins),
        "brier": brier(margins),
        "calibration_error": calibration_error(margins),
        "length_correlation": 0.0 if np.isnan(correlation) else correlation,
    }
