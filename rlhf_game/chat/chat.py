"""The one way in which this package asks a language model anything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from rlhf_game.chat.cache import Cache
from rlhf_game.chat.ledger import Ledger, Prices
from rlhf_game.chat.requests import ChatModel, Reply, Request, estimated
from rlhf_game.chat.transport import in_parallel
from rlhf_game.errors import RunError
from rlhf_game.files.documents import shown
from rlhf_game.files.run_folder import Progress

REPLIES = "replies"
"""Of a folder of calls, the folder with the answers."""
UNGRADED = "ungraded"
"""Of a folder of calls, the folder with what came back without the grade that was asked for."""


@final
@dataclass(frozen=True)
class Graded:
    """A grade."""

    grade: float
    said: str
    """The answer that gives it."""
    is_declared: bool
    """Whether the answer gives none, and this is the grade that was declared for such answers."""


@final
@dataclass(frozen=True)
class Chat:
    """A language model with the answers that it gave already and the account of them.

    retries: how often it is asked again for a grade that was asked for and is not in its answer. refused: where answers
    without one are written down, to be looked at; they are not kept as answers. is_dry: nothing is asked; requests are
    counted and every answer is what the request pretends.
    """

    model: ChatModel
    ledger: Ledger
    cache: Cache | None = None
    prices: Prices | None = None
    retries: int = 0
    refused: Cache | None = None
    is_dry: bool = False

    @classmethod
    def kept_in(
        cls,
        folder: Path,
        model: ChatModel,
        *,
        cache: Path | None = None,
        prices: Prices | None = None,
        retries: int = 0,
    ) -> "Chat":
        """Return a chat whose account is in ``folder``, as are its answers unless ``cache`` names a folder of theirs.

        The folder then holds ledger.jsonl, report.json, replies/, and ungraded/ where there were such answers.
        """
        kept = Cache(cache or folder / REPLIES)
        return cls(model, Ledger(folder), kept, prices, retries, Cache(folder / UNGRADED))

    @classmethod
    def dry(
        cls, model: ChatModel, ledger: Ledger, *, cache: Path | None = None, prices: Prices | None = None
    ) -> "Chat":
        """Return a chat that counts what would be asked, less what ``cache`` holds already, and asks nothing."""
        return cls(model, ledger, None if cache is None else Cache(cache), prices, is_dry=True)

    def ask(self, requests: Sequence[Request], purpose: str, watch: Progress | None = None) -> list[Reply]:
        """Return an answer to each request, in order; equal requests are asked once.

        purpose: one word for messages and for the report, such as judge. Every answer is kept as soon as it is there,
        so that whatever stops this call, no answer is paid for twice. Raises RunError that names the model when one
        stays away, after which no further request is begun.
        """
        identity = self.model.identity
        unique = list({_question(request): request for request in reversed(requests)}.values())[::-1]
        known = {}
        for request in unique:
            if (kept := self._kept(request)) is not None:
                known[_question(request)] = kept
        new = {_question(request) for request in unique} - known.keys()
        if self.is_dry:
            for request in unique:
                if _question(request) in new:
                    self._account(request, estimated(request), purpose, known)
        else:
            self._fetch(unique, purpose, known, watch)
        for request in requests:
            if _question(request) in new:
                new.remove(_question(request))  # accounted for when it was answered
            else:
                self.ledger.add(purpose, identity, known[_question(request)], self.prices, is_cached=True)
        self.ledger.write_report()
        return [known[_question(request)] for request in requests]

    def _fetch(
        self, requests: Sequence[Request], purpose: str, known: dict[Request, Reply], watch: Progress | None
    ) -> None:
        """Ask for all answers that are missing. A group is asked whole, so that its answers do not depend on which."""
        groups = [[requests[i] for i in places] for places in self.model.groups(requests)]
        missing = [group for group in groups if any(_question(request) not in known for request in group)]
        done = len(groups) - len(missing)
        for k, replies in in_parallel(lambda group: self._answer(group, purpose), missing, self.model.workers):
            for request, reply in zip(missing[k], replies, strict=True):
                known.setdefault(_question(request), reply)
            done += 1
            if watch is not None:
                watch(f"ask the {purpose}", done, len(groups))

    def _answer(self, group: Sequence[Request], purpose: str) -> list[Reply]:
        """Answer a group and keep the answers: here, in the worker, so that they are kept whatever the others do."""
        replies = []
        for request, first in zip(group, self.model.answer(group, purpose), strict=True):
            reply, retries = first, self.retries
            while not request.is_answered_by(reply) and retries:
                self._account(request, reply, purpose, {})
                (reply,) = self.model.answer([request], purpose)
                retries -= 1
            if self._kept(request) is None:
                self._account(request, reply, purpose, {})
            replies.append(reply)
        return replies

    def _kept(self, request: Request) -> Reply | None:
        """Return the answer that is kept; what has not the grade that is asked for is none, whoever put it there."""
        kept = None if self.cache is None else self.cache.read(self.model.identity, request)
        return kept if kept is not None and request.is_answered_by(kept) else None

    def _account(self, request: Request, reply: Reply, purpose: str, known: dict[Request, Reply]) -> None:
        """Account for a new answer, then keep it: one that was paid for and lost is paid, and counted, again."""
        is_answer = request.is_answered_by(reply)
        self.ledger.add(purpose, self.model.identity, reply, self.prices, is_ungraded=not is_answer)
        kept = self.cache if is_answer else self.refused
        if kept is not None and not self.is_dry:
            kept.write(self.model.identity, request, reply)
        known[_question(request)] = reply

    def grade(
        self, requests: Sequence[Request], purpose: str, ungraded: float | None, watch: Progress | None = None
    ) -> list[Graded]:
        """Return the grade that each request asks for, in order.

        ungraded: the grade that counts where the answer has none even when it is asked for again. Where that is None,
        raises RunError with what was said, where it is written down, and how to go on.
        """
        graded, missing = [], []
        for request, reply in zip(requests, self.ask(requests, purpose, watch), strict=True):
            grade = request.grade(reply)
            counted = ungraded if grade is None else grade
            if counted is not None:
                graded.append(Graded(counted, reply.text, grade is None))
            else:
                missing.append((request, reply))
        if missing:
            raise RunError(self._missing(*missing[-1], len(missing), purpose))
        return graded

    def _missing(self, request: Request, reply: Reply, count: int, purpose: str) -> str:
        """Return the line that says that grades are missing, and the way out. request, reply: the last of them."""
        assert request.scale is not None
        known = self.model.identity
        where = f" at {known['endpoint']}" if "endpoint" in known else ""
        said = f"{shown(reply.text, 80)!r}" + ("" if reply.is_finished else ", cut at its limit of tokens")
        file = "" if self.refused is None else f" ({self.refused.path(known, request)})"
        times = f" in {self.retries + 1} answers each" if self.retries else ""
        wanted = f"a number from {request.scale.low:g} to {request.scale.high:g}"
        return (
            f"the {purpose} {known.get('model')}{where} must answer {wanted}, got none for {count} of its questions"
            f"{times}; the last answer: {said}{file}; what was graded is kept: run it again to ask for the rest alone, "
            "or begin another with ungraded: GRADE, which counts such answers as that grade"
        )


def _question(request: Request) -> Request:
    """Return the request without what it pretends, which is no part of the question."""
    return replace(request, pretend="")
