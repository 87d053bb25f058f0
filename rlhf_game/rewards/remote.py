"""Rewards that another machine computes: a scoring endpoint over HTTP, and a language model as the judge.

Both wait at most ``timeout`` seconds for an answer, try again with growing pauses when the other side is busy or away,
and say which endpoint failed. Nothing is sent before a reward is called.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from typing import Any, ClassVar, final

from rlhf_game.errors import InputError, MissingExtra, RunError
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
        _check_url(self.url)

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
        if self.key_env is not None:
            headers["Authorization"] = f"Bearer {_key(self.key_env)}"
        request = urllib.request.Request(self.url, json.dumps(document).encode(), headers)
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2.0 ** (attempt - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return self._read(answer.read(), count)
            except urllib.error.HTTPError as error:
                reason = f"it answers {error.code} {error.reason}"
                error.close()
                if error.code not in BUSY:
                    raise RunError(f"the endpoint {self.url} failed: {reason}") from error
            except urllib.error.URLError as error:
                reason = str(error.reason)
            except TimeoutError:
                reason = f"no answer within {self.timeout:g} seconds"
            except (OSError, HTTPException) as error:
                reason = f"{type(error).__name__}: {error}"
        raise RunError(f"the endpoint {self.url} failed {self.retries + 1} times, the last time: {reason}")

    def _read(self, body: bytes, count: int) -> list[float]:
        try:
            scores = json.loads(body)["scores"]
            found = [float(score) for score in scores if not isinstance(score, bool)]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f'the endpoint {self.url} must answer {{"scores": [..]}}, got {body[:80]!r}') from error
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
    """A language model behind an OpenAI-compatible endpoint that grades each response from ``low`` to ``high``.

    url: the base URL, such as http://127.0.0.1:8000/v1. instruction: what to grade. key_env: the environment variable
    with the key; None for servers that want none. workers: questions asked at the same time.
    """

    model: str
    url: str
    instruction: str
    low: float = 1.0
    high: float = 10.0
    timeout: float = 60.0
    retries: int = 4
    workers: int = 4
    key_env: str | None = None
    __name__: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not self.low < self.high:
            raise InputError(f"low must be below high, got low {self.low} and high {self.high}")

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ModuleNotFoundError as error:
            raise MissingExtra("judge", "openai") from error
        key = "none" if self.key_env is None else _key(self.key_env)
        return OpenAI(base_url=self.url, api_key=key, timeout=self.timeout, max_retries=self.retries)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """Return one grade per completion. Raises RunError that names the endpoint."""
        client = self._client
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(lambda pair: self._grade(client, *pair), zip(prompts, completions, strict=True)))

    def _grade(self, client: Any, prompt: Text, completion: Text) -> float:
        from openai import OpenAIError

        rule = f"{self.instruction}\nAnswer with one number from {self.low:g} to {self.high:g} and nothing else."
        turns = [
            {"role": "system", "content": rule},
            {"role": "user", "content": f"Prompt:\n{plain(prompt)}\n\nResponse:\n{plain(completion)}"},
        ]
        try:
            answer = client.chat.completions.create(model=self.model, messages=turns, temperature=0.0, max_tokens=16)
            said = str(answer.choices[0].message.content)
        except (OpenAIError, IndexError, AttributeError, TypeError) as error:
            raise RunError(f"the judge {self.model} at {self.url} failed: {error}") from error
        number = re.search(r"-?\d+(?:\.\d+)?", said)
        if number is None or not self.low <= float(number[0]) <= self.high:
            wanted = f"a number from {self.low:g} to {self.high:g}"
            raise RunError(f"the judge {self.model} at {self.url} must answer {wanted}, got {said[:80]!r}")
        return float(number[0])

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the grades come from."""
        return {"endpoint": self.url, "model": self.model, "instruction": self.instruction}


def _check_url(url: str) -> None:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise InputError(f"url must be an address that starts with http:// or https://, got {url!r}")


def _key(variable: str) -> str:
    key = os.environ.get(variable)
    if not key:
        raise InputError(f"key_env: the environment variable {variable} must hold the key, it is not set")
    return key
