"""Chats: every answer is paid for once, nothing more is asked at the same time than allowed, all is accounted for."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.chat import Chat, Endpoint, GradeScale, Ledger, LocalModel, Prices, Request, ask_once
from rlhf_game.chat.cache import content_key
from rlhf_game.files.conversations import Message
from tests import tiny
from tests.servers import chatting, serving


def ask(chat: Chat, *questions: str) -> list[str]:
    return [reply.text for reply in chat.ask([ask_once(question) for question in questions], "writer")]


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_answers_come_back_in_order_and_equal_questions_are_asked_once(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked.upper())) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"))
        assert ask(chat, "a", "b", "a", "c") == ["A", "B", "A", "C"]
        assert len(seen) == 3
        two = [ask_once("a", draw=1), ask_once("a", system="be brief"), ask_once("a", temperature=1.0)]
        assert [reply.text for reply in chat.ask(two, "writer")] == ["A"] * 3
        assert len(seen) == 6  # each of them is another question


def test_a_rerun_pays_nothing_and_another_model_or_endpoint_is_asked(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked.upper())) as (url, seen):
        ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1")), "a", "b")
        assert ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1")), "b", "a") == ["B", "A"]
        assert ask(Chat.kept_in(tmp_path / "other", Endpoint("m", f"{url}/v1"), cache=tmp_path / "replies"), "a")
        assert len(seen) == 2
        ask(Chat.kept_in(tmp_path, Endpoint("n", f"{url}/v1")), "a")
        ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v2")), "a")
        ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1", options={"top_p": 0.5})), "a")
        assert [one.get("top_p") for one in seen] == [None] * 4 + [0.5]


def test_a_kept_answer_is_known_by_the_sha256_of_what_was_asked(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: "yes")) as (url, seen):
        ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1")), "a")
        (path,) = (tmp_path / "replies").rglob("*.json")
        document = json.loads(path.read_text())
        assert path.stem == content_key(document["asked"])
        assert document["asked"] == {
            "model": {"endpoint": f"{url}/v1", "model": "m"},
            "request": {
                "messages": [{"role": "user", "content": "a"}], "temperature": 0.0, "max_tokens": 256, "draw": 0
            },
        }  # fmt: skip
        path.write_text("half an ans")  # what another program left there is no answer
        assert ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1")), "a") == ["yes"]
        assert len(seen) == 2


def test_no_more_is_asked_at_the_same_time_than_workers() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def slow(document: dict[str, Any], number: int) -> tuple[int, Any]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1
        return chatting(lambda asked: asked)(document, number)

    for workers in (1, 3):
        most[0] = 0
        with serving(slow) as (url, seen):
            ask(Chat(Endpoint("m", f"{url}/v1", workers=workers), Ledger(None)), *"abcdefgh")
            assert len(seen) == 8
        assert most[0] == workers


def test_a_busy_endpoint_is_asked_again_with_growing_jittered_pauses(tmp_path: Path) -> None:
    answers = chatting(lambda asked: "at last")
    with serving(lambda document, n: (429, {}) if n < 4 else answers(document, n)) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1", pause=0.05, retries=3))
        assert ask(chat, "a") == ["at last"]
    gaps = [b["at"] - a["at"] for a, b in zip(seen, seen[1:], strict=False)]
    assert len(gaps) == 3
    assert all(0.05 * 2**k <= gap for k, gap in enumerate(gaps))
    assert report_of(tmp_path)["retries"] == 3


@pytest.mark.parametrize(("status", "requests"), [(503, 3), (400, 1), (401, 1), (404, 1)])
def test_an_error_names_purpose_model_and_endpoint(status: int, requests: int) -> None:
    with serving(lambda document, n: (status, {"error": {"message": "no"}})) as (url, seen):
        with pytest.raises(RunError, match=f"the writer m at {url}/v1 failed.*{status}"):
            ask(Chat(Endpoint("m", f"{url}/v1", pause=0.001, retries=2), Ledger(None)), "a")
        assert len(seen) == requests


@pytest.mark.parametrize("body", [b"<html>", {}, {"choices": []}, [1], b""])
def test_an_answer_that_is_none_is_an_error_in_one_line(body: Any) -> None:
    with serving(lambda document, n: (200, body)) as (url, _), pytest.raises(RunError, match=f"{url}/v1 failed"):
        ask(Chat(Endpoint("m", f"{url}/v1", retries=0), Ledger(None)), "a")


def test_what_was_answered_before_a_failure_is_kept(tmp_path: Path) -> None:
    is_up = [False]

    def fails_on_c(document: dict[str, Any], number: int) -> tuple[int, Any]:
        if document["messages"][0]["content"] == "c" and not is_up[0]:
            return 400, {}
        return chatting(lambda asked: asked)(document, number)

    with serving(fails_on_c) as (url, seen):
        endpoint = Endpoint("m", f"{url}/v1", workers=1)
        with pytest.raises(RunError):
            ask(Chat.kept_in(tmp_path, endpoint), *"abcde")
        assert [one["messages"][0]["content"] for one in seen] == ["a", "b", "c"]  # no further request is begun
        is_up[0] = True
        assert ask(Chat.kept_in(tmp_path, endpoint), *"abcde") == list("abcde")
        assert len(seen) == 6
    assert report_of(tmp_path)["calls"] - report_of(tmp_path)["cached"] == 5


CHILD = """
import sys
from pathlib import Path
from rlhf_game.chat import Chat, Endpoint, ask_once
chat = Chat.kept_in(Path(sys.argv[1]), Endpoint("m", sys.argv[2], workers=2))
print(*[reply.text for reply in chat.ask([ask_once(str(i)) for i in range(12)], "writer")])
"""


def test_after_kill_9_only_what_was_on_its_way_is_asked_again(tmp_path: Path) -> None:
    def slow(document: dict[str, Any], number: int) -> tuple[int, Any]:
        time.sleep(0.1)
        return chatting(lambda asked: asked)(document, number)

    with serving(slow) as (url, seen):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), f"{url}/v1"])
        while len(seen) < 6:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.3)  # the server answers what it has, to nobody
        kept, asked = len(list((tmp_path / "replies").rglob("*.json"))), len(seen)
        assert 0 < kept < 12
        again = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), f"{url}/v1"], capture_output=True, text=True, check=True
        )
        assert again.stdout.split() == [str(i) for i in range(12)]
        assert len(seen) == asked + 12 - kept
    report = report_of(tmp_path)
    assert report["calls"] - report["cached"] in (12, 13, 14)  # a call that was paid and lost is counted twice
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_account_adds_up_calls_tokens_and_prices(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked)) as (url, _):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"), prices=Prices(2.0, 30.0))
        ask(chat, "a", "b", "a")
        chat.ask([ask_once("a"), ask_once("d")], "judge")
    report = report_of(tmp_path)
    by = {row["purpose"]: row for row in report.pop("by")}
    paid = (10 * 2.0 + 2 * 30.0) / 1e6
    assert report == {
        "calls": 5, "cached": 2, "retries": 0, "prompt_tokens": 30, "completion_tokens": 6, "estimated_calls": 0,
        "ungraded_calls": 0,
        "price": pytest.approx(3 * paid),
    }  # fmt: skip
    assert (by["writer"]["calls"], by["writer"]["cached"], by["writer"]["price"]) == (3, 1, pytest.approx(2 * paid))
    assert (by["judge"]["calls"], by["judge"]["cached"], by["judge"]["model"]) == (2, 1, "m")


def test_a_broken_last_line_of_the_account_is_passed_over(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked)) as (url, _):
        endpoint = Endpoint("m", f"{url}/v1")
        ask(Chat.kept_in(tmp_path, endpoint), "a", "b")
        with (tmp_path / "ledger.jsonl").open("a") as file:
            file.write('{"purpose": "wri')
        ask(Chat.kept_in(tmp_path, endpoint), "c")
    assert report_of(tmp_path)["calls"] == 3


def test_a_server_that_does_not_count_gets_its_tokens_estimated(tmp_path: Path) -> None:
    def silent(document: dict[str, Any], number: int) -> tuple[int, Any]:
        status, body = chatting(lambda asked: "x" * 9)(document, number)
        del body["usage"]
        return status, body

    with serving(silent) as (url, _):
        ask(Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1")), "y" * 40)
    report = report_of(tmp_path)
    assert (report["estimated_calls"], report["prompt_tokens"], report["completion_tokens"]) == (1, 10, 3)


def test_a_dry_run_counts_and_asks_nothing(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked)) as (url, seen):
        endpoint = Endpoint("m", f"{url}/v1", key_env="NOT_SET_ANYWHERE")
        kept = Endpoint("m", f"{url}/v1")
        ask(Chat.kept_in(tmp_path, kept), "a")
        before = sorted(tmp_path.rglob("*"))
        ledger = Ledger(None)
        chat = Chat.dry(endpoint, ledger, cache=tmp_path / "replies", prices=Prices(1.0, 2.0))
        requests = [ask_once("a"), ask_once("b" * 8, max_tokens=5, pretend="maybe"), ask_once("b" * 8, max_tokens=5)]
        assert [reply.text for reply in chat.ask(requests, "judge")] == ["a", "maybe", "maybe"]
        assert len(seen) == 1
        assert sorted(tmp_path.rglob("*")) == before
    report = ledger.report()
    assert (report["calls"], report["cached"], report["prompt_tokens"], report["completion_tokens"]) == (3, 2, 2, 5)
    assert report["price"] == pytest.approx((2 + 10) / 1e6)


def test_what_is_pretended_is_no_part_of_a_question(tmp_path: Path) -> None:
    with serving(chatting(lambda asked: asked)) as (url, seen):
        chat = Chat.kept_in(tmp_path, Endpoint("m", f"{url}/v1"))
        chat.ask([ask_once("a", pretend="x"), ask_once("a", pretend="y")], "judge")
        chat.ask([ask_once("a")], "judge")
        assert len(seen) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("tiny"))


def texts(model: Path, questions: Sequence[str], **how: Any) -> list[str]:
    chat = Chat(LocalModel(str(model), batch_size=how.pop("batch_size", 16)), Ledger(None))
    requests = [ask_once(question, max_tokens=6, **how) for question in questions]
    return [reply.text for reply in chat.ask(requests, "writer")]


def test_a_local_model_answers_in_batches_and_the_place_of_a_question_does_not_matter(model: Path) -> None:
    questions = ["good", "please no yes", "thanks now", "bad bad", "maybe"]
    together = texts(model, questions, temperature=1.0)
    assert texts(model, questions[::-1], temperature=1.0)[::-1] == together
    assert [texts(model, [one], temperature=1.0)[0] for one in questions] == together
    assert texts(model, questions, temperature=1.0, batch_size=2) == together
    assert texts(model, questions, temperature=1.0, draw=1) != together


def test_temperature_zero_takes_the_likeliest_token_every_time(model: Path) -> None:
    import torch

    from rlhf_game.training_backends.lm.models import load_language_model

    loaded = load_language_model(str(model))
    ids = loaded.encode_prompt("please no", "good")
    for _ in range(6):
        with torch.inference_mode():
            ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in loaded.end_ids:
            break
    wanted = loaded.decode(ids[len(loaded.encode_prompt("please no", "good")) :]).strip()
    chat = Chat(LocalModel(str(model)), Ledger(None))
    turns = (Message("system", "good"), Message("user", "please no"))
    assert [reply.text for reply in chat.ask([Request(turns, 0.0, 6)], "writer")] == [wanted]


def test_a_local_model_is_known_by_its_weights_and_costs_no_second_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask_once("good", max_tokens=4), ask_once("bad", max_tokens=4)]
    Chat.kept_in(tmp_path, LocalModel(str(model))).ask(requests, "writer")
    assert len(LocalModel(str(model)).identity["sha256"]) == 64
    monkeypatch.setattr("rlhf_game.training_backends.lm.sampling.sample_batch", None)
    Chat.kept_in(tmp_path, LocalModel(str(model))).ask(requests[::-1], "writer")
    assert report_of(tmp_path)["cached"] == 2
    assert report_of(tmp_path)["prompt_tokens"] > 0


def test_a_grade_of_a_local_model_is_the_mean_digit_by_its_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rlhf_game.training_backends.lm.models import load_language_model

    monkeypatch.setattr(tiny, "WORDS", ("<pad>", "<bos>", "<eos>", "<unk>", *"12345678"))
    model = tiny.save_language_model(tmp_path)
    questions = ["1 2 3", "7", "5 5"]
    requests = [ask_once(question, scale=GradeScale(2, 4)) for question in questions]
    said = [float(reply.text) for reply in Chat(LocalModel(str(model)), Ledger(None)).ask(requests, "judge")]
    loaded = load_language_model(str(model))
    for question, mean in zip(questions, said, strict=True):
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([loaded.encode_prompt(question)])).logits[0, -1]
        shares = logits.double().softmax(-1)[[5, 6, 7]]  # where the words 2, 3 and 4 are
        assert mean == pytest.approx(float((shares * torch.tensor([2.0, 3.0, 4.0])).sum() / shares.sum()), abs=1e-4)
    assert len(set(said)) == 3


def test_a_local_model_without_digits_cannot_grade_with_them(model: Path) -> None:
    with pytest.raises(InputError, match="must have a token for each digit to grade with"):
        Chat(LocalModel(str(model)), Ledger(None)).ask([ask_once("good", scale=GradeScale(1, 2))], "judge")


def test_a_local_model_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="model: ./nowhere must be an existing folder"):
        ask(Chat(LocalModel("./nowhere"), Ledger(None)), "a")
