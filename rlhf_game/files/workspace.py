"""Folders that commands fill: of one identity for ever, held by one process at a time, all that is in them sealed.

``.sha256sums`` lists the SHA-256 of every file that was written, as ``sha256sum -c`` reads it. A file's line is there
before the file is, so a file that none of its lines says was changed by somebody else, however its writer ended.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, final

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.atomic import LEFTOVER, json_bytes, write_bytes, write_parts, write_text
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.locks import held
from rlhf_game.files.schema import field_path
from rlhf_game.files.tables import digest

SUMS: Final = ".sha256sums"
LOCK: Final = ".lock"
SIGNATURE: Final = ".signature.json"
"""Who signed the list of files, where somebody did."""
CONFIG: Final = "config.json"
"""The identity: what must not change in a folder."""
LAST: Final = ("receipt.json", "study.json", "metrics.json", "result.json")
"""The last file that is written, of a run, a study, a training and a discovery."""
_LINE: Final = re.compile("([0-9a-f]{64})  (.+)")
Sums: TypeAlias = dict[str, set[str]]


class Documented(Protocol):
    """A configuration of anything that fills a folder."""

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what must not change in a folder."""
        ...


@final
@dataclass(frozen=True)
class Workspace:
    """A folder whose files are known by their content. All paths are of files inside it."""

    path: Path

    def write(self, path: Path, content: bytes) -> None:
        """Write a file whole or not at all, and remember its SHA-256."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._list([(path, hashlib.sha256(content).hexdigest())])
        write_bytes(path, content)

    def write_parts(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write a file whole or not at all, from parts of which one is in memory at a time (see write)."""

        def listed() -> Iterator[bytes]:
            seen = hashlib.sha256()
            for part in parts:
                seen.update(part)
                yield part
            self._list([(path, seen.hexdigest())])

        write_parts(path, listed())

    def write_json(self, path: Path, value: Any) -> None:
        """Write a value as indented JSON (see write)."""
        self.write(path, json_bytes(value))

    def read(self, path: Path) -> bytes:
        """Return what is in a file. Raises InputError when it is not as it was written here."""
        content = path.read_bytes()
        self._check(path, hashlib.sha256(content).hexdigest())
        return content

    def read_json(self, path: Path) -> Any:
        """Return the value of a file that write_json wrote (see read)."""
        return json.loads(self.read(path))

    def kept(self, path: Path, make: Callable[[], Any]) -> Any:
        """Return the JSON value in a file; where there is none, ``make`` makes it now."""
        if not path.exists():
            self.write_json(path, make())
        return self.read_json(path)

    def adopt(self, *paths: Path) -> None:
        """Remember files, and all files of folders, as they are now: what a library wrote, before it counts."""
        self._list([(file, digest(file)) for path in paths for file in files_in(path)])

    def check(self) -> None:
        """Raise InputError when a file is there that is not as it was written."""
        for name in self._sums:
            if (self.path / name).exists():
                self._check(self.path / name, digest(self.path / name))

    def finish(self, path: Path, content: bytes) -> None:
        """Write the last file; what is in the folder now, and nothing else, is from then on all that belongs there."""
        self.check()
        sums = {self._name(file): digest(file) for file in self.files()}
        sums[self._name(path)] = hashlib.sha256(content).hexdigest()
        write_text(self.path / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
        self.__dict__.pop("_sums", None)
        write_bytes(path, content)

    def forget(self, folder: Path) -> None:
        """Let the files of a folder be changed again, until the last file is written."""
        self._drop(lambda file: file.is_relative_to(folder))

    def forget_missing(self) -> None:
        """Let the files that are not there any more be made anew, whatever they hold then."""
        self._drop(lambda file: not file.exists())

    def _drop(self, is_dropped: Callable[[Path], bool]) -> None:
        if not self.is_sealed or not any(is_dropped(self.path / name) for name in self._sums):
            return
        kept = [(n, one) for n, sums in self._sums.items() for one in sums if not is_dropped(self.path / n)]
        write_text(self.path / SUMS, "".join(f"{one}  {name}\n" for name, one in sorted(kept)))
        self.__dict__.pop("_sums", None)

    def finish_json(self, path: Path, value: Any) -> None:
        """Write the last file as indented JSON (see finish)."""
        self.finish(path, json_bytes(value))

    def differences(self) -> list[str]:
        """Return a line for each file of a finished folder that was changed, taken away or added to a folder in it."""
        try:
            known = self._sums
        except InputError as error:
            return [str(error)]
        found, there = [], {self._name(file): file for file in self.files()}
        if not (self.path / SUMS).read_bytes().endswith(b"\n"):
            found.append(f"{SUMS}: must be as it was written, found its last line cut")
        for name, sums in known.items():
            if name not in there:
                found.append(f"{shown(name, 200)}: must be there as it was written, found nothing")
            elif digest(there[name]) not in sums:
                found.append(f"{shown(name, 200)}: must be as it was written, found it changed")
        added = (shown(name, 200) for name in there if name not in known and "/" in name)
        return found + [f"{name}: must be one of the files that were written, found it added" for name in added]

    def others(self) -> list[str]:
        """Return the names of files beside those that were written: somebody's own, which nothing reads."""
        return [name for file in self.files() if "/" not in (name := self._name(file)) and name not in self._sums]

    @property
    def count(self) -> int:
        """How many files are listed."""
        return len(self._sums)

    def files(self) -> list[Path]:
        """Return all files in the folder but those of this class, in the order of their names."""
        own = (self.path / SUMS, self.path / LOCK, self.path / SIGNATURE)
        return [file for file in files_in(self.path) if file not in own]

    def is_begun(self) -> bool:
        """Return whether anything but the identity was written."""
        return any(name != CONFIG and (self.path / name).exists() for name in self._sums)

    def cut(self) -> None:
        """Drop a last line that is not whole: its writer died before it wrote the file."""
        if self.is_sealed:
            content = (self.path / SUMS).read_bytes()
            os.truncate(self.path / SUMS, content.rfind(b"\n") + 1)

    @property
    def is_sealed(self) -> bool:
        """Whether it is a folder of this class."""
        return (self.path / SUMS).is_file()

    def _check(self, path: Path, found: str) -> None:
        name = self._name(path)
        if found not in self._sums.get(name, ()):
            self.__dict__.pop("_sums", None)  # another part of this program may have written it
        if found not in self._sums.get(name, ()):
            raise InputError(
                f"{shown(str(path), 200)}: must be as this run wrote it, found it changed since it was written; "
                "delete it to make it anew, and everything after it"
            )

    def _list(self, found: list[tuple[Path, str]]) -> None:
        lines = []
        for path, sha256 in found:
            name = self._name(path)
            if "\n" in name:
                raise InputError(f"{shown(name, 200)}: must be a name without a line break")
            self._sums.setdefault(name, set()).add(sha256)
            lines.append(f"{sha256}  {name}\n")
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / SUMS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, "".join(lines).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    @cached_property
    def _sums(self) -> Sums:
        found: Sums = {}
        content = (self.path / SUMS).read_bytes() if self.is_sealed else b""
        *lines, _ = content.decode("utf-8", "surrogateescape").split(
            "\n"
        )  # of a line that is not whole, no file is there
        for line in lines:
            match = _LINE.fullmatch(line)
            if match is None:
                raise InputError(f"{self.path / SUMS}: must be lines of a SHA-256 and a file, found {shown(line)!r}")
            found.setdefault(match[2], set()).add(match[1])
        return found


def files_in(path: Path) -> Iterator[Path]:
    """Yield the files of a folder, of the folders in it as well, in the order of their names; of a file, itself."""
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            yield from files_in(inner)
    else:
        yield path


def changes_of(folder: Path) -> list[str]:
    """Return what is not as it was written in a folder that a command finished (see Workspace.differences)."""
    workspace = Workspace(folder)
    is_finished = workspace.is_sealed and any((folder / last).exists() for last in LAST)
    return workspace.differences() if is_finished else []


@contextmanager
def open_workspace(
    path: Path,
    configuration: Documented,
    last: str,
    *,
    log: str = "calls",
    renew: Callable[[Workspace, Any, Any], bool] = lambda workspace, before, now: False,
    binding: str | None = None,
) -> Iterator[Workspace]:
    """Hold the folder at ``path``, made if it is not there, and check that every file in it is as it was written.

    last: the file that is written last; where it is, the folder is finished. log: the folder in it that grows until
    then. renew: whether another configuration may go on with what is there, told both; it drops what is not of use to
    it. When the work fails on its input before an earlier call bound the folder to its configuration, the folder is
    left as it was, unless a file in it now matches ``binding``: what must not be made anew. Raises InputError when it
    holds something else, work of another configuration or a changed file, RunError when another process holds it (the
    hold ends with that process, however it ends).
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{shown(str(path), 200)}: must be a folder for the run, found a file")
    before = {entry.name for entry in path.iterdir()} if path.exists() else None
    _refuse_others(path, before or set())
    path.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(path)
    try:
        with held(path / LOCK):
            for leftover in path.rglob(LEFTOVER):
                leftover.unlink()
            workspace.cut()
            is_bound = workspace.is_begun()
            if is_bound:
                workspace.check()
                if not (path / last).exists():
                    workspace.forget(path / log)
                    workspace.forget_missing()
                known, now = _config(path), json.loads(json.dumps(configuration.document()))
                if known != now and renew(workspace, known, now):
                    workspace.write_json(path / CONFIG, now)
                _check_same(_config(path), now, path)
            else:  # nothing was made yet: a configuration that could not be run does not bind the folder
                workspace.write_json(path / CONFIG, configuration.document())
            try:
                yield workspace
            except InputError:
                if not is_bound and not (binding and any(path.glob(binding))):
                    _undo(path, before)
                raise
    except BlockingIOError:
        raise RunError(f"{path} is in use by another process") from None


def _refuse_others(path: Path, there: set[str]) -> None:
    others = sorted(name for name in there if not name.startswith("."))
    if not others or Workspace(path).is_sealed:
        return
    if CONFIG in others and ".manifest.json" in there:
        raise InputError(f"{shown(str(path), 200)}: must be a new folder, found one of an earlier release")
    raise InputError(
        f"{shown(str(path), 200)}: must be a new folder or that of a run, found {shown(others[0])!r} in it"
    )


def _undo(path: Path, before: set[str] | None) -> None:
    for entry in path.iterdir():
        if before is None or entry.name not in before or entry.name in (CONFIG, SUMS, LOCK):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if before is None:
        path.rmdir()


def _config(path: Path) -> Any:
    return parse_json(read_text(path / CONFIG), str(path / CONFIG))


def _check_same(before: Any, now: Any, folder: Path) -> None:
    """Raise InputError that names the first field in which the document of a folder is another now."""
    if before == now:
        return
    old, new = dict(_leaves(before)), dict(_leaves(now))
    place = next(place for place in [*new, *old] if old.get(place) != new.get(place))
    was, is_now = (json.dumps(leaves[place]) if place in leaves else "nothing" for leaves in (old, new))
    raise InputError(
        f"{field_path(place)}: must be {shown(was)} as in the run at {shown(str(folder), 200)}, found "
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
