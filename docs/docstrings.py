"""Formulas in docstrings as they are written: ``<p, s>`` is no tag, ``p*`` no emphasis, ``[i][k]`` no reference.

An extension of griffe, which reads the docstrings for the reference.
"""

import re
from typing import Any

from griffe import Extension

PRODUCT = re.compile(r"<(?=[A-Za-z_*^-]+, )")
STAR = re.compile(r"(?<=[A-Za-z0-9_)\]])\*(?!\*)(?=[^A-Za-z0-9]|$)")
CODE = re.compile(r"(``.*?``|`[^`\n]+`)", re.S)


def plain(text: str) -> str:
    """Return a docstring in which Markdown reads formulas as text; code stays as it is."""
    parts = CODE.split(text)
    return "".join(part if k % 2 else _escaped(part) for k, part in enumerate(parts))


def _escaped(text: str) -> str:
    return STAR.sub(r"\*", PRODUCT.sub("&lt;", text)).replace("][", "]\\[")


class PlainFormulas(Extension):
    """Makes the formulas of every docstring plain."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of an object that was read."""
        if obj.docstring:
            obj.docstring.value = plain(obj.docstring.value)
