"""Tables of numbers: lists in a document, and the files that a document names (.npy, .npz:key, .parquet:column).

A table is shaped [m] (one prompt), [B, m] (B prompts) or, when prompts have different numbers of outcomes, is a list of
B arrays. Nothing is ever unpickled.

Files of at least LARGE numbers are not held in memory: a .npy file of float64 is memory-mapped as it stands; a .npy
file of another type and a .parquet column of numbers are converted once, part by part, into a temporary file that is
memory-mapped (in the folder that TMPDIR names; it is gone when the table is). An .npz file is always read whole.
"""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.documents import shown
from rlhf_game.mechanism.arrays import LARGE, Array, extremes

Table: TypeAlias = Array | list[Array]
Shape: TypeAlias = tuple[int, ...] | list[int]
"""(m,), (B, m), or [m_1, ..., m_B] when ragged."""

LARGEST_UNPACKED = 2**28
"""Bytes that an archive's member, or a column, may have however small it is in its file."""
PART = 2**20
"""Bytes of a large file that are converted at a time."""
FORMS = "FILE.npy, FILE.npz:KEY or FILE.parquet:COLUMN"


def from_lists(values: Sequence[Any]) -> Table:
    """Return a list of numbers or of lists of numbers (checked already) as a table."""
    if not isinstance(values[0], list):
        return np.array(values, dtype=np.float64)
    if len({len(row) for row in values}) == 1:
        return np.array(values, dtype=np.float64)
    return [np.array(row, dtype=np.float64) for row in values]


def shape_of(table: Table | Sequence[Any]) -> Shape:
    """Return the shape of a table, or of labels in lists."""
    if isinstance(table, np.ndarray):
        return table.shape
    if not isinstance(table[0], list | np.ndarray):
        return (len(table),)
    lengths = [len(row) for row in table]
    return (len(lengths), lengths[0]) if len(set(lengths)) == 1 else lengths


def prompts_of(table: Table) -> list[Array]:
    """Return the row of each prompt."""
    return table if isinstance(table, list) else list(np.atleast_2d(table))


def largest(table: Table) -> float:
    """Return the largest absolute value in a table."""
    ends = [extremes(row) for row in (table if isinstance(table, list) else [table])]
    return max(max(-low, high) for low, high in ends)


def describe(shape: Shape, what: str = "number") -> str:
    """Return the shape of a table of ``what`` in words."""
    if isinstance(shape, list):
        return f"{len(shape)} lists of {shown(', '.join(map(str, shape)), 40)} {what}s"
    if len(shape) == 1:
        return _count(shape[0], what)
    return f"{_count(shape[0], 'list')} of {_count(shape[1], what)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def locate(reference: str, folder: Path) -> tuple[Path, str | None]:
    """Return the file, and the key or column in it, that ``reference`` names relative to ``folder``."""
    path, colon, key = reference.rpartition(":")
    if colon and key and Path(path).suffix in (".npz", ".parquet"):
        return folder / path, key
    if Path(reference).suffix == ".npy":
        return folder / reference, None
    raise InputError(f"must be {FORMS}, found {shown(reference)!r}")


def read_table(reference: str, folder: Path) -> Table:
    """Return the table that ``reference`` names; large ones are memory-mapped files (see above).

    Raises InputError if the file is missing, is not what its name says, or does not hold numbers in one or two axes.
    """
    path, key = locate(reference, folder)
    with boundary(f"must name a readable {path.suffix} file, found in {shown(path.name)!r}", InputError):
        if path.is_dir():
            raise InputError(f"must name a file, found a folder at {shown(str(path), 120)!r}")
        if not path.is_file():
            raise InputError(f"must name a file that exists, found none at {shown(str(path), 120)!r}")
        try:
            return _read_parquet(path, key) if path.suffix == ".parquet" else _read_numpy(path, key)
        except InputError as error:
            raise InputError(f"{error} in {shown(path.name)!r}") from None


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_numpy(path: Path, key: str | None) -> Table:
    array: Any
    if key is None:
        array = np.lib.format.open_memmap(os.fspath(path), mode="r")
        _check_form(array)
        if array.dtype == np.float64 or array.size < LARGE:
            return _as_table(array)
        return _spooled(_rows(array), array.shape)
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if names.count(key) != 1:
            raise _wrong_key("key", key, names)
        member = archive.infolist()[names.index(key)]
        _check_unpacked(member.file_size, member.compress_size)
        array = np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    _check_form(array)
    return _as_table(array)


