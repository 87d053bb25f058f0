"""Keys of endpoints: read from the environment when they are used, and taken out of every text that is kept or shown.

A key is never a field, an argument that is stored, or part of a message: whatever a server says goes through
``without_key`` first.
"""

import base64
import json
import os
import re
from urllib.parse import quote

from rlhf_game.errors import InputError

HIDDEN = "[key]"


def check_url(url: str) -> None:
    """Raise InputError unless ``url`` is an http address without a user or a password: it is shown and kept."""
    if re.match(r"https?://[^/]*@", url):
        raise InputError(
            "url must hold no user and no password: a key belongs in an environment variable that key_env names"
        )
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url):
        raise InputError(f"url must be an address that starts with http:// or https://, got {url!r}")


def read_key(variable: str) -> str:
    """Return the key that an environment variable holds; raise InputError when it is not set."""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"key_env: the environment variable {variable} must hold the key, it is not set")
    return key


def without_key(text: str, key: str | None) -> str:
    """Return the text with the key hidden, as it is and in the forms that servers give texts back in."""
    if not key:
        return text
    forms = {
        key,
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
        repr(key)[1:-1],
        quote(key),
        quote(key, safe=""),
        base64.b64encode(key.encode()).decode(),
        base64.b64encode(key.encode()).decode().rstrip("="),
        base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    }
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text
