"""Locks between processes that end with the process that holds them, however it ends."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def held(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock that is the file at ``path``, made if it is not there.

    waits: until whoever holds it lets go; otherwise BlockingIOError is raised.
    """
    with open(path, "a+", encoding="utf-8") as file:
        _lock(file, waits)
        yield


if sys.platform == "win32":
    import msvcrt
    import time

    def _lock(file: IO[str], waits: bool) -> None:
        while True:
            try:
                file.seek(0)
                return msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            except OSError:
                if not waits:
                    raise BlockingIOError from None
                time.sleep(0.2)

else:
    import fcntl

    def _lock(file: IO[str], waits: bool) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
