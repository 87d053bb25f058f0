"""Remote rewards against servers on this machine: batches, retries with growing pauses, errors that name them."""

import re
import threading
from typing import Any

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.rewards import Judge, ScoreEndpoint, call_reward
from tests.servers import Answer, chatting, serving


def lengths(document: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, {"scores": [len(text) for text in document["completions"]]}


def test_scores_come_back_in_order_and_in_batches() -> None:
    with serving(lengths) as (url, seen):
        endpoint = ScoreEndpoint(f"{url}/score", batch_size=2)
        assert call_reward(endpoint, ["p"] * 5, ["a", "bb", "", "cccc", "ddd"]).tolist() == [1, 2, 0, 4, 3]
        assert sorted(len(one["prompts"]) for one in seen) == [1, 2, 2]


def test_a_busy_endpoint_is_asked_again_with_growing_pauses() -> None:
    with serving(lambda document, n: (503, {}) if n < 4 else lengths(document, n)) as (url, seen):
        assert ScoreEndpoint(url, pause=0.05, retries=3)(["p"], ["abc"]) == [3.0]
    gaps = [b["at"] - a["at"] for a, b in zip(seen, seen[1:], strict=False)]
    assert len(gaps) == 3
    assert all(gap >= 0.05 * 2**k for k, gap in enumerate(gaps))


@pytest.mark.parametrize(
    ("answer", "said", "requests"),
    [
        (lambda d, n: (500, {}), "failed 3 times, the last time: it answers 500", 3),
        (lambda d, n: (404, {}), "failed: it answers 404", 1),
        (lambda d, n: (200, {"numbers": [1]}), r"must answer {\"scores\": \[..\]} with numbers, got", 1),
        (lambda d, n: (200, b"<html>"), r"it must answer JSON, found '<html>'", 1),
        (lambda d, n: (200, {"scores": [1, 2]}), "must answer 1 scores, got 2", 1),
    ],
)
def test_an_error_names_the_endpoint(answer: Answer, said: str, requests: int) -> None:
    with serving(answer) as (url, seen):
        with pytest.raises(RunError, match=said) as caught:
            ScoreEndpoint(url, retries=2, pause=0.001)(["p"], ["abc"])
        assert url in str(caught.value)
        assert len(seen) == requests


@pytest.mark.parametrize(
    "body",
    [b'{"scores": [%s]}' % said for said in (b"null", b"true", b'"1"', b"NaN", b"Infinity", b"1" + b"0" * 400, b"[1]")]
    + [b'{"scores": {"0": 1}}', b'{"scores": 1}', b"[1.0]"],
)
def test_scores_must_be_finite_numbers(body: bytes) -> None:
    said = r"must answer {\"scores\": \[..\]} with numbers, got"
    with serving(lambda document, n: (200, body)) as (url, _), pytest.raises(RunError, match=said):
        ScoreEndpoint(url)(["p"], ["abc"])


def test_an_endpoint_that_hangs_or_is_not_there_is_named() -> None:
    release = threading.Event()

    def hang(document: dict[str, Any], number: int) -> tuple[int, Any]:
        release.wait(5)
        return 200, {"scores": [1.0]}

    with serving(hang) as (url, _):
        with pytest.raises(RunError, match="no answer within 0.1 seconds|timed out") as caught:
            ScoreEndpoint(url, timeout=0.1, retries=1, pause=0.001)(["p"], ["abc"])
        release.set()
    assert url in str(caught.value)
    with pytest.raises(RunError, match=f"{url}.*refused"):  # the server has gone
        ScoreEndpoint(url, retries=0)(["p"], ["abc"])


def test_a_token_is_sent_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE_TOKEN", "abc")
    with serving(lengths) as (url, seen):
        ScoreEndpoint(url, key_env="SCORE_TOKEN")(["p"], ["x"])
        assert seen[0]["token"] == "Bearer abc"
        monkeypatch.delenv("SCORE_TOKEN")
        with pytest.raises(InputError, match="the environment variable SCORE_TOKEN must hold the key"):
            ScoreEndpoint(url, key_env="SCORE_TOKEN")(["p"], ["x"])


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "file:///etc/passwd",
        "localhost:80",
        "http://a b/",
        "http://h:99999/",
        "http://[h/",
        "http://h\n/",
        "",
    ],
)
def test_only_http_is_an_endpoint(url: str) -> None:
    with pytest.raises(InputError, match="must be an address that starts with http"):
        ScoreEndpoint(url)
    with pytest.raises(InputError, match="must be an address that starts with http"):
        Judge("m", url, "grade")


