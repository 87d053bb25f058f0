"""A language model behind an OpenAI-compatible endpoint."""

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

from rlhf_game.chat.keys import check_url
from rlhf_game.chat.requests import ChatModel, Reply, Request, estimated_tokens
from rlhf_game.chat.transport import Address, Refused
from rlhf_game.errors import RunError
from rlhf_game.files.documents import shown


@final
@dataclass(frozen=True)
class Endpoint(ChatModel):
    """A model behind an OpenAI-compatible endpoint.

    url: the base URL, such as http://127.0.0.1:8000/v1. key_env, timeout, retries, pause: see ``Address``. workers:
    requests at the same time. options: further fields of the body of every request, such as max_completion_tokens;
    they go before those of the request, and None leaves a field out.
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

    @property
    def _address(self) -> Address:
        url = self.url.rstrip("/") + "/chat/completions"
        return Address(url, self.key_env, self.timeout, self.retries, self.pause)

    @cached_property
    def _takes_no_options(self) -> threading.Event:
        """Set once the endpoint refused a request for what it was asked beyond a chat and took it without."""
        return threading.Event()

    def _answer(self, request: Request, purpose: str) -> Reply:
        who = f"the {purpose} {self.model} at {self.url}"
        optional = _optional_fields(request)
        if not optional or self._takes_no_options.is_set():
            return self._post(request, {}, who)
        try:
            return self._post(request, optional, who)
        except Refused:
            reply = self._post(request, {}, who)  # raises why, where it was refused for something else
            self._takes_no_options.set()
            return reply

    def _post(self, request: Request, optional: Mapping[str, Any], who: str) -> Reply:
        asked = {
            "model": self.model,
            "messages": request.document()["messages"],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **optional,
            **self.options,
        }
        document, retries = self._address.post({name: value for name, value in asked.items() if value is not None}, who)
        return _read(document, request, retries, who)


def _optional_fields(request: Request) -> dict[str, Any]:
    """Return what not every endpoint takes: JSON by schema, log-probabilities."""
    optional: dict[str, Any] = {"logprobs": True} if request.wants_log_probability else {}
    if request.scale is not None:
        schema = {"name": "grade", "strict": True, "schema": request.scale.schema}
        optional["response_format"] = {"type": "json_schema", "json_schema": schema}
    return optional


def _read(document: Any, request: Request, retries: int, who: str) -> Reply:
    """Return the answer in a chat completion. Raises RunError when it is none."""
    try:
        choice = document["choices"][0]
        text, usage = choice["message"]["content"], document.get("usage")
        if not isinstance(text, str | None):
            raise TypeError
        counted = None if usage is None else (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        is_finished = choice.get("finish_reason") != "length"
        log_probability = _log_probability(choice.get("logprobs"), None if counted is None else counted[1])
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError):
        raise RunError(f"{who} failed: no chat completion came back, but {shown(str(document), 200)}") from None
    said = text or ""
    asked = sum(estimated_tokens(turn.content) for turn in request.messages)
    prompt_tokens, completion_tokens = counted or (asked, estimated_tokens(said))
    return Reply(said, prompt_tokens, completion_tokens, is_finished, counted is None, retries, log_probability)


def _log_probability(given: Any, counted: int | None) -> float | None:
    """Return the sum over an answer's tokens, in nats, or None where there is not one for each.

    counted: the answer's tokens, as the server counts them: some do not say that of the end, and those that think
    before they answer count what they thought. A server that calls a token impossible (OpenAI's -9999) does not know
    its probability.
    """
    try:
        logs = [float(token["logprob"]) for token in given["content"]]
    except (LookupError, TypeError, ValueError):
        return None
    is_whole = counted is None or len(logs) in (counted - 1, counted)
    return math.fsum(logs) if logs and is_whole and all(-9999 < one <= 0 for one in logs) else None
