"""The one array type, and the few array operations that every space shares."""

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from itertools import chain, pairwise
from math import isfinite
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.cores import available_cores
from rlhf_game.errors import InputError, boundary

Array = NDArray[np.float64]
T = TypeVar("T")

BLOCK = 131_072
"""Entries of a block of several groups' rewards that is worked on at a time (1 MiB: it stays in cache)."""
TEMPORARIES = 4
"""What one table is worked on with takes as much cache as so many."""
LARGE = 2**22
"""From so many entries on (32 MiB) a user's writable array is viewed, not copied."""
SMALL = 2**12
"""Up to so many entries a table is one block, without more ado."""
VIEWED = 2**12
"""From so many entries on (32 KiB) a settlement views an array, and checks for changes before it is used again."""
THREADED = 2**20
"""From so many entries on (8 MiB) a table is read by several threads."""
DOT = 2**13
"""Entries of a sum of products: BLAS takes one thread for so few, and a change in place shows in so few."""
GOLDEN = 0.6180339887498949
RELEASE = 2**23
"""Entries of memory-mapped arrays that are read (64 MiB) before their pages leave this process's memory again."""


def frozen(values: ArrayLike) -> Array:
    """Return a read-only float64 copy of ``values``; an array that is read-only already is not copied."""
    array = np.asarray(values, dtype=np.float64)
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


def frozen_view(array: Array) -> Array:
    """Return a read-only array: a view of memory that is read-only (a memory map, say) or LARGE, else a copy."""
    return array if not array.flags.writeable else frozen(array) if array.size < LARGE else read_only(array)


def read_only(array: Array) -> Array:
    """Return a read-only view."""
    view = array.view()
    view.flags.writeable = False
    return view


def numbers(values: Any, what: str) -> Array:
    """Return ``values`` as a float64 array: the one door for arrays of others.

    Integers, reals and booleans (0 and 1) of any type are numbers, also as Python objects and in torch's tensors, with
    gradients or not. Whatever numpy would turn into numbers silently is not: masked entries, imaginary parts, strings,
    bytes, dates and durations. Raises InputError that names ``what``.
    """
    if type(values) is np.ndarray and values.dtype == np.float64:
        return values
    with boundary(f"{what} must be numbers", InputError):  # some tensors hold none that could be read
        values = _of_tensors(values)
    if (hidden := _hidden(values)) is not None:
        raise InputError(f"must be numbers, got {hidden}", field=what)
    try:
        array = np.asarray(values)
    except Exception as error:  # lists of several lengths, or an object that cannot be an array
        raise InputError(f"must be numbers in a rectangular list, got {_short(values)}", field=what) from error
    if array.dtype.kind == "O":
        array = _of_objects(array, what)
    if array.dtype.kind not in "biuf":
        raise InputError(f"must be numbers, got {_kinds(array)} in {_short(values)}", field=what)
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype=np.float64)


def _of_tensors(values: Any) -> Any:
    """Return what torch's tensors hold, bfloat16 too, for numpy; anything else as it is."""
    if isinstance(values, list | tuple):
        is_of_tensors = any(hasattr(value, "detach") for value in values)
        return [_of_tensors(value) for value in values] if is_of_tensors else values
    if not hasattr(values, "detach"):
        return values
    held = values.detach()
    return (held if held.is_complex() else held.double()).cpu().numpy()


def _hidden(values: Any) -> str | None:
    """Return what numpy would read as numbers without a word, in a list or alone."""
    if isinstance(values, list | tuple):
        if set(map(type, values)) <= {float, int, bool}:
            return None
        return next((found for value in values if (found := _hidden(value)) is not None), None)
    if type(values) in (float, int, bool, np.ndarray):
        return None
    if isinstance(values, bytes | bytearray | memoryview):
        return type(values).__name__
    is_masked = isinstance(values, np.ma.MaskedArray) and bool(np.ma.is_masked(values))
    return "a masked array: fill its masked entries first" if is_masked else None


def _of_objects(array: Any, what: str) -> Array:
    """Return Python objects as numbers where all of them are real numbers (fractions and large integers are)."""
    for at, value in np.ndenumerate(array):
        if not isinstance(value, Real | Decimal | np.bool_):
            raise InputError(f"must be numbers, got {_short(value)} at {list(at)}", field=what)
    try:
        return np.asarray(array, dtype=np.float64)
    except (OverflowError, ValueError) as error:
        raise InputError(f"must be numbers that float64 can hold, got {_short(array.tolist())}", field=what) from error


def _kinds(array: Any) -> str:
    known = {"c": "complex numbers", "U": "texts", "S": "bytes", "T": "texts", "m": "durations", "M": "dates"}
    return known.get(array.dtype.kind, f"values of type {array.dtype}")


