"""Rewards behind an endpoint, from end to end: as a group's report in Python, and in a run's configuration."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import KL, AffinePayments, Mechanism, Report, RunError, SocialWelfare
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.candidates import Candidates
from rlhf_game.rewards import Judge, ScoreEndpoint
from tests.cli.runner import run as command
from tests.servers import chatting, serving

Write = Callable[..., Path]
TEXTS = ["good thanks", "bad", "good good yes"]


def goodness(text: str) -> int:
    return text.split().count("good")


def scoring(document: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, {"scores": [goodness(text) for text in document["completions"]]}


def grading(asked: str) -> str:
    return f"{min(10, 1 + goodness(asked.rpartition('Response:')[2]))}"


def test_a_report_is_whatever_an_endpoint_or_a_judge_says() -> None:
    space = Candidates(["now"], [TEXTS], KL(0.5))
    mechanism = Mechanism(SocialWelfare(), AffinePayments())
    brief = Report(lambda prompts, completions: [1.0 / len(text.split()) for text in completions])
    local = mechanism.settle([Report(lambda prompts, completions: [goodness(t) for t in completions]), brief], space)
    with serving(scoring) as (scores, _), serving(chatting(grading)) as (chat, asked):
        for reward in (ScoreEndpoint(f"{scores}/score"), Judge("tiny", f"{chat}/v1", "How good is it?")):
            settled = mechanism.settle([Report(reward), brief], space)
            np.testing.assert_allclose(settled.payments, local.payments)  # a judge's grades start at 1: no difference
            assert settled.payments[0] > 0
        assert len(asked) == 3


def groups_of(scores: str, chat: str, **more: Any) -> list[dict[str, Any]]:
    judge = {"model": "tiny", "url": f"{chat}/v1", "instruction": "How good is it?"}
    return [
        {"name": "scored", "size": 2, "reward": {"endpoint": {"url": f"{scores}/score", "batch_size": 4, **more}},
         "calibration": {"kind": "affine", "low": 0, "high": 4}},
        {"name": "judged", "reward": {"judge": judge}},
    ]  # fmt: skip


def test_a_run_asks_its_endpoints_once(write: Write, tmp_path: Path) -> None:
    def busy_first(document: dict[str, Any], number: int) -> tuple[int, Any]:
        return (503, {}) if number == 1 else scoring(document, number)

    with serving(busy_first) as (scores, seen), serving(chatting(grading)) as (chat, asked):
        configuration = read_config(write(groups=groups_of(scores, chat)))
        finished = run(configuration, tmp_path / "out")
        questions = len(seen), len(asked)
        assert max(len(one["completions"]) for one in seen) == 4
        assert run(configuration, tmp_path / "out").receipt == finished.receipt
        (tmp_path / "out/receipt.json").unlink()
        run(configuration, tmp_path / "out")
        assert (len(seen), len(asked)) == questions
    game = json.loads((tmp_path / "out/game.json").read_text())
    for b, texts in enumerate(game["outcomes"]):
        assert game["groups"][0]["reward"][b] == [goodness(text) / 4 for text in texts]
        assert game["groups"][1]["reward"][b] == pytest.approx([min(9, goodness(text)) / 9 for text in texts])


def test_a_run_whose_endpoint_fails_names_it_and_goes_on_where_it_was(write: Write, tmp_path: Path) -> None:
    is_up = threading.Event()

    def sometimes(document: dict[str, Any], number: int) -> tuple[int, Any]:
        return scoring(document, number) if is_up.is_set() else (404, {})

    with serving(sometimes) as (scores, seen), serving(chatting(grading)) as (chat, asked):
        groups = groups_of(scores, chat)[::-1]  # the judge is asked first
        config = write(groups=groups)
        result = command("run", config, "-o", tmp_path / "out")
        assert result.code == 1
        assert f"the endpoint {scores}/score failed: it answers 404" in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "out/scores.parquet").exists()
        judged = len(asked)
        is_up.set()
        assert command("run", config, "-o", tmp_path / "out").code == 0
        assert len(asked) == judged  # what was answered is kept
        assert len(seen) > 1


@pytest.mark.parametrize("is_nested", [False, True])
def test_a_receipt_counts_the_grades_that_were_declared(is_nested: bool, write: Write, tmp_path: Path) -> None:
    def shy(asked: str) -> str:
        return grading(asked) if goodness(asked.rpartition("Response:")[2]) else "no idea"

    with serving(scoring) as (scores, _), serving(chatting(shy)) as (chat, asked):
        groups = groups_of(scores, chat)
        judge = groups[1]["reward"]["judge"]
        judge |= {"retries": 1}
        if is_nested:
            ensemble = {"ensemble": {"members": [{"judge": judge}, {"judge": judge}]}}
            groups[1]["reward"] = {"mix": [{"reward": ensemble}]}
        result = command("run", write("fails.json", groups=groups), "-o", tmp_path / "fails")
        assert (result.code, result.err.count("\n")) == (1, 1)
        (_, *ungraded) = ["", *(tmp_path / "fails/calls/ungraded").rglob("*.json")]
        assert ungraded
        assert any(str(file) in result.err for file in ungraded)
        judge["ungraded"] = 4
        assert command("run", write(groups=groups), "-o", tmp_path / "out").code == 0
        missing = sum(
            not goodness(text)
            for text in parquet.read_table(tmp_path / "out/candidates.parquet")["response"].to_pylist()
        )
    receipt, game = (json.loads((tmp_path / "out" / name).read_text()) for name in ("receipt.json", "game.json"))
    assert receipt["provenance"]["ungraded"] == {"judged": missing * (2 if is_nested else 1)}
    for b, texts in enumerate(game["outcomes"]):
        wanted = [min(9, goodness(text)) / 9 if goodness(text) else 3 / 9 for text in texts]
        assert game["groups"][1]["reward"][b] == pytest.approx(wanted)


@pytest.mark.parametrize("ungraded", [0, 11, "lowest", None, True])
def test_what_counts_for_no_grade_is_on_the_scale(ungraded: Any, write: Write, tmp_path: Path) -> None:
    judge = {"model": "m", "url": "http://127.0.0.1:9", "instruction": "x", "ungraded": ungraded}
    result = command("run", write(groups=[{"name": "g", "reward": {"judge": judge}}]), "-o", tmp_path / "out")
    assert result.code == 2
    assert "groups[0].reward.ungraded" in result.err


def test_a_run_does_not_wait_for_ever(write: Write, tmp_path: Path) -> None:
    release = threading.Event()

    def hang(document: dict[str, Any], number: int) -> tuple[int, Any]:
        release.wait(5)
        return 200, {}

    with serving(hang) as (scores, _):
        groups = groups_of(scores, scores, timeout=0.1, retries=1)[:1]
        with pytest.raises(RunError, match=f"the endpoint {scores}/score failed 2 times"):
            run(read_config(write(groups=groups)), tmp_path / "out")
        release.set()
