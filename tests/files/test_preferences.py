"""Preference files: what is read, and one line with file and row for everything that is wrong."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.files.conversations import Conversation, Message
from rlhf_game.files.preferences import Preference, flip, preferences_of, read_preferences

ROWS = [{"prompt": f"question {k}", "chosen": "yes", "rejected": "no"} for k in range(10)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(folder: Path, rows: list[Any], name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(lines(rows)) if name.endswith(".gz") else lines(rows))
    return path


def test_every_form_gives_the_same_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "p.parquet")
    paths = [write(tmp_path, ROWS), write(tmp_path, ROWS, "p.jsonl.gz"), tmp_path / "p.parquet"]
    found = [read_preferences(path) for path in paths]
    assert found[0].rows == found[1].rows == found[2].rows
    assert found[0].rows[3] == Preference("question 3", "yes", "no")
    assert len({preferences.sha256 for preferences in found}) == 3


def test_conversations_earlier_turns_and_other_names_of_fields(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "and then?"}],
        "concise": "b",
        "verbose": "a b c",
        "history": [["hello", "hi"]],
        "split": "test",
    }
    path = write(tmp_path, [row])
    (found,) = read_preferences(path, {"chosen": "concise", "rejected": "verbose"}).rows
    turns = (Message("user", "hello"), Message("assistant", "hi"), Message("user", "and then?"))
    assert found == Preference(Conversation(turns), "b", "a b c", "test")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "chosen": "a"}, "line 2: rejected: must be given, found only the fields prompt, chosen"),
        ({"prompt": "p", "chosen": "", "rejected": "b"}, "line 2: chosen: must be text with something in it"),
        ({"prompt": "  ", "chosen": "a", "rejected": "b"}, "line 2: prompt: must be text with something in it"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "line 2: chosen and rejected must differ"),
        ({"prompt": "p", "chosen": 3, "rejected": "a"}, "line 2: chosen: must be text or messages, found 3"),
        ({"prompt": "p", "chosen": None, "rejected": "a"}, "line 2: chosen: must be text or messages, found nothing"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "split": "dev"}, "line 2: split: must be train or test"),
        (["p", "a", "b"], "line 2: must be a mapping"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_preferences(write(tmp_path, [ROWS[0], row, ROWS[1]]))
    assert str(caught.value).startswith(f"{tmp_path / 'p.jsonl'}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.jsonl", lines(ROWS) + b'{"prompt": "\xff"}', r"line 11: must be UTF-8 text, found byte 0xff"),
        ("p.jsonl", lines(ROWS) + b"{", r"line 11: must be JSON"),
        ("p.jsonl", b"", r"found an empty file"),
        ("p.jsonl", lines(ROWS[:1] * 4), r"must hold different preferences, found the same one 4 times"),
        (
            "p.jsonl.gz",
            gzip.compress(lines(ROWS * 500))[:-20],
            r"must be a whole gzip file, found that it breaks at row",
        ),
        ("p.jsonl.gz", b"not packed", r"must be a whole gzip file"),
        ("p.parquet", b"PAR1 not really", r"must be a whole parquet file"),
        ("p.csv", b"a,b", r"must be preferences ending in .jsonl, .jsonl.gz or .parquet, found 'p.csv'"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_preferences(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl: must be a file, found nothing there"):
        read_preferences(tmp_path / "none.jsonl")


def test_no_prompt_is_on_both_sides(tmp_path: Path) -> None:
    rows = [{**row, "rejected": word} for row in ROWS for word in ("no", "never")]
    train, test = read_preferences(write(tmp_path, rows)).held_out(0.2, np.random.default_rng(0))
    assert (len(train), len(test)) == (16, 4)
    assert {row.prompt for row in train}.isdisjoint(row.prompt for row in test)


def test_a_split_in_the_file_is_kept_and_one_side_alone_is_refused(tmp_path: Path) -> None:
    both = [{**row, "split": "test" if k < 3 else "train"} for k, row in enumerate(ROWS)]
    train, test = read_preferences(write(tmp_path, both)).held_out(0.5, np.random.default_rng(0))
    assert [row.prompt for row in test] == ["question 0", "question 1", "question 2"]
    assert len(train) == 7
    only = [{**row, "split": "train"} for row in ROWS]
    with pytest.raises(InputError, match="must hold rows to test on as well, found 10 rows"):
        read_preferences(write(tmp_path, only)).held_out(0.5, np.random.default_rng(0))


def test_flipping_turns_round_exactly_its_share() -> None:
    rows = preferences_of(((str(k), row) for k, row in enumerate(ROWS)), "here", "").rows
    wrong = flip(rows, 0.3, np.random.default_rng(1))
    assert sum(a != b for a, b in zip(rows, wrong, strict=True)) == 3
    assert {row.chosen for row in wrong} == {"yes", "no"}
    assert flip(rows, 0.0, np.random.default_rng(1)) == rows