def finite(values: Any, what: str) -> Array:
    """Return ``values`` as a float64 array, or raise InputError that names ``what`` if one is not a finite number."""
    array = numbers(values, what)
    if not isfinite(sum(content(array))):
        check_finite(array, what)
    return array


def check_finite(array: Array, what: str) -> None:
    """Raise InputError that names ``what`` and the place of the first entry that is not finite, if there is one."""
    low, high = extremes(array)
    if not (np.isfinite(low) and np.isfinite(high)):
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        where = f" at {list(at)}" if at else ""
        raise InputError(f"must be finite, got {array[at]}{where}", field=what)


def content(array: Array) -> list[float]:
    """Return what tells an array from itself after a change in place: a weighted sum of each piece, in one reading.

    A change that it misses is below the rounding of these sums. All are finite if all entries are, and if their sums
    do not overflow; one is not if an entry is not.
    """
    if array.ndim == 0:
        return [float(array)]
    row = array if array.ndim == 1 else array.reshape(-1) if array.flags.c_contiguous else array.ravel(order="K")
    sums: list[float] = []

    def read(block: tuple[slice, slice], _: Array) -> list[float]:
        part = row[block[1]]
        found: list[float] = np.vecdot(part[: len(part) // DOT * DOT].reshape(-1, DOT), _weighing()).tolist()
        return found

    if row.size > DOT:
        sums = list(chain.from_iterable(each_block(read, (1, row.size), 1, [array], 128 * DOT)))
    rest = row[DOT * len(sums) :]
    return [*sums, float(np.vdot(rest, _weighing()[: rest.size]))]


@cache
def _weighing() -> Array:
    """Return the weights of a piece: positive, all different, and so small that no sum overflows."""
    return np.asarray((0.5 + np.modf(np.arange(DOT) * GOLDEN)[0]) / (2 * DOT))


def scalar(value: Any, what: str) -> float:
    """Return one finite real number, or raise InputError that names ``what``."""
    found = finite(value, what)
    if found.ndim or isinstance(value, bool | np.bool_):
        raise InputError(f"must be one finite number, got {_short(value)}", field=what)
    return float(found)


def positive(value: Any, what: str) -> float:
    """Return one finite real number > 0, or raise InputError that names ``what``."""
    number = scalar(value, what)
    if number <= 0:
        raise InputError(f"must be a finite number > 0, got {value!r}", field=what)
    return number


def extremes(array: Array) -> tuple[float, float]:
    """Return the least and the largest entry, in one reading; (0, 0) of no entries, NaN if one is."""
    if array.size == 0:
        return 0.0, 0.0
    if array.ndim == 0 or array.size <= BLOCK:
        return float(array.min()), float(array.max())
    sheet = array.reshape(-1, array.shape[-1])
    parts = [(sheet[block].min(), sheet[block].max()) for block in blocks(sheet.shape, 1, [array])]
    lows, highs = zip(*parts, strict=True)
    return float(np.min(lows)), float(np.max(highs))


def row_sums(sheet: Array) -> Array:
    """Return the sum of each row, in one reading: [B] of [B, m]."""
    return _reduced(np.add, sheet, np.zeros(len(sheet)))


def row_maxima(sheet: Array) -> Array:
    """Return the largest entry of each row, in one reading: [B] of [B, m]."""
    return _reduced(np.maximum, sheet, np.full(len(sheet), -np.inf))


def row_minima(sheet: Array) -> Array:
    """Return the least entry of each row, in one reading: [B] of [B, m]."""
    return _reduced(np.minimum, sheet, np.full(len(sheet), np.inf))


def _reduced(ufunc: np.ufunc, sheet: Array, start: Array) -> Array:
    if sheet.size <= SMALL:
        return np.asarray(ufunc.reduce(sheet, axis=1))
    for rows, columns in blocks(sheet.shape, 1, [sheet]):
        start[rows] = ufunc(start[rows], ufunc.reduce(sheet[rows, columns], axis=1))
    return start


def places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and the columns of what is true in a sheet, in order (np.nonzero takes several times as long)."""
    flat = np.flatnonzero(mask)
    return (np.zeros_like(flat), flat) if len(mask) == 1 else np.divmod(flat, mask.shape[1])


def _short(values: Any) -> str:
    try:
        text = " ".join(repr(values).split())
    except ValueError:  # an integer of more digits than Python writes
        text = type(values).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def blocks(
    shape: tuple[int, ...], depth: int, reading: Sequence[Array] = (), entries: int | None = None
) -> Iterator[tuple[slice, slice]]:
    """Cut a stack of ``depth`` sheets [rows, columns] into blocks of about ``entries`` (BLOCK): slices in order.

    Blocks are whole rows where a row is short, and parts of one row where it is long.
    reading: the arrays that are read along the way; pages of those that are memory-mapped files are let go now and
    then, so that files larger than the memory can be read.
    """
    wide = max(1, (BLOCK if entries is None else entries) // max(depth, 1))
    if shape[0] * shape[1] <= min(wide, SMALL):
        return iter(((slice(0, shape[0]), slice(0, shape[1])),))
    return _read_along(_cut(shape, wide), _mappings(reading))


def each_block(
    work: Callable[[tuple[slice, slice], Array], T],
    shape: tuple[int, ...],
    depth: int,
    reading: Sequence[Array],
    entries: int,
) -> list[T]:
    """Return what ``work`` finds on each block (see blocks), in order: on several threads where there is much to read.

    work is given the block, and memory for it of depth sheets. Blocks are the same for any number of threads.
    """
    size = depth * shape[0] * shape[1]
    maps = _mappings(reading) if size > SMALL else []
    if size <= min(entries, THREADED) and not maps:
        with np.errstate(all="ignore"):
            return [work((slice(0, shape[0]), slice(0, shape[1])), np.empty(size))]
    cut = list(_cut(shape, max(1, entries // max(depth, 1))))
    rows, columns = cut[0]
    memory = depth * (rows.stop - rows.start) * (columns.stop - columns.start)
    count = min(threads(), len(cut)) if size >= THREADED else 1

    def run(part: list[tuple[slice, slice]]) -> list[T]:
        workspace = np.empty(memory)
        with np.errstate(all="ignore"):
            return [work(block, workspace) for block in _read_along(part, maps)]

    if count == 1:
        return run(cut)
    from concurrent.futures import ThreadPoolExecutor

    ends = [len(cut) * k // count for k in range(count + 1)]
    with ThreadPoolExecutor(count) as pool:
        return list(chain.from_iterable(pool.map(run, [cut[a:b] for a, b in pairwise(ends)])))


def threads() -> int:
    """Return how many threads to use: what OMP_NUM_THREADS says (1 in worker processes), else one for each core."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    return available_cores()


def _read_along(cut: Iterable[tuple[slice, slice]], maps: Sequence[mmap.mmap]) -> Iterator[tuple[slice, slice]]:
    """Yield blocks; let the pages of the files that are read along the way go (see blocks)."""
    if not maps:
        yield from cut
        return
    read = 0
    for block in cut:
        yield block
        read += len(maps) * (block[0].stop - block[0].start) * (block[1].stop - block[1].start)
        if read > RELEASE:
            _release(maps)
            read = 0
    _release(maps)


def _cut(shape: tuple[int, ...], wide: int) -> Iterator[tuple[slice, slice]]:
    rows, columns = shape
    if columns <= wide:
        step = max(1, wide // max(columns, 1))
        for top in range(0, rows, step):
            yield slice(top, min(top + step, rows)), slice(0, columns)
        return
    for row in range(rows):
        for left in range(0, columns, wide):
            yield slice(row, row + 1), slice(left, min(left + wide, columns))


def _mappings(reading: Sequence[Array]) -> list[mmap.mmap]:
    """Return the files that arrays are read-only maps of."""
    return [held for array in reading if array.size > SMALL and (held := _mapping(array)) is not None]


def _mapping(array: Array) -> mmap.mmap | None:
    """Return the file that an array is a read-only map of, where the system can let go of its pages."""
    base: Any = array
    mode = None
    while isinstance(base, np.ndarray):
        mode = base.mode if isinstance(base, np.memmap) else mode
        base = base.base
    return base if mode == "r" and isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") else None


def _release(maps: Sequence[mmap.mmap]) -> None:
    for held in maps:
        held.madvise(mmap.MADV_DONTNEED)


def stack(rewards: Sequence[Array], block: tuple[slice, slice], out: Array | None = None) -> Array:
    """Return one block of all rewards, [n, rows, columns] (a copy, possibly where ``out`` is)."""
    rows, columns = block
    shape = len(rewards), rows.stop - rows.start, columns.stop - columns.start
    out = np.empty(shape) if out is None else out
    np.concatenate([reward[block] for reward in rewards], out=out.reshape(-1, shape[2]))
    return out


def leave_one_out_sums(terms: Array) -> Array:
    """Return for each i the sum over the others, sum_{j != i} terms[j]: [n, ...] from [n, ...].

    Prefix and suffix sums, never the total minus one term, so a term a million times the others costs no digit.
    """
    out = np.zeros_like(terms)
    np.cumsum(terms[:-1], axis=0, out=out[1:])
    suffix = np.zeros_like(terms[0])
    for i in range(len(terms) - 2, -1, -1):
        suffix = suffix + terms[i + 1]
        out[i] += suffix
    return out
