"""A run's folder: one process at a time, one configuration for ever, nothing partial under a final name."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Protocol, TypeAlias, final

from rlhf_game import __version__
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.atomic import write_bytes, write_json
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.schema import field_path
from rlhf_game.files.tables import digest

PROVENANCE = b"rlhf_game"
"""The key of a parquet file's metadata that holds where it comes from, as JSON."""
LIBRARIES = (
    "better-profanity", "numpy", "peft", "pyarrow", "scipy", "textstat", "tokenizers", "torch", "transformers", "trl",
    "vaderSentiment",
)  # fmt: skip


class Documented(Protocol):
    """A configuration of anything that fills a folder."""

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what must not change in a folder."""
        ...


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
    """An open run folder, held by this process.

    ``.manifest.json`` holds the SHA-256 of what each stage wrote. An entry is there before its file is, so a file that
    is not as its entry says was changed by somebody else, however the run that wrote it ended.
    """

    path: Path
    seal: str
    """The SHA-256 of the configuration, by which the pieces of this run are known."""

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

    @property
    def _manifest(self) -> Path:
        return self.path / ".manifest.json"

    def check(self, stages: Sequence[Path] | None = None) -> None:
        """Let go of what comes after the first stage that is not there: it is to be made anew.

        stages: the files in their order; by default those of candidates. Raises InputError when a file of the stages
        before is not as this run wrote it.
        """
        stages = stages or (self.candidates, self.scores, self.game, self.receipt)
        there = [path.exists() for path in stages]
        first = there.index(False) if False in there else len(stages)
        written = self._written()
        for path in stages[:first]:
            if written.get(path.name) != digest(path):
                raise InputError(
                    f"{shown(str(path), 200)}: must be as this run wrote it, found it changed since it was written; "
                    "delete it to make it anew, and everything after it"
                )
        for path in stages[first:]:
            path.unlink(missing_ok=True)
        if first == 0:  # other candidates may come, and pieces of their scores are worth nothing then
            for part in (self.path / "partial").glob("scores-*"):
                part.unlink()

    def write(self, path: Path, content: bytes) -> None:
        """Write what a stage made, whole or not at all, and remember its SHA-256."""
        written = {**self._written(), path.name: hashlib.sha256(content).hexdigest()}
        write_json(self._manifest, written)
        write_bytes(path, content)

    def _written(self) -> dict[str, Any]:
        if not self._manifest.exists():
            return {}
        written = parse_json(read_text(self._manifest), str(self._manifest))
        return written if isinstance(written, dict) else {}

    def part(self, stage: str, number: int) -> "Part":
        """Return a piece of an unfinished stage."""
        folder = self.path / "partial"
        folder.mkdir(exist_ok=True)
        return Part(folder / f"{stage}-{number:06d}.json", self.seal)

    def drop_parts(self) -> None:
        """Forget the pieces; called once the stage is whole."""
        shutil.rmtree(self.path / "partial", ignore_errors=True)


@final
@dataclass(frozen=True)
class Part:
    """One finished piece of an unfinished stage."""

    path: Path
    seal: str

    def read(self) -> Any:
        """Return what was written, or None. Raises InputError when it is not as this run wrote it."""
        if not self.path.exists():
            return None
        try:
            found = json.loads(self.path.read_bytes())
            if found["sha256"] == self._sha256(found["content"]):
                return found["content"]
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"{shown(str(self.path), 200)}: must be as this run wrote it, found it changed since it was written; "
            "delete it to make it anew"
        )

    def write(self, value: Any) -> None:
        """Write it whole."""
        write_json(self.path, {"sha256": self._sha256(value), "content": value})

    def _sha256(self, value: Any) -> str:
        return hashlib.sha256(json.dumps([self.seal, self.path.name, value]).encode()).hexdigest()


@contextmanager
def open_folder(path: Path, configuration: Documented) -> Iterator[RunFolder]:
    """Hold the run folder at ``path``, made if it is not there.

    Raises InputError when it holds something else or a run with another configuration, RunError when another process
    holds it (the hold ends with that process, however it ends).
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{shown(str(path), 200)}: must be a folder for the run, found a file")
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    known = path / "config.json"
    foreign = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    if foreign and not known.exists():
        raise InputError(
            f"{shown(str(path), 200)}: must be a new folder or that of a run, found {shown(sorted(foreign)[0])!r} in it"
        )
    with open(path / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{path} is in use by another process") from None
        for leftover in path.rglob(".*.tmp"):
            leftover.unlink()
        if known.exists() and any(name != known.name for name in foreign):
            _check_same(known, configuration)
        else:  # nothing was made yet: a configuration that could not be run does not bind the folder
            write_json(known, configuration.document())
        try:
            yield RunFolder(
                path, hashlib.sha256(json.dumps(configuration.document(), sort_keys=True).encode()).hexdigest()
            )
        except InputError:
            if is_new and {entry.name for entry in path.iterdir()} == {known.name, ".lock"}:
                shutil.rmtree(path)  # it could not be begun: nothing is left behind
            raise


def _check_same(known: Path, configuration: Documented) -> None:
    before = parse_json(read_text(known), str(known))
    now = json.loads(json.dumps(configuration.document()))
    if before == now:
        return
    old, new = dict(_leaves(before)), dict(_leaves(now))
    place = next(place for place in [*new, *old] if old.get(place) != new.get(place))
    was, is_now = (json.dumps(leaves[place]) if place in leaves else "nothing" for leaves in (old, new))
    raise InputError(
        f"{field_path(place)}: must be {shown(was)} as in the run at {shown(str(known.parent), 200)}, found "
        f"{shown(is_now)}; name another folder with -o"
    )


def _leaves(value: Any, place: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], Any]]:
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    if not pairs:
        yield place, value
    for key, inner in pairs:
        yield from _leaves(inner, (*place, key))


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
