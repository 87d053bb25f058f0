"""A run's folder: the files of its stages, and the pieces of those that are not finished."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, TypeAlias, final

from rlhf_game import __version__
from rlhf_game.errors import RunError
from rlhf_game.files.workspace import Documented, Workspace, open_workspace

CALLS = "calls"
"""The folder of a run in which answers of language models and their account are kept."""
SEED = "settlement-seed"
"""The piece that holds a seed that was taken after the reports: who fails after it gets no other one."""
PROVENANCE = b"rlhf_game"
"""The key of a parquet file's metadata that holds where it comes from, as JSON."""
LIBRARIES = (
    "better-profanity", "numpy", "peft", "pyarrow", "scipy", "textstat", "tokenizers", "torch", "transformers", "trl",
    "vaderSentiment",
)  # fmt: skip


Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


def unwatched(what: str, done: int, total: int) -> None:
    """Do nothing: the progress of who does not ask for it."""


def versions() -> dict[str, str]:
    """Return the versions of everything that numbers of a run depend on."""
    found = {"python": python_version(), "rlhf-game": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@final
@dataclass(frozen=True)
class RunFolder:
    """An open run folder, held by this process."""

    workspace: Workspace

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.workspace.path

    @property
    def candidates(self) -> Path:
        """The drawn responses."""
        return self.path / "candidates.parquet"

    @property
    def scores(self) -> Path:
        """Each group's scores and rewards of them."""
        return self.path / "scores.parquet"

    @property
    def game(self) -> Path:
        """The game file."""
        return self.path / "game.json"

    @property
    def receipt(self) -> Path:
        """The receipt; where it is, the run is finished."""
        return self.path / "receipt.json"

    def check(self, stages: Sequence[Path] | None = None) -> None:
        """Let go of what comes after the first stage that is not there: it is to be made anew.

        stages: the files in their order; by default those of candidates.
        """
        stages = stages or (self.candidates, self.scores, self.game, self.receipt)
        there = [path.exists() for path in stages]
        first = there.index(False) if False in there else len(stages)
        for path in stages[first:]:
            path.unlink(missing_ok=True)
        if first < len(stages):
            self.workspace.forget(self.path / CALLS)  # more may be asked, or what was answered be looked up again
        if first == 0:  # other candidates may come, and pieces of their scores are worth nothing then
            self.drop_scores()

    def drop_scores(self) -> None:
        """Forget the pieces of scores that are not finished."""
        for part in (self.path / "partial").glob("scores-*"):
            part.unlink()

    def write(self, path: Path, content: bytes) -> None:
        """Write what a stage made, whole or not at all."""
        self.workspace.write(path, content)

    def part(self, stage: str, number: int) -> "StagePart":
        """Return a piece of an unfinished stage."""
        return StagePart(self.workspace, self.path / "partial" / f"{stage}-{number:06d}.json")

    def table_part(self, stage: str, number: int) -> "TablePart":
        """Return a piece of an unfinished stage that is a table."""
        return TablePart(self.workspace, self.path / "partial" / f"{stage}-{number:06d}.parquet")

    def drop_parts(self) -> None:
        """Forget the pieces; called once the stage is whole."""
        shutil.rmtree(self.path / "partial", ignore_errors=True)


@final
@dataclass(frozen=True)
class StagePart:
    """One finished piece of an unfinished stage."""

    workspace: Workspace
    path: Path

    def read(self) -> Any:
        """Return what was written, or None. Raises InputError when it is not as this run wrote it."""
        return self.workspace.read_json(self.path) if self.path.exists() else None

    def write(self, value: Any) -> None:
        """Write it whole."""
        self.workspace.write_json(self.path, value)


@final
@dataclass(frozen=True)
class TablePart:
    """One finished piece of an unfinished stage, by columns."""

    workspace: Workspace
    path: Path

    def read(self) -> dict[str, list[Any]] | None:
        """Return the columns that were written, or None. Raises InputError when it is not as this run wrote it."""
        if not self.path.exists():
            return None
        self.workspace.read(self.path)
        return read_parquet(self.path)[0]

    def write(self, columns: Mapping[str, Any]) -> None:
        """Write it whole."""
        self.workspace.write(self.path, parquet_bytes(columns, {}))


@contextmanager
def open_folder(path: Path, configuration: Documented) -> Iterator[RunFolder]:
    """Hold the run folder at ``path``, made if it is not there (see open_workspace).

    Until the scores are there, another configuration may go on with the candidates that were drawn, if these are its
    own as well: they do not depend on the groups, whose rewards may have been mended.
    """
    binding = f"partial/{SEED}-*"
    with open_workspace(path, configuration, "receipt.json", renew=_keeps_candidates, binding=binding) as workspace:
        yield RunFolder(workspace)


def _keeps_candidates(workspace: Workspace, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    folder = RunFolder(workspace)
    files = [name for name in (now.get("prompts"), now["outcomes"].get("file")) if isinstance(name, str)]
    is_same = all(before.get(key) == now.get(key) for key in ("model", "prompts", "system", "outcomes", "seed"))
    is_same &= all(before.get("files", {}).get(name) == now.get("files", {}).get(name) for name in files)
    if not is_same or folder.scores.exists() or now["outcomes"]["kind"] not in ("candidates", "trie", "given"):
        return False
    folder.drop_scores()
    return True


def parquet_bytes(columns: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """Return a table with where it comes from as a parquet file; the same content gives the same bytes."""
    import pyarrow
    from pyarrow import parquet

    note = json.dumps(provenance, sort_keys=True).encode()
    table = pyarrow.table(columns).replace_schema_metadata({PROVENANCE: note})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def read_parquet(path: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of a table that ``parquet_bytes`` made, and where it comes from."""
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.read_table(os.fspath(path))
        return table.to_pydict(), json.loads(table.schema.metadata[PROVENANCE])
    except (ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}; delete it to make it anew") from error
