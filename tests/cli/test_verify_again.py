"""``verify FOLDER --replay K`` and ``--recompute K``: what was made up, with every hash made to fit, is found."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game import registry
from rlhf_game.files.tables import digest
from rlhf_game.files.workspace import SUMS
from rlhf_game.simulations import simulation_pipeline
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import read_study
from tests.cli.runner import run
from tests.files.test_forgeries import make_fit
from tests.simulations.studies import GAMES, MARKET, study


@pytest.mark.parametrize(
    "document", [{**GAMES, "games": 6}, {**MARKET, "games": 2, "rounds": 4}], ids=["games", "market"]
)
def test_games_of_a_study_that_were_made_up_are_found_by_playing_them(document: dict[str, Any], tmp_path: Path) -> None:
    finished = simulate(study(of=document), tmp_path / "study")
    folder = finished.folder
    result = run("verify", folder, "--replay", "100")
    assert (result.code, result.err) == (0, ""), result.out
    assert f"{document['games']} games played again" in result.out  # there are not more
    table = parquet.read_table(finished.table)
    column = "welfare" if "welfare" in table.column_names else table.column_names[-1]
    values = table[column].to_pylist()
    at = table.column_names.index(column)
    forged = table.set_column(at, table.schema.field(column), pyarrow.array([values[0] * 1.001, *values[1:]]))
    parquet.write_table(forged, finished.table)
    (folder / "study.json").write_text(json.dumps(simulation_pipeline._summed(read_study(folder), finished.table)))
    names = [line.split("  ")[1] for line in (folder / SUMS).read_text().splitlines()]
    (folder / SUMS).write_text("".join(f"{digest(folder / name)}  {name}\n" for name in names))
    assert run("verify", folder).code == 0  # a whole study from a forged table
    result = run("verify", folder, "--replay", "100")
    assert (result.code, column in result.out) == (3, True)
    assert run("verify", folder, "--recompute", "1").code == 2


def test_scores_that_were_made_up_are_found_by_scoring_again(tmp_path: Path) -> None:
    config = {
        "outcomes": {"kind": "given", "file": "rows.jsonl"}, "strength": 0.5, "payment": "none",
        "groups": [
            {"name": "brief", "size": 2, "reward": {"brevity": 5}},
            {"name": "kind", "reward": {"column": "good"}, "calibration": "unit"},
        ],
    }  # fmt: skip
    rows = [{"prompt": "p", "response": text, "good": 0.25} for text in ("a", "b c", "d e f")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    assert run("run", tmp_path / "run.json", "-o", out).code == 0
    result = run("verify", out, tmp_path / "run.json", "--recompute", "3")
    assert (result.code, "3 responses scored again" in result.out) == (0, True), result
    assert run("verify", out, "--recompute", "1").code == 2  # rows.jsonl is not in the current folder
    assert run("verify", out, "--replay", "1").code == 2
    assert run("verify", out / "receipt.json", out / "game.json", "--replay", "1").code == 2
    scores, receipt = parquet.read_table(out / "scores.parquet"), json.loads((out / "receipt.json").read_text())
    names = [line.split("  ")[1] for line in (out / SUMS).read_text().splitlines()]
    column = pyarrow.array([0.5, *scores["raw:kind"].to_pylist()[1:]])  # with what follows from it made to fit
    forged = scores.set_column(scores.column_names.index("raw:kind"), "raw:kind", column)
    forged = forged.set_column(scores.column_names.index("kind"), "kind", column)
    parquet.write_table(forged, out / "scores.parquet")
    (out / "game.json").unlink()
    (out / "receipt.json").unlink()
    (out / SUMS).write_text("".join(f"{digest(out / name)}  {name}\n" for name in names if (out / name).exists()))
    assert run("run", tmp_path / "run.json", "-o", out).code == 0  # a whole run from forged scores
    assert run("verify", out).code == 0
    result = run("verify", out, tmp_path / "run.json", "--recompute", "3")
    assert (result.code, "raw:kind" in result.out) == (3, True)
    assert receipt != json.loads((out / "receipt.json").read_text())
    make_fit(out, names)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert run("verify", out, tmp_path / "run.json", "--recompute", "1").code == 2  # other rows than those of the run


def test_code_that_a_folder_names_is_not_run_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the one who made the run it is run as any program; whoever only gets the folder runs nothing by verifying."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n\n(Path(__file__).parent / 'ran').touch()\n\n"
        "def half(prompts, completions):\n    return [0.5] * len(completions)\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "response": "a"}\n{"prompt": "p", "response": "b"}\n')
    config = {
        "outcomes": {"kind": "given", "file": "rows.jsonl"}, "strength": 0.5, "payment": "none",
        "groups": [{"name": "a", "reward": {"python": "mine.py:half"}, "calibration": "unit"}],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert run("run", tmp_path / "run.json", "-o", tmp_path / "out").code == 0
    (tmp_path / "ran").unlink()
    registry._run_once.cache_clear()  # as in another process
    refused = run("verify", tmp_path / "out", "--recompute", "1")
    assert (refused.code, "--trust-code" in refused.err, (tmp_path / "ran").exists()) == (2, True, False), refused
    for trusted in (("--trust-code",), (tmp_path / "run.json",)):
        assert run("verify", tmp_path / "out", *trusted, "--recompute", "1").code == 0
