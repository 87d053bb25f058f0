"""What was proposed and what came of it: one file per candidate, whole or not there."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.files.workspace import Workspace


@final
@dataclass(frozen=True)
class ExpressionProposal:
    """What a proposer wants to be tried: a text, which need not be an expression, and where it comes from."""

    text: str
    origin: str


@final
@dataclass(frozen=True)
class Entry:
    """One candidate of the archive; it has a score, or the reason why it has none."""

    generation: int
    index: int
    text: str
    """The expression as it was read, or what was proposed where it could not be."""
    origin: str
    score: float | None = None
    """The mean over the tasks: 0 is the reference, 1 the best policy that there is."""
    scores: tuple[float, ...] = ()
    """Of each task."""
    reward: float | None = None
    """E[r] under the policy, the mean over the tasks."""
    kl: float | None = None
    """KL to the reference, nats, the mean over the tasks."""
    reason: str | None = None
    slopes: tuple[float, ...] = ()
    """At the probes: what a later candidate is compared with."""

    @property
    def name(self) -> str:
        """Return what it is called in messages and files."""
        return f"g{self.generation:03d}-{self.index:03d}"


@final
@dataclass(frozen=True)
class Archive:
    """The entries in a folder."""

    workspace: Workspace
    folder: Path

    def read(self) -> list[Entry]:
        """Return all entries, the oldest first. Raises InputError when a file is not as it was written."""
        return [self._read(path) for path in sorted(self.folder.glob("g*.json"))]

    def has(self, generation: int, index: int) -> bool:
        """Return whether a candidate is there already."""
        return (self.folder / f"g{generation:03d}-{index:03d}.json").exists()

    def write(self, entry: Entry) -> None:
        """Keep an entry."""
        self.workspace.write_json(self.folder / f"{entry.name}.json", asdict(entry))

    def _read(self, path: Path) -> Entry:
        known: dict[str, Any] = self.workspace.read_json(path)
        return Entry(**{**known, "scores": tuple(known["scores"]), "slopes": tuple(known["slopes"])})


def ranked(entries: Sequence[Entry]) -> list[Entry]:
    """Return those with a score, the best first; of equals the older."""
    return sorted((e for e in entries if e.score is not None), key=lambda e: (-(e.score or 0.0), e.generation, e.index))


def as_lines(entries: Sequence[Entry]) -> str:
    """Return the entries as JSON lines, without their slopes."""
    rows = [{key: value for key, value in asdict(entry).items() if key != "slopes"} for entry in entries]
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
