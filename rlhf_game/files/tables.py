"""Tables of numbers: lists in a document, and the files that a document names (.npy, .npz:key, .parquet:column).

A table is shaped [m] (one prompt), [B, m] (B prompts) or, when prompts have different numbers of outcomes, is a list of
B arrays. Nothing is ever unpickled.

Files of at least LARGE numbers are not held in memory: a .npy file of float64 is memory-mapped as it stands; a .npy
file of another type and a .parquet column of numbers are converted once, part by part, into a temporary file that is
memory-mapped (in the folder that TMPDIR names; it is gone when the table is). An .npz file is always read whole.
"""

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.mechanism.arrays import LARGE, Array, extremes

Table: TypeAlias = Array | list[Array]
Shape: TypeAlias = tuple[int, ...] | list[int]
"""(m,), (B, m), or [m_1, ..., m_B] when ragged."""

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
    if path.is_dir():
        raise InputError(f"must name a file, found a folder at {shown(str(path), 120)!r}")
    if not path.is_file():
        raise InputError(f"must name a file that exists, found none at {shown(str(path), 120)!r}")
    try:
        table = _read_parquet(path, key) if path.suffix == ".parquet" else _read_numpy(path, key)
    except InputError as error:
        raise InputError(f"{error} in {shown(path.name)!r}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, OverflowError, zlib.error) as error:
        reason = shown(" ".join(str(error).split()) or type(error).__name__, 120)
        raise InputError(f"must name a readable {path.suffix} file, found in {shown(path.name)!r}: {reason}") from None
    return table


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_numpy(path: Path, key: str | None) -> Table:
    if key is None:
        array = np.lib.format.open_memmap(os.fspath(path), mode="r")
        _check_array(array[:1])  # what can be said without reading it
        if array.dtype == np.float64 or array.size < LARGE or array.ndim > 2:
            return _check_array(array)
        return _spooled(_rows(array), array.shape)
    with open(path, "rb") as file:  # opened here, because numpy leaves a file open that is no archive
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("must be an archive of arrays, found one array")
        with archive:
            if key not in archive.files:
                raise _wrong_key("key", key, archive.files)
            return _check_array(archive[key])


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
            if count >= LARGE and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
                batches = file.iter_batches(PART // 8, columns=[column], use_threads=False)
                return _spooled((cast(Array, _from_arrow(batch.column(0))) for batch in batches), (count,))
            values = file.read(columns=[column]).column(0).combine_chunks()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    return _from_arrow(values)


def _from_arrow(values: Any) -> Table:
    """Return a column: one row per outcome [m], or one list per prompt [B][m_b]."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if values.null_count:
        raise InputError("must hold no nulls, found one")
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        return _check_array(values.to_numpy(zero_copy_only=False))
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


def _check_array(array: Any) -> Array:
    if array.dtype.kind not in "fiu":
        raise InputError(f"must hold numbers, found {array.dtype.name} values")
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"must have one or two axes that are not empty, found shape {list(array.shape)}")
    return cast(Array, array if array.dtype == np.float64 else array.astype(np.float64))


def _wrong_key(what: str, key: str, found: Sequence[str]) -> InputError:
    names = shown(", ".join(repr(name) for name in found), 100) or "none"
    return InputError(f"must name a {what} that exists once ({shown(key)!r} was asked for), found {names}")
