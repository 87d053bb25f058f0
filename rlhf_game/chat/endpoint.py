"""A language model behind an OpenAI-compatible endpoint, asked through the official client."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

from rlhf_game.chat.keys import check_url, read_key, without_key
from rlhf_game.chat.requests import ChatModel, Reply, Request, estimated_tokens
from rlhf_game.errors import MissingExtra, RunError
from rlhf_game.files.documents import shown

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which trying again may help."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""


@final
@dataclass(frozen=True)
class Endpoint(ChatModel):
    """A model behind an OpenAI-compatible endpoint.

    url: the base URL, such as http://127.0.0.1:8000/v1. key_env: the environment variable that holds the key; None for
    servers that want none. timeout: seconds for one answer. retries: further attempts; the k-th waits
    pause * 2^(k-1) * (1 + jitter) seconds, 0 <= jitter < 1, or as long as the server asks for. workers: requests at the
    same time. options: further fields of the body of every request, such as max_completion_tokens.
    """

    model: str
    url: str
    key_env: str | None = None
    timeout: float = 60.0
    retries: int = 4
    pause: float = 0.5
    workers: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_url(self.url)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The address, the model's name and the options."""
        known = {"endpoint": self.url, "model": self.model}
        return {**known, "options": dict(self.options)} if self.options else known

    def groups(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return every request alone."""
        return [[i] for i in range(len(requests))]

    def answer(self, requests: Sequence[Request], purpose: str) -> list[Reply]:
        """Return the answers, one after the other."""
        return [self._answer(request, purpose) for request in requests]

    @cached_property
    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ModuleNotFoundError as error:
            raise MissingExtra("judge", "openai") from error
        return OpenAI(base_url=self.url, api_key=self._key or "none", timeout=self.timeout, max_retries=0)

    @property
    def _key(self) -> str | None:
        return None if self.key_env is None else read_key(self.key_env)

    def _answer(self, request: Request, purpose: str) -> Reply:
        asked = request.document()
        body = {"messages": asked["messages"], "temperature": request.temperature, "max_tokens": request.max_tokens}
        body = {name: value for name, value in body.items() if value is not None}
        reason, wait = "", 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(max(wait, self.pause * 2.0 ** (attempt - 1) * (1.0 + _jitter(asked, attempt))))
            found = self._attempt(request, body, attempt)
            if isinstance(found, Reply):
                return found
            reason, is_busy, wait = found
            if not is_busy:
                raise RunError(f"the {purpose} {self.model} at {self.url} failed: {reason}")
        times = f" {self.retries + 1} times, the last time" if self.retries else ""
        raise RunError(f"the {purpose} {self.model} at {self.url} failed{times}: {reason}")

    def _attempt(self, request: Request, body: dict[str, Any], attempt: int) -> Reply | tuple[str, bool, float]:
        """Return the answer; or why there is none, whether trying again may help, and how long the server says to wait.

        No error leaves here: what the client raises may quote what the server said, and so the key.
        """
        client, key = self._client, self._key
        from openai import APIConnectionError, APIStatusError, OpenAIError

        try:
            said = client.chat.completions.create(model=self.model, **body, extra_body=dict(self.options) or None)
            choice = said.choices[0]
            text, finish = choice.message.content or "", choice.finish_reason
            usage = said.usage
        except APIStatusError as error:
            return self._reason(str(error), key), error.status_code in BUSY, _asked_to_wait(error)
        except APIConnectionError as error:
            cause = "" if error.__cause__ is None else f" ({error.__cause__})"
            return self._reason(f"{error}{cause}", key), True, 0.0
        except (OpenAIError, IndexError, AttributeError, TypeError, ValueError) as error:
            return self._reason(f"no chat completion came back: {type(error).__name__}: {error}", key), False, 0.0
        if usage is None:
            asked = sum(estimated_tokens(turn["content"]) for turn in body["messages"])
            counted = (asked, estimated_tokens(text))
        else:
            counted = (int(usage.prompt_tokens), int(usage.completion_tokens))
        return Reply(without_key(str(text), key), *counted, finish != "length", usage is None, attempt)

    @staticmethod
    def _reason(said: str, key: str | None) -> str:
        return shown(without_key(said, key), 300)  # cut only after the key is out: no half of it is left


def _asked_to_wait(error: Any) -> float:
    """Return the seconds of a Retry-After header, or 0."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(error.response.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


def _jitter(asked: Mapping[str, Any], attempt: int) -> float:
    """Return a number in [0, 1) that differs between requests, so that they do not all come back at once."""
    digest = hashlib.sha256(f"{asked} {attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
