"""A study is killed, resumed, tampered with, and fails in part; its table is always the same."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.workspace import SUMS, Workspace
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations import simulation_pipeline
from rlhf_game.simulations.populations import Population, RandomScenario
from rlhf_game.simulations.results import Parts, row_groups
from rlhf_game.simulations.simulation_pipeline import SUMMARY, TABLE, simulate, study_differences
from rlhf_game.simulations.trials import Games
from tests.cli.runner import run
from tests.report.pages import page_of
from tests.simulations.studies import GAMES, MARKET, Interrupted, study

SWEPT = {"sweep": {"strength": [0.2, 1.0]}}


@pytest.fixture(autouse=True)
def _every_chunk_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation_pipeline, "SECONDS", 0.0)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("of", [GAMES, {**MARKET, "games": 6, "chunk": 2, "rounds": 5}], ids=["games", "market"])
def test_an_interrupted_study_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, of: dict[str, Any]) -> None:
    made = study(SWEPT, of)
    simulate(made, tmp_path / "whole")
    for after in (0, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            simulate(made, tmp_path / "cut", Interrupted(after))
        assert "results.parquet" not in files(tmp_path / "cut")
    rest = Interrupted(made.count)
    simulate(made, tmp_path / "cut", rest)
    assert rest.done == made.count - 5
    assert files(tmp_path / "cut") == {"config.json", "results.parquet", "study.json"}
    for name in ("results.parquet", "study.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("games", [400, pytest.param(1200, marks=pytest.mark.slow)])
def test_a_killed_study_goes_on(games: int, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from rlhf_game.simulations import simulation_pipeline
        from rlhf_game.simulations.simulation_pipeline import simulate
        from tests.simulations.studies import study
        simulation_pipeline.SECONDS = 0.0
        simulate(study({"games": int(sys.argv[2]), "chunk": 10}), Path(sys.argv[1]))
        """
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, folder, str(games)], cwd=Path(__file__).parents[2])
    limit = time.monotonic() + 60
    while len(list(folder.glob("partial/rows-*"))) < 5 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.name for path in folder.glob("partial/rows-*")}
    assert 5 <= len(left) < games // 10
    assert not (folder / "results.parquet").exists()
    made = study({"games": games, "chunk": 10})
    simulate(made, folder)
    simulate(made, tmp_path / "whole")
    assert (folder / "results.parquet").read_bytes() == (tmp_path / "whole/results.parquet").read_bytes()
    assert not list(folder.glob("**/.rlhf-game-*.tmp"))


def test_parts_are_as_long_as_seconds_say_and_the_bytes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study({"games": 20, "chunk": 2, **SWEPT})
    sizes: dict[float, list[int]] = {}
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(simulation_pipeline, "SECONDS", seconds)
        written = sizes[seconds] = []
        write = simulation_pipeline.Parts.write

        def watched(
            parts: simulation_pipeline.Parts, part: Any, written: list[int] = written, write: Any = write
        ) -> None:
            written.append(part.count)
            write(parts, part)

        with monkeypatch.context() as patch:
            patch.setattr(simulation_pipeline.Parts, "write", watched)
            simulate(made, tmp_path / str(seconds))
    assert sizes[0.0] == [1] * made.count
    assert sizes[1e9] == [1, made.count - 1]  # the first one says how fast it goes
    for name in ("results.parquet", "study.json"):
        assert len({(tmp_path / str(seconds) / name).read_bytes() for seconds in sizes}) == 1


def test_an_unfinished_study_has_a_report_that_says_so(tmp_path: Path) -> None:
    made = study(SWEPT)
    whole = simulate(made, tmp_path / "whole").summary
    with pytest.raises(KeyboardInterrupt):
        simulate(made, tmp_path / "cut", Interrupted(3))  # all games of the first point
    found = simulation_pipeline.partial_summary(tmp_path / "cut")
    assert found["played"] == 40
    assert found["summaries"] == [one for one in whole["summaries"] if one["point"] == 0]
    result = run("report", tmp_path / "cut")
    assert (result.code, result.err) == (0, "")
    page = page_of(tmp_path / "cut/report.html")
    assert "The study is not finished: 40 of 80 games were played" in page.one(id="partial").text
    simulate(made, tmp_path / "cut")
    assert run("report", tmp_path / "cut").code == 0
    assert not page_of(tmp_path / "cut/report.html").all(id="partial")


