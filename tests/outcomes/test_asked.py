"""Candidates from an endpoint: counts are their weights, each answer is paid for once, a dry run counts the calls."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from rlhf_game import KL, AffinePayments, Mechanism, Report, SocialWelfare, Table
from rlhf_game.chat import Endpoint
from rlhf_game.chat.requests import ask_once
from rlhf_game.outcomes import read_config, run
from tests.cli.runner import run as command
from tests.servers import Answer, chatting, serving

KEY = "sk-very-secret-0123456789"
SAID = ["good", "bad", "good", "", "good good"]
"""What the model says, one after the other, to each prompt."""
REWARDS = """
def good(prompts, completions, **columns):
    return [c.split().count("good") / 2 for c in completions]

def brief(prompts, completions, **columns):
    return [1 / (1 + len(c)) for c in completions]
"""


def speaking(*, gives_logprobs: bool = True, is_down: Callable[[int], bool] = lambda number: False) -> Answer:
    """Answer each prompt with what is said in turn. is_down: which requests fail, by their number."""
    turns: dict[str, int] = {}

    def answer(document: dict[str, Any], number: int) -> tuple[int, Any]:
        if "logprobs" in document and not gives_logprobs:
            return 400, {"error": {"message": "logprobs are not supported"}}
        if is_down(number):
            return 404, {}
        asked = json.dumps(document["messages"])
        said = SAID[turns.setdefault(asked, 0) % len(SAID)]
        turns[asked] += 1
        status, body = chatting(lambda _: said)(document, number)
        if "logprobs" in document:
            tokens = [{"token": "x", "logprob": -0.5} for _ in range(len(said) + 1)]
            body["choices"][0]["logprobs"] = {"content": tokens}
            body["usage"]["completion_tokens"] = len(tokens)
        return status, body

    return answer


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    (tmp_path / "mine.py").write_text(REWARDS)
    monkeypatch.setenv("ASKED_KEY", KEY)

    def write(url: str, **changes: Any) -> Path:
        document = {
            "model": {"name": "m", "endpoint": {"url": f"{url}/v1", "workers": 1, "key_env": "ASKED_KEY"}},
            "prompts": ["one", "two"],
            "outcomes": {"kind": "candidates", "per_prompt": 5, "max_new_tokens": 7, "temperature": 0.9},
            "system": "Be kind.",
            "strength": 0.2,
            "groups": [
                {"name": "kind", "size": 2, "reward": {"python": "mine.py:good"}},
                {"name": "brief", "reward": {"python": "mine.py:brief"}},
            ],
        }
        (tmp_path / "config.json").write_text(json.dumps({**document, **changes}))
        return tmp_path / "config.json"

    return write


def test_a_run_over_an_endpoint_settles_with_counts_as_the_reference(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    with serving(speaking()) as (url, seen):
        assert command("run", write(url), "-o", tmp_path / "out").code == 0
        assert len(seen) == 10
        assert {one["token"] for one in seen} == {f"Bearer {KEY}"}
        for one in seen:
            assert (one["model"], one["temperature"], one["max_tokens"], one["logprobs"]) == ("m", 0.9, 7, True)
            assert [turn["role"] for turn in one["messages"]] == ["system", "user"]
    rows = parquet.read_table(tmp_path / "out/candidates.parquet").to_pylist()
    assert [row["response"] for row in rows] == ["good", "bad", "", "good good"] * 2
    assert [row["count"] for row in rows] == [2, 1, 1, 1] * 2
    assert [row["log_probability"] for row in rows] == [-0.5 * (len(row["response"]) + 1) for row in rows]
    game, receipt = (json.loads((tmp_path / "out" / name).read_text()) for name in ("game.json", "receipt.json"))
    assert game["reference"] == [[0.4, 0.2, 0.2, 0.2]] * 2
    assert receipt["provenance"]["model"] == {"endpoint": f"{url}/v1", "model": "m"}
    space = Table(reference=game["reference"], regularizer=KL(strength=0.2))
    reports = [Report(group["reward"], size=group["size"]) for group in game["groups"]]
    known = Mechanism(SocialWelfare(), AffinePayments()).settle(reports, space)
    np.testing.assert_allclose([group["payment"] for group in receipt["groups"]], known.payments, rtol=1e-9)
    assert min(known.payments) > 0
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()


def test_an_endpoint_without_log_probabilities_serves_as_well(write: Callable[..., Path], tmp_path: Path) -> None:
    with serving(speaking(gives_logprobs=False)) as (url, seen):
        with_them = run(read_config(write(url)), tmp_path / "out")
        assert ["logprobs" in one for one in seen] == [True] + [False] * 10
    assert "log_probability" not in parquet.read_table(tmp_path / "out/candidates.parquet").column_names
    assert with_them.game.reference is not None


SOME = [{"token": "go", "logprob": -0.5}, {"token": "od", "logprob": -0.25}]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"content": SOME}, -0.75),
        ({"content": [*SOME, {"token": "", "logprob": 0.0}]}, None),  # more than the server counts
        ({"content": SOME[:1]}, -0.5),  # the end, counted, is not said
        ({"content": [{"token": "good", "logprob": 0.1}, SOME[0]]}, None),
        ({"content": [{"token": "good", "logprob": -9999.0}, SOME[0]]}, None),
        ({"content": [{"token": "good", "logprob": float("nan")}, SOME[0]]}, None),
        ({"content": [{"token": "good"}, SOME[0]]}, None),
        ({"content": [{"token": "good", "logprob": "x"}, SOME[0]]}, None),
        ({"content": []}, None),
        ({"content": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_what_is_no_probability_of_the_whole_answer_is_unknown(said: Any, found: float | None) -> None:
    def answer(document: dict[str, Any], number: int) -> tuple[int, Any]:
        status, body = chatting(lambda _: "good")(document, number)  # which counts 2 tokens
        body["choices"][0]["logprobs"] = said
        return status, body

    with serving(answer) as (url, _):
        (reply,) = Endpoint("m", f"{url}/v1").answer([ask_once("one", wants_log_probability=True)], "responder")
    assert (reply.text, reply.log_probability) == ("good", found)


def test_what_was_thought_before_is_no_part_of_the_answer(write: Callable[..., Path], tmp_path: Path) -> None:
    """A server that counts more tokens than it says has not said how probable its answer is."""

    def thinking(document: dict[str, Any], number: int) -> tuple[int, Any]:
        status, body, *_ = speaking()(document, number)
        body["usage"]["completion_tokens"] += 100
        return status, body

    with serving(thinking) as (url, _):
        run(read_config(write(url)), tmp_path / "out")
    assert "log_probability" not in parquet.read_table(tmp_path / "out/candidates.parquet").column_names


def test_a_run_that_was_interrupted_asks_for_what_is_missing_alone(write: Callable[..., Path], tmp_path: Path) -> None:
    with serving(speaking(is_down=lambda number: number == 7)) as (url, seen):
        config = write(url)
        failed = command("run", config, "-o", tmp_path / "out")
        assert (failed.code, failed.err.count("\n")) == (1, 1)
        assert f"the responder m at {url}/v1 failed: it answers 404" in failed.err
        assert not (tmp_path / "out/candidates.parquet").exists()
        left = json.loads(command("run", config, "-o", tmp_path / "out", "--dry-run", "--json").out)
        assert left["calls"] - left["cached"] == 4
        assert command("run", config, "-o", tmp_path / "out").code == 0
        assert len(seen) == 7 + 4
        (tmp_path / "out/candidates.parquet").unlink()  # made anew from the answers that are kept
        assert command("run", config, "-o", tmp_path / "out").code == 0
        assert len(seen) == 7 + 4
    with serving(speaking()) as (url, _):
        run(read_config(write(url)), tmp_path / "whole")
    tables = [parquet.read_table(tmp_path / name / "candidates.parquet").to_pylist() for name in ("out", "whole")]
    assert tables[0] == tables[1]


def test_a_dry_run_counts_draws_and_judgements_and_asks_nothing(write: Callable[..., Path], tmp_path: Path) -> None:
    with serving(speaking()) as (url, seen):
        judge = {"model": "j", "url": f"{url}/j", "instruction": "How kind is it?", "max_tokens": 5}
        config = write(url, groups=[{"name": "judged", "reward": {"judge": judge}}])
        report = json.loads(command("run", config, "-o", tmp_path / "out", "--dry-run", "--json").out)
        assert seen == []
    assert {row["purpose"]: row["calls"] for row in report["by"]} == {"responder": 10, "judge": 10}
    assert {row["purpose"]: row["completion_tokens"] for row in report["by"]} == {"responder": 70, "judge": 50}
    assert not (tmp_path / "out").exists()


def test_equal_prompts_and_other_seeds_get_answers_of_their_own(write: Callable[..., Path], tmp_path: Path) -> None:
    with serving(speaking()) as (url, seen):
        endpoint = {"url": f"{url}/v1", "cache": "answers"}
        for k, more in enumerate(({}, {"seed": 1}, {}, {"strength": 3.0})):
            config = write(url, model={"name": "m", "endpoint": endpoint}, prompts=["one", "one"], **more)
            run(read_config(config), tmp_path / f"out{k}")
        assert len(seen) == 20  # the third and the fourth have the answers of the first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": {"kind": "trie"}}, "model.endpoint: must not be here, where the model's own probabilities are"),
        ({"outcomes": {"per_prompt": 3, "top_k": 5}}, "outcomes.top_k: must not be here with an endpoint"),
        ({"outcomes": {"per_prompt": 3, "top_p": 0.5}}, "outcomes.top_p: must not be here with an endpoint"),
        ({"model": {"name": "m", "endpoint": "ftp://x"}}, "model.endpoint.url: must start with http:// or https://"),
        ({"model": {"name": "m", "endpoint": 3}}, "model.endpoint"),
    ],
)
def test_what_an_endpoint_cannot_do_is_refused(
    changes: dict[str, Any], said: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    result = command("run", write("http://127.0.0.1:9", **changes), "-o", tmp_path / "out")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert said in result.err


def test_an_address_alone_names_an_endpoint(write: Callable[..., Path], tmp_path: Path) -> None:
    with serving(speaking()) as (url, seen):
        config = write(url, model={"name": "m", "endpoint": f"{url}/v1"})
        assert command("run", config, "-o", tmp_path / "out").code == 0
        assert len(seen) == 10
        assert {one["token"] for one in seen} == {None}


def test_an_endpoint_folds_no_system_turn(tmp_path: Path) -> None:
    """The template is the endpoint's own: a key that would do nothing is refused."""
    model = {"name": "m", "endpoint": "http://127.0.0.1:9/v1", "fold_system": True}
    document = {"model": model, "prompts": ["a"], "outcomes": {"per_prompt": 2}, "strength": 1, "groups": []}
    (tmp_path / "run.json").write_text(json.dumps(document | {"groups": [{"name": "a", "reward": "brevity"}]}))
    found = command("run", tmp_path / "run.json", "-o", tmp_path / "out")
    assert found.code == 2
    assert "model: must have no fold_system beside an endpoint" in found.err
