"""Prompts with the completions that a policy is to imitate: read, checked row by row, held out by prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.files.layouts import Split, divided, exchange_of, split_of
from rlhf_game.files.schema import Name, Strict


@final
class DemonstrationSpec(Strict):
    """A .jsonl file of {prompt, completion} or {messages}, the names of its fields, the share held out."""

    file: Name
    """A .jsonl file."""
    prompt: Name = "prompt"
    """The field with the prompt."""
    completion: Name = "completion"
    """The field with what is to be written."""
    system: Name | None = None
    """The field with a row's system turn, where it has one beside its prompt."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of prompts that is held out."""


@final
@dataclass(frozen=True)
class Demonstrations:
    """Pairs of prompt and completion to train on, and others to judge on; no prompt is in both."""

    training: tuple[tuple[Text, Text], ...]
    test: tuple[tuple[Text, Text], ...]


def read_demonstrations(spec: DemonstrationSpec, base: Path, seed: int) -> Demonstrations:
    """Return the rows of a file; a row may name its ``split``, train or test.

    What a test row asks is left out of the training. Raises InputError that names file and row.
    """
    name = shown(str(base / spec.file), 200)
    names = {"prompt": spec.prompt, "completion": spec.completion}
    names |= {} if spec.system is None else {"system": spec.system}
    rows: list[tuple[Text, Text]] = []
    splits: list[Split | None] = []
    for where, row in parse_json_lines(read_text(base / spec.file), name):
        if not isinstance(row, dict):
            raise InputError(f"{where}: must be a mapping with prompt and completion, found {kind(row)}")
        rows.append(exchange_of(row, where, names))
        splits.append(split_of(row, where))
    by_prompt = [(prompt, split) for (prompt, _), split in zip(rows, splits, strict=True)]
    is_held = divided(by_prompt, spec.test_share, np.random.default_rng(seed), name)
    test = tuple(row for row, held in zip(rows, is_held, strict=True) if held)
    known = {prompt for prompt, _ in test}
    training = tuple(row for row in rows if row[0] not in known)
    if not training:
        raise InputError(f"{name}: must hold prompts to train on as well, found each of them in a row of split test")
    return Demonstrations(training, test)
