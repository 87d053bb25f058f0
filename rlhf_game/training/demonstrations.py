"""Prompts with the completions that a policy is to imitate: read, checked row by row, held out by prompt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.files.schema import Name, Strict


@final
class DemonstrationSpec(Strict):
    """A .jsonl file of {prompt, completion}, how its fields are called, and the share held out where no split says."""

    file: Name
    prompt: Name = "prompt"
    completion: Name = "completion"
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1


@final
@dataclass(frozen=True)
class Demonstrations:
    """Pairs of prompt and completion to train on, and others to judge on; no prompt is in both."""

    training: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]


def read_demonstrations(spec: DemonstrationSpec, base: Path, seed: int) -> Demonstrations:
    """Return the rows of a file; a row may name its ``split``, train or test.

    Raises InputError that names file and row.
    """
    name = shown(str(base / spec.file), 200)
    rows: list[tuple[str, str, str | None]] = []
    for where, row in parse_json_lines(read_text(base / spec.file), name):
        texts = [row.get(field) if isinstance(row, dict) else None for field in (spec.prompt, spec.completion)]
        for field, text in zip((spec.prompt, spec.completion), texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{where}: {field}: must be text with something in it, found {kind(text)}")
        split = row.get("split")
        if split not in (None, "train", "test"):
            raise InputError(f"{where}: split: must be train or test, found {kind(split)}")
        rows.append((str(texts[0]), str(texts[1]), split))
    held = _held_out(rows, spec.test_share, seed)
    is_split = any(split is not None for _, _, split in rows)
    test = tuple(row[:2] for row in rows if (row[2] == "test" if is_split else row[0] in held))
    training = tuple(row[:2] for row in rows if row[2] != "test" and row[0] not in held)
    for found, what in ((training, "to train on"), (test, "to judge on")):
        if not found:
            raise InputError(f"{name}: must hold rows {what} as well, found {len(rows)} rows and none of them {what}")
    return Demonstrations(training, test)


def _held_out(rows: list[tuple[str, str, str | None]], share: float, seed: int) -> set[str]:
    """Return the prompts that are for judging: those of rows with the split test, else some at random."""
    if any(split is not None for _, _, split in rows):
        return {prompt for prompt, _, split in rows if split == "test"}
    prompts = list(dict.fromkeys(prompt for prompt, _, _ in rows))
    order = np.random.default_rng(seed).permutation(len(prompts))
    return {prompts[k] for k in order[: max(1, round(share * len(prompts)))].tolist()}
