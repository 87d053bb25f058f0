"""Results as rows: what a notebook shows of them, and the pandas table of them."""

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rlhf_game.errors import MissingExtra

if TYPE_CHECKING:
    import pandas

SHOWN: Final = 40
"""A notebook shows so many rows, and says how many more there are."""


class Tabular(ABC):
    """A result that is a table: a row for each group, game or point."""

    @abstractmethod
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Return the rows, all with the same keys in the same order; numbers in full."""
        ...

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the rows as a pandas table. Raises MissingExtra where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise MissingExtra("report", "pandas") from error
        return pandas.DataFrame([dict(row) for row in self.rows()])

    def _repr_html_(self) -> str:
        """Return the table that notebooks show, numbers to six digits."""
        rows = self.rows()
        names = list(rows[0]) if rows else []
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        lines = ["".join(_cell(row[name]) for name in names) for row in rows[:SHOWN]]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        left = len(rows) - SHOWN
        more = f"<p>and {left} more row{'s' if left > 1 else ''}</p>" if left > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    if value is None:
        return "<td></td>"
    is_real = not isinstance(value, str | int)
    return f"<td>{html.escape(f'{value:.6g}' if is_real else str(value))}</td>"
