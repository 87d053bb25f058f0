"""Keys of endpoints: read from the environment when they are used, and taken out of every text that is kept or shown.

A key is never a field, an argument that is stored, or part of a message: whatever a server says goes through
``without_key`` first.
"""

import base64
import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from rlhf_game.errors import InputError

HIDDEN = "[key]"


def check_url(url: str) -> None:
    """Raise InputError unless ``url`` is an http address without a user or a password: it is shown and kept."""
    if re.match(r"\w+://[^/]*@", url):
        raise InputError(
            "url must hold no user and no password: a key belongs in an environment variable that key_env names"
        )
    if not is_address(url):
        raise InputError(f"url must be an address that starts with http:// or https://, got {url!r}")


def is_address(url: str) -> bool:
    """Return whether ``url`` is an http address, with a host and without a user or a password.

    >>> is_address("http://127.0.0.1:8000/v1"), is_address("http://127.0.0.1:99999/v1"), is_address("ftp://here")
    (True, False, False)
    """
    try:
        parts = urlsplit(url)
        is_port = parts.port is None or parts.port > 0
    except ValueError:  # a port above 65535, half an IPv6 address
        return False
    return bool(re.fullmatch(r"https?://[^\s/@]+(/[^\s]*)?", url) and url.isprintable() and parts.hostname and is_port)


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds, without white space around it.

    Raises InputError, which does not show it, when there is none or it cannot be sent: a header holds visible ASCII.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"key_env: the environment variable {variable} must hold the key, it is not set")
    if not re.fullmatch(r"[!-~]+", key):
        raise InputError(
            f"key_env: the environment variable {variable} must hold a key of visible ASCII characters, found a space, "
            "a line break or another character in it"
        )
    return key


def hidden(value: Any, key: str | None) -> Any:
    """Return a JSON document without the key, wherever in its texts it is."""
    return _hidden(value, _forms(key)) if key else value


def without_key(text: str, key: str | None) -> str:
    """Return the text with the key hidden, as it is and in the forms that servers give texts back in."""
    return _replaced(text, _forms(key)) if key else text


def _hidden(value: Any, forms: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _replaced(value, forms)
    if isinstance(value, list):
        return [_hidden(inner, forms) for inner in value]
    if isinstance(value, dict):
        return {_replaced(name, forms): _hidden(inner, forms) for name, inner in value.items()}
    return value


def _replaced(text: str, forms: Sequence[str]) -> str:
    for form in forms:
        text = text.replace(form, HIDDEN)
    return text


def _forms(key: str) -> list[str]:
    """Return the key as it is and as JSON, Python, addresses and base64 write it, the longest first."""
    encoded = base64.b64encode(key.encode()).decode()
    forms = {
        key,
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        repr(key)[1:-1],
        quote(key),
        quote(key, safe=""),
        encoded,
        encoded.rstrip("="),
        base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    }
    return sorted(forms, key=len, reverse=True)
