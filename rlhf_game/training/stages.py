"""Trainings of several stages: each leaves a finished file or folder, and one that is there is only read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_game.files.atomic import write_bytes, write_json
from rlhf_game.files.documents import parse_json, read_text

PART = 32
"""Rows that are made at a time: what a process that dies loses."""


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """Return what a stage made, as JSON has it; made now unless it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return parse_json(read_text(path), str(path))


def in_parts(path: Path, count: int, make: Callable[[range], list[Any]], told: Callable[[int], None]) -> list[Any]:
    """Return ``count`` rows that a stage made, PART at a time; parts that an interrupted stage finished are kept.

    make: the rows at these places. told: called with the number of rows that are there.
    """
    if not path.exists():
        parts = path.with_suffix(".parts")
        rows: list[Any] = []
        for start in range(0, count, PART):
            told(start)
            places = range(start, min(start + PART, count))
            rows += kept(parts / f"{start:08d}.json", lambda places=places: make(places))  # type: ignore[misc]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, rows)
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)
    found = parse_json(read_text(path), str(path))
    return list(found)


def seed_of(*numbers: int) -> int:
    """Return a seed that is fixed by these numbers and unlike that of any others."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def publish(stage: Path, out: Path) -> None:
    """Put a stage's policy where that of a whole training is looked for: model/, steps.jsonl and, last, policy.json."""
    if (out / "policy.json").exists():
        return
    fresh = out / "model.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(stage / "model", fresh)
    shutil.rmtree(out / "model", ignore_errors=True)
    fresh.rename(out / "model")
    for name in ("steps.jsonl", "policy.json"):
        write_bytes(out / name, (stage / name).read_bytes())
