"""Files that are whole or not there: written beside, flushed to the disk, then renamed."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, TypeAlias

from rlhf_game.errors import InputError

Buffer: TypeAlias = bytes | memoryview
LEFTOVER: Final = ".rlhf-game-*.tmp"
"""What a file is called until it is whole: what may be swept in a folder that is this program's own."""


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Put ``content`` at ``path``, whole or not at all (see write_parts)."""
    write_parts(path, (content,))


def write_parts(path: str | os.PathLike[str], parts: Iterable[Buffer]) -> None:
    """Put ``parts``, one after the other, at ``path``: nobody sees anything but the old file or the whole new one.

    A symbolic link is kept and the file that it points to is replaced.
    Raises InputError if ``path`` cannot name a file (no such folder, a folder itself, a device); OSError if writing
    fails (a full disk), and then nothing is left behind.
    """
    target = Path(os.path.realpath(path))
    _check_target(os.fspath(path), target)
    beside = target.with_name(LEFTOVER.replace("*", secrets.token_hex(8)))
    try:
        with open(beside, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    _flush_folder(target.parent)


def write_text(path: str | os.PathLike[str], *pieces: str) -> None:
    """Put a text, given in pieces, at ``path`` as UTF-8, whole or not at all (see write_parts)."""
    write_parts(path, (piece.encode() for piece in pieces))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Put ``value`` at ``path`` as indented JSON with a final newline, whole or not at all (see write_bytes).

    Raises ValueError on NaN and infinities, which are not JSON.
    """
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return a value as indented JSON with a final newline. Raises ValueError on NaN and infinities."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def check_output(path: Path, what: str, *inputs: Path | None) -> None:
    """Raise InputError when what is to be written at ``path`` would take the place of an input. what: these are."""
    for given in inputs:
        if given is not None and path.exists() and given.exists() and path.samefile(given):
            raise InputError(f"{path}: the output must be another file than the {what}, found the {what} itself")


def check_new(folder: Path) -> None:
    """Raise InputError when something is in a folder, or in its place, already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "files in it" if folder.is_dir() else "a file"
        raise InputError(f"{folder}: must be a new or empty folder, found {found}")


def _check_target(shown: str, target: Path) -> None:
    if target.is_dir():
        raise InputError(f"{shown!a}: the output must be a file, found a folder")
    if not target.parent.is_dir():
        raise InputError(f"{shown!a}: the output must be in a folder that exists, found none at {str(target.parent)!a}")
    if target.exists() and not target.is_file():
        raise InputError(f"{shown!a}: the output must be a regular file, found a device or pipe")


def _flush_folder(folder: Path) -> None:
    """Flush the rename itself, where the system can (Windows cannot open a folder)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
