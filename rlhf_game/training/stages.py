"""Trainings of several stages: each leaves a finished file or folder, and one that is there is only read."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_game.files.workspace import Workspace

PART = 32
"""Rows that are made at a time: what a process that dies loses."""


def in_parts(
    workspace: Workspace, path: Path, count: int, make: Callable[[range], list[Any]], announced: Callable[[int], None]
) -> list[Any]:
    """Return ``count`` rows that a stage made, PART at a time; parts that an interrupted stage finished are kept.

    make: the rows at these places. told: called with the number of rows that are there.
    """
    parts = path.with_suffix(".parts")

    def whole() -> list[Any]:
        rows: list[Any] = []
        for start in range(0, count, PART):
            announced(start)
            places = range(start, min(start + PART, count))
            rows += workspace.kept(parts / f"{start:08d}.json", partial(make, places))
        return rows

    found = workspace.kept(path, whole)
    shutil.rmtree(parts, ignore_errors=True)
    return list(found)


def seed_of(*numbers: int) -> int:
    """Return a seed that is fixed by these numbers and unlike that of any others."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def publish(workspace: Workspace, stage: Path) -> None:
    """Put a stage's policy where that of a whole training is looked for: model/, steps.jsonl and, last, policy.json."""
    out = workspace.path
    if (out / "policy.json").exists():
        return
    fresh = out / "model.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(stage / "model", fresh)
    shutil.rmtree(out / "model", ignore_errors=True)
    fresh.rename(out / "model")
    workspace.adopt(out / "model")
    for name in ("steps.jsonl", "policy.json"):
        workspace.write(out / name, (stage / name).read_bytes())
