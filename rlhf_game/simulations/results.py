"""The table of a study: parts that are whole or not there, joined in order at the end."""

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_bytes, write_parts
from rlhf_game.files.documents import shown
from rlhf_game.runs.directory import PROVENANCE, versions
from rlhf_game.simulations.study import Study


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of an unfinished table: one parquet file for each chunk that was played."""

    folder: Path
    seal: str
    """The SHA-256 of the study's specification."""

    def path(self, number: int) -> Path:
        """Return where a chunk's rows go."""
        return self.folder / f"rows-{number:08d}.parquet"

    def missing(self, count: int) -> set[int]:
        """Return the numbers of the chunks that are to be played."""
        return {number for number in range(count) if not self.path(number).exists()}

    def write(self, number: int, content: bytes) -> None:
        """Keep a chunk's rows, whole or not at all."""
        self.folder.mkdir(exist_ok=True)
        write_bytes(self.path(number), content)

    def read(self, number: int) -> Any:
        """Return a chunk's rows as a pyarrow table; raises InputError when the file is not as this study wrote it."""
        from pyarrow import ArrowException, parquet

        path = self.path(number)
        try:
            table = parquet.read_table(path)
            note = json.loads(table.schema.metadata[PROVENANCE])
        except (ArrowException, OSError, KeyError, TypeError, ValueError):
            note = None
        if note != {"seal": self.seal, "chunk": number}:
            raise InputError(
                f"{shown(str(path), 200)}: must be as this study wrote it, found it changed; delete it to make it anew"
            )
        return table

    def drop(self) -> None:
        """Forget the parts, once the table is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


def join(parts: Parts, study: Study, path: Path) -> None:
    """Write the table at ``path``, whole or not at all, from all parts in order; one part is in memory at a time."""
    note = {"config_sha256": study.sha256, "seed": study.fields.seed, "versions": versions()}
    write_parts(path, _joined(parts, study.count, {PROVENANCE: json.dumps(note, sort_keys=True).encode()}))


def _joined(parts: Parts, count: int, metadata: dict[bytes, bytes]) -> Iterator[bytes]:
    from pyarrow import PythonFile, parquet

    sink = _Sink()
    writer: Any = None
    for number in range(count):
        table = parts.read(number).replace_schema_metadata(metadata)
        if writer is None:
            writer = parquet.ParquetWriter(PythonFile(sink, mode="w"), table.schema, compression="zstd")
        writer.write_table(table, row_group_size=len(table))
        yield sink.taken()
    writer.close()
    yield sink.taken()


@final
class _Sink(io.RawIOBase):
    """A file that hands on what is written to it."""

    def __init__(self) -> None:
        self._written: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how much was written."""
        return self._length

    def write(self, content: Any) -> int:
        """Take some bytes."""
        self._written.append(bytes(content))
        self._length += len(self._written[-1])
        return len(self._written[-1])

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        out = b"".join(self._written)
        self._written.clear()
        return out


def row_groups(path: Path) -> Iterator[Any]:
    """Yield the parts of a joined table in order; raises InputError when it is no such table."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number)
    except (ArrowException, OSError) as error:
        raise InputError(f"{shown(str(path), 200)}: must be a whole parquet file, found: {error}") from None
