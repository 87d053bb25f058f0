"""The one way to other machines: no redirect is followed, no key leaks, and a call ends when it has to."""

import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.chat import Chat, Endpoint, Ledger, ask_once
from rlhf_game.chat.transport import _asked_to_wait
from rlhf_game.rewards import Judge, ScoreEndpoint
from tests.servers import chatting, serving

KEY = "sk-secret-0123456789"
Asking = Callable[..., Any]


def score(url: str, **how: Any) -> list[float]:
    return ScoreEndpoint(f"{url}/score", pause=0.01, **how)(["p"], ["abc"])


def chat(url: str, **how: Any) -> list[str]:
    endpoint = Endpoint("m", f"{url}/v1", pause=0.01, **how)
    return [reply.text for reply in Chat(endpoint, Ledger(None)).ask([ask_once("a")], "writer")]


def judge(url: str, **how: Any) -> list[float]:
    return Judge("m", f"{url}/v1", "grade", **how)(["p"], ["abc"])


def answers(document: dict[str, Any], number: int) -> tuple[int, Any]:
    if "completions" in document:
        return 200, {"scores": [7.0 for _ in document["completions"]]}
    return chatting(lambda asked: "7")(document, number)


EVERY_CLIENT = pytest.mark.parametrize("ask", [score, chat, judge])


@EVERY_CLIENT
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(ask: Asking, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(answers) as (other, stolen):
        for target in (f"{other}/score", f"{other}/{KEY}", "/elsewhere"):
            with serving(lambda d, n, to=target: (status, {}, {"Location": to})) as (url, seen):
                with pytest.raises(
                    RunError, match=f"it answers {status}, a redirect to .*, which is not foll"
                ) as caught:
                    ask(url, key_env="SOME_KEY")
                assert len(seen) == 1
                assert KEY not in "".join(traceback.format_exception(caught.value))
                assert "\n" not in str(caught.value)
        assert stolen == []


@EVERY_CLIENT
@pytest.mark.parametrize(
    "key", [f"{KEY}\nX-More: 1", f"{KEY}\r", f"{KEY} b", f"{KEY}\x00", f"{KEY}\u00fc", "\u2028" + KEY]
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    ask: Asking, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.environ", {"SOME_KEY": f"a{key}b"})
    with serving(answers) as (url, seen):
        with pytest.raises(InputError, match="variable SOME_KEY must hold a key of visible ASCII char") as caught:
            ask(url, key_env="SOME_KEY")
        assert KEY[:6] not in "".join(traceback.format_exception(caught.value))
        assert seen == []


@EVERY_CLIENT
def test_white_space_around_a_key_is_none_of_it(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", f" {KEY}\n")
    with serving(answers) as (url, seen):
        ask(url, key_env="SOME_KEY")
        assert seen[0]["token"] == f"Bearer {KEY}"


def trickle(start: bytes) -> Iterator[bytes]:
    yield start
    for _ in range(100):
        time.sleep(0.05)
        yield b" "


@EVERY_CLIENT
@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nX-A:",
        b"HTTP/1",
    ],
)
def test_a_timeout_is_for_the_whole_call_however_the_answer_trickles(ask: Asking, start: bytes) -> None:
    with serving(lambda d, n: (200, trickle(start))) as (url, seen):
        begun = time.monotonic()
        with pytest.raises(RunError, match="no answer within 0.2 seconds"):
            ask(url, timeout=0.2, retries=0)
        assert time.monotonic() - begun < 1.5


@EVERY_CLIENT
@pytest.mark.parametrize("in_words", [False, True])
def test_what_the_server_asks_to_wait_is_waited(ask: Asking, in_words: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("rlhf_game.chat.transport.sleep", waited.append)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    busy = 429, {}, {"Retry-After": later if in_words else "29.5"}
    with serving(lambda document, n: busy if n == 1 else answers(document, n)) as (url, seen):
        ask(url, retries=1)
    assert len(seen) == 2
    assert waited == [pytest.approx(29, abs=1.5)]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("", 0), ("5", 5), ("-5", 0), ("nan", 0), ("soon", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 99", 0)],
)
def test_a_wait_is_a_number_of_seconds_or_a_date(said: str, seconds: float) -> None:
    assert _asked_to_wait(said) == seconds


@EVERY_CLIENT
def test_no_wait_is_longer_than_a_minute(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("rlhf_game.chat.transport.sleep", waited.append)
    with serving(lambda d, n: (503, {}, {"Retry-After": "inf"})) as (url, _), pytest.raises(RunError, match="2 times"):
        ask(url, retries=1)
    assert waited == [60.0]


@EVERY_CLIENT
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[" * 100_000, b"1" * 10_000, b"\xff\xfe", b"null", b"7", b"[]", b'{"choices": [{}]}']
)
def test_what_is_no_answer_is_one_line(ask: Asking, body: bytes) -> None:
    with serving(lambda d, n: (200, body)) as (url, seen):
        with pytest.raises(RunError, match=url) as caught:
            ask(url)
        assert len(seen) == 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@EVERY_CLIENT
def test_an_answer_without_end_is_cut_off(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_game.chat.transport.LARGEST_ANSWER", 1000)
    with serving(lambda d, n: (200, b"x" * 2000)) as (url, _), pytest.raises(RunError, match="more than 1000 bytes"):
        ask(url)


@EVERY_CLIENT
def test_a_server_that_hangs_up_is_asked_again_and_named(ask: Asking) -> None:
    with serving(lambda d, n: (200, iter([b""]))) as (url, seen):
        with pytest.raises(RunError, match=f"{url}.* failed 2 times, the last time: connection error"):
            ask(url, retries=1)
        assert len(seen) == 2
