"""``verify FOLDER`` and resuming: a flipped byte in any file of any kind of folder is found."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.cli.folder_kinds import verify_folder
from rlhf_game.discovery import discover, read_discovery
from rlhf_game.errors import InputError
from rlhf_game.files.signatures import folder_differences, key_name
from rlhf_game.files.workspace import LOCK, SIGNATURE, SUMS, Workspace
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes import run as run_pipeline
from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.study import read_study
from rlhf_game.training import read_training, train
from tests import tiny
from tests.cli.runner import run
from tests.cli.test_signatures import key_pair
from tests.preferences import preferences
from tests.simulations.studies import GAMES, MARKET

Watch = Callable[[str, int, int], None] | None
REWARD = "def good(prompts, completions, **columns):\n    return [c.split().count('good') / 4 for c in completions]\n"
GROUPS = [
    {"name": "kind", "size": 2, "reward": {"python": "mine.py:good"}, "calibration": "unit"},
    {"name": "brief", "reward": {"brevity": 5}},
]  # fmt: skip
RUN = {
    "model": "model", "prompts": ["good", "please no yes"], "strength": 0.2, "groups": GROUPS, "seed": 4,
    "outcomes": {"kind": "candidates", "per_prompt": 6, "max_new_tokens": 4, "batch_size": 4},
}  # fmt: skip
REWARD_MODEL = {
    "data": {"file": "p.jsonl", "test_share": 0.25},
    "backbone": "model",
    "method": "head",
    "max_length": 64,
}
PREFERENCE = {"data": {"file": "p.jsonl", "test_share": 0.25}, "model": "model", "steps": 2, "save_steps": 1,
              "judged_pairs": 8, "divergence": {"prompts": 2, "per_prompt": 2, "max_new_tokens": 3}}  # fmt: skip
POLICY = {
    "model": "model", "prompts": ["good please", "maybe now"], "groups": GROUPS, "strength": 0.5, "steps": 2,
    "batch_size": 8, "num_generations": 4, "max_new_tokens": 3, "save_steps": 1, "judged": {"per_prompt": 4},
    "device": "cpu", "keeps_checkpoints": True,
}  # fmt: skip
TASKS = {"count": 2, "held_out": 2, "prompts": 2, "tokens": 3, "length": 2, "pairs": 40, "steps": 25}


def a_run(config: Path, out: Path, watch: Watch) -> None:
    run_pipeline(read_config(config), out, watch)


def a_study(config: Path, out: Path, watch: Watch) -> None:
    simulate(read_study(config), out, None, watch)


def a_training(config: Path, out: Path, watch: Watch) -> None:
    train(read_training(config), out, watch)


def a_discovery(config: Path, out: Path, watch: Watch) -> None:
    discover(read_discovery(config), out, watch)


KINDS: dict[str, tuple[Callable[[Path, Path, Watch], None], dict[str, Any], str]] = {
    "run": (a_run, RUN, "score for brief"),
    "trie": (a_run, {**RUN, "outcomes": {"kind": "trie", "mass": 0.9, "max_tokens": 3}}, "score for brief"),
    "study": (a_study, {**GAMES, "games": 12, "chunk": 2}, "play 1"),
    "market": (a_study, {**MARKET, "games": 4, "rounds": 5, "chunk": 1}, "play 1"),
    "discovery": (
        a_discovery, {"generations": 2, "population": 6, "tasks": TASKS, "baselines": ["dpo"]}, "held-out tasks",
    ),
    "reward model": (a_training, {"kind": "reward_model", **REWARD_MODEL}, ""),
    "ensemble": (
        a_training, {"kind": "ensemble", "members": [{"seed": 0}, {"seed": 1}], "resample": True, **REWARD_MODEL}, "",
    ),
    "preference": (a_training, {"kind": "preference", **PREFERENCE}, "judge the policy"),
    "policy": (a_training, {"kind": "policy", **POLICY}, "draw from the policy"),
}  # fmt: skip
"""How to fill each kind of folder, its configuration, and when to stop it in the middle of its work."""
COMMANDS = {a_run: "run", a_study: "simulate", a_training: "train", a_discovery: "discover"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A folder with a model, pairs and a reward."""
    folder = tmp_path_factory.mktemp("kinds")
    tiny.save_language_model(folder / "model")
    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in preferences(60, seed=0)]
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(REWARD)
    return folder


def config_of(kind: str, place: Path) -> Path:
    path = place / f"{kind}.json"
    path.write_text(json.dumps(KINDS[kind][1]))
    return path


