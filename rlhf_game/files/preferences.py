"""Pairs of responses of which one was preferred: read, checked row by row, held out by prompt.

A row is ``{prompt, chosen, rejected}``: texts, or lists of messages, in any of TRL's layouts (see ``layouts``).
``history`` (earlier [user, assistant] turns, or messages) goes before the prompt, ``tools`` are those that the model
may call, and ``split`` (train or test) says what is held out: a row without one, among rows with one, is
trained on.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.files.documents import kind, shown
from rlhf_game.files.layouts import Split, divided, pair_of, split_of
from rlhf_game.files.rows import read_rows


@final
@dataclass(frozen=True)
class Preference:
    """One comparison: of two responses to a prompt, the one that was preferred and the other."""

    prompt: Text
    chosen: Text
    rejected: Text
    split: Split | None = None

    def flipped(self) -> "Preference":
        """Return the opposite verdict."""
        return Preference(self.prompt, self.rejected, self.chosen, self.split)


@final
@dataclass(frozen=True)
class Preferences:
    """Checked rows and the sha256 of what they were read from."""

    rows: tuple[Preference, ...]
    sha256: str
    name: str

    def held_out(self, share: float, rng: np.random.Generator) -> tuple[tuple[Preference, ...], tuple[Preference, ...]]:
        """Return the rows to train on and those to test on; no prompt is in both.

        Rows that name their split keep it, and those beside them that name none are trained on; else about ``share``
        of the prompts, at least one, are held out at random. Raises InputError when nothing is left to train on, or
        nothing to test on.
        """
        is_held = divided([(row.prompt, row.split) for row in self.rows], share, rng, self.name)
        train = tuple(row for row, held in zip(self.rows, is_held, strict=True) if not held)
        return train, tuple(row for row, held in zip(self.rows, is_held, strict=True) if held)


def flip(rows: tuple[Preference, ...], share: float, rng: np.random.Generator) -> tuple[Preference, ...]:
    """Return the rows with exactly round(share * rows) verdicts turned round, for studies of wrong labels."""
    wrong = set(rng.permutation(len(rows))[: round(share * len(rows))].tolist())
    return tuple(row.flipped() if k in wrong else row for k, row in enumerate(rows))


def read_preferences(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> Preferences:
    """Return the rows of a .jsonl, .jsonl.gz or .parquet file.

    columns: other names of the fields, such as {"chosen": "concise"}. Raises InputError that names file and row.
    """
    rows, sha256 = read_rows(path, "preferences")
    return preferences_of(rows, shown(os.fspath(path), 200), sha256, columns)


def preferences_of(
    rows: Iterable[tuple[str, Any]], name: str, sha256: str, columns: Mapping[str, str] | None = None
) -> Preferences:
    """Return checked preferences of rows from anywhere; each row comes with its name for messages.

    Raises InputError that names the first row with a missing field, an empty text or two identical responses, or says
    that all rows are alike.
    """
    names = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", **(columns or {})}
    found = tuple(_row(where, row, names) for where, row in rows)
    if not found:
        raise InputError(f"{name}: must hold preferences, found no rows")
    if len(found) > 1 and len({(row.prompt, row.chosen, row.rejected) for row in found}) == 1:
        raise InputError(f"{name}: must hold different preferences, found the same one {len(found)} times")
    return Preferences(found, sha256, name)


def _row(where: str, row: Any, names: Mapping[str, str]) -> Preference:
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: must be a mapping with prompt, chosen and rejected, found {kind(row)}")
    prompt, chosen, rejected = pair_of(row, where, names)
    if chosen == rejected:
        raise InputError(f"{where}: {names['chosen']} and {names['rejected']} must differ, found the same text twice")
    return Preference(prompt, chosen, rejected, split_of(row, where))
