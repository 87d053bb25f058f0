"""Folders that commands fill: nothing of anybody else's is touched, and every changed file is found."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.workspace import LOCK, SUMS, Workspace, open_workspace

LAST = "last.json"


@final
@dataclass(frozen=True)
class Written:
    """A configuration."""

    seed: int = 0

    def document(self) -> dict[str, Any]:
        return {"seed": self.seed}


def finished(path: Path, seed: int = 0) -> Workspace:
    with open_workspace(path, Written(seed), LAST) as workspace:
        workspace.write(path / "a.bin", b"\x00\x01")
        workspace.write_json(path / "inner" / "b.json", [1.5])
        (path / "model").mkdir()
        (path / "model" / "weights").write_bytes(b"weights")
        workspace.adopt(path / "model")
        (path / "calls").mkdir()
        (path / "calls" / "ledger.jsonl").write_text("{}\n")
        workspace.finish_json(path / LAST, {"done": True})
    return workspace


def listing(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    workspace = finished(tmp_path / "out")
    assert workspace.differences() == []
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=workspace.path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.count("OK")) == (0, 6)


def test_every_flipped_bit_of_every_file_is_found(tmp_path: Path) -> None:
    workspace = finished(tmp_path / "out")
    for file in workspace.path.rglob("*"):
        if not file.is_file() or file.name == LOCK:
            continue
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert Workspace(workspace.path).differences() != [], (file, place)
        file.unlink()
        if file.name != SUMS:
            assert Workspace(workspace.path).differences() != []
        file.write_bytes(whole)
    (workspace.path / "notes.txt").write_bytes(b"somebody's own")
    assert Workspace(workspace.path).differences() == []
    assert Workspace(workspace.path).others() == ["notes.txt"]
    (workspace.path / "model" / "more").write_bytes(b"")
    assert Workspace(workspace.path).differences() == [
        "model/more: must be one of the files that were written, found it added"
    ]


def test_a_changed_file_is_refused_on_opening_until_it_is_deleted(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    for name in ("a.bin", "inner/b.json", "model/weights", "calls/ledger.jsonl", LAST, "config.json"):
        file = tmp_path / "out" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + b"x")
        with pytest.raises(InputError, match=f"{file.name}: must be as this run wrote it, found it changed"):
            finished(tmp_path / "out")
        file.write_bytes(whole)
    (tmp_path / "out" / "a.bin").unlink()
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        assert not (workspace.path / "a.bin").exists()


def test_a_log_may_grow_until_the_last_file_is_written(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    (tmp_path / "out" / LAST).unlink()
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        (workspace.path / "calls" / "ledger.jsonl").write_text("{}\n{}\n")
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        workspace.finish_json(workspace.path / LAST, {})
    assert workspace.differences() == []


@pytest.mark.parametrize("name", ["config.json", "notes.txt", "seed.yaml"])
def test_a_folder_of_somebody_else_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    (tmp_path / ".0123456789abcdef.tmp").write_text("mine too")
    before = listing(tmp_path)
    with pytest.raises(InputError, match=f"must be a new folder or that of a run, found '{name}' in it"):
        finished(tmp_path)
    assert listing(tmp_path) == before


def test_temporary_files_of_others_stay_in_a_folder_of_ours(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    for name in (".mine.tmp", ".rlhf-game-0123456789abcdef.tmp"):
        (tmp_path / "out" / name).write_text("x")
    with open_workspace(tmp_path / "out", Written(), LAST):
        pass
    assert [name for name in listing(tmp_path / "out") if name.endswith(".tmp")] == [".mine.tmp"]


def test_a_folder_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".manifest.json").write_text("{}")
    with pytest.raises(InputError, match="must be a new folder, found one of an earlier release"):
        finished(tmp_path)


@pytest.mark.parametrize("is_there", [False, True])
def test_work_that_fails_on_its_input_leaves_the_folder_as_it_was(is_there: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
        (out / ".gitkeep").write_text("")

    def fail(error: type[Exception], seed: int = 7) -> None:
        with open_workspace(out, Written(seed), LAST) as workspace:
            workspace.write(out / "drawn.bin", b"1")
            raise error("the reward gave no number")

    with pytest.raises(InputError):
        fail(InputError)
    assert (list(listing(out)) if out.exists() else None) == ([".gitkeep"] if is_there else None)
    finished(out)
    with pytest.raises(InputError, match="seed: must be 0 as in the run at .*, found 7"):
        fail(InputError)
    assert (out / LAST).exists()
    (out / LAST).unlink()
    with pytest.raises(RunError):
        fail(RunError, seed=0)
    assert (out / "drawn.bin").read_bytes() == b"1"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out", Written(), LAST), pytest.raises(RunError, match="in use by another process"):
        finished(tmp_path / "out")


def test_a_writer_that_died_in_a_line_is_gone_on_from(tmp_path: Path) -> None:
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        workspace.write(workspace.path / "a.bin", b"1")
    with open(tmp_path / "out" / SUMS, "ab") as sums:
        sums.write(b"00112233")
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        workspace.write(workspace.path / "b.bin", b"2")
        workspace.finish_json(workspace.path / LAST, {})
    assert workspace.differences() == []


def test_what_was_written_twice_may_be_either_until_the_end(tmp_path: Path) -> None:
    """Whoever dies between the line and the file leaves the old file: it is not a changed one."""
    with open_workspace(tmp_path / "out", Written(), LAST) as workspace:
        card = workspace.path / "card.json"
        workspace.write_json(card, 1)
        old = card.read_bytes()
        workspace.write_json(card, 2)
        card.write_bytes(old)
        assert workspace.read_json(card) == 1
        workspace.finish_json(workspace.path / LAST, {})
        card.write_bytes(json.dumps(2).encode() + b"\n")
    assert workspace.differences() == ["card.json: must be as it was written, found it changed"]