def flipped(folder: Path, most: int = 3) -> Iterator[Path]:
    """Flip a bit at some places of each file, one at a time, and put it back."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK):
        whole = file.read_bytes()
        for place in sorted({0, len(whole) // 2, len(whole) - 1})[:most]:
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            yield file
        file.write_bytes(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_in_any_file_of_a_finished_folder_is_found(kind: str, place: Path, tmp_path: Path) -> None:
    fill = KINDS[kind][0]
    fill(config_of(kind, place), tmp_path / "out", None)
    assert run("report", tmp_path / "out").code == 0
    verified = run("verify", tmp_path / "out")
    assert (verified.code, verified.err) == (0, "")
    assert "taken on trust" in verified.out
    seen = set()
    for file in flipped(tmp_path / "out"):
        found, _ = verify_folder(tmp_path / "out")
        assert found, file
        assert file.name == SUMS or any(file.name in line for line in found), (file, found)
        seen.add(file.relative_to(tmp_path / "out").as_posix())
    assert {"config.json", SUMS, "report.html"} < seen
    _check_signed(COMMANDS[fill], config_of(kind, place), tmp_path / "out", tmp_path)
    changed = next(file for file in flipped(tmp_path / "out", 1) if file.name not in (SIGNATURE, SUMS))
    result = run("verify", tmp_path / "out")
    assert result.code == 3
    assert changed.name in result.out
    reported = run("report", tmp_path / "out")
    marked = (tmp_path / "out" / "report.html").read_text()
    assert changed.name in reported.err or "not as they were written" in marked


def _check_signed(command: str, config: Path, out: Path, keys: Path) -> None:
    """Sign a finished folder; who changes a file and makes the seal anew is found by the key, and only by it."""
    (secret, public), (other, _) = key_pair(keys), key_pair(keys, "other")
    assert run(command, config, "-o", out, "--sign", secret).code == 0
    named = run("verify", out, "--key", public)
    assert (named.code, key_name(public) in named.out) == (0, True)
    sums = (out / SUMS).read_bytes()
    for file in flipped(out, 1):
        if file.name == SIGNATURE:
            with pytest.raises(InputError):
                folder_differences(out, public)
        elif file.name != SUMS:
            _seal_anew(out)
            assert Workspace(out).differences() == []
            assert folder_differences(out, public), file
            (out / SUMS).write_bytes(sums)
    assert run(command, config, "-o", out, "--sign", other).code == 0
    unchecked = run("verify", out)
    assert (unchecked.code, "by whom is not checked" in unchecked.out) == (0, True)
    swapped = run("verify", out, "--key", public)
    assert (swapped.code, key_name(public) in swapped.out) == (3, True)


def _seal_anew(folder: Path) -> None:
    (folder / SUMS).unlink()
    workspace = Workspace(folder)
    workspace.adopt(*workspace.files())


@pytest.mark.parametrize("kind", [kind for kind, (_, _, moment) in KINDS.items() if moment])
def test_a_flipped_byte_in_any_file_of_unfinished_work_is_found(kind: str, place: Path, tmp_path: Path) -> None:
    fill, _, moment = KINDS[kind]

    def stop(what: str, done: int, total: int) -> None:
        if f"{what} {done}".startswith(moment):
            raise KeyboardInterrupt

    config = config_of(kind, place)
    with pytest.raises(KeyboardInterrupt):
        fill(config, tmp_path / "out", stop)
    assert len(Workspace(tmp_path / "out").files()) > 1
    for file in flipped(tmp_path / "out"):
        if file.name == SUMS:
            continue
        shutil.copytree(tmp_path / "out", tmp_path / "copy")
        with pytest.raises(InputError, match="as it was written|as this run wrote it"):
            fill(config, tmp_path / "copy", stop)
        shutil.rmtree(tmp_path / "copy")
    fill(config, tmp_path / "out", None)
    assert verify_folder(tmp_path / "out")[0] == []


def test_what_is_forged_and_sealed_anew_is_found_where_it_can_be_made_again(place: Path, tmp_path: Path) -> None:
    def forge(kind: str, name: str, change: Callable[[str], str]) -> list[str]:
        KINDS[kind][0](config_of(kind, place), tmp_path / kind, None)
        path = tmp_path / kind / name
        text = path.read_text()
        assert change(text) != text
        path.write_text(change(text))
        _seal_anew(tmp_path / kind)
        return verify_folder(tmp_path / kind)[0]

    seed = lambda text: text.replace('"seed": 4', '"seed": 5')  # noqa: E731
    assert any(line.startswith("provenance.config_sha256") for line in forge("run", "config.json", seed))
    size = lambda text: text.replace('"size": 2', '"size": 3')  # noqa: E731
    assert any("groups[0].size" in line for line in forge("trie", "game.json", size))
    games = lambda text: text.replace('"games": 12', '"games": 13')  # noqa: E731
    assert any("games" in line for line in forge("study", "study.json", games))
    curve = lambda text: text.replace('"proposed": 12', '"proposed": 13')  # noqa: E731
    assert any("candidates.proposed" in line for line in forge("discovery", "result.json", curve))


def test_what_is_no_finished_folder_is_wrong_input(tmp_path: Path) -> None:
    for name, wanted in (("", "must be a finished folder"), ("study.json", "must hold the seal of its files")):
        if name:
            (tmp_path / name).write_text("{}")
        result = run("verify", tmp_path)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert wanted in result.err
    alone = run("verify", tmp_path / "study.json")
    assert alone.code == 2
    assert "must come with its game" in alone.err


@pytest.mark.parametrize("link", [False, True])
def test_outputs_do_not_take_the_place_of_inputs(link: bool, tmp_path: Path) -> None:
    game = {"reference": {"file": "q.npy"}, "strength": 1, "groups": [{"name": "a", "size": 1, "reward": [1, 0]}]}
    import numpy as np

    np.save(tmp_path / "q.npy", np.array([0.5, 0.5]))
    (tmp_path / "g.json").write_text(json.dumps(game))
    assert run("settle", tmp_path / "g.json", "-o", tmp_path / "r.json").code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    there = tmp_path / "link"
    for command in (
        ("report", "g.json", "-o", "g.json"), ("report", "g.json", "--receipt", "r.json", "-o", "r.json"),
        ("settle", "g.json", "-o", "g.json"), ("settle", "g.json", "-o", "q.npy"),
    ):  # fmt: skip
        *rest, target = command
        if link:
            os.link(tmp_path / target, there)
            target = "link"
        result = run(*[tmp_path / part if "." in part else part for part in rest], tmp_path / target)
        there.unlink(missing_ok=True)
        assert (result.code, "the output must be another file" in result.err) == (2, True), command
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
