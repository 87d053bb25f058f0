"""Everything that is read as numbers, form by form: it is read right, or one line says what is wrong with it."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import KL, Menu, Report, RunError, SquaredL2, Table
from rlhf_game.errors import InputError
from rlhf_game.files.rows import read_rows
from rlhf_game.files.sampled import read_sampled_game
from rlhf_game.files.tables import read_table
from rlhf_game.mechanism.arrays import scalar
from rlhf_game.rewards import call_reward
from tests.cli.runner import run
from tests.files.matrix import ARRAYS, DOCUMENTS, READ, TABLES


@pytest.mark.parametrize(("label", "write", "happens"), TABLES, ids=[case[0] for case in TABLES])
def test_a_table_in_a_file(tmp_path: Path, label: str, write: Callable[[Path], str], happens: str) -> None:
    named = write(tmp_path)
    groups = [{"name": "a", "reward": {"file": named}}]
    (tmp_path / "g.json").write_text(json.dumps({"reference": [[0.5, 0.5]], "strength": 1, "groups": groups}))
    if happens == READ:
        found = read_table(named, tmp_path)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float64
        assert found.ravel().tolist() in ([0.25, 0.75], [0, 1])
        return
    result = run("audit", tmp_path / "g.json")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"rlhf-game: {tmp_path / 'g.json'}: groups[0].reward.file: ")
    assert happens in result.err
    assert result.err[:-1].isprintable()


def test_a_huge_member_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    import tracemalloc

    named = next(write for label, write, _ in TABLES if "unpacks" in label)(tmp_path)
    assert os.path.getsize(tmp_path / "t.npz") < 2**21
    tracemalloc.start()
    with pytest.raises(InputError, match="must be at most"):
        read_table(named, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(("label", "values", "happens"), ARRAYS, ids=[case[0] for case in ARRAYS])
def test_an_array_from_python(label: str, values: Any, happens: str) -> None:
    """One door: rewards that are tables or functions, valuations of menus, and what reward functions return."""
    doors: list[Callable[[], Any]] = [
        lambda: Table([0.5, 0.5], KL(1.0)).read(values),
        lambda: Table([0.5, 0.5], KL(1.0), outcomes=["x", "y"]).read(lambda outcomes: values),
        lambda: Menu([0.0, 0.0]).read(values),
        lambda: Menu(values),
    ]
    for door in doors:
        if happens == READ:
            door()
        else:
            with pytest.raises(InputError) as caught:
                door()
            assert happens in str(caught.value)
            assert "\n" not in str(caught.value)
    wanted = np.array([float(value) for value in values]) if happens == READ else None
    if wanted is not None:
        np.testing.assert_array_equal(call_reward(lambda prompts, completions: values, ["p"] * 2, ["a", "b"]), wanted)
        return
    with pytest.raises(RunError, match="the reward <lambda> must return"):
        call_reward(lambda prompts, completions: values, ["p"] * 2, ["a", "b"])


NO_STRENGTH = ["1", b"1", 1j, None, np.ma.masked, True, [1.0], 10**400, float("nan"), 0, -1]


@pytest.mark.parametrize("wrong", NO_STRENGTH, ids=lambda wrong: repr(wrong)[:20])
def test_a_strength_is_one_number_above_0(wrong: Any) -> None:
    for make in (KL, SquaredL2, lambda strength: Menu([0.0, 1.0], strength)):
        with pytest.raises(InputError, match="strength must be"):
            make(wrong)  # type: ignore[operator]
    assert scalar(np.float32(0.5), "x") == 0.5


def test_sizes_have_an_end_in_python_too() -> None:
    assert Report([1.0], size=2**53).size == 2**53
    with pytest.raises(InputError, match="size must be at most 9007199254740992, got one of 1329 binary digits"):
        Report([1.0], size=10**400)


@pytest.mark.parametrize(("label", "name", "content", "happens"), DOCUMENTS, ids=[case[0] for case in DOCUMENTS])
def test_a_document(tmp_path: Path, label: str, name: str, content: bytes, happens: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("settle", tmp_path / name, "--json")
    if happens == READ:
        assert (result.code, result.err) == (0, "")
        assert all(json.loads(line)["groups"][0]["size"] == 1 for line in _receipts(result.out, name))
        return
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"rlhf-game: {tmp_path / name}: ")
    assert happens in result.err


def _receipts(out: str, name: str) -> list[str]:
    return out.splitlines() if name.endswith(".jsonl") else [out]


def test_a_size_that_is_not_said_is_1_and_the_game_is_the_same(tmp_path: Path) -> None:
    """As in run; the hash is of what is meant, not of how it is written."""
    game = {"reference": [0.5, 0.5], "strength": 1, "groups": [{"name": "a", "reward": [1, 0]}]}
    (tmp_path / "short.json").write_text(json.dumps(game))
    (tmp_path / "long.json").write_text(json.dumps({**game, "groups": [{"name": "a", "size": 1, "reward": [1, 0]}]}))
    short, long = (json.loads(run("settle", tmp_path / name, "--json").out) for name in ("short.json", "long.json"))
    assert short == long
    assert short["groups"][0]["size"] == 1


TINY = {"next_state": [[0, 1], [1, -1]], "reference": [[0.5, 0.5], [0.2, 0.8]], "horizon": 3, "space": "automaton"}


def test_the_smallest_number_in_an_automaton_is_audited(tmp_path: Path) -> None:
    """The search's step was strength / 5e-324: infinite."""
    groups = [{"name": "a", "reward": [[5e-324, 0], [0, 0]]}, {"name": "b", "reward": [[0, 0], [0, 1]]}]
    (tmp_path / "g.json").write_text(json.dumps({**TINY, "strength": 1, "groups": groups}))
    result = run("audit", tmp_path / "g.json", "--json", "--starts", 2)
    assert (result.code, result.err) == (0, "")
    assert all(group["regret_found"] <= 1e-12 for group in json.loads(result.out)["groups"])


