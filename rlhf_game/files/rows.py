"""Rows of a .jsonl, .jsonl.gz or .parquet file. Every fault is one line that names the file, and the row where it can.

Byte order marks and empty lines at the end are no rows. What a row says is checked by who reads it.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.documents import kind, parse_json_lines, shown
from rlhf_game.files.tables import LARGEST_UNPACKED

ENDINGS = (".parquet", ".jsonl", ".jsonl.gz")
FORMS = ".jsonl, .jsonl.gz or .parquet"


def read_rows(path: str | os.PathLike[str], what: str) -> tuple[Iterator[tuple[str, Any]], str]:
    """Return the rows of a file, each with its name for messages, and the SHA-256 of the file's bytes.

    what: the rows are, for messages: "preferences". Raises InputError that names the file.
    """
    path = Path(path)
    name = shown(str(path), 200)
    if path.is_dir():
        raise InputError(f"{name}: must be {what} ending in {FORMS}, found a folder")
    if not path.name.endswith(ENDINGS):
        raise InputError(f"{name}: must be {what} ending in {FORMS}, found {shown(path.name)!r}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: must be a file, found nothing there") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{name}: must be a readable file, found: {reason}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if path.suffix == ".parquet":
        return _parquet_rows(content, name), sha256
    if path.suffix == ".gz":
        content = _unpacked(content, name)
    return parse_json_lines(_text(content, name, what), name), sha256


def read_columns(path: Path, kinds: Mapping[str, type]) -> dict[str, list[Any]]:
    """Return columns of a .parquet file, [rows] each, checked: a str, an int or a finite float in every row.

    Raises InputError that begins with what is wrong, for a caller that names the file.
    """
    from pyarrow import parquet

    with boundary("must be a .parquet file, found", InputError):
        if not path.is_file():
            raise InputError(f"must name a file beside the game, found none at {shown(str(path), 120)!r}")
        table = parquet.read_table(os.fspath(path)).to_pydict()
    for column, wanted in kinds.items():
        if column not in table:
            raise InputError(f"must have the column {shown(column)}, found {shown(', '.join(table), 200) or 'none'}")
        check_values(table[column], wanted, shown(column))
    return {column: table[column] for column in kinds}


def check_values(values: Sequence[Any], wanted: type, where: str) -> None:
    """Raise InputError that begins with ``where`` unless each value is a str, an int or a finite float, as wanted."""
    for k, value in enumerate(values, start=1):
        is_wanted = is_number(value) if wanted is float else isinstance(value, wanted) and not isinstance(value, bool)
        if not is_wanted:
            words = {str: "texts", int: "integers", float: "finite numbers"}[wanted]
            raise InputError(f"{where}: must hold {words}, found {kind(value)} in row {k}")


def is_number(value: Any) -> bool:
    """Return whether a parsed value is a number that float64 can hold; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:
        return False


def number_of(value: Any, where: str) -> float:
    """Return a parsed value as a float; raise InputError that begins with ``where`` when it is no finite number."""
    if not is_number(value):
        raise InputError(f"{where}: must be a finite number, found {kind(value)}")
    return float(value)


def _unpacked(content: bytes, name: str) -> bytes:
    most = max(LARGEST_UNPACKED, 20 * len(content))
    try:
        found = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    except (EOFError, OSError, zlib.error) as error:
        line = _whole_lines(content) + 1
        raise InputError(f"{name}: must be a whole gzip file, found that it breaks at row {line}: {error}") from None
    if len(found) > most:
        raise InputError(f"{name}: must be at most {most} bytes when it is unpacked, found more")
    return found


def _whole_lines(packed: bytes) -> int:
    """Return how many lines of a broken gzip file can be read."""
    try:
        return zlib.decompressobj(wbits=31).decompress(packed, LARGEST_UNPACKED).count(b"\n")
    except zlib.error:
        return 0


def _text(content: bytes, name: str, what: str) -> str:
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{name}: line {line}: must be UTF-8 text, found byte 0x{content[error.start]:02x}") from None
    if not text.strip():
        raise InputError(f"{name}: must hold {what}, found an empty file")
    return text


def _parquet_rows(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    with boundary(f"{name}: must be a whole parquet file, found", InputError):
        rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    return ((f"{name}: row {i}", row) for i, row in enumerate(rows, start=1))
