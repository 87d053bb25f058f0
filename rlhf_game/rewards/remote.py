"""Rewards that another machine computes: a scoring endpoint over HTTP, and a language model as the judge.

Both wait at most ``timeout`` seconds for an answer, try again with growing pauses when the other side is busy or away,
and say which endpoint failed. Nothing is sent before a reward is called, and no key is ever shown.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar, final

from rlhf_game.chat import (
    REPLIES,
    Chat,
    ChatModel,
    Endpoint,
    Ledger,
    LocalModel,
    Request,
    ask_once,
    grade_digits,
    grade_rule,
    read_grade,
)
from rlhf_game.chat.keys import check_url, read_key, without_key
from rlhf_game.errors import InputError, RunError
from rlhf_game.rewards.texts import Text, plain

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers after which trying again may help."""


@final
@dataclass(frozen=True)
class ScoreEndpoint:
    """POST {"prompts": [..], "completions": [..]} to ``url``; the answer is {"scores": [..]}, one number each.

    timeout: seconds for one answer. retries: further attempts; the k-th waits pause * 2^(k-1) seconds. key_env: the
    environment variable with a bearer token. is_identified: say so when its scores of different prompts compare.
    """

    url: str
    timeout: float = 30.0
    retries: int = 4
    pause: float = 0.5
    batch_size: int = 64
    key_env: str | None = None
    is_identified: bool = False
    __name__: ClassVar[str] = "endpoint"

    def __post_init__(self) -> None:
        check_url(self.url)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one score per completion. Raises RunError that names the endpoint."""
        asked, texts = [plain(p) for p in prompts], [plain(t) for t in completions]
        scores: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            part = slice(start, start + self.batch_size)
            scores += self._post({"prompts": asked[part], "completions": texts[part]}, len(texts[part]))
        return scores

    def _post(self, document: dict[str, list[str]], count: int) -> list[float]:
        headers = {"Content-Type": "application/json"}
        key = None if self.key_env is None else read_key(self.key_env)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(document).encode(), headers)
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2.0 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return self._read(without_key(answer.read().decode(errors="replace"), key), count)
            except urllib.error.HTTPError as error:
                reason = without_key(f"it answers {error.code} {error.reason}", key)
                error.close()
                if error.code not in BUSY:
                    raise RunError(f"the endpoint {self.url} failed: {reason}") from None
            except urllib.error.URLError as error:
                reason = str(error.reason)
            except TimeoutError:
                reason = f"no answer within {self.timeout:g} seconds"
            except (OSError, HTTPException) as error:
                reason = without_key(f"{type(error).__name__}: {error}", key)
        raise RunError(f"the endpoint {self.url} failed {self.retries + 1} times, the last time: {reason}")

    def _read(self, body: str, count: int) -> list[float]:
        try:
            scores = json.loads(body)["scores"]
            found = [float(score) for score in scores if not isinstance(score, bool)]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f'the endpoint {self.url} must answer {{"scores": [..]}}, got {body[:80].encode()!r}'
            ) from error
        if len(found) != count:
            raise RunError(f"the endpoint {self.url} must answer {count} scores, got {len(found)}")
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the scores come from."""
        return {"endpoint": self.url}


@final
@dataclass(frozen=True)
class Judge:
    """A language model that grades each response from ``low`` to ``high``.

    url: the base URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1; None when ``model`` is on this
    machine. instruction: what to grade. key_env: the environment variable with the key; None for servers that want
    none. workers: questions asked at the same time. max_tokens: of an answer, None for servers that want no limit;
    models that think before they answer need many. calls: the folder that keeps answers and their account.
    """

    model: str
    url: str | None
    instruction: str
    low: float = 1.0
    high: float = 10.0
    timeout: float = 60.0
    retries: int = 4
    workers: int = 4
    key_env: str | None = None
    max_tokens: int | None = 16
    temperature: float | None = 0.0
    calls: Path | None = None
    base: Path | None = None
    __name__: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        if self.url is not None:
            check_url(self.url)
        if not self.low < self.high:
            raise InputError(f"low must be below high, got low {self.low} and high {self.high}")

    @cached_property
    def _model(self) -> ChatModel:
        if self.url is None:
            return LocalModel(self.model, base=self.base)
        return Endpoint(self.model, self.url, self.key_env, self.timeout, self.retries, workers=self.workers)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one grade per completion. Raises RunError that names the judge."""
        kept = Chat(self._model, Ledger(None)) if self.calls is None else Chat.kept_in(self.calls, self._model)
        return [self._grade(reply.text) for reply in kept.ask(self._requests(prompts, completions), "judge")]

    def count(self, prompts: Sequence[Text], completions: Sequence[Text], ledger: Ledger) -> None:
        """Count in ``ledger`` what grading the completions would ask; nothing is asked."""
        kept = None if self.calls is None else self.calls / REPLIES
        Chat.dry(self._model, ledger, cache=kept).ask(self._requests(prompts, completions), "judge")

    def _requests(self, prompts: Sequence[Text], completions: Sequence[Text]) -> list[Request]:
        rule = f"{self.instruction}\n{grade_rule(self.low, self.high)}"
        return [
            ask_once(
                f"Prompt:\n{plain(prompt)}\n\nResponse:\n{plain(completion)}",
                rule,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                digits=grade_digits(self.low, self.high),
            )
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _grade(self, said: str) -> float:
        grade = read_grade(said, self.low, self.high)
        if grade is None:
            where = "" if self.url is None else f" at {self.url}"
            wanted = f"a number from {self.low:g} to {self.high:g}"
            raise RunError(f"the judge {self.model}{where} must answer {wanted}, got {said[:80]!r}")
        return grade

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the grades come from."""
        return {"endpoint": self.url, "model": self.model, "instruction": self.instruction}
