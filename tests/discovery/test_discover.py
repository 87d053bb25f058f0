"""``discover``: the archive survives, a rerun goes on, the search finds what DPO finds, and models may propose."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.discovery import discover, read_discovery
from rlhf_game.discovery.archive import Archive, Entry, ExpressionProposal, ranked
from rlhf_game.discovery.discovery_config import DiscoveryConfig
from rlhf_game.discovery.evolution import Evolution
from rlhf_game.discovery.task_scores import TaskScorer
from rlhf_game.files.workspace import Workspace
from tests.cli.runner import run as command
from tests.servers import chatting, serving

pytestmark = pytest.mark.usefixtures("one_thread")

Write = Callable[..., Path]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TASKS = {"count": 2, "held_out": 3, "prompts": 2, "tokens": 3, "length": 2, "pairs": 40, "steps": 25}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {"generations": 3, "population": 6, "tasks": TASKS, "baselines": ["dpo", "slic"], **changes}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


def test_a_search_leaves_an_archive_a_table_and_a_figure(write: Write, tmp_path: Path) -> None:
    result = command("discover", write(), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    lines = [json.loads(line) for line in (tmp_path / "out/archive.jsonl").read_text().splitlines()]
    assert [(line["generation"], line["index"]) for line in lines] == [(g, i) for g in range(3) for i in range(6)]
    assert all((line["score"] is None) != (line["reason"] is None) for line in lines)
    assert found["candidates"] == {
        "proposed": 18,
        "scored": sum(line["score"] is not None for line in lines),
        "rejected": sum(line["reason"] is not None for line in lines),
    }
    scores = [line["score"] for line in lines if line["score"] is not None]
    assert found["best"]["search"]["score"] == max(scores) == found["curve"][-1]
    mine, theirs = found["best"]["held_out"]["scores"], found["baselines"]["dpo"]["held_out"]["scores"]
    assert len(mine) == 3
    assert found["gain_over"]["dpo"]["mean"] == pytest.approx(sum(mine) / 3 - sum(theirs) / 3)
    assert (tmp_path / "out/search.svg").read_bytes().startswith(b"<?xml")
    assert found["best"]["name"] in (tmp_path / "out/report.html").read_text()
    again = command("discover", write(), "-o", tmp_path / "out")  # finished: only read
    assert again.code == 0
    assert found["best"]["name"] in again.out
    assert "-log s(z)" in again.out


def test_the_search_finds_a_loss_as_good_as_dpo_that_it_was_not_shown(write: Write, tmp_path: Path) -> None:
    tasks = {**TASKS, "count": 3, "held_out": 12}
    configuration = read_discovery(write(generations=8, population=10, tasks=tasks, seed=1))
    finished = discover(configuration, tmp_path / "out")
    gain = finished.result["gain_over"]["dpo"]
    assert finished.result["best"]["search"]["score"] >= finished.result["baselines"]["dpo"]["search"]["score"]
    assert gain["mean"] > -2 * gain["standard_error"]
    first = [entry for entry in finished.archive if entry.generation == 0 and entry.score is not None]
    assert max(entry.score or 0.0 for entry in first) < finished.result["best"]["search"]["score"]


def test_a_search_that_was_killed_ends_with_the_same_archive(write: Write, tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.discovery.interrupted", str(write()), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    there = sorted((tmp_path / "killed/candidates").glob("g*.json"))
    assert [path.stem for path in there] == [f"g000-{i:03d}" for i in range(6)] + [f"g001-{i:03d}" for i in range(3)]
    kept = {path.name: path.stat().st_mtime_ns for path in there}
    (tmp_path / "killed/candidates/.x.tmp").write_text("{")  # one that was being written
    killed = discover(read_discovery(write()), tmp_path / "killed")
    assert {path.name: path.stat().st_mtime_ns for path in there} == kept  # none was tried again
    whole = discover(read_discovery(write()), tmp_path / "whole")
    assert killed.archive == whole.archive
    assert killed.result == whole.result
    for name in ("archive.jsonl", "search.svg", "result.json", "baselines.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(InputError, match="seed: must be 0 as in the run at"):
        discover(read_discovery(write(seed=1)), tmp_path / "whole")


def test_the_same_archive_gives_the_same_proposals_and_another_seed_others(tmp_path: Path) -> None:
    archive = [Entry(0, k, text, "random", score=score) for k, (text, score) in enumerate(
        [("relu(1 - z)", 0.3), ("exp(-z)", 0.2), ("-z", 0.1)])]  # fmt: skip
    first, again, other = (Evolution(seed).propose(archive, 1, 30) for seed in (0, 0, 1))
    assert first == again != other
    texts = [proposal.text for proposal in first]
    assert len(set(texts)) == 30
    assert not set(texts) & {entry.text for entry in archive}
    kinds = {proposal.origin.split()[0] for proposal in first}
    assert kinds == {"random", "mutant", "crossing"}
    assert any("g000-000" in proposal.origin for proposal in first)


def test_candidates_are_rejected_with_the_reason_and_never_stop_a_search() -> None:
    judge = TaskScorer(DiscoveryConfig.model_validate({"tasks": TASKS}))
    good = judge.judge(ExpressionProposal("relu(1 - z)", "x"), 0, 0, [])
    assert good.score is not None
    assert good.reason is None
    for text, said in (
        ("import os", "must be one expression"),
        ("os.system(z)", "is not in the language"),
        ("square(z)", "must have a gradient at the reference"),
        ("2 * relu(1 - z) + 3", "must be a new function, found the slopes of g000-000"),
        ("exp(-40 * z)", "must be a number at moderate margins, found inf at z = -4"),
    ):
        entry = judge.judge(ExpressionProposal(text, "x"), 0, 1, [good])
        assert entry.score is None
        assert entry.reason is not None
        assert re.search(said, entry.reason), entry.reason
    with pytest.raises(InputError, match="baselines: must need no column of the pairs, found spce"):
        judge.baseline("spce", held_out=False)
    slow = TaskScorer(DiscoveryConfig.model_validate({"tasks": TASKS, "limits": {"seconds": 1e-9}}))
    assert "took longer" in str(slow.judge(ExpressionProposal("-z", "x"), 0, 0, []).reason)


def test_an_archive_that_was_changed_is_named(tmp_path: Path) -> None:
    archive = Archive(Workspace(tmp_path), tmp_path / "a")
    entry = Entry(0, 1, "-z", "random", score=0.5, scores=(0.4, 0.6), slopes=(1.0,))
    archive.write(entry)
    assert archive.read() == [entry]
    assert ranked([entry, Entry(0, 0, "z", "random", reason="no")]) == [entry]
    (tmp_path / "a/g000-001.json").rename(tmp_path / "a/g000-002.json")
    with pytest.raises(InputError, match="g000-002.json: must be as this run wrote it"):
        archive.read()
    (tmp_path / "a/g000-002.json").write_text("{}")
    with pytest.raises(InputError, match="g000-002.json: must be as this run wrote it"):
        archive.read()


def test_a_language_model_proposes_sees_the_archive_and_is_paid_once(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    ideas = iter([
        '{"thought": "a hinge", "expression": "relu(1 - z)"}', "Sure! expression: exp(-z)", "os.remove('x')",
        '```json\n{"expression": "-log_sigmoid(z)"}\n```', '{"expression": "square(z)"}', "-tanh(z)",
    ])  # fmt: skip
    asked: list[str] = []

    def reply(question: str) -> str:
        asked.append(question)
        return next(ideas)

    with serving(chatting(reply)) as (url, seen):
        endpoint = {"url": f"{url}/v1", "key_env": "SOME_KEY", "workers": 1}
        model = {"kind": "model", "model": {"name": "m", "endpoint": endpoint}}
        config = write(generations=2, population=3, proposer=model)
        counted = command("discover", config, "-o", tmp_path / "out", "--dry-run", "--json")
        assert (counted.code, counted.err, len(seen)) == (0, "", 0)
        assert json.loads(counted.out)["calls"] == 6
        assert not (tmp_path / "out").exists()
        first = discover(read_discovery(config), tmp_path / "out")
        assert len(seen) == 6
        for name in ("result.json", "baselines.json"):
            (tmp_path / "out" / name).unlink()
        for path in (tmp_path / "out/candidates").glob("g001*"):
            path.unlink()
        assert discover(read_discovery(config), tmp_path / "out") == first
        assert len(seen) == 6  # the answers were kept
    texts = [entry.text for entry in first.archive]
    assert texts == ["relu(1 - z)", "exp(-z)", "os.remove('x')", "-log_sigmoid(z)", "square(z)", "-tanh(z)"]
    assert [entry.score is None for entry in first.archive] == [False, False, True, False, True, False]
    assert "dpo: -log s(z)" in asked[0]
    assert "Tried so far" not in asked[0]
    assert f"{first.archive[0].score:.4f}  relu(1 - z)" in asked[3]
    assert "os.remove('x')  ->  " in asked[3]
    report = json.loads((tmp_path / "out/calls/report.json").read_text())
    assert report["by"][0]["purpose"] == "proposer"
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generations": 0}, "generations"),
        ({"population": 1000}, "population"),
        ({"proposer": {"kind": "oracle"}}, "proposer: must have kind evolution or model"),
        ({"proposer": {"kind": "evolution", "newcomers": 2.0}}, "newcomers"),
        ({"tasks": {"tokens": 10, "length": 4}}, "tasks.length: must leave at most 4096 responses"),
        ({"baselines": ["dpo", "dpo"]}, "baselines[1]: must differ"),
        ({"baselines": ["magic"]}, "loss must be one of"),
        ({"surprise": 1}, "must be one of the keys"),
    ],
)
def test_a_wrong_configuration_is_one_line(write: Write, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    result = command("discover", write(**changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_search_without_a_loss_fails_with_the_last_reason(write: Write, tmp_path: Path) -> None:
    config = read_discovery(write(generations=1, population=2, limits={"seconds": 1e-9}))
    with pytest.raises(RunError, match="took longer"):
        discover(config, tmp_path / "out")


@pytest.mark.slow
def test_the_example_finds_a_loss_at_least_as_good_as_dpo(tmp_path: Path) -> None:
    result = command("discover", EXAMPLES / "discover.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    gain = found["gain_over"]["dpo"]
    assert gain["mean"] > -gain["standard_error"]
    assert found["best"]["search"]["score"] > found["baselines"]["dpo"]["search"]["score"]
