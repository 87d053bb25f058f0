"""``run``: one folder, every stage once, the same bytes after any interruption."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import InputError, RunError
from rlhf_game.files.games import read_game
from rlhf_game.files.run_folder import open_folder
from rlhf_game.outcomes import generation, read_config, run, scoring
from rlhf_game.outcomes.run_config import GenerationInputs
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample
from tests.cli.runner import run as command
from tests.outcomes.killing import killed_everywhere

FILES = ("config.json", "candidates.parquet", "scores.parquet", "game.json", "receipt.json")
Write = Callable[..., Path]


def contents(folder: Path) -> dict[str, bytes]:
    """What a run leaves, but for the report that only the command makes of it."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "." and path.suffix != ".html"}


def test_a_run_leaves_five_files_that_verify(write: Write, tmp_path: Path) -> None:
    result = command("run", write(), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    assert sorted(contents(tmp_path / "out")) == sorted(FILES)
    assert (tmp_path / "out/report.html").is_file()
    assert result.out == (tmp_path / "out/receipt.json").read_text()
    receipt = json.loads(result.out)
    assert [group["name"] for group in receipt["groups"]] == ["kind", "brief", "ranked"]
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    again = command("settle", tmp_path / "out/game.json", "--json")
    assert json.loads(again.out)["groups"] == receipt["groups"]


def test_a_run_prints_a_table_and_its_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("run", write("small.json"))
    assert result.code == 0
    assert "ranked" in result.out
    assert result.out.endswith("run folder: runs/small\n")
    assert (tmp_path / "runs/small/receipt.json").exists()


def test_candidates_are_the_merged_samples_with_their_weights(write: Write, tmp_path: Path, model: Path) -> None:
    configuration = read_config(write())
    run(configuration, tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/candidates.parquet").to_pydict()
    loaded = load_language_model(str(model))
    rows = sample(loaded, configuration.source.prompts, 9, seed=4, sampling=Sampling(4), batch_size=8)
    for b, row in enumerate(rows):
        texts = [drawn.text for drawn in row]
        kept = [k for k, prompt in enumerate(table["prompt_index"]) if prompt == b]
        assert [table["response"][k] for k in kept] == list(dict.fromkeys(texts))
        assert [table["count"][k] for k in kept] == [texts.count(table["response"][k]) for k in kept]
        np.testing.assert_allclose([table["weight"][k] for k in kept], [table["count"][k] / 9 for k in kept])
        scored = log_probabilities(
            loaded,
            [loaded.encode_prompt(configuration.source.prompts[b])] * len(kept),
            [table["token_ids"][k] for k in kept],
        )
        np.testing.assert_allclose([table["log_probability"][k] for k in kept], scored, atol=1e-4)  # float32
    assert max(table["count"]) > 1  # there was something to merge


def test_scores_and_rewards_are_those_of_the_configuration(write: Write, tmp_path: Path) -> None:
    run(read_config(write()), tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/scores.parquet").to_pylist()
    candidates = parquet.read_table(tmp_path / "out/candidates.parquet").to_pylist()
    for row, candidate in zip(table, candidates, strict=True):
        assert {key: candidate[key] for key in ("prompt_index", "prompt", "response")}.items() <= row.items()
        words = row["response"].split()
        assert row["raw:kind"] == words.count("good") - words.count("bad")
        assert row["kind"] == pytest.approx(min(1, max(0, (row["raw:kind"] + 2) / 4)))
        assert row["raw:brief"] == len(words)
        assert row["brief"] == pytest.approx(1 / (1 + np.exp(-(row["raw:brief"] - 2) / 1.5)))
    game = read_game(tmp_path / "out/game.json")
    rewards = [reward for group in game.rewards for prompt in group for reward in prompt]
    assert rewards == [row[name] for name in ("kind", "brief", "ranked") for row in table]


def test_every_file_says_where_it_comes_from(write: Write, tmp_path: Path) -> None:
    configuration = read_config(write())
    run(configuration, tmp_path / "out")
    notes = [
        json.loads(parquet.read_schema(tmp_path / "out" / name).metadata[b"rlhf_game"])
        for name in ("candidates.parquet", "scores.parquet")
    ]
    game, receipt = (json.loads((tmp_path / "out" / name).read_text())["provenance"] for name in FILES[3:])
    for note in (*notes, game["candidates"], game["scores"], receipt):
        assert note["versions"]["rlhf-game"]
    for note in (notes[0], game["candidates"], receipt):
        assert len(note["model"]["sha256"]) == 64
        assert note["seed"] == 4
    assert notes[1]["config_sha256"] == receipt["config_sha256"] == configuration.sha256
    assert len(notes[1]["rewards"]["kind"]["from"]["sha256"]) == 64


def test_candidates_cannot_depend_on_any_report(write: Write, tmp_path: Path) -> None:
    """Generation is given a Source, which has nothing of any group in it; so other groups, the same bytes."""
    assert list(inspect.signature(generation.generate).parameters) == ["source", "folder", "progress"]
    assert {field.name for field in fields(GenerationInputs)} == {
        "language_model",
        "given",
        "prompts",
        "columns",
        "system",
        "outcomes",
        "seed",
        "base",
    }
    run(read_config(write()), tmp_path / "one")
    run(
        read_config(write(groups=[{"name": "other", "size": 7, "reward": {"brevity": 2}}], strength=5.0)),
        tmp_path / "two",
    )
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one["candidates.parquet"] == two["candidates.parquet"]
    assert one["scores.parquet"] != two["scores.parquet"]


def test_a_finished_stage_is_never_repeated(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = read_config(write())
    run(configuration, tmp_path / "out")
    before = contents(tmp_path / "out")

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("repeated")

    monkeypatch.setattr(scoring, "_score_group", never)
    monkeypatch.setattr("rlhf_game.training_backends.lm.models.load_language_model", never)
    for name in ("receipt.json", "game.json", None):
        assert run(configuration, tmp_path / "out").receipt.groups
        assert contents(tmp_path / "out") == before
        if name is not None:
            (tmp_path / "out" / name).unlink()
    (tmp_path / "out/scores.parquet").unlink()
    with pytest.raises(AssertionError, match="repeated"):
        run(configuration, tmp_path / "out")


@pytest.mark.parametrize("name", FILES[1:])
def test_a_deleted_file_is_made_anew_with_all_that_follow_from_it(write: Write, tmp_path: Path, name: str) -> None:
    configuration = read_config(write())
    run(configuration, tmp_path / "out")
    before = contents(tmp_path / "out")
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / name).unlink()
    run(configuration, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    new = [kept for kept in FILES if (tmp_path / "out" / kept).stat().st_mtime_ns != stamps[kept]]
    assert new == list(FILES[FILES.index(name) :])


def edited(content: bytes) -> bytes:
    return content.replace(b'"payment": 0.', b'"payment": 9.').replace(b'"size": 2', b'"size": 5')


def emptied(content: bytes) -> bytes:
    return b""


def truncated(content: bytes) -> bytes:
    return content[:-9]


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("how", [edited, emptied, truncated])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_file_that_was_changed_is_refused_until_it_is_deleted(
    write: Write, tmp_path: Path, name: str, how: Callable[[bytes], bytes], is_finished: bool
) -> None:
    config, out = write(), tmp_path / "out"
    run(read_config(config), out)
    before = contents(out)
    for later in () if is_finished else FILES[FILES.index(name) + 1 :]:
        (out / later).unlink()
    changed = how(before[name])
    if changed == before[name]:
        changed += b"\n"
    (out / name).write_bytes(changed)
    result = command("run", config, "-o", out)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert f"{name}: must be as this run wrote it, found it changed since it was written; delete it" in result.err
    assert (out / name).read_bytes() == changed
    (out / name).unlink()
    assert command("run", config, "-o", out).code == 0
    assert contents(out) == before


def test_candidates_of_another_run_are_refused(write: Write, tmp_path: Path) -> None:
    outcomes = {"kind": "candidates", "per_prompt": 3, "max_new_tokens": 4}
    run(read_config(write("other.json", outcomes=outcomes)), tmp_path / "other")
    config = write()
    run(read_config(config), tmp_path / "out")
    for name in FILES[2:]:
        (tmp_path / "out" / name).unlink()
    foreign = (tmp_path / "other/candidates.parquet").read_bytes()
    (tmp_path / "out/candidates.parquet").write_bytes(foreign)
    result = command("run", config, "-o", tmp_path / "out")
    assert result.code == 2
    assert "candidates.parquet: must be as this run wrote it" in result.err


def test_a_changed_piece_of_an_unfinished_stage_is_refused(write: Write, tmp_path: Path) -> None:
    with open_folder(tmp_path / "other", read_config(write(seed=5))) as folder:
        folder.part("scores", 0).write({"scores": [2.0]})
        foreign = folder.part("scores", 0).path.read_text()
    with open_folder(tmp_path / "out", read_config(write())) as folder:
        piece = folder.part("scores", 0)
        piece.write({"scores": [1.0]})
        assert piece.read() == {"scores": [1.0]}
        own = piece.path.read_text()
        for changed in ("", "[]", own.replace("1.0", "0.0"), foreign):
            piece.path.write_text(changed)
            with pytest.raises(InputError, match=r"scores-000000.json: must be as this run wrote it"):
                piece.read()


def test_scores_of_deleted_candidates_are_forgotten(write: Write, tmp_path: Path) -> None:
    configuration = read_config(write())
    run(configuration, tmp_path / "whole")
    with open_folder(tmp_path / "out", configuration) as folder:
        folder.part("scores", 0).write({"scores": [0.0], "rewards": [0.0], "provenance": {}})
    run(configuration, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_killed_before_any_rename_a_run_goes_on_to_the_same_bytes(write: Write, tmp_path: Path) -> None:
    config = write()
    run(read_config(config), tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    renames = killed_everywhere(config, tmp_path / "killed")
    assert (
        renames == 1 + 1 + 4 + 1 + 3 + 1 + 1 + 2
    )  # config, model, batches, candidates, groups, scores, game, sums, receipt
    for deadly in range(renames):
        assert contents(tmp_path / "killed" / str(deadly)) == whole, f"killed before rename {deadly}"
        assert not list((tmp_path / "killed" / str(deadly)).glob(".rlhf-game-*.tmp"))


def test_other_weights_do_not_continue_a_generation(write: Write, tmp_path: Path, model: Path) -> None:
    configuration = read_config(write())
    with open_folder(tmp_path / "out", configuration) as folder:
        folder.part("model", 0).write({"model": {"sha256": "other"}})
    with pytest.raises(RunError, match="was begun with model"):
        run(configuration, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 5}, "seed: must be 4 as in the run"),
        ({"strength": 0.3}, "strength: must be 0.2 as in"),
        ({"groups": [{"name": "kind", "size": 3, "reward": {"python": "mine.py:good"}}]}, "groups"),
        ({"system": "please"}, "system: must be nothing as in"),
        ({"prompts": ["good", "please no yes", "maybe"]}, 'prompts[2]: must be "thanks" as in'),
    ],
)
def test_a_changed_configuration_does_not_enter_an_old_folder(
    write: Write, tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    assert command("run", write(), "-o", tmp_path / "out").code == 0
    before = contents(tmp_path / "out")
    result = command("run", write(**change), "-o", tmp_path / "out")
    assert result.code == 2
    assert field in result.err
    assert contents(tmp_path / "out") == before


def test_a_configuration_that_could_not_be_run_does_not_bind_the_folder(write: Write, tmp_path: Path) -> None:
    wrong = command("run", write(model=str(tmp_path / "nowhere")), "-o", tmp_path / "out")
    assert wrong.code == 2
    assert command("run", write(), "-o", tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads(
        json.dumps(read_config(write()).document())
    )


def test_a_changed_file_of_the_configuration_is_a_change(write: Write, tmp_path: Path) -> None:
    config = write()
    assert command("run", config, "-o", tmp_path / "out").code == 0
    (tmp_path / "mine.py").write_text("def good(prompts, completions):\n    return [0] * len(completions)\n")
    result = command("run", config, "-o", tmp_path / "out")
    assert result.code == 2
    assert "files.'mine.py': must be" in result.err


def test_the_configuration_in_the_folder_can_be_run_again(write: Write, tmp_path: Path) -> None:
    assert command("run", write(), "-o", tmp_path / "out").code == 0
    (tmp_path / "copy.json").write_text((tmp_path / "out/config.json").read_text())
    assert command("run", tmp_path / "copy.json", "-o", tmp_path / "out").code == 0


def test_two_processes_do_not_share_a_folder(write: Write, tmp_path: Path) -> None:
    configuration = read_config(write())
    with open_folder(tmp_path / "out", configuration), pytest.raises(RunError, match="in use by another process"):
        run(configuration, tmp_path / "out")
    assert run(configuration, tmp_path / "out").receipt.groups


def test_a_folder_with_other_things_is_left_alone(write: Write, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("do not touch")
    configuration = read_config(write())
    with pytest.raises(InputError, match=r"must be a new folder or that of a run, found 'thesis.tex'"):
        run(configuration, tmp_path / "out")
    with pytest.raises(InputError, match="must be a folder for the run, found a file"):
        run(configuration, tmp_path / "out/thesis.tex")


def test_a_reward_outside_its_domain_names_the_group(write: Write, tmp_path: Path) -> None:
    result = command(
        "run", write(groups=[{"name": "raw", "reward": {"python": "mine.py:short"}}]), "-o", tmp_path / "out"
    )
    assert result.code == 2
    assert "groups[0].calibration: scores must be in [0, 1]" in result.err


def test_a_failing_reward_keeps_the_candidates(write: Write, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(prompts, completions):\n    return [1 / 0]\n")
    config = write(groups=[{"name": "b", "reward": {"python": "broken.py:f"}}])
    result = command("run", config, "-o", tmp_path / "out")
    assert result.code == 1
    assert "the reward broken.py:f failed: ZeroDivisionError" in result.err
    assert (tmp_path / "out/candidates.parquet").exists()


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_the_extra_one_line_names_it(write: Write, tmp_path: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; from rlhf_game.cli import main; "
        f"sys.exit(main(['run', {str(write())!r}, '-o', {str(tmp_path / 'out')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    line = f"rlhf-game: {package} is not installed; it comes with: pip install 'rlhf-game[train]'\n"
    assert done.stderr == line


@pytest.mark.weights
def test_the_demo_settles_and_its_claims_hold(tmp_path: Path) -> None:
    result = command("demo", "-o", tmp_path / "out")
    assert result.code == 0
    assert all(re.search(r": \d+ of \d+", line) for line in result.err.splitlines()), "more than progress on stderr"
    assert "Marketing" in result.out
    assert "run folder" in result.out
    assert str(tmp_path / "out/report.html") in result.out
    assert (tmp_path / "out/report.html").is_file()
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines() if " payments " in line and "." in line}
    assert float(lines["without"].split()[-1]) > 0 > float(lines["with"].split()[-1])
