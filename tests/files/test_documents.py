"""YAML as version 1.2 means it, JSON, and names that are safe to show."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, parse_json_lines, parse_yaml, shown

WORDS = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
)
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4))


def refusal(parse: Callable[[str, str], Any], text: str) -> str:
    """What the InputError says, if there is one."""
    try:
        parse(text, "f.yaml")
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, no, on, off, y, n, Yes, NO]", ["yes", "no", "on", "off", "y", "n", "Yes", "NO"]),
        ("[true, True, false, FALSE]", [True, True, False, False]),
        ("['true', \"null\", '1']", ["true", "null", "1"]),
        ("[null, ~, ]", [None, None]),
        ("[1, -2, +3, 010, 1e-3, 1E3, .5, 2., -1.5e+2]", [1, -2, 3, 10, 1e-3, 1e3, 0.5, 2.0, -150.0]),
        ("[0x10, 0o17, 0b1, 1_000, 1:30, 2001-01-01, 1.2.3, e3]",
         ["0x10", "0o17", "0b1", "1_000", "1:30", "2001-01-01", "1.2.3", "e3"]),
        ("{<<: 1}", {"<<": 1}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("a:\nb: [{c: {}}]", {"a": None, "b": [{"c": {}}]}),
        ("&x [1]", [1]),
        ("\ufeff[1]", [1]),
    ],
)  # fmt: skip
def test_yaml_means_what_version_1_2_says(text: str, value: Any) -> None:
    found = parse_yaml(text, "f")
    assert found == value
    assert repr(found) == repr(value)  # also the types: 1 is not true and not 1.0


@given(DOCUMENTS)
def test_json_comes_back_from_json_and_from_yaml(document: Any) -> None:
    # JSON is YAML, except for surrogate pairs in escapes and control characters outside of them.
    text = json.dumps(document)
    assert parse_json(text, "f") == json.loads(text)
    assert parse_yaml(text, "f") == json.loads(text)


@given(st.text(alphabet="[]{}:,-?&*!|>'\"%@# \n\tab1.~<", max_size=40))
def test_no_text_makes_yaml_or_json_raise_anything_but_an_input_error(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        message = refusal(parse, text)
        assert message.isprintable()
        assert message.startswith("f.yaml: ") or not message


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    text = '{"a": "\u2028"}\r\n[2]\n'
    assert list(parse_json_lines(text, "f")) == [("f: line 1", {"a": "\u2028"}), ("f: line 2", [2])]


@given(st.text())
def test_what_is_shown_is_one_printable_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 60


def test_escape_codes_and_direction_marks_are_shown_as_such() -> None:
    assert shown("\x1b[31mred\u202e\ud800 Größe") == "\\x1b[31mred\\u202e\\ud800 Größe"
