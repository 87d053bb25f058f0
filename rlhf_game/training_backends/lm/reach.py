"""Whether the Hugging Face hub answers at all: where it does not, libraries would ask it again for half a minute."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

PATIENCE = 10.0
"""Seconds to wait for the hub's first answer."""


def hub_answers(name: str, kind: Literal["model", "dataset"], revision: str | None) -> bool:
    """Return whether the hub answers when it is asked once for something by its name, whatever it answers."""
    with suppress(Exception):  # whatever keeps a connection from being made
        try:
            HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=PATIENCE)
        except HfHubHTTPError:
            return True  # what it says of the name, whoever loads it says at once
        return True
    return False


@contextmanager
def without_hub() -> Iterator[None]:
    """Let libraries look only at what they keep on this machine, and put the setting back afterwards."""
    was = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was
