"""Judges are asked for JSON where that is taken, asked again without a grade, and no answer without one is kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import RunError
from rlhf_game.chat import Chat, Endpoint, GradeScale, Ledger, Reply, ask_once
from tests.servers import chatting, serving


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def grading(replies: Sequence[str], **more: Any) -> Any:
    """Answer with one reply after the other."""

    def answer(document: dict[str, Any], number: int) -> tuple[int, Any]:
        status, body = chatting(lambda asked: replies[min(number, len(replies)) - 1])(document, number)
        body["choices"][0].update(more)
        return status, body

    return answer


def test_json_by_schema_is_asked_for_where_the_endpoint_takes_it(tmp_path: Path) -> None:
    with serving(grading(['{"grade": 7}'])) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1", workers=1))
        asked = [
            ask_once("a"),
            ask_once("a", scale=GradeScale(1, 9)),
            ask_once("a", scale=GradeScale(1, 9, explains=True)),
        ]
        assert [one.grade for one in chat.grade(asked[1:], "judge", None)] == [7.0, 7.0]
        chat.ask(asked, "judge")
    assert len(seen) == 3  # the scale is part of the question
    for one, scale in zip(seen, (asked[1].scale, asked[2].scale), strict=False):
        assert scale is not None
        schema = {"name": "grade", "strict": True, "schema": scale.schema}
        assert one["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert "response_format" not in seen[2]


@pytest.mark.parametrize("status", [400, 415, 422, 501])
def test_an_endpoint_that_takes_no_schema_is_asked_without_and_remembered(status: int, tmp_path: Path) -> None:
    def plain(document: dict[str, Any], number: int) -> tuple[int, Any]:
        refusal = status, {"error": {"message": "response_format is not supported"}}
        return refusal if "response_format" in document else grading(["Grade: 7"])(document, number)

    requests = [ask_once(question, scale=GradeScale(1, 9)) for question in "abc"]
    with serving(plain) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1", workers=1))
        assert [one.grade for one in chat.grade(requests, "judge", None)] == [7.0] * 3
    assert ["response_format" in one for one in seen] == [True, False, False, False]
    with serving(lambda d, n: (status, {"error": {"message": "no such model"}})) as (url, seen):
        with pytest.raises(RunError, match="no such model"):
            Chat(Endpoint("m", f"{url}/v1", workers=1), Ledger(None)).grade(requests, "judge", None)
        assert len(seen) == 2


def test_options_go_before_the_fields_of_a_request_and_null_leaves_one_out() -> None:
    options = {"max_completion_tokens": 500, "max_tokens": None, "temperature": None, "response_format": None}
    with serving(grading(["7"])) as (url, seen):
        endpoint = Endpoint("m", f"{url}/v1", options={**options, "reasoning_effort": "low"})
        Chat(endpoint, Ledger(None)).grade([ask_once("a", scale=GradeScale(1, 9))], "judge", None)
    assert set(seen[0]) - {"at", "token"} == {"model", "messages", "max_completion_tokens", "reasoning_effort"}


def test_an_answer_without_a_grade_is_asked_for_again_and_never_kept(tmp_path: Path) -> None:
    request = ask_once("a", scale=GradeScale(1, 9))
    with serving(grading(["no idea", "11", "7"])) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"), retries=2)
        (graded,) = chat.grade([request], "judge", None)
        assert (graded.grade, graded.said, graded.is_declared) == (7.0, "7", False)
        assert len(seen) == 3
        chat.grade([request], "judge", None)
        assert len(seen) == 3
    (kept,) = (tmp_path / "replies").rglob("*.json")
    assert json.loads(kept.read_text())["reply"]["text"] == "7"
    report = report_of(tmp_path)
    assert (report["calls"], report["cached"], report["ungraded_calls"], report["prompt_tokens"]) == (4, 1, 2, 30)


@pytest.mark.parametrize("reply", ["no idea", "7", '{"grade": 7'])
def test_what_stays_without_a_grade_fails_with_its_file_or_counts_as_declared(reply: str, tmp_path: Path) -> None:
    requests = [ask_once("a", scale=GradeScale(1, 9)), ask_once("b", scale=GradeScale(1, 9))]

    def cut(document: dict[str, Any], number: int) -> tuple[int, Any]:
        is_cut = document["messages"][0]["content"] == "b"
        return grading([reply if is_cut else "8"], finish_reason="length" if is_cut else "stop")(document, number)

    with serving(cut) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"), retries=1)
        for asked in (3, 5):
            with pytest.raises(
                RunError, match="must answer a number from 1 to 9, got none for 1 of .* in 2 ans"
            ) as caught:
                chat.grade(requests, "judge", None)
            assert len(seen) == asked  # what was graded is not asked for again
        (kept,) = (tmp_path / "replies").rglob("*.json")
        assert json.loads(kept.read_text())["reply"]["text"] == "8"
        (refused,) = (tmp_path / "ungraded").rglob("*.json")
        assert json.loads(refused.read_text())["reply"]["text"] == reply
        for part in (
            str(refused),
            repr(reply),
            "cut at its limit",
            "run it again",
            "ungraded: GRADE",
            f"m at {url}/v1",
        ):
            assert part in str(caught.value)
        found = chat.grade(requests, "judge", 2.0)
    assert [(one.grade, one.is_declared) for one in found] == [(8.0, False), (2.0, True)]


def test_a_kept_answer_without_a_grade_is_none_whoever_put_it_there(tmp_path: Path) -> None:
    request = ask_once("a", scale=GradeScale(1, 9))
    with serving(grading(["7"])) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"))
        assert chat.cache is not None
        chat.cache.write(chat.model.identity, request, Reply("no idea", 1, 1))
        assert chat.grade([request], "judge", None)[0].grade == 7.0
        assert chat.grade([request], "judge", None)[0].grade == 7.0
        assert len(seen) == 1
