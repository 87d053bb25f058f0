"""Answers kept on disk, known by all that they depend on: what was paid for once is not paid for again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.chat.requests import Reply, Request
from rlhf_game.files.atomic import write_json


@final
@dataclass(frozen=True)
class Cache:
    """A folder with one file per answer, each whole or not there.

    A file's name is the SHA-256 of the canonical JSON of the model's identity (endpoint, name, options) and the
    request (messages, temperature, max_tokens, draw). The key of an endpoint is no part of it.
    """

    folder: Path

    def path(self, identity: Mapping[str, Any], request: Request) -> Path:
        """Return the file that an answer is or would be in."""
        return self._path(_asked(identity, request))

    def read(self, identity: Mapping[str, Any], request: Request) -> Reply | None:
        """Return the answer that is kept, or None; a file that is not as it was kept for this very request is none."""
        asked = _asked(identity, request)
        try:
            document = json.loads(self._path(asked).read_bytes())
            is_whole = document == _sealed(asked, document["reply"])
            return Reply(**document["reply"]) if is_whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, identity: Mapping[str, Any], request: Request, reply: Reply) -> None:
        """Keep an answer."""
        asked = _asked(identity, request)
        path = self._path(asked)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _sealed(asked, asdict(reply)))

    def _path(self, asked: Mapping[str, Any]) -> Path:
        name = content_key(asked)
        return self.folder / name[:2] / f"{name}.json"


def content_key(asked: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of what was asked."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sealed(asked: Mapping[str, Any], reply: Mapping[str, Any]) -> dict[str, Any]:
    return {"asked": asked, "reply": reply, "sha256": content_key({"asked": asked, "reply": reply})}


def _asked(identity: Mapping[str, Any], request: Request) -> dict[str, Any]:
    asked: dict[str, Any] = json.loads(json.dumps({"model": dict(identity), "request": request.document()}))
    return asked
