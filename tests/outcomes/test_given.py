"""Outcomes given: rows of prompts, responses and scores settle without any model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlhf_game import KL, AffinePayments, InputError, Mechanism, Report, SocialWelfare, Table
from rlhf_game.files.conversations import Conversation
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.given_rows import GivenSpec, read_given
from tests.cli.runner import run as command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Row = dict[str, Any]
SAID = [{"prompt": "p", "response": "a"}, {"prompt": "q", "response": "c"}, {"prompt": "p", "response": "b"}]
GROUPS = [
    {"name": "x", "size": 2, "reward": {"column": "x"}},
    {"name": "y", "reward": {"column": "y"}, "calibration": {"kind": "affine", "low": 0, "high": 10}},
]


def write(folder: Path, rows: list[Row], **changes: Any) -> Path:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    document = {"outcomes": {"kind": "given", "file": "rows.jsonl"}, "strength": 0.5, "groups": GROUPS, **changes}
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in document.items() if value is not None})
    )
    return folder / "config.json"


def reference(folder: Path, rows: list[Row], **columns: Any) -> list[float]:
    write(folder, rows)
    return list(read_given(GivenSpec(kind="given", file="rows.jsonl", **({"columns": columns} if columns else {})),
                           folder).given.weights)  # fmt: skip


def test_the_reference_is_as_the_columns_say(tmp_path: Path) -> None:
    def rows(*more: Row) -> list[Row]:
        return [{"prompt": "p", **one} for one in more]

    a, b = {"response": "a"}, {"response": "b"}
    assert reference(tmp_path, rows(a, b, b)) == pytest.approx([1 / 3, 2 / 3])
    assert reference(tmp_path, rows(a | {"count": 5}, b | {"count": 3}, a | {"count": 2})) == pytest.approx([0.7, 0.3])
    logs = rows(a | {"log_reference": -1000.0}, b | {"log_reference": -1000.0 + np.log(3)})
    assert reference(tmp_path, logs) == pytest.approx([0.25, 0.75])
    assert reference(tmp_path, [*logs, logs[1]]) == pytest.approx([0.25, 0.75])  # of distinct rows
    both = [a | {"log_reference": -1.0, "log_proposal": -2.0}, b | {"log_reference": -3.0, "log_proposal": -3.0}]
    ratio = np.exp(1.0)
    assert reference(tmp_path, rows(*both)) == pytest.approx([ratio / (ratio + 1), 1 / (ratio + 1)])
    assert reference(tmp_path, rows(*both, both[1])) == pytest.approx([ratio / (ratio + 2), 2 / (ratio + 2)])
    counted = rows(both[0] | {"count": 3}, both[1] | {"count": 2})
    assert reference(tmp_path, counted) == pytest.approx([3 * ratio / (3 * ratio + 2), 2 / (3 * ratio + 2)])
    other = rows(a | {"n": 3, "count": 9}, b | {"n": 1, "count": 1})
    assert reference(tmp_path, other, count="n") == pytest.approx([0.75, 0.25])
    assert reference(tmp_path, other, count=None) == pytest.approx([0.5, 0.5])


def test_a_run_is_the_table_settled_by_hand(tmp_path: Path) -> None:
    scores = [(1.0, 0.0), (0.5, 3.0), (0.0, 10.0)]
    rows = [{**row, "x": x, "y": y, "count": k} for k, (row, (x, y)) in enumerate(zip(SAID, scores, strict=True), 1)]
    result = command("run", write(tmp_path, rows), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    space = Table([[1 / 4, 3 / 4], [1.0]], KL(0.5))
    reports = [Report([np.array([1.0, 0.0]), np.array([0.5])], 2), Report([np.array([0.0, 1.0]), np.array([0.3])])]
    by_hand = Mechanism(SocialWelfare(), AffinePayments()).settle(reports, space)
    assert [group["payment"] for group in receipt["groups"]] == pytest.approx(by_hand.payments.tolist(), rel=1e-12)
    assert [group["value"] for group in receipt["groups"]] == pytest.approx(by_hand.values.tolist(), rel=1e-12)
    game = json.loads((tmp_path / "out/game.json").read_text())
    assert game["outcomes"] == [["a", "b"], ["c"]]
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    assert command("audit", tmp_path / "out", "--starts", 2, "--assert").code == 0
    assert command("run", tmp_path / "config.json", "-o", tmp_path / "out", "--json").out == result.out
    changed = write(tmp_path, [rows[0] | {"x": 0.9}, *rows[1:]])
    refused = command("run", changed, "-o", tmp_path / "out")
    assert (refused.code, refused.out) == (2, "")
    assert "rows.jsonl" in refused.err


def test_a_folder_that_is_unfinished_or_changed_is_not_audited(tmp_path: Path) -> None:
    """A game that was edited in a run's folder was audited as that run's."""
    rows = [{**row, "x": 0.5, "y": k} for k, row in enumerate(SAID)]
    out = tmp_path / "out"
    assert command("run", write(tmp_path, rows), "-o", out).code == 0
    whole = {name: (out / name).read_bytes() for name in ("game.json", "receipt.json")}
    for name, content, said in (
        (
            "game.json",
            whole["game.json"].replace(b"0.5", b"0.6"),
            "game.json: must be as it was written, found it chan",
        ),
        ("receipt.json", whole["receipt.json"][:-9], "receipt.json: must be as it was written, found it changed"),
        ("receipt.json", None, "out: must be a finished run, found no receipt.json in it"),
    ):
        (out / name).unlink()
        if content is not None:
            (out / name).write_bytes(content)
        result = command("audit", out, "--starts", 2)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
        (out / name).write_bytes(whole[name])
    assert command("audit", out, "--starts", 2).code == 0


def test_parquet_and_messages_are_read(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    said = [{"role": "assistant", "content": "Because."}]
    table = pa.table({
        "question": [asked, asked], "answer": [said, [{"role": "assistant", "content": "No idea."}]],
        "good": pa.array([1, 0], pa.int8()),
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "rows.parquet")
    columns = {"prompt": "question", "response": "answer"}
    spec = GivenSpec.model_validate({"kind": "given", "file": "rows.parquet", "columns": columns})
    given = read_given(spec, tmp_path).given
    (prompt,) = given.prompts
    assert isinstance(prompt, Conversation)
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert given.responses == ("Because.", "No idea.")
    (tmp_path / "judge.py").write_text(
        "def judge(prompts, completions, good, **_):\n"
        "    assert all(p[0]['role'] == 'system' and c[0]['role'] == 'assistant'\n"
        "        for p, c in zip(prompts, completions))\n"
        "    return [g + 0.0 for g in good]\n"
    )
    groups = [{"name": "f", "reward": {"python": "judge.py:judge"}}, {"name": "g", "reward": {"column": "good"}}]
    config = write(
        tmp_path, SAID, groups=groups, outcomes={"kind": "given", "file": "rows.parquet", "columns": columns}
    )
    result = command("run", config, "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    first, second = json.loads(result.out)["groups"]
    assert (first["value"], first["payment"]) == (second["value"], second["payment"])


def test_a_rank_is_let_in_and_a_model_may_score_given_responses(tmp_path: Path) -> None:
    groups = [{"name": "r", "reward": {"column": "x"}, "calibration": "rank"}, {"name": "b", "reward": {"brevity": 4}}]
    rows = [{**row, "x": k} for k, row in enumerate(SAID)]
    assert command("run", write(tmp_path, rows, groups=groups), "-o", tmp_path / "out").code == 0
    scores = parquet.read_table(tmp_path / "out/scores.parquet").to_pydict()
    assert len(scores["prompt"]) >= 3


P, A = {"prompt": "p"}, {"prompt": "p", "response": "a"}
WRONG: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("no rows", [], {}, "rows.jsonl: must hold rows of prompt and response, found an empty file"),
    ("a list", [[1]], {}, "line 1: must be a mapping with prompt and response, found a list of 1"),
    ("no response", [A, P], {}, "line 2: response: must be given, found only the fields prompt"),
    ("a null", [A | {"response": None}], {}, "line 1: response: must be given"),
    ("an empty prompt", [A | {"prompt": " "}], {}, "line 1: prompt: must be text with something in it"),
    ("a number", [A | {"response": 3}], {}, "line 1: response: must be text or messages, found 3"),
    ("some counts", [A | {"count": 1}, A], {}, "line 2: count: must be given in every row or in none"),
    ("no draws", [A | {"count": 0}], {}, "line 1: count: must be greater than 0, found 0"),
    ("a text", [A | {"count": "2"}], {}, 'line 1: count: must be a finite number, found the text "2"'),
    ("minus infinity", [A | {"log_reference": float("-inf")}], {}, "line 1: log_reference: must be a finite number"),
    ("a proposal alone", [A | {"log_proposal": -1}], {}, "must have log_reference beside log_proposal, found none"),
    ("counts of what", [A | {"count": 1, "log_reference": -1}], {}, "must have log_proposal beside count and log"),
    ("two logs", [A | {"log_reference": -1}, A | {"log_reference": -2}], {}, "line 2: must have the log_reference of"),
    ("more than 1", [A | {"log_reference": -0.2}, A | {"response": "b", "log_reference": -0.3}], {}, "a sum of at m"),
    ("above 1", [A | {"log_reference": 0.5}], {}, "log_reference: must be a log probability, at most 0, found 0.5"),
    ("two scores", [A | {"x": 1, "y": 1}, A | {"x": 0, "y": 1}], {}, "line 2: x: must be the same as for"),
    ("two of one", [A, A | {"response": [{"role": "assistant", "content": "a", "name": "z"}]}], {}, "must differ in"),
    ("no column", [A | {"x": 1}], {}, "groups[1].reward.column: must be a column of"),
    ("a null score", [A | {"x": 1, "y": None}], {}, "groups[1].reward.column: y must be a number for every response"),
    ("true", [A | {"x": 1, "y": True}], {}, "y must be a number for every response of"),
    ("a score too large", [A | {"x": 2, "y": 1}], {}, "groups[0].calibration: scores must be in [0, 1], got 2"),
    ("a model", [A | {"x": 1, "y": 1}], {"model": "m"}, "model: must not be here: what was asked and said is"),
    ("prompts", [A | {"x": 1, "y": 1}], {"prompts": ["p"]}, "prompts: must not be here"),
    ("a system", [A | {"x": 1, "y": 1}], {"system": "s"}, "system: must not be here"),
    ("no file", [A], {"outcomes": {"kind": "given", "file": "none.jsonl"}}, "none.jsonl: must be a file, found"),
    ("a folder", [A], {"outcomes": {"kind": "given", "file": "."}}, ".parquet, found a folder"),
    ("a csv", [A], {"outcomes": {"kind": "given", "file": "rows.csv"}}, "rows.csv: must be rows of prompt and resp"),
    ("a name", [A], {"outcomes": {"kind": "given", "file": "rows.jsonl", "columns": {"count": "n"}}}, "n: must be"),
    ("a key", [A], {"outcomes": {"kind": "given", "file": "rows.jsonl", "text": 1}}, "outcomes.text: must not be here"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "changes", "said"), WRONG, ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_one_line(
    tmp_path: Path, name: str, rows: list[Any], changes: dict[str, Any], said: str
) -> None:
    result = command("run", write(tmp_path, rows, **changes), "-o", tmp_path / "out")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert not (tmp_path / "out/receipt.json").exists()


def test_draws_of_a_proposal_say_what_they_are_worth(tmp_path: Path) -> None:
    """Kish by hand, of four draws with weights 1, 1, 1 and 3, three of them in one row."""
    one = {"prompt": "p", "x": 0.5, "y": 5}
    rows = [
        {**one, "response": "a", "count": 3, "log_reference": -2.0, "log_proposal": -2.0},
        {**one, "response": "b", "count": 1, "log_reference": np.log(3) - 5.0, "log_proposal": -5.0},
    ]
    receipt = json.loads(command("run", write(tmp_path, rows), "-o", tmp_path / "out", "--json").out)
    assert receipt["effective_sample_size"] == pytest.approx([6**2 / (3 * 1 + 9)])
    assert receipt["policy"] == [pytest.approx([0.5, 0.5])]
    assert command("verify", tmp_path / "out").code == 0
    for name in ("candidates.parquet", "scores.parquet", "game.json", "receipt.json", "config.json"):
        whole = (tmp_path / "out" / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(flipped) // 2] ^= 1
        (tmp_path / "out" / name).write_bytes(bytes(flipped))
        assert command("verify", tmp_path / "out").code != 0, name
        (tmp_path / "out" / name).write_bytes(whole)


def test_columns_are_for_given_rows_only(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"groups\[0\].reward.parts\[0\].reward: must be with outcomes given only"):
        read_config(write(groups=[{"name": "a", "reward": {"mix": [{"reward": {"column": "x"}}]}}]))


def test_the_example_settles_and_verifies_and_judges_are_counted(tmp_path: Path) -> None:
    result = command("run", EXAMPLES / "given.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert [group["name"] for group in receipt["groups"]] == ["marketing", "support", "mobile"]
    assert all(group["utility"] >= -1e-15 for group in receipt["groups"])
    assert [len(row) for row in receipt["policy"]] == [8, 8]
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    judge = {"name": "j", "reward": {"judge": {"model": "m", "url": "http://127.0.0.1:9/v1", "instruction": "Grade."}}}
    counted = command("run", write_judged(tmp_path, judge), "--dry-run", "--json")
    assert (counted.code, counted.err) == (0, "")
    assert "3" in counted.out


def write_judged(folder: Path, judge: dict[str, Any]) -> Path:
    return write(folder, SAID, groups=[judge])
