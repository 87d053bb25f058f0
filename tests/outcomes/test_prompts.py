"""A game over system prompts: found and frozen before any report, valued by what they elicit, settled and charged."""

import inspect
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import KL, AffinePayments, InputError, Mechanism, Menu, Report, RunError, SocialWelfare, Table
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.prompts import prompts_game
from tests import tiny
from tests.cli.runner import run as command
from tests.servers import chatting, serving

Write = Callable[..., Path]
KEY = "sk-very-secret-0123456789"
EXAMPLES = [
    {"question": "What is a modem?", "answer": "It modulates."},
    {"question": "What is noise?", "answer": "Unwanted signal."},
]
REWARDS = """
def brief(prompts, completions, **columns):
    return [1 / (1 + len(c)) for c in completions]

def polite(prompts, completions, **columns):
    return [float("please" in c) for c in completions]
"""


def answer_text(document: dict[str, Any]) -> str:
    """A deterministic assistant, judge and writer in one: it is polite when told to, and likes short answers."""
    system = next((turn["content"] for turn in document["messages"] if turn["role"] == "system"), "")
    user = document["messages"][-1]["content"]
    if system.startswith("You grade"):
        answer = user.rpartition("Answer to grade:\n")[2]
        return f"It has {len(answer)} letters. Grade: {max(1, 10 - len(answer.replace('please, ', '')) // 8)}"
    if system.startswith("You write"):
        prompts = re.findall(r"<prompt>(.*?)</prompt>", user)
        return f"Here: <prompt>{prompts[0]} Be brief.</prompt>"
    polite = "please, " if "polite" in system else ""
    return polite + ("x" if "brief" in system.lower() else "word " * 6) + str(len(user))


def assistant(document: dict[str, Any], number: int) -> tuple[int, Any]:
    return chatting(lambda asked: answer_text(document))(document, number)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    (tmp_path / "mine.py").write_text(REWARDS)

    def write(url: str, name: str = "prompts.json", outcomes: Any = None, **changes: Any) -> Path:
        document = {
            "model": {"name": "m", "endpoint": {"url": f"{url}/v1", "key_env": "PROMPTS_KEY", "workers": 3}},
            "prompts": ["hello", "what is a channel?", "why?"],
            "outcomes": {
                "kind": "prompts", "seeds": ["You are an expert.", "Be polite.", "Answer."], "examples": EXAMPLES,
                "iterations": 2, "keep": 3, "max_new_tokens": 32, **(outcomes or {}),
            } if outcomes is None or "kind" not in outcomes else outcomes,
            "strength": 0.1,
            "groups": [
                {"name": "brief", "size": 2, "reward": {"python": "mine.py:brief"}},
                {"name": "polite", "reward": {"python": "mine.py:polite"}},
            ],
        }  # fmt: skip
        (tmp_path / name).write_text(json.dumps({**document, **changes}))
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTS_KEY", KEY)


def settled(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / "game.json").read_text()), json.loads((folder / "receipt.json").read_text())