@pytest.mark.parametrize(("bounds", "strength"), [([0, 1e155], 1), ([-1e139, 1], 1e-130), ([0, 1e308], 1)])
def test_bounds_have_the_end_that_rewards_have(tmp_path: Path, bounds: list[float], strength: float) -> None:
    game = {"reference": [[0.5, 0.5]], "missing": [0.1], "bounds": bounds, "strength": strength}
    (tmp_path / "g.json").write_text(json.dumps({**game, "groups": [{"name": "a", "reward": [[1, 0]]}]}))
    result = run("settle", tmp_path / "g.json")
    assert result.code == 2
    assert "g.json: bounds: must be at most 1e+140 when multiplied by size and weight" in result.err
    (tmp_path / "g.json").write_text(json.dumps({**game, "bounds": [-1e130, 1e130], "strength": 1,
                                                 "groups": [{"name": "a", "reward": [[1, 0]]}]}))  # fmt: skip
    assert run("settle", tmp_path / "g.json").code == 0


ROWS = [{"policy": p, "prompt": 0, "text": t, "log_probability": -1.0, "log_reference": -1.0}
        for p in ("reference", "final") for t in ("x", "y")]  # fmt: skip
SCORES = [{"prompt_index": 0, "response": t, "a": 0.5} for t in ("x", "y")]
SAMPLED = {
    "space": "samples", "regularizer": "kl", "strength": 1.0, "payment": "none", "payments_from": "samples",
    "level": 0.95, "cap": 3.0, "cap_from": "cap", "settlement_seed": 1, "seed_from": "provider",
    "groups": [{"name": "a", "size": 1}], "policies": ["reference", "final"],
    "trainer": {"name": "rloo", "is_faithful": True, "reason": "it is"},
    "cost": {"trainings": 1, "tokens": 1, "drawn": 1, "seconds": "t.json"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "column", "values", "said"),
    [
        (
            "samples",
            "log_probability",
            [-1.0, None, -1.0, -1.0],
            "COLUMN: must hold finite numbers, found nothing (null) in row 2",
        ),
        ("samples", "log_reference", [[-1.0]] * 4, "COLUMN: must hold finite numbers, found a list of 1 in row 1"),
        (
            "samples",
            "log_reference",
            [-1.0, -1.0, float("nan"), -1.0],
            "COLUMN: must hold finite numbers, found nan in row 3",
        ),
        ("samples", "log_reference", ["-1"] * 4, 'COLUMN: must hold finite numbers, found the text "-1" in row 1'),
        ("samples", "text", [["x"]] * 4, "COLUMN: must hold texts, found a list of 1 in row 1"),
        ("samples", "text", ["x", None, "x", "y"], "COLUMN: must hold texts, found nothing (null) in row 2"),
        ("samples", "prompt", [0.5] * 4, "COLUMN: must hold integers, found 0.5 in row 1"),
        ("samples", "prompt", [True] * 4, "COLUMN: must hold integers, found true in row 1"),
        ("samples", "policy", None, "must have the column policy, found"),
        ("scores", "a", [0.5, None], "COLUMN: must hold finite numbers, found nothing (null) in row 2"),
        ("scores", "a", [{"a": 1}] * 2, "COLUMN: must hold finite numbers, found a mapping in row 1"),
        ("scores", "response", [["x"]] * 2, "COLUMN: must hold texts, found a list of 1 in row 1"),
    ],
)
def test_nulls_and_lists_in_a_sampled_game(tmp_path: Path, field: str, column: str, values: Any, said: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for name, rows in (("samples", ROWS), ("scores", SCORES)):
        table = {key: [row[key] for row in rows] for key in rows[0]}
        if name == field:
            table[column] = values
            table = {key: column for key, column in table.items() if column is not None}
        parquet.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    named = {name: {"file": f"{name}.parquet", "sha256": "0"} for name in ("samples", "scores")}
    (tmp_path / "g.json").write_text(json.dumps({**SAMPLED, **named}))
    with pytest.raises(InputError) as caught:
        read_sampled_game(tmp_path / "g.json")
    assert str(caught.value).startswith(f"{tmp_path / 'g.json'}: {field}.file: ")
    assert said.replace("COLUMN", column) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "happens"),
    [
        ("p.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n', [{"a": 1}]),
        ("p.jsonl.gz", gzip.compress(b'\xef\xbb\xbf{"a": 1}\r\n'), [{"a": 1}]),
        ("p.jsonl.gz", gzip.compress(b'{"a": 1}')[:-9], "must be a whole gzip file, found that it breaks at row 1"),
        ("p.jsonl.gz", gzip.compress(bytes(2**28 + 1), 1), "must be at most 268435456 bytes when it is unpacked"),
        ("p.jsonl", b'{"a": "\\ud800"}', "line 1: a: must be text, found half of a surrogate pair"),
        ("p.jsonl", b'{"a": 1}\n\n{"a": 1}', "line 2: must be a JSON document, found an empty line"),
        ("p.parquet", b"PAR1", "must be a whole parquet file, found"),
        ("p.csv", b"a\n1\n", "must be rows ending in .jsonl, .jsonl.gz or .parquet, found 'p.csv'"),
    ],
    ids=["mark", "packed", "cut", "huge", "half", "empty line", "no parquet", "csv"],
)  # fmt: skip
def test_rows(tmp_path: Path, name: str, content: bytes, happens: Any) -> None:
    (tmp_path / name).write_bytes(content)
    if not isinstance(happens, str):
        assert [row for _, row in read_rows(tmp_path / name, "rows")[0]] == happens
        return
    with pytest.raises(InputError) as caught:
        list(read_rows(tmp_path / name, "rows")[0])
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert happens in str(caught.value)