def test_batches_are_asked_by_as_many_workers_as_declared_and_none_is_begun_after_a_failure() -> None:
    together = threading.Barrier(3)

    def waits(document: dict[str, Any], number: int) -> tuple[int, Any]:
        together.wait(5)  # answers only where three ask at the same time
        return lengths(document, number)

    texts = ["x" * k for k in range(6)]
    with serving(waits) as (url, seen):
        assert ScoreEndpoint(url, batch_size=1, workers=3)(["p"] * 6, texts) == [0, 1, 2, 3, 4, 5]
    with serving(lambda d, n: (400, {}) if n == 2 else lengths(d, n)) as (url, seen):
        with pytest.raises(RunError, match="it answers 400"):
            ScoreEndpoint(url, batch_size=1, workers=1)(["p"] * 6, texts)
        assert len(seen) == 2


def test_a_judge_grades_every_response() -> None:
    with serving(chatting(lambda asked: f"{asked.count('!') + 1}.5")) as (url, seen):
        judge = Judge("tiny", f"{url}/v1", "How excited is it?", low=0, high=10)
        assert call_reward(judge, ["p", "q", "r"], ["a!!", "b", "c!"]).tolist() == [3.5, 1.5, 2.5]
        assert judge.provenance["endpoint"] == f"{url}/v1"
    rules = {one["messages"][0]["content"] for one in seen}
    assert rules == {"How excited is it?\nAnswer with one number from 0 to 10 and nothing else."}
    assert {one["temperature"] for one in seen} == {0.0}


def test_a_judge_that_is_busy_is_asked_again() -> None:
    def busy(document: dict[str, Any], number: int) -> tuple[int, Any]:
        return (429, {}) if number == 1 else chatting(lambda asked: "7")(document, number)

    with serving(busy) as (url, seen):
        assert Judge("tiny", url, "grade", retries=1)(["p"], ["a"]) == [7.0]
        assert len(seen) == 2


@pytest.mark.parametrize("reply", ["no idea", "11", "I cannot grade this; see section 3."])
def test_a_judge_without_a_grade_is_named(reply: str) -> None:
    said = re.escape("must answer a number from 1 to 10, got none for 1 of its questions in 3 answers each; the last")
    with serving(chatting(lambda asked: reply)) as (url, seen):
        with pytest.raises(RunError, match=said) as caught:
            Judge("tiny", url, "grade", retries=2)(["p"], ["a"])
        assert len(seen) == 3
    assert f"the judge tiny at {url}" in str(caught.value)
    assert repr(reply) in str(caught.value)


def test_grades_that_a_judge_does_not_give_count_as_declared_and_are_counted() -> None:
    with serving(chatting(lambda asked: "7" if "good" in asked else "no idea")) as (url, _):
        judge = Judge("tiny", url, "grade", retries=0, ungraded=2.0)
        assert judge(["p"] * 3, ["good", "bad", "worse"]) == [7.0, 2.0, 2.0]
        assert judge.provenance["ungraded"] == 2
    for ungraded in (0.5, 11.0, float("nan")):
        with pytest.raises(InputError, match="ungraded must be a grade from 1 to 10"):
            Judge("tiny", url, "grade", ungraded=ungraded)


def test_a_judge_sends_what_it_is_told_to_and_nothing_that_is_left_out() -> None:
    with serving(chatting(lambda asked: "7")) as (url, seen):
        Judge("tiny", url, "grade")(["p"], ["a"])
        Judge("tiny", url, "grade", temperature=None, options={"max_completion_tokens": 9})(["p"], ["a"])
        Judge("tiny", url, "grade", max_tokens=5, temperature=0.5)(["p"], ["a"])
    sent = [
        {key: one[key] for key in one.keys() & {"temperature", "max_tokens", "max_completion_tokens"}} for one in seen
    ]
    assert sent == [{"temperature": 0.0}, {"max_completion_tokens": 9}, {"max_tokens": 5, "temperature": 0.5}]


def test_a_judge_that_is_not_there_is_named() -> None:
    with pytest.raises(RunError, match=r"the judge tiny at http://127.0.0.1:9/v1 failed: connection error"):
        Judge("tiny", "http://127.0.0.1:9/v1", "grade", retries=0)(["p"], ["a"])