def test_a_finished_study_is_only_read(tmp_path: Path) -> None:
    made = study()
    first = simulate(made, tmp_path / "out")
    again = simulate(made, tmp_path / "out", Interrupted(0))
    assert again.summary == first.summary
    first.table.unlink()
    assert simulate(made, tmp_path / "out").summary == first.summary
    (tmp_path / "out/study.json").unlink()
    assert simulate(made, tmp_path / "out", Interrupted(0)).summary == first.summary


def test_a_folder_is_of_one_study(tmp_path: Path) -> None:
    simulate(study(), tmp_path / "out")
    with pytest.raises(InputError, match=r"strength: must be 0\.5 as in the run at .*, found 0\.6"):
        simulate(study({"strength": 0.6}), tmp_path / "out")
    with open(tmp_path / "out/.lock", encoding="utf-8") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="in use by another process"):
            simulate(study(), tmp_path / "out")


def test_what_was_changed_is_refused_and_said(tmp_path: Path) -> None:
    made = study()
    finished = simulate(made, tmp_path / "out")
    content = finished.table.read_bytes()
    finished.table.write_bytes(content[:-9] + b"x" + content[-8:])
    with pytest.raises(InputError, match="must be as this run wrote it, found it changed"):
        simulate(made, tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        simulate(made, tmp_path / "cut", Interrupted(2))
    parts = sorted((tmp_path / "cut/partial").iterdir())
    for damaged in (b"", parts[0].read_bytes()):  # nothing, and the rows of other games
        parts[1].write_bytes(damaged)
        with pytest.raises(InputError, match=r"rows-00000001-1\.parquet: must be as this run wrote it"):
            simulate(made, tmp_path / "cut")
    parts[1].unlink()
    simulate(made, tmp_path / "cut")
    assert (tmp_path / "cut/results.parquet").read_bytes() == content


def test_a_table_that_names_its_rows_otherwise_is_found_though_its_summary_fits(tmp_path: Path) -> None:
    """Games left out or told twice, rows under another payment's or another point's name, a column more."""
    made = study({"games": 6, "chunk": 3, "liars": "first", **SWEPT})
    out = simulate(made, tmp_path / "out").folder
    parts = list(row_groups(out / TABLE))
    table = pyarrow.concat_tables(parts)

    def forged(*groups: Any) -> list[str]:
        with parquet.ParquetWriter(out / TABLE, groups[0].schema) as writer:
            for group in groups:
                writer.write_table(group, row_group_size=len(group))
        (out / SUMMARY).write_text(json.dumps(simulation_pipeline._summed(made, out / TABLE)))
        (out / SUMS).unlink()
        Workspace(out).adopt(*Workspace(out).files())
        return study_differences(out)

    def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Any:
        at = table.column_names.index(name)
        return table.set_column(
            at, table.schema.field(at), pyarrow.array(change(table[name].to_pylist()), table[name].type)
        )

    assert forged(*parts) == []
    each = made.points[0].layout.rows
    assert forged(*parts[:-1], parts[-1][:-each])  # the last game
    assert forged(parts[0][each:], *parts[1:])
    assert forged(*parts, parts[-1])
    assert forged(parts[0], parts[0], *parts[2:])
    other = {"affine": "none", "none": "affine"}
    for name, change in (
        ("payment", lambda told: [other[one] for one in told]),
        ("strategy", lambda told: told[::-1]),
        ("strength", lambda told: told[::-1]),
        ("game", lambda told: [*told[:-1], 17]),
    ):
        whole = column(name, change)
        assert forged(*(whole[k : k + len(parts[0])] for k in range(0, len(whole), len(parts[0])))), name
    assert forged(*(one.append_column("audited", pyarrow.array([True] * len(one))) for one in parts))


def test_a_game_that_fails_is_recorded_and_the_others_are_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = simulate(study(), tmp_path / "whole")
    unscaled, measure = RandomScenario.unscaled_rewards, type(study().fields).measure
    drawn: list[Population] = []

    def failing_draw(self: RandomScenario, rng: np.random.Generator) -> Any:
        found = unscaled(self, rng)
        drawn.append(found)
        if len(drawn) == 4:
            raise FloatingPointError("no such taste")
        return found

    def failing_measure(self: Any, games: Games) -> Any:
        if any(trial.game in (20, 21) for trial in games.trials):
            raise InputError("no such\ngame")
        return measure(self, games)

    monkeypatch.setattr(RandomScenario, "unscaled_rewards", failing_draw)
    monkeypatch.setattr(type(study().fields), "measure", failing_measure)
    failed = simulate(study(), tmp_path / "failed")
    assert failed.summary["failed"] == 3 * 6
    assert failed.summary["errors"] == [
        {"point": 0, "game": 3, "error": "FloatingPointError: no such taste"},
        {"point": 0, "game": 20, "error": "InputError: no such game"},
        {"point": 0, "game": 21, "error": "InputError: no such game"},
    ]
    good, bad = parquet.read_table(whole.table), parquet.read_table(failed.table)
    assert bad.column("game").to_pylist() == good.column("game").to_pylist()
    error = np.array([said is not None for said in bad.column("error").to_pylist()])
    assert error.sum() == 18
    assert bad.column("welfare").to_numpy()[error].tolist() == pytest.approx([np.nan] * 18, nan_ok=True)
    np.testing.assert_allclose(
        bad.column("welfare").to_numpy()[~error], good.column("welfare").to_numpy()[~error], rtol=1e-12
    )
    assert failed.summary["summaries"][0]["games"] == 40
    assert failed.summary["summaries"][0]["failed"] == 3


def test_parts_of_chunks_of_another_size_are_refused(tmp_path: Path) -> None:
    made, other = study({"games": 8, "chunk": 2}), study({"games": 8, "chunk": 4})
    with pytest.raises(KeyboardInterrupt):
        simulate(made, tmp_path / "out", Interrupted(2))
    with pytest.raises(InputError, match="must hold chunks of 4 games, found 2: another version"):
        Parts(Workspace(tmp_path / "out")).check(other)


STEEP = """
import numpy as np
import rlhf_game as rg

class Steep(rg.PaymentRule[rg.AffineRule]):
    def charge(self, optimum):
        found = optimum.externalities()
        return found * np.where(found.max(axis=-1, keepdims=True) > 0.2, 1e308 * 1e4, 1.0)
"""
"""Payments that some games cannot hold."""


def test_numbers_that_float64_cannot_hold_are_an_error_of_their_games(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STEEP)
    changes: dict[str, Any] = {"games": 8, "payments": ["mine.py:Steep"], "strategies": [{"kind": "truthful"}]}
    summary = simulate(study(changes, base=tmp_path), tmp_path / "out").summary
    assert 0 < summary["failed"] < summary["rows"]
    refused = "InputError: reports must have results that float64 can hold, got some that overflow it"
    assert {error["error"] for error in summary["errors"]} == {refused}
    assert summary["summaries"][0]["measures"]["welfare"] is not None


def test_where_all_games_fail_nothing_is_summed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, rng: Any, normalization: Normalization) -> Population:
        raise ValueError("never")

    monkeypatch.setattr(RandomScenario, "draw", failing)
    for of in (GAMES, MARKET):
        summary = simulate(study({"games": 3}, of), tmp_path / str(of.get("kind"))).summary
        assert summary["failed"] == summary["rows"] > 0
        assert summary["summaries"][0]["measures"]
        assert set(summary["summaries"][0]["measures"].values()) == {None}


