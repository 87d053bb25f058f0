"""The numbers behind a figure: for a table on the page, and as CSV that a spreadsheet only ever reads as data."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Final, TypeAlias, final

Cell: TypeAlias = str | float | int | None

FORMULA: Final = (*"=+-@\t\r\n", *"\uff1d\uff0b\uff0d\uff20")
"""A text that begins so would be computed by a spreadsheet (the last four are the wide forms of the first)."""
DIGITS: Final = 4
MINUS: Final = "\N{MINUS SIGN}"


@final
@dataclass(frozen=True)
class DataTable:
    """A header and rows of as many cells; a cell is a text, a number in the unit its header names, or nothing."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """Return the rows as CSV, numbers as full float64; texts that look like formulas begin with an apostrophe."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\r\n")
        for row in (self.header, *self.rows):
            writer.writerow([_plain(cell) for cell in row])
        return out.getvalue()

    @property
    def link(self) -> str:
        """The CSV as a data: address."""
        content = ("\N{ZERO WIDTH NO-BREAK SPACE}" + self.csv()).encode("utf-8", "replace")
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(content).decode()

    @property
    def cells(self) -> tuple[tuple[str, ...], ...]:
        """The rows as people read them: the numbers of a column with as many decimals."""
        columns = [column(values) for values in zip(*self.rows, strict=True)]
        return tuple(zip(*columns, strict=True))

    @property
    def is_number(self) -> tuple[bool, ...]:
        """Whether the cells of each column are numbers."""
        return tuple(
            all(not isinstance(cell, str) for cell in values) for values in zip(*self.rows, strict=True)
        ) or tuple(False for _ in self.header)


def _plain(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        text = "".join(c if c >= " " or c in "\t\r\n" else "\N{REPLACEMENT CHARACTER}" for c in cell)
        return "'" + text if text.startswith(FORMULA) else text
    return repr(float(cell)) if isinstance(cell, float) else repr(cell)  # numpy's numbers say their type


def column(values: Sequence[Cell]) -> list[str]:
    """Return the cells of a column as texts; its reals have the decimals that give the largest four digits."""
    reals = [value for value in values if isinstance(value, float)]
    places = decimals(reals)
    return [_text(value, places) for value in values]


def decimals(values: Sequence[float]) -> int:
    """Return how many decimals show the largest of these numbers with four digits: 0 to 6."""
    largest = max((abs(value) for value in values if isfinite(value)), default=0.0)
    return min(6, max(0, DIGITS - 1 - floor(log10(largest)))) if largest > 0 else DIGITS


def number(value: float, places: int | None = None) -> str:
    """Return a number as people read it: with ``places`` decimals, or four digits; a tiny one with its exponent."""
    return _text(value, decimals([value]) if places is None else places)


def share(value: float) -> str:
    """Return a probability in percent."""
    if 0 < value < 0.0005:
        return "<0.1%"
    return f"{value:.1%}"


def _text(value: Cell, places: int) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value).replace("-", MINUS)
    if value == 0:
        return "0"
    if not isfinite(value):
        return str(value).replace("inf", "\N{INFINITY}").replace("-", MINUS)
    if abs(value) >= 1e7 or abs(value) < 0.5 * 10.0**-places:
        return f"{value:.1e}".replace("-", MINUS)
    return f"{value:.{places}f}".replace("-", MINUS)
