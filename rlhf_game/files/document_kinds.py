"""What a file is of, by the keys that only its kind has: another command than its own says which one reads it."""

from collections.abc import Mapping
from typing import Any, Final

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind
from rlhf_game.registry import names

READ_BY: Final[Mapping[str, tuple[str, str]]] = {
    "game": ("a game", "settle"),
    "run": ("the configuration of a run", "run"),
    "training": ("the configuration of a training", "train"),
    "study": ("the configuration of a study", "simulate"),
    "discovery": ("the configuration of a discovery", "discover"),
    "receipt": ("a receipt", "verify"),
}
"""In words, and the first command that reads it."""


def check_kind(document: Any, of: str, name: str) -> None:
    """Raise InputError where a document is no mapping, or its keys say that it is of another kind than ``of``."""
    if not isinstance(document, dict):
        raise InputError(f"{name}: must be a mapping with the keys of a {of}, found {kind(document)}")
    found = _kind_of(document)
    if of in READ_BY and found not in (None, of):
        words, command = READ_BY[found]
        raise InputError(f"{name}: must be {READ_BY[of][0]}, found {words}, which `rlhf-game {command}` reads")


def _kind_of(document: Mapping[str, Any]) -> str | None:
    wanted = document.get("kind")
    signs = {
        "receipt": "game_sha256" in document,
        "discovery": bool({"generations", "proposer"} & document.keys()),
        "study": bool({"scenario", "games"} & document.keys()),
        "training": isinstance(wanted, str) and (wanted in names("train") or ":" in wanted),
        "run": "model" in document or isinstance(document.get("outcomes"), dict),
        "game": bool({"reference", "next_state"} & document.keys()),
    }
    return next((found for found, has_sign in signs.items() if has_sign), None)
