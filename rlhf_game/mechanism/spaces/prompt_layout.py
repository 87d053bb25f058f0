"""Which prompt of a table stands where: prompts with the same number of outcomes make one sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen, frozen_view, numbers, read_only
from rlhf_game.mechanism.domains import Sheets

ONE = (np.zeros(1, dtype=np.intp),)
"""The prompts of the sheet where there is one."""


@final
@dataclass(frozen=True, eq=False)
class PromptLayout:
    """Which prompt stands in which sheet, and how the user wrote it down."""

    widths: tuple[int, ...]
    """The number of outcomes of each prompt: [B]."""
    members: tuple[NDArray[np.intp], ...]
    """The prompts of each sheet."""
    is_flat: bool
    """Whether the user gave one prompt without the list around it."""

    def split(self, values: Any, what: str) -> Sheets:
        """Return values shaped like the reference as sheets; raise InputError that names ``what`` if they are not."""
        if self.is_flat:
            row = finite(values, what)
            if row.shape != (self.widths[0],):
                raise InputError(
                    f"must be {self.widths[0]} numbers, one per outcome, got {shape_text(row)}", field=what
                )
            return (frozen_view(row[None]),)
        if len(self.members) == 1:
            sheet = finite(values, what)
            wanted = (len(self.widths), self.widths[0])
            if sheet.shape != wanted:
                raise InputError(
                    f"must be {wanted[0]} prompts of {wanted[1]} outcomes, got {shape_text(sheet)}", field=what
                )
            return (frozen_view(sheet),)
        if not isinstance(values, Sequence) or len(values) != len(self.widths):
            raise InputError(f"must be a list of {len(self.widths)} prompts", field=what)
        if set(map(type, values)) == {np.ndarray} and {row.ndim for row in values} == {1}:
            flat = np.concatenate(values)
            if flat.dtype == np.float64 and tuple(map(len, values)) == self.widths and np.isfinite(flat).all():
                return self._sheets(flat)
        rows = [finite(row, f"{what}[{b}]") for b, row in enumerate(values)]
        for b, (row, width) in enumerate(zip(rows, self.widths, strict=True)):
            if row.shape != (width,):
                raise InputError(
                    f"must be {width} numbers, one per outcome, got {shape_text(row)}", field=f"{what}[{b}]"
                )
        return tuple(frozen(np.stack([rows[b] for b in members])) for members in self.members)

    def _sheets(self, flat: Array) -> Sheets:
        """Return the sheets of all prompts written one after the other: read-only views of one copy."""
        order, ends = self._order
        copy = read_only(flat[order])
        parts = zip(self.members, ends, ends[1:], strict=False)
        return tuple(copy[start:end].reshape(len(members), -1) for members, start, end in parts)

    @cached_property
    def _order(self) -> tuple[NDArray[np.intp], list[int]]:
        """Where the entries of all sheets, one after the other, are in all prompts; where each begins and ends."""
        starts = np.cumsum(self.widths, dtype=np.intp) - np.array(self.widths, dtype=np.intp)
        places = [starts[members][:, None] + np.arange(self.widths[members[0]]) for members in self.members]
        ends = np.cumsum([0, *(one.size for one in places)])
        return np.concatenate([np.ravel(one) for one in places]), ends.tolist()

    def join(self, sheets: Sheets) -> Any:
        """Return sheets shaped like the reference: [m], [B, m] or a list of B arrays."""
        if self.is_flat:
            return sheets[0][0]
        if len(sheets) == 1:
            return sheets[0]
        rows: list[Any] = [None] * len(self.widths)
        for members, sheet in zip(self.members, sheets, strict=True):
            for b, row in zip(members, sheet, strict=True):
                rows[b] = row
        return rows

    def places(self) -> list[tuple[int, int]]:
        """Return the sheet and the row in it of each prompt."""
        found = {
            b: (sheet, row) for sheet, members in enumerate(self.members) for row, b in enumerate(members.tolist())
        }
        return [found[b] for b in range(len(self.widths))]

    @classmethod
    def of(cls, reference: Any) -> "PromptLayout":
        """Read the layout off a reference; raise InputError if it has no outcomes."""
        if not isinstance(reference, np.ndarray | Sequence):
            raise InputError(
                f"must be a list of probabilities, or a list of such lists, got {reference!r}", field="reference"
            )
        if type(reference) is np.ndarray and reference.ndim == 1 and reference.size and reference.dtype == np.float64:
            return cls(reference.shape, ONE, is_flat=True)
        if not isinstance(reference, np.ndarray) and len(reference) > 0 and all(map(_is_list, reference)):
            widths = tuple(map(len, reference))
            sizes = np.asarray(widths)
            members = tuple(np.flatnonzero(sizes == width) for width in dict.fromkeys(widths))
            is_flat = False
        else:
            array = numbers(reference, "reference")
            if array.ndim not in (1, 2):
                raise InputError(f"must be a list or a list of lists, got {array.ndim} dimensions", field="reference")
            is_flat, prompts = array.ndim == 1, 1 if array.ndim == 1 else len(array)
            widths, members = (array.shape[-1],) * prompts, (np.arange(prompts),)
        if not widths or min(widths) == 0:
            raise InputError("must hold at least one outcome for each prompt, got none", field="reference")
        return cls(widths, members, is_flat)


def _is_list(row: Any) -> bool:
    return isinstance(row, list | tuple) if not isinstance(row, np.ndarray) else row.ndim == 1


def shape_text(array: Array) -> str:
    """Return the shape of an array as words: 3 x 4."""
    return " x ".join(str(n) for n in array.shape) or "one number"