def test_a_bug_is_no_failed_game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(self: Any, rng: Any, normalization: Normalization) -> Population:
        raise AttributeError("a bug")

    monkeypatch.setattr(RandomScenario, "draw", bug)
    with pytest.raises(AttributeError, match="a bug"):
        simulate(study(), tmp_path / "out")


def test_the_table_says_where_it_comes_from(tmp_path: Path) -> None:
    import json

    made = study(SWEPT)
    finished = simulate(made, tmp_path / "out")
    schema = parquet.read_schema(finished.table)
    note = json.loads(schema.metadata[b"rlhf_game"])
    assert note["config_sha256"] == made.sha256 == finished.summary["config_sha256"]
    assert note["seed"] == 5
    assert {"python", "numpy", "rlhf-game"} <= note["versions"].keys()
    assert schema.names[:5] == ["point", "strength", "game", "strategy", "payment"]
    table = parquet.read_table(finished.table)
    assert len(table) == finished.summary["rows"] == 2 * 40 * 6
    assert sorted(set(table.column("strength").to_pylist())) == [0.2, 1.0]


MEMORY = """
    import sys
    from pathlib import Path
    from tests.simulations.studies import study
    from rlhf_game.simulations import simulation_pipeline
    from rlhf_game.simulations.simulation_pipeline import simulate

    simulation_pipeline.SECONDS = 0.0  # what is in memory at once is what is played in so long: one chunk

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    simulate(study({"games": 2000, "chunk": 500}), Path(sys.argv[1]) / "few")
    before = peak()
    simulate(study({"games": 20000, "chunk": 500}), Path(sys.argv[1]) / "many")
    print(before, peak())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc/self/status")
def test_memory_does_not_grow_with_the_games(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    before, after = map(int, done.stdout.split())
    grown = os.path.getsize(tmp_path / "many/results.parquet") / 1024
    assert after - before < 0.5 * grown  # ten times the games; the table alone would be more
