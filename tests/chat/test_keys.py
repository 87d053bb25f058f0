"""No key is ever kept or shown, whatever a server does with it."""

import base64
import json
import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.chat import Chat, Endpoint, Ledger, ask_once
from rlhf_game.chat.keys import HIDDEN, hidden, without_key
from rlhf_game.rewards import Judge, ScoreEndpoint
from tests.servers import chatting, serving

KEY = 'sk-"very/secret"+ü=\\9'


@pytest.fixture
def variable(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CHAT_KEY", KEY.encode("ascii", "ignore").decode())
    return KEY.encode("ascii", "ignore").decode()


def forms(key: str) -> list[str]:
    return [key, json.dumps(key)[1:-1], quote(key), quote(key, safe=""), base64.b64encode(key.encode()).decode()]


def assert_hidden(said: str, key: str) -> None:
    for form in forms(key):
        assert form not in said


@pytest.mark.parametrize("key", ["plain", KEY, "a b\nc"])
def test_a_key_is_taken_out_in_every_form(key: str) -> None:
    said = " and ".join(forms(key))
    assert_hidden(without_key(said, key), key)
    assert without_key(f"it is {key}!", key) == f"it is {HIDDEN}!"
    assert without_key("nothing here", key) == "nothing here"
    assert without_key("nothing here", None) == "nothing here"


def test_a_key_is_taken_out_of_every_text_of_a_document() -> None:
    document = {KEY: [KEY, {"a": f"x{KEY}", "b": [1, None, True, 0.5]}], "c": "plain"}
    assert hidden(document, KEY) == {
        HIDDEN: [HIDDEN, {"a": f"x{HIDDEN}", "b": [1, None, True, 0.5]}],
        "c": "plain",
    }
    assert hidden(document, None) == document


def test_the_key_is_sent_and_kept_nowhere(variable: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def echoes(document: dict[str, Any], number: int) -> tuple[int, Any]:
        return chatting(lambda asked: f"your key is {variable}, in short {quote(variable)}")(document, number)

    caplog.set_level(logging.DEBUG)
    with serving(echoes) as (url, seen):
        endpoint = Endpoint("m", f"{url}/v1", "CHAT_KEY")
        chat = Chat.kept_in(tmp_path, endpoint)
        (reply,) = chat.ask([ask_once("a")], "writer")
        assert seen[0]["token"] == f"Bearer {variable}"
    assert reply.text == f"your key is {HIDDEN}, in short {HIDDEN}"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    for said in (*(path.read_text() for path in files), repr(chat), repr(reply), caplog.text):
        assert_hidden(said, variable)


@pytest.mark.parametrize("status", [400, 401, 503])
def test_a_server_that_echoes_the_key_in_an_error_does_not_get_it_shown(
    status: int, variable: str, tmp_path: Path
) -> None:
    def echoes(document: dict[str, Any], number: int) -> tuple[int, Any]:
        long = "x" * 280  # so that the cut of long messages falls into the key
        return status, {"error": {"message": f"wrong key {variable} {long} {variable}", "more": quote(variable)}}

    with serving(echoes) as (url, _):
        for asked in (
            lambda: Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1", "CHAT_KEY", retries=0)).ask(
                [ask_once("a")], "writer"
            ),
            lambda: Judge("m", f"{url}/v1", "grade", retries=0, key_env="CHAT_KEY", calls=tmp_path)(["p"], ["a"]),
        ):
            with pytest.raises(RunError) as caught:
                asked()
            shown = "".join(traceback.format_exception(caught.value))
            assert_hidden(shown, variable)
            assert variable[:6] not in shown
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or variable[:6] not in path.read_text()


def test_a_scoring_endpoint_hides_its_key_too(variable: str) -> None:
    for status, body in ((200, {"oops": variable}), (401, {})):
        with serving(lambda document, n, status=status, body=body: (status, body)) as (url, _):
            with pytest.raises(RunError) as caught:
                ScoreEndpoint(url, retries=0, key_env="CHAT_KEY")(["p"], ["a"])
            assert_hidden("".join(traceback.format_exception(caught.value)), variable)


@pytest.mark.parametrize("url", ["https://me:pass@host/v1", "http://sk-123@host/v1"])
def test_an_address_with_a_password_is_refused_without_showing_it(url: str) -> None:
    for made in (lambda: Endpoint("m", url), lambda: ScoreEndpoint(url), lambda: Judge("m", url, "grade")):
        with pytest.raises(InputError, match="must hold no user and no password") as caught:
            made()
        assert "pass@" not in str(caught.value)
        assert "sk-123" not in str(caught.value)


def test_a_key_that_is_not_set_is_named_before_anything_is_sent() -> None:
    with serving(chatting(lambda asked: asked)) as (url, seen):
        with pytest.raises(InputError, match="key_env: the environment variable NO_SUCH_KEY must hold the key"):
            Chat(Endpoint("m", f"{url}/v1", "NO_SUCH_KEY"), Ledger(None)).ask([ask_once("a")], "writer")
        assert seen == []


def test_importing_chats_loads_no_client() -> None:
    code = "import sys, rlhf_game.chat; print('httpx2' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