def _check_unpacked(size: int, packed: int) -> None:
    """Refuse what is small on the disk and huge in the memory. size, packed: in bytes."""
    if size > max(LARGEST_UNPACKED, 20 * packed):
        raise InputError(
            f"must be at most {LARGEST_UNPACKED} bytes where it is packed more than twentyfold (as a .npy file it may "
            f"be larger than the memory), found {size} bytes"
        )


def _read_parquet(path: Path, column: str | None) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert column is not None  # locate gives one
    try:
        with pq.ParquetFile(path, buffer_size=PART, pre_buffer=False) as file:
            names = file.schema_arrow.names
            if names.count(column) != 1:
                raise _wrong_key("column", column, names)
            kind, count = file.schema_arrow.field(column).type, file.metadata.num_rows
            if count == 0:
                raise InputError("must hold at least one row, found none")
            _check_unpacked(*_sizes(file.metadata, column))
            if count >= LARGE and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                batches = file.iter_batches(PART // 8, columns=[column], use_threads=False)
                return _spooled((cast(Array, _from_arrow(batch.column(0))) for batch in batches), (count,))
            values = file.read(columns=[column]).column(0).combine_chunks()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    return _from_arrow(values)


def _sizes(metadata: Any, column: str) -> tuple[int, int]:
    """Return the bytes of a column as float64, and those that it takes in the file."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    parts = [group.column(j) for group in groups for j in range(metadata.num_columns)]
    own = [part for part in parts if f"{part.path_in_schema}.".startswith(f"{column}.")]
    return 8 * sum(part.num_values for part in own), sum(part.total_compressed_size for part in own)


def _from_arrow(values: Any) -> Table:
    """Return a column: one row per outcome [m], or one list per prompt [B][m_b]."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if values.null_count:
        raise InputError("must hold no nulls, found one")
    if not isinstance(values.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        array = values.to_numpy(zero_copy_only=False)
        _check_form(array)
        return _as_table(array)
    rows = [_from_arrow(row.values) for row in values]
    if any(not isinstance(row, np.ndarray) or row.ndim != 1 for row in rows):
        raise InputError("must hold numbers or lists of numbers, found deeper lists")
    arrays = cast(list[Array], rows)
    return np.stack(arrays) if len({len(row) for row in arrays}) == 1 else arrays


def _rows(array: Any) -> Iterator[Array]:
    """Yield an array as float64, in consecutive parts of about PART bytes."""
    step = max(1, PART // 8 * len(array) // array.size)
    for start in range(0, len(array), step):
        yield array[start : start + step].astype(np.float64)


def _spooled(parts: Iterable[Array], shape: tuple[int, ...]) -> Array:
    """Return consecutive parts of a table as a memory-mapped temporary file."""
    with tempfile.TemporaryFile() as file:
        for part in parts:
            file.write(np.ascontiguousarray(part).data)
        file.flush()
        return np.memmap(file, dtype=np.float64, mode="r", shape=shape)


def _check_form(array: Any) -> None:
    """Check what can be said of an array without reading it."""
    if array.dtype.kind not in "fiu":
        raise InputError(f"must hold numbers, found {array.dtype.name} values")
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"must have one or two axes that are not empty, found shape {list(array.shape)}")


def _as_table(array: Any) -> Array:
    return cast(Array, array if array.dtype == np.float64 else array.astype(np.float64))


def _wrong_key(what: str, key: str, found: Sequence[str]) -> InputError:
    names = shown(", ".join(repr(name) for name in found), 100) or "none"
    return InputError(f"must name a {what} that exists once ({shown(key)!r} was asked for), found {names}")
