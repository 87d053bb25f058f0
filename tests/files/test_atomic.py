"""A file is the old one or the whole new one."""

import os
import stat
from pathlib import Path

import pytest

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_bytes, write_json, write_text


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é\n")
    write_json(tmp_path / "b", {"x": 0.1})
    write_bytes(tmp_path / "a", b"again")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"again"
    assert (tmp_path / "b").read_text() == '{\n  "x": 0.1\n}\n'


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "atomic", "")
    assert stat.S_IMODE((tmp_path / "atomic").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("no space left on device")

    target = tmp_path / "a"
    target.write_text("old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space"):
        write_text(target, "new")
    assert os.listdir(tmp_path) == ["a"]
    assert target.read_text() == "old"


def test_json_that_is_not_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a", float("nan"))
    assert os.listdir(tmp_path) == []


def test_a_link_is_kept_and_its_file_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(
    ("path", "wanted"), [("", "found a folder"), ("no/a", "found none"), ("pipe", "found a device")]
)
def test_what_cannot_be_a_file_is_refused(tmp_path: Path, path: str, wanted: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=wanted):
        write_text(tmp_path / path, "x")
    assert os.listdir(tmp_path) == ["pipe"]
