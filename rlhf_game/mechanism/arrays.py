"""The one array type, and the few array operations that every space shares."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.errors import InputError

Array = NDArray[np.float64]

BLOCK = 131_072
"""Entries of a block of several groups' rewards that is worked on at a time (1 MiB: it stays in cache)."""


def frozen(values: ArrayLike) -> Array:
    """Return a read-only float64 copy of ``values``; an array that is read-only already is not copied."""
    array = np.asarray(values, dtype=np.float64)
    if array.flags.writeable or array.base is not None:
        array = array.copy()
        array.flags.writeable = False
    return array


def finite(values: Any, what: str) -> Array:
    """Return ``values`` as a float64 array, or raise InputError that names ``what`` if one is not a finite number."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} must be numbers in a rectangular list, got {_short(values)}") from error
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{what} must be finite, got {array[at]} at {list(at)}")
    return array


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else text[:57] + "..."


def blocks(shape: tuple[int, ...], depth: int) -> Iterator[tuple[slice, slice]]:
    """Cut a stack of ``depth`` sheets [rows, columns] into blocks of about BLOCK entries: slices in order.

    Blocks are whole rows where a row is short, and parts of one row where it is long.
    """
    rows, columns = shape
    wide = max(1, BLOCK // max(depth, 1))
    if columns <= wide:
        step = max(1, wide // max(columns, 1))
        for top in range(0, rows, step):
            yield slice(top, min(top + step, rows)), slice(0, columns)
        return
    for row in range(rows):
        for left in range(0, columns, wide):
            yield slice(row, row + 1), slice(left, min(left + wide, columns))


def stack(rewards: Sequence[Array], block: tuple[slice, slice]) -> Array:
    """Return one block of all rewards, [n, rows, columns] (a copy)."""
    rows, columns = block
    out = np.empty((len(rewards), rows.stop - rows.start, columns.stop - columns.start))
    for i, reward in enumerate(rewards):
        out[i] = reward[block]
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
