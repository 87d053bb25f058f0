"""Tables as the bytes of a parquet file: a group of rows for each part, one part in memory at a time."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

from rlhf_game.files.run_folder import PROVENANCE


def parquet_bytes(tables: Iterable[Any], note: Mapping[str, Any]) -> bytes:
    """Return what parquet_parts yields as one piece."""
    return b"".join(parquet_parts(tables, note))


def parquet_parts(tables: Iterable[Any], note: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the bytes of a parquet file from pyarrow tables of one schema. note: where it comes from, as metadata.

    The same tables and note give the same bytes.
    """
    from pyarrow import PythonFile, parquet

    metadata = {PROVENANCE: json.dumps(note, sort_keys=True).encode()}
    sink = _Sink()
    writer: Any = None
    for table in tables:
        noted = table.replace_schema_metadata(metadata)
        if writer is None:
            writer = parquet.ParquetWriter(PythonFile(sink, mode="w"), noted.schema, compression="zstd")
        writer.write_table(noted, row_group_size=len(noted))
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
