"""What a new user asks first: a file to start from, and what is installed."""

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from rlhf_game import __version__
from rlhf_game.cli import doctor
from rlhf_game.cli.doctor import examination
from rlhf_game.cli.schema import SchemaKind, schema_of
from tests.cli.runner import run

RUNS = {  # what runs the file of each kind, and what it leaves
    SchemaKind.GAME: ("settle", "-o", "receipt.json"),
    SchemaKind.SIMULATE: ("simulate", "results.parquet"),
    SchemaKind.DISCOVER: ("discover", "result.json"),
    SchemaKind.TRAIN: ("train", "metrics.json"),
    SchemaKind.RUN: ("run", "receipt.json"),
}


READERS = {kind: "settle" if kind is SchemaKind.GAME else kind.value for kind in SchemaKind}


def start(kind: SchemaKind, folder: Path) -> Path:
    path = folder / f"{kind.value}.yaml"
    assert run("init", kind.value, "-o", path).code == 0
    return path


@pytest.mark.parametrize("kind", list(SchemaKind))
def test_a_starting_file_is_commented_and_is_what_is_printed(kind: SchemaKind, tmp_path: Path) -> None:
    named, text = start(kind, tmp_path).read_text().split("\n", 1)
    assert run("init", kind.value).out == text
    schema = json.loads((tmp_path / named.removeprefix("# yaml-language-server: $schema=")).read_text())
    assert schema == schema_of(kind)
    assert run("init", kind.value, "-o", tmp_path / "folder" / "again.yaml").code == 2  # no folder is made
    assert text.startswith("# ")
    assert set(yaml.safe_load(text)) == {key.split(":")[0] for key in text.splitlines() if key and key[0] not in "# "}
    commented = [line for line in text.splitlines() if "#" in line]
    assert len(commented) >= 5


def test_a_game_to_start_from_settles_audits_and_can_be_played(tmp_path: Path) -> None:
    game = start(SchemaKind.GAME, tmp_path)
    assert run("settle", game, "--json").code == 0
    assert run("audit", game, "--starts", "2", "--assert").code == 0
    assert run("play", game, "-o", tmp_path / "page.html").code == 0


@pytest.mark.parametrize(
    "kind",
    [
        SchemaKind.SIMULATE,
        pytest.param(SchemaKind.DISCOVER, marks=pytest.mark.slow),
        pytest.param(SchemaKind.TRAIN, marks=[pytest.mark.slow, pytest.mark.weights]),
        pytest.param(SchemaKind.RUN, marks=[pytest.mark.slow, pytest.mark.weights]),
    ],
)
def test_a_file_to_start_from_runs_as_it_is(kind: SchemaKind, tmp_path: Path) -> None:
    command, result = RUNS[kind]
    assert run(command, start(kind, tmp_path), "-o", tmp_path / "out").code == 0
    assert (tmp_path / "out" / result).exists()


def test_a_file_of_another_kind_is_told_who_reads_it(tmp_path: Path) -> None:
    files = {READERS[kind]: start(kind, tmp_path) for kind in SchemaKind}
    receipt = tmp_path / "receipt.json"
    assert run("settle", files["settle"], "-o", receipt).code == 0
    for command in files:
        for reader, path in {**files, "verify": receipt}.items():
            if reader != command:
                found = run(command, path)
                assert (found.code, found.out, found.err.count("\n")) == (2, "", 1)
                assert f"which `rlhf-game {reader}` reads" in found.err, (command, path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["game.json", "game.schema.json", "preferences.jsonl", "game"])
def test_a_file_to_start_from_is_yaml(name: str, tmp_path: Path) -> None:
    found = run("init", "train", "-o", tmp_path / name)
    assert (found.code, "must be a file ending in .yaml or .yml" in found.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [SchemaKind.GAME, SchemaKind.TRAIN])
def test_nothing_is_overwritten(kind: SchemaKind, tmp_path: Path) -> None:
    mine = tmp_path / ("preferences.jsonl" if kind is SchemaKind.TRAIN else "game.yaml")
    mine.write_text("mine")
    found = run("init", kind.value, "-o", tmp_path / f"{kind.value}.yaml")
    assert found.code == 2
    assert "must be a new file" in found.err
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]
    assert mine.read_text() == "mine"


def test_the_doctor_knows_every_extra_and_what_would_bring_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = json.loads(run("doctor", "--json").out)
    assert printed == examination()
    declared = tomllib.loads(doctor.CHECKOUT.read_text())["project"]["optional-dependencies"]
    assert set(printed["extras"]) == set(declared) - {"all"}
    assert printed["rlhf-game"] == __version__
    assert printed["extras"]["dev"]["versions"]["pytest"] == pytest.__version__
    monkeypatch.setattr("rlhf_game.cli.doctor._version", lambda name: None if name == "cvxpy" else "1")
    conic = examination()["extras"]["conic"]
    assert conic == {
        "installed": False,
        "versions": {},
        "missing": ["cvxpy"],
        "install": "pip install 'rlhf-game[conic]'",
    }
    said = run("doctor").out
    assert "no   conic" in said
    assert "pip install 'rlhf-game[conic]'" in said


def test_the_doctor_of_an_installed_package_reads_what_it_was_installed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        "numpy>=2.1",
        "cvxpy>=1.7; extra == 'conic'",
        'setuptools<80; extra == "text"',
        "rlhf-game[text]; extra == 'all'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: asked)
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path / "pyproject.toml")
    found = examination()["extras"]
    assert {name: [*one["versions"], *one["missing"]] for name, one in found.items()} == {
        "conic": ["cvxpy"],
        "text": ["setuptools"],
    }


def test_names_that_look_the_same_are_refused(tmp_path: Path) -> None:
    """The same letters, one with the accent as a letter of its own (NFD)."""
    game = {
        "reference": [0.5, 0.5],
        "strength": 1.0,
        "groups": [{"name": name, "size": 1, "reward": [1.0, 0.0]} for name in ("caf\u00e9", "cafe\u0301")],
    }
    (tmp_path / "game.json").write_text(json.dumps(game))
    found = run("settle", tmp_path / "game.json")
    assert found.code == 2
    assert "groups[1].name: must differ" in found.err


def test_a_shell_can_complete_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_RLHF_GAME_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "rlhf-game si")
    monkeypatch.setenv("COMP_CWORD", "1")
    found = run()
    assert (found.code, found.out.split(), found.err) == (0, ["simulate"], "")


def test_completion_can_be_shown_and_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # whatever shell runs the tests
    shown = run("--show-completion", "bash")
    assert (shown.code, shown.err) == (0, "")
    assert "_RLHF_GAME_COMPLETE=complete_bash" in shown.out
    done = run("--install-completion", "bash")
    assert (done.code, done.err) == (0, "")
    assert "_RLHF_GAME_COMPLETE" in (tmp_path / ".bash_completions" / "rlhf-game.sh").read_text()
