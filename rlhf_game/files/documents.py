"""Text to plain values: YAML as version 1.2 means it, JSON, and JSON lines. Every fault is one line naming the file.

What comes out is None, bool, int, float, str, list and dict with string keys, nothing else, at most DEPTH deep. No YAML
tag, alias, date, sexagesimal or octal number exists here, and ``yes``, ``no``, ``on`` and ``off`` are strings.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, final

from rlhf_game.errors import InputError

DEPTH = 32
"""Lists and mappings inside each other; a game needs five."""

DIGITS = 308
"""Of an integer, its sign among them: float64 holds all of these. What is longer is read as a real."""

_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"), ".NaN": float("nan"),
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?[0-9]+")
_HALF = re.compile(r"\\[uU](?:0000)?[dD][89a-fA-F]")
"""What half of a surrogate pair is written with; whole pairs too."""
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def shown(text: str, length: int = 60) -> str:
    """Return ``text`` on one line without control characters, cut to ``length``: safe in a message or a terminal."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return safe if len(safe) <= length else safe[: length - 3] + "..."


def read_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a UTF-8 file; raise InputError if it is missing, not a file, not UTF-8 or empty."""
    name = shown(os.fspath(path), 200)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{name}: must be a file, found nothing there") from None
    except IsADirectoryError:
        raise InputError(f"{name}: must be a file, found a folder") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: must be UTF-8 text, found byte 0x{error.object[error.start]:02x}") from None
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{name}: must be a readable file, found: {reason}") from None
    if not text.strip():
        raise InputError(f"{name}: must hold a document, found an empty file")
    return text


def lines_of(text: str) -> list[str]:
    """Return the lines of a text. Only a newline ends one: other separators of Unicode stand inside of texts."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def parse_json(text: str, name: str) -> Any:
    """Return the value of one JSON document; raise InputError that starts with ``name`` if it is not one.

    NaN and infinities come through as floats, so that whoever checks the fields can name the field.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise InputError(f"{name}: must be JSON, found at {where}column {error.colno}: {error.msg}") from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except RecursionError:
        raise InputError(f"{name}: must be at most {DEPTH} lists or mappings deep, found more") from None
    if _is_deeper(value, DEPTH):
        raise InputError(f"{name}: must be at most {DEPTH} lists or mappings deep, found more")
    if _HALF.search(text):
        _check_text(value, name)
    return value


def parse_json_lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yield for each line its name (``FILE: line 3``) and its value; empty lines at the end are none."""
    lines = text.rstrip().split("\n")
    for number, line in enumerate(lines, start=1):
        where = f"{name}: line {number}"
        if not line.strip():
            raise InputError(f"{where}: must be a JSON document, found an empty line")
        yield where, parse_json(line, where)


def parse_yaml(text: str, name: str) -> Any:
    """Return the value of one YAML document; raise InputError that starts with ``name`` if it is not one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its event stream is used: it builds no object
    builder = _Builder(name)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise InputError(f"{name}: must be YAML, found{where}: {shown(error.problem or 'a fault', 100)}") from None
    except UnicodeEncodeError:
        raise InputError(f"{name}: must be text, found half of a surrogate pair") from None
    except yaml.YAMLError as error:  # characters that YAML forbids
        raise InputError(f"{name}: must be YAML, found: {shown(str(error).splitlines()[0], 100)}") from None
    if _HALF.search(text):
        _check_text(builder.document(), name)
    return builder.document()


@final
class _Builder:
    """The value of a stream of YAML events, without recursion."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._line = 0
        self._documents: list[Any] = []
        self._open: list[Any] = []
        self._keys: list[str | None] = []  # of each open mapping the key that waits for its value

    def document(self) -> Any:
        """Return the only document."""
        if not self._documents:
            raise InputError(f"{self._name}: must hold a document, found only comments")
        return self._documents[0]

    def take(self, event: Any) -> None:
        """Read one event."""
        from yaml import events

        self._line = event.start_mark.line + 1
        if isinstance(event, events.AliasEvent):
            self._refuse(f"an alias (*{shown(str(event.anchor))}); write the value out, or quote it if it is text")
        if isinstance(event, events.ScalarEvent):
            self._check_tag(event)
            self._put(self._scalar(event.value) if event.implicit[0] else event.value)
        elif isinstance(event, events.SequenceStartEvent | events.MappingStartEvent):
            self._check_tag(event)
            value: Any = [] if isinstance(event, events.SequenceStartEvent) else {}
            self._put(value)
            self._open.append(value)
            self._keys.append(None)
            if len(self._open) > DEPTH:
                raise InputError(f"{self._name}: must be at most {DEPTH} lists or mappings deep, found more")
        elif isinstance(event, events.SequenceEndEvent | events.MappingEndEvent):
            self._open.pop()
            self._keys.pop()

    def _put(self, value: Any) -> None:
        if not self._open:
            if self._documents:
                self._refuse("a second document")
            self._documents.append(value)
        elif isinstance(self._open[-1], list):
            self._open[-1].append(value)
        elif self._keys[-1] is None:
            self._keys[-1] = self._key(value)
        else:
            self._open[-1][self._keys[-1]] = value
            self._keys[-1] = None

    def _key(self, value: Any) -> str:
        if not isinstance(value, str):
            self._refuse(f"a key that is {kind(value)}; keys are text: put it in quotes")
        if value in self._open[-1]:
            self._refuse(f"the key {shown(value)!r} twice")
        return value

    def _scalar(self, text: str) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            return _integer(text)
        return float(text) if _NUMBER.fullmatch(text) else text

    def _check_tag(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            self._refuse(f"the tag {shown(event.tag)!r}; tags are not read here")

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self._name}: line {self._line}: must be plain YAML, found {what}")


def kind(value: Any) -> str:
    """Return what a parsed value is, in words, on one line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {json.dumps(shown(value), ensure_ascii=False)}"
    return shown(str(value))


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= DIGITS else float(digits)  # infinity, as of 1e999


def _check_text(value: Any, name: str, place: str = "") -> None:
    """Refuse half of a surrogate pair in a text or a key: no file can hold it."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            where = f"{name}: {place}" if place else name
            raise InputError(f"{where}: must be text, found half of a surrogate pair in {shown(value)!r}") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check_text(key, name, place)
            _check_text(inner, name, f"{place}.{shown(key)}" if place else shown(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_text(inner, name, f"{place}[{i}]")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise InputError(f"must have each key once, found {shown(key)!r} twice")
        mapping[key] = value
    return mapping


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and mappings are nested more than ``depth`` deep, level by level."""
    level: list[Any] = [[value]]
    for _ in range(depth + 1):
        items = (item for outer in level for item in (outer.values() if isinstance(outer, dict) else outer))
        level = [item for item in items if isinstance(item, list | dict)]
        if not level:
            return False
    return True
