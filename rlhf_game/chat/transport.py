"""The one way in which this package reaches another machine: JSON is posted to an address, JSON comes back.

Nothing is followed anywhere else: a redirect is an error, so that no key and no question reaches a host that nobody
named, and no other host's answer is believed.
"""

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from time import sleep
from typing import Any, TypeVar, final

from rlhf_game.chat.keys import check_url, hidden, read_key, without_key
from rlhf_game.errors import MissingExtra, RunError
from rlhf_game.files.documents import shown

T = TypeVar("T")
R = TypeVar("R")
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Answers after which trying again may help."""
REFUSING = frozenset({400, 415, 422, 501})
"""Answers of a server that does not take what was posted."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""
LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer at most: what sends more is no model."""


@final
class Refused(RunError):
    """The other side answered that it does not take what was posted."""


@final
@dataclass(frozen=True)
class _Failure:
    """Why an attempt brought nothing."""

    reason: str
    status: int | None = None
    is_busy: bool = False
    """Whether trying again may help."""
    wait: float = 0.0
    """Seconds that the server asks for."""


@final
@dataclass(frozen=True)
class Address:
    """Where JSON is posted to.

    key_env: the environment variable that holds a bearer token; None for servers that want none. timeout: seconds for
    the whole of one call, from looking up the name to the last byte. retries: further attempts when the other side is
    busy or away; the k-th waits pause * 2^(k-1) * (1 + jitter) seconds, 0 <= jitter < 1, or as long as the server asks
    for where that is longer, but a minute at most.
    """

    url: str
    key_env: str | None = None
    timeout: float = 60.0
    retries: int = 4
    pause: float = 0.5

    def __post_init__(self) -> None:
        check_url(self.url)

    def post(self, document: Mapping[str, Any], who: str) -> tuple[Any, int]:
        """Return the JSON that answers, without the key, and how many attempts failed before.

        who: for messages. Raises InputError when the key cannot be read, Refused or RunError in one line otherwise.
        """
        key = None if self.key_env is None else read_key(self.key_env)
        body = json.dumps(document).encode()
        for attempt in range(self.retries + 1):
            found = self._attempt(body, key)
            if not isinstance(found, _Failure):
                return found, attempt
            if not found.is_busy:
                error = Refused if found.status in REFUSING else RunError
                raise error(f"{who} failed: {found.reason}")
            if attempt < self.retries:
                pause = self.pause * 2.0**attempt * (1.0 + _jitter(body, attempt))
                sleep(max(pause, min(found.wait, LONGEST_WAIT)))
        times = f" {self.retries + 1} times, the last time" if self.retries else ""
        raise RunError(f"{who} failed{times}: {found.reason}")

    def _attempt(self, body: bytes, key: str | None) -> Any:
        """Return the document that answers, or a _Failure. No error leaves here: it may quote the key."""
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise MissingExtra("judge", "httpx2") from error
        try:
            status, headers, content = asyncio.run(self._call(body, key))
        except TimeoutError:
            return _Failure(f"no answer within {self.timeout:g} seconds", is_busy=True)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ExceptionGroup, ValueError) as error:
            return _Failure(_safe(f"connection error: {_innermost(error)}", key), is_busy=True)
        if len(content) > LARGEST_ANSWER:
            return _Failure(f"it answers more than {LARGEST_ANSWER} bytes", status)
        text = content.decode(errors="replace")
        if 300 <= status < 400:
            to = _safe(headers.get("location", "nowhere"), key)
            return _Failure(f"it answers {status}, a redirect to {to}, which is not followed", status)
        if not 200 <= status < 300:
            said = _safe(f"it answers {status}: {_complaint(text)}", key)
            return _Failure(said, status, status in BUSY, _asked_to_wait(headers.get("retry-after", "")))
        try:
            return hidden(json.loads(text), key)
        except (ValueError, RecursionError):
            return _Failure(_safe(f"it must answer JSON, found {text[:2000]!r}", key), status)

    async def _call(self, body: bytes, key: str | None) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and content of one answer. Raises TimeoutError when it is not there in time."""
        import httpx2

        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        content = bytearray()
        async with (
            asyncio.timeout(self.timeout),
            httpx2.AsyncClient(verify=_trusted(), follow_redirects=False, timeout=None) as client,
            client.stream("POST", self.url, content=body, headers=headers) as answer,
        ):
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > LARGEST_ANSWER:
                    break
            return answer.status_code, answer.headers, bytes(content)


def in_parallel(work: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[int, R]]:
    """Yield the place and the result of each task as soon as it is done, ``workers`` of them at the same time.

    After a failure, or when nobody asks for more, no further task is begun.
    """
    stopped = threading.Event()

    def one(task: T) -> R:
        if stopped.is_set():
            raise CancelledError
        try:
            return work(task)
        except BaseException:
            stopped.set()  # here, in the worker: before it takes the next one
            raise

    with ThreadPoolExecutor(workers) as pool:
        places = {pool.submit(one, task): place for place, task in enumerate(tasks)}
        try:
            for future in as_completed(places):
                with suppress(CancelledError):  # the failure itself comes too
                    yield places[future], future.result()
        finally:  # also when the user interrupts
            stopped.set()


@cache
def _trusted() -> Any:
    """Return the certificates that are trusted: reading them takes longer than a call."""
    import httpx2

    return httpx2.create_ssl_context()


def _safe(said: str, key: str | None) -> str:
    return shown(without_key(said, key), 300)  # cut only after the key is out: no half of it is left


def _complaint(text: str) -> str:
    """Return what a server says went wrong: the message of its error, where it is one as OpenAI writes them."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text


def _innermost(error: BaseException) -> str:
    """Return what an error was caused by in the first place."""
    cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
    if cause is not None:
        return _innermost(cause)
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number is not None and number > 0 else str(error) or type(error).__name__


def _asked_to_wait(said: str) -> float:
    """Return the seconds of a Retry-After header, which is a number of them or a date (RFC 9110, 10.2.3), or 0."""
    try:
        return max(0.0, float(said))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _jitter(body: bytes, attempt: int) -> float:
    """Return a number in [0, 1) that differs between requests, so that they do not all come back at once."""
    digest = hashlib.sha256(body + str(attempt).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
