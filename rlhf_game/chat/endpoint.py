"""A language model behind an OpenAI-compatible endpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from rlhf_game.chat.requests import ChatModel, Reply, Request, estimated_tokens
from rlhf_game.chat.transport import Address
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
        assert self._address  # refuses what is no address

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

    def _answer(self, request: Request, purpose: str) -> Reply:
        who = f"the {purpose} {self.model} at {self.url}"
        asked = {
            "model": self.model,
            "messages": request.document()["messages"],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            **self.options,
        }
        body = {name: value for name, value in asked.items() if value is not None}
        document, retries = self._address.post(body, who)
        return _read(document, request, retries, who)


def _read(document: Any, request: Request, retries: int, who: str) -> Reply:
    """Return the answer in a chat completion. Raises RunError when it is none."""
    try:
        choice = document["choices"][0]
        text, usage = choice["message"]["content"], document.get("usage")
        if not isinstance(text, str | None):
            raise TypeError
        counted = None if usage is None else (int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        is_finished = choice.get("finish_reason") != "length"
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError):
        raise RunError(f"{who} failed: no chat completion came back, but {shown(str(document), 200)}") from None
    said = text or ""
    asked = sum(estimated_tokens(turn.content) for turn in request.messages)
    prompt_tokens, completion_tokens = counted or (asked, estimated_tokens(said))
    return Reply(said, prompt_tokens, completion_tokens, is_finished, counted is None, retries)
