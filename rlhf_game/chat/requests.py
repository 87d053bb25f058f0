"""What is asked of a language model and what it answers; ``ChatModel`` is whatever can be asked."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from rlhf_game.chat.grades import GradeScale
from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Message, Text, dialogue

LETTERS_PER_TOKEN = 4
"""Where nobody counts tokens: the rule of thumb for English."""


@final
@dataclass(frozen=True)
class Request:
    """One question to a language model.

    temperature: 0 takes the likeliest token every time; None leaves it to the server. max_tokens: of the answer, None
    leaves it to the server. draw: tells otherwise equal requests apart, so that each gets an answer of its own.
    scale: of the grade that is asked for: an answer without one is none. An endpoint is asked for JSON by the scale's
    schema, where it takes one; a model on this machine answers with the mean of the scale's digits by the probabilities
    of its next token, where it has digits, so that any model can grade. wants_log_probability: of the whole answer,
    where the other side gives it. pretend: what a dry run takes for the answer; no part of the question.
    """

    messages: tuple[Message, ...]
    temperature: float | None = 0.0
    max_tokens: int | None = 256
    draw: int = 0
    scale: GradeScale | None = None
    wants_log_probability: bool = False
    pretend: str = ""

    def document(self) -> dict[str, Any]:
        """Return all that the answer depends on."""
        asked: dict[str, Any] = {
            "messages": [turn.document() for turn in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "draw": self.draw,
        }
        if self.scale is not None:
            asked["scale"] = asdict(self.scale)
        return {**asked, "log_probability": True} if self.wants_log_probability else asked

    def grade(self, reply: "Reply") -> float | None:
        """Return the grade that an answer gives, None where it gives none; one that was cut at its limit gives none."""
        return None if self.scale is None or not reply.is_finished else self.scale.read(reply.text)

    def is_answered_by(self, reply: "Reply") -> bool:
        """Return whether what came back is an answer: where a grade was asked for, one with a grade."""
        return self.scale is None or self.grade(reply) is not None


def turns_of(prompt: Text, system: str | None = None) -> tuple[Message, ...]:
    """Return the turns to ask with, the system's first when there is one.

    Raises InputError when the prompt has tools: no answer here calls them.
    """
    asked = dialogue(prompt, system)
    if asked.tools:
        raise InputError("a prompt must have no tools where a model is asked for an answer, found some")
    return asked.messages


def ask_once(
    user: Text,
    system: str | None = None,
    *,
    temperature: float | None = 0.0,
    max_tokens: int | None = 256,
    draw: int = 0,
    scale: GradeScale | None = None,
    wants_log_probability: bool = False,
    pretend: str = "",
) -> Request:
    """Return a request of one user turn, or of a conversation, after a system turn when there is one."""
    return Request(turns_of(user, system), temperature, max_tokens, draw, scale, wants_log_probability, pretend)


@final
@dataclass(frozen=True)
class Reply:
    """An answer, and what it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    is_finished: bool = True
    """Whether it ended by itself, not at max_tokens."""
    is_estimated: bool = False
    """Whether the tokens are estimated (4 letters each): the server did not count them."""
    retries: int = 0
    """Attempts that failed before."""
    log_probability: float | None = None
    """Of the whole answer, in nats, as its model says; None where it does not."""


class ChatModel(ABC):
    """A language model that can be asked, wherever it runs. Which answer a request gets must not depend on others."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What answers: part of what a kept answer is known by, and of reports. Nothing secret is in it."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many groups of requests it answers at the same time."""

    @abstractmethod
    def groups(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the places of the requests in groups that are answered together."""

    @abstractmethod
    def answer(self, requests: Sequence[Request], purpose: str) -> list[Reply]:
        """Return the answers to one group. purpose: who asks, for messages. Raises RunError that names the model."""


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has, at least 1."""
    return max(1, -(-len(text) // LETTERS_PER_TOKEN))


def estimated(request: Request) -> Reply:
    """Return what a dry run takes for the answer: of the longest that it can be, where the request says it."""
    asked = sum(estimated_tokens(turn.content) for turn in request.messages)
    said = request.pretend if request.scale is None else f"{request.scale.low:g}"
    answered = estimated_tokens(said) if request.max_tokens is None else request.max_tokens
    return Reply(said, asked, answered, is_estimated=True)