def test_a_game_over_prompts_is_settled_and_charged_as_a_table_of_its_valuations(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, _):
        result = command("run", write(url), "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    game, receipt = settled(tmp_path / "out")
    rows = parquet.read_table(tmp_path / "out/scores.parquet").to_pylist()
    drawn = parquet.read_table(tmp_path / "out/candidates.parquet").to_pylist()
    texts = game["outcomes"]
    assert len(texts) == 3
    for group in game["groups"]:
        own = [row[group["name"]] for row in rows]
        wanted = [np.mean([r for r, d in zip(own, drawn, strict=True) if d["candidate"] == k]) for k in range(3)]
        np.testing.assert_allclose(group["reward"], wanted, rtol=1e-12)
    rewards = [group["reward"] for group in game["groups"]]
    space = Table(reference=[1 / 3] * 3, regularizer=KL(strength=0.1))
    reports = [Report(rewards[0], size=2), Report(rewards[1])]
    known = Mechanism(SocialWelfare(), AffinePayments()).settle(reports, space)
    np.testing.assert_allclose(receipt["policy"], known.policy.probabilities, rtol=1e-9)
    np.testing.assert_allclose([group["payment"] for group in receipt["groups"]], known.payments, rtol=1e-9)
    told = receipt["provenance"]["system_prompts"]
    assert [one["text"] for one in told] == texts
    assert [one["probability"] for one in told] == receipt["policy"]
    assert max(told, key=lambda one: one["probability"])["text"].startswith("Be polite.")
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    assert command("verify", tmp_path / "out").code == 0


def test_without_a_strength_the_game_is_a_menu_and_one_prompt_wins(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, _):
        run(read_config(write(url, strength=0)), tmp_path / "out")
    game, receipt = settled(tmp_path / "out")
    assert game["space"] == "menu"
    rewards = [group["reward"] for group in game["groups"]]
    reports = [Report(rewards[0], size=2), Report(rewards[1])]
    known = Mechanism(SocialWelfare(), AffinePayments()).settle(reports, Menu(np.zeros(3)))
    assert receipt["policy"] == known.policy.probabilities.tolist()
    assert sorted(receipt["policy"]) == [0.0, 0.0, 1.0]
    assert [group["payment"] for group in receipt["groups"]] == pytest.approx(known.payments.tolist(), rel=1e-12)


def test_people_see_the_prompts_and_their_probabilities(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, _):
        result = command("run", write(url), "-o", tmp_path / "out")
    assert "The system prompts" in result.out
    assert "Be polite. Be brief." in result.out


def test_candidates_are_frozen_before_any_report_is_read(write: Write, tmp_path: Path) -> None:
    """Finding them is given a Source, which has nothing of any group; so other groups, the same bytes."""
    for function in (prompts_game.find_prompts, prompts_game.open_chats, prompts_game.prompts_provenance):
        assert not {"configuration", "groups", "fields"} & set(inspect.signature(function).parameters)
    with serving(assistant) as (url, seen):
        run(read_config(write(url)), tmp_path / "one")
        asked = len(seen)
        other = [{"name": "other", "size": 9, "reward": {"brevity": 3}}]
        run(read_config(write(url, groups=other, strength=3.0)), tmp_path / "two")
        assert len(seen) == 2 * asked  # nothing is shared between folders that do not say so
    one, two = ((tmp_path / name / "candidates.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_search_is_the_papers(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, seen):
        run(read_config(write(url)), tmp_path / "out")
    told = json.loads((tmp_path / "out/receipt.json").read_text())["provenance"]
    note = json.loads(parquet.read_schema(tmp_path / "out/candidates.parquet").metadata[b"rlhf_game"])
    found = note["system_prompts"]
    assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)
    assert {one["origin"] for one in found} <= {"seed", "reflection", "resampling"}
    for one in found:
        assert one["score"] == pytest.approx(one["judge"] - one["length_penalty"])
        assert one["judge"] == pytest.approx(np.mean(list(one["grades"].values())))
        assert len(one["grades"]) == 4
        assert one["ungraded"] == 0
    writing = [one for one in seen if one["messages"][0]["content"].startswith("You write")]
    resampling = [one["messages"][1]["content"] for one in writing if "Score " in one["messages"][1]["content"]]
    reflections = [one["messages"][1]["content"] for one in writing if "judged" in one["messages"][1]["content"]]
    assert (len(resampling), len(reflections)) == (6, 6)  # keep of each, in both iterations
    for text in resampling:  # the best first
        scores = [float(score) for score in re.findall(r"Score (-?[\d.]+)", text)]
        assert scores == sorted(scores, reverse=True)
    assert all("It has" in text and "Grades: factual accuracy" in text for text in reflections)
    assert told["system_prompts"][0]["text"] == found[0]["text"]


def test_only_so_many_judgements_and_examples_are_used(write: Write, tmp_path: Path) -> None:
    many = [{"question": f"q{k}?", "answer": "a" * (k + 1)} for k in range(9)]
    changes = {"examples": many, "sample": 4, "feedback": 2, "iterations": 1}
    with serving(assistant) as (url, seen):
        run(read_config(write(url, outcomes=changes)), tmp_path / "out")
    judging = [one["messages"][1]["content"] for one in seen if one["messages"][0]["content"].startswith("You grade")]
    questions = {re.findall(r"q\d\?", text)[0] for text in judging}
    assert len(questions) == 4
    texts = [one["messages"][1]["content"] for one in seen if one["messages"][0]["content"].startswith("You write")]
    assert {text.count("Question: ") for text in texts if "judged" in text} == {2}


def test_writer_and_judge_may_be_other_models(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, seen), serving(assistant) as (other, asked):
        elsewhere = {name: {"name": name, "endpoint": {"url": f"{other}/v1"}} for name in ("writer", "judge")}
        run(read_config(write(url, outcomes=elsewhere)), tmp_path / "out")
        assert {one["model"] for one in seen} == {"m"}
        assert {one["model"] for one in asked} == {"writer", "judge"}
        assert {one["token"] for one in asked} == {None}  # a key goes to its own endpoint only
        assert {one["token"] for one in seen} == {f"Bearer {KEY}"}
    report = json.loads((tmp_path / "out/calls/report.json").read_text())
    assert {(row["purpose"], row["model"]) for row in report["by"]} == {
        ("responder", "m"), ("writer", "writer"), ("judge", "judge"),
    }  # fmt: skip
    assert report["calls"] - report["cached"] == len(seen) + len(asked)


def test_a_dry_run_counts_exactly_and_asks_nothing(write: Write, tmp_path: Path) -> None:
    def inventive(document: dict[str, Any], number: int) -> tuple[int, Any]:
        if document["messages"][0]["content"].startswith("You write"):  # every prompt is a new one
            return chatting(lambda asked: f"<prompt>{number}</prompt>")(document, number)
        return assistant(document, number)

    with serving(inventive) as (url, seen):
        groups = [{"name": "j", "reward": {"mix": [{"reward": {"judge": {
            "model": "g", "url": f"{url}/v1", "instruction": "You grade.", "max_tokens": 9}}}]}}]  # fmt: skip
        path = write(url, groups=groups)
        dry = command("run", path, "-o", tmp_path / "out", "--dry-run", "--json")
        assert (dry.code, dry.err, seen, (tmp_path / "out").exists()) == (0, "", [], False)
        counted = {(row["purpose"], row["model"]): row for row in json.loads(dry.out)["by"]}
        assert "What would be asked" in command("run", path, "-o", tmp_path / "out", "--dry-run").out
        assert seen == []
        run(read_config(path), tmp_path / "out")
        report = json.loads((tmp_path / "out/calls/report.json").read_text())
        made = {(row["purpose"], row["model"]): row for row in report["by"]}
        assert set(made) == set(counted) == {("responder", "m"), ("writer", "m"), ("judge", "m"), ("judge", "g")}
        for key, row in made.items():
            assert counted[key]["calls"] == row["calls"], key
        again = json.loads(command("run", path, "-o", tmp_path / "out", "--dry-run", "--json").out)
        assert again["by"][0]["cached"] > 0  # what the folder holds already is not asked again


def files(folder: Path) -> dict[str, bytes]:
    """What a run leaves, but for the report that only the command makes of it."""
    kept = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.suffix != ".html"]
    return {path.name: path.read_bytes() for path in kept}


def test_a_killed_run_goes_on_pays_nothing_twice_and_ends_in_the_same_bytes(write: Write, tmp_path: Path) -> None:
    def slow(document: dict[str, Any], number: int) -> tuple[int, Any]:
        time.sleep(0.01)
        return assistant(document, number)

    with serving(slow) as (url, seen):
        path = write(url)
        run(read_config(path), tmp_path / "whole")
        needed = len(seen)
        code = "import sys; from rlhf_game.cli import main; sys.exit(main(sys.argv[1:]))"
        for count in (10, 45):
            before = len(seen)
            child = subprocess.Popen([sys.executable, "-c", code, "run", str(path), "-o", str(tmp_path / "out")])
            while len(seen) < before + count:
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            child.wait()
            time.sleep(0.1)
        run(read_config(path), tmp_path / "out")
        assert len(seen) <= 2 * needed + 2 * 3  # at most what the three workers had on their way, twice
        assert files(tmp_path / "out") == files(tmp_path / "whole")
        asked = len(seen)
        (tmp_path / "out/candidates.parquet").unlink()
        run(read_config(path), tmp_path / "out")
        assert len(seen) == asked  # a rerun pays nothing
        assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_cache_can_be_shared_by_runs(write: Write, tmp_path: Path) -> None:
    with serving(assistant) as (url, seen):
        model = {"name": "m", "endpoint": {"url": f"{url}/v1", "cache": "kept"}}
        run(read_config(write(url, model=model)), tmp_path / "one")
        asked = len(seen)
        run(read_config(write(url, model=model)), tmp_path / "two")
        assert len(seen) == asked
    assert (tmp_path / "kept").is_dir()


@pytest.mark.parametrize("status", [200, 401])
def test_a_key_is_in_no_file_and_in_no_message(status: int, write: Write, tmp_path: Path) -> None:
    def echoes(document: dict[str, Any], number: int) -> tuple[int, Any]:
        if status != 200:
            return status, {"error": {"message": f"{KEY} is wrong"}}
        return chatting(lambda asked: f"{answer_text(document)} {KEY}")(document, number)

    with serving(echoes) as (url, seen):
        code = "import sys; from rlhf_game.cli import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(write(url)), "-o", str(tmp_path / "out")],
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == (0 if status == 200 else 1)
    assert seen[0]["token"] == f"Bearer {KEY}"
    assert KEY not in done.stdout + done.stderr
    looked = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("[key]" in path.read_text(errors="replace") for path in looked) == (status == 200)
    for path in looked:
        content = parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else path.read_bytes()
        assert KEY not in str(content), path
        assert KEY.encode() not in path.read_bytes(), path


def test_a_judge_that_never_grades_ends_the_run(write: Write, tmp_path: Path) -> None:
    with serving(chatting(lambda asked: "no idea")) as (url, _):
        result = command("run", write(url), "-o", tmp_path / "out")
        assert result.code == 1
        assert "the judge m at" in result.err
        assert "must answer a number from 1 to 10, got none for 24 of its questions in 5 answers each" in result.err
        declared = command("run", write(url, outcomes={"ungraded": 1}), "-o", tmp_path / "two")
    assert declared.code == 1
    assert "the judge m must answer with grades, none of 24 can be read; the last: 'no idea'" in declared.err


def test_answers_without_a_grade_count_as_declared_and_are_counted(write: Write, tmp_path: Path) -> None:
    def shy(document: dict[str, Any], number: int) -> tuple[int, Any]:
        if "clarity" in document["messages"][0]["content"]:
            return chatting(lambda asked: "I would rather not say")(document, number)
        return assistant(document, number)

    with serving(shy) as (url, _):
        run(read_config(write(url, outcomes={"iterations": 0, "ungraded": 2.5})), tmp_path / "out")
    game, receipt = settled(tmp_path / "out")
    for one in game["provenance"]["candidates"]["system_prompts"]:
        assert one["grades"]["clarity"] == 2.5
        assert one["ungraded"] == 2
    assert [one["ungraded"] for one in receipt["provenance"]["system_prompts"]] == [2, 2, 2]


def test_a_local_model_can_do_everything(
    write: Write, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "WORDS", ("<pad>", "<bos>", "<eos>", "<unk>", *"12345678"))
    monkeypatch.setattr(tiny, "ROOM", 512)
    model = tiny.save_language_model(tmp_path_factory.mktemp("tiny"))
    short = {"seeds": ["3 4", "5"], "max_new_tokens": 4, "judge_tokens": 1, "writer_tokens": 3, "keep": 2, "high": 8.0,
             "explains": False, "iterations": 1}  # fmt: skip
    path = write("http://x", outcomes=short, model=str(model))
    finished = run(read_config(path), tmp_path / "out")
    assert len(finished.system_prompts) == 2
    assert sum(one.probability for one in finished.system_prompts) == pytest.approx(1)
    game, _ = settled(tmp_path / "out")
    grades = [g for one in game["provenance"]["candidates"]["system_prompts"] for g in one["grades"].values()]
    assert all(1 < grade < 8 for grade in grades)
    assert len(set(grades)) > 4  # means by probabilities, not eight steps
    assert json.loads((tmp_path / "out/calls/report.json").read_text())["by"][0]["endpoint"] is None


@pytest.mark.parametrize(
    ("changes", "outcomes", "said"),
    [
        ({"system": "Be kind."}, {}, "system: must not be here"),
        ({}, {"temperature": 0.0, "per_prompt": 2}, "outcomes.per_prompt: must be 1 at temperature 0"),
        ({}, {"seeds": []}, "outcomes.seeds"),
        ({}, {"seeds": "none.txt"}, "none.txt"),
        ({}, {"examples": [{"question": "q"}]}, "outcomes.examples[0].answer: must be given"),
        ({}, {"examples": "mine.py"}, "must be a .jsonl file"),
        ({}, {"high": 0.0}, "outcomes.high: must be above low"),
        ({}, {"alpha": -1.0}, "outcomes.alpha"),
        ({"strength": -1}, {}, "strength"),
        ({"model": {"name": "m", "endpoint": {"url": "http://u:hunter2@h/v1"}}}, {}, "model.endpoint.url: must start"),
        ({"model": {"name": "m", "endpoint": "http://u:hunter2@h/v1"}}, {}, "model.endpoint.url: must start"),
        (
            {"model": {"name": "m", "endpoint": {"url": "http://h", "key_env": "sk-hunter2"}}},
            {},
            "key_env: must be the",
        ),
        (
            {"model": {"name": "m", "endpoint": {"url": "http://h"}}},
            {"kind": "trie"},
            "model.endpoint",
        ),
        ({"model": "m", "strength": 0}, {"kind": "candidates", "per_prompt": 1}, "strength: must be > 0"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_asked_or_written(
    changes: dict[str, Any], outcomes: dict[str, Any], said: str, write: Write, tmp_path: Path
) -> None:
    result = command("run", write("http://127.0.0.1:9", outcomes=outcomes, **changes), "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert "hunter2" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_key_that_is_not_set_is_an_input_error(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTS_KEY")
    with serving(assistant) as (url, seen), pytest.raises(InputError, match="PROMPTS_KEY must hold the key"):
        run(read_config(write(url)), tmp_path / "out")
    assert seen == []


def test_an_endpoint_that_is_away_is_named(write: Write, tmp_path: Path) -> None:
    model = {"name": "m", "endpoint": {"url": "http://127.0.0.1:9/v1", "retries": 0}}
    with pytest.raises(RunError, match=r"the responder m at http://127.0.0.1:9/v1 failed: connection error"):
        run(read_config(write("", model=model)), tmp_path / "out")
