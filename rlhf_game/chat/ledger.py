"""What the calls of language models cost: a line per request, and their sums."""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.chat.requests import Reply
from rlhf_game.files.atomic import write_json

MILLION = 1_000_000


@final
@dataclass(frozen=True)
class Prices:
    """What a million tokens of the question and of the answer cost, in any one currency."""

    prompt: float
    completion: float

    def of(self, reply: Reply) -> float:
        """Return what one answer cost."""
        return (self.prompt * reply.prompt_tokens + self.completion * reply.completion_tokens) / MILLION


@final
class Ledger:
    """The account of a folder: what was asked, what was paid for.

    folder: where ``ledger.jsonl`` grows by a line per request and ``report.json`` holds the sums; None keeps both in
    memory (a dry run). Several accounts of one folder are one. A process that is killed leaves at most a broken last
    line, which is passed over.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._lines: list[dict[str, Any]] = []
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not self._text().endswith("\n"):
            self._append("\n")

    def add(
        self,
        purpose: str,
        identity: Mapping[str, Any],
        reply: Reply,
        prices: Prices | None,
        *,
        is_cached: bool = False,
        is_ungraded: bool = False,
    ) -> None:
        """Account for one request that was answered; one answered before costs nothing.

        is_ungraded: the answer has not the grade that was asked for.
        """
        line = {
            "purpose": purpose,
            "model": identity.get("model"),
            "endpoint": identity.get("endpoint"),
            "is_cached": is_cached,
            "is_ungraded": is_ungraded,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "is_estimated": reply.is_estimated,
            "retries": 0 if is_cached else reply.retries,
            "price": None if prices is None else 0.0 if is_cached else prices.of(reply),
        }
        with self._lock:
            if self._folder is None:
                self._lines.append(line)
            else:
                self._append(json.dumps(line) + "\n")

    def report(self) -> dict[str, Any]:
        """Return the sums: over everything, and by purpose and model."""
        with self._lock:
            lines = [*self._lines, *(line for line in map(_read, self._text().splitlines()) if line is not None)]
        by: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for line in lines:
            by.setdefault((line["purpose"], line["model"], line["endpoint"]), []).append(line)
        rows = [
            {"purpose": purpose, "model": model, "endpoint": endpoint, **_sums(found)}
            for (purpose, model, endpoint), found in by.items()
        ]
        return {**_sums(lines), "by": rows}

    def write_report(self) -> None:
        """Write report.json; in memory there is nothing to do."""
        if self._folder is not None:
            write_json(self._folder / "report.json", self.report())

    def _text(self) -> str:
        """Return the lines in the folder; a line's end where there is none."""
        path = None if self._folder is None else self._folder / "ledger.jsonl"
        return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else "\n"

    def _append(self, text: str) -> None:
        if self._folder is not None:
            with open(self._folder / "ledger.jsonl", "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())


def _read(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "purpose" in found else None


def _sums(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many were asked, how many of them cost nothing, and what the others took."""
    paid = [line for line in lines if not line["is_cached"]]
    prices = [line["price"] for line in paid if line["price"] is not None]
    return {
        "calls": len(lines),
        "cached": len(lines) - len(paid),
        "retries": sum(line["retries"] for line in paid),
        "prompt_tokens": sum(line["prompt_tokens"] for line in paid),
        "completion_tokens": sum(line["completion_tokens"] for line in paid),
        "estimated_calls": sum(line["is_estimated"] for line in paid),
        "ungraded_calls": sum(line.get("is_ungraded", False) for line in paid),
        "price": float(sum(prices)) if prices else None,
    }
