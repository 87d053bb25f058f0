"""Policies too long for a receipt: kept beside it as .npy, written and compared piece by piece."""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.atomic import write_parts
from rlhf_game.files.documents import shown
from rlhf_game.files.games import Game
from rlhf_game.files.schema import Strict
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.arrays import LARGE, Array
from rlhf_game.mechanism.spaces.base import Policy

RELATIVE = 1e-9
ABSOLUTE = 1e-15
"""Probabilities agree within RELATIVE of the larger, or within ABSOLUTE."""


@final
class PolicyFile(Strict):
    """The .npy file, relative to the receipt, that holds its policy, and the SHA-256 of its bytes."""

    file: str = Field(min_length=1)
    sha256: str


@final
class PolicyFolder(Strict):
    """The folder, relative to the receipt, that holds the weights of a trained policy, and their SHA-256."""

    folder: str = Field(min_length=1)
    sha256: str


def folder_digest(folder: Path) -> str | None:
    """Return the SHA-256 of a folder's .safetensors (of several, of their names and digests), or None without any."""
    weights = sorted(folder.glob("*.safetensors"))
    if len(weights) < 2:
        return digest(weights[0]) if weights else None
    listing = "\n".join(f"{path.name} {digest(path)}" for path in weights)
    return hashlib.sha256(listing.encode()).hexdigest()


def is_long(game: Game) -> bool:
    """Return whether a game's policy has LARGE probabilities or more: it is then no part of the receipt's text."""
    return int(np.prod(_shape(game))) >= LARGE


def write_policy(path: Path, game: Game, policy: Policy[Any]) -> PolicyFile:
    """Write a policy as .npy at ``path``, whole or not at all, and return what a receipt in the same folder says of it.

    The array is shaped like the policy of a receipt; where prompts have different numbers of outcomes it is flat,
    prompt after prompt. Raises InputError if ``path`` cannot name a file.
    """
    seen = hashlib.sha256()

    def parts() -> Iterator[memoryview]:
        numbers = (np.ascontiguousarray(piece, dtype="<f8").data for piece in policy.pieces())
        for part in chain([_header(_shape(game))], numbers):
            seen.update(part)
            yield part

    write_parts(path, parts())
    return PolicyFile(file=path.name, sha256=seen.hexdigest())


def policy_differences(said: PolicyFile, folder: Path, game: Game, policy: Policy[Any]) -> list[str]:
    """Return what is wrong with the file of a receipt in ``folder``, compared with the policy of the game: a line each.

    Raises InputError if the file is not there.
    """
    path = folder / said.file
    if not path.is_file():
        raise InputError(f"policy.file: must name a file beside the receipt, found none at {shown(str(path), 120)!r}")
    if digest(path) != said.sha256:
        return [f"policy.sha256: the receipt says {shown(said.sha256, 80)!r}, {shown(said.file)!r} has another"]
    header = _header(_shape(game))
    with open(path, "rb") as file:
        if file.read(len(header)) != bytes(header):
            return [f"policy.file: {shown(said.file)!r} has another shape or type than the policy of the game"]
        start = 0
        for piece in policy.pieces():
            found = row_difference(np.fromfile(file, dtype="<f8", count=piece.size), piece, "policy", start)
            if found:
                return found
            start += piece.size
        return [] if not file.read(1) else [f"policy.file: {shown(said.file)!r} is longer than the policy of the game"]


def row_difference(
    mine: Sequence[float] | Array, theirs: Sequence[float] | Array, at: str, start: int = 0
) -> list[str]:
    """Return a line on the first probability that disagrees, if any does; ``start``: the number of the first entry."""
    a, b = np.asarray(mine), np.asarray(theirs)
    if a.shape != b.shape:
        return [f"{at}: the receipt has another shape than the policy of the game"]
    wrong = ~(np.abs(a - b) <= np.maximum(ABSOLUTE, RELATIVE * np.maximum(np.abs(a), np.abs(b))))
    if not wrong.any():
        return []
    i = int(np.argmax(wrong))
    more = f" (and {int(wrong.sum()) - 1} more)" if wrong.sum() > 1 else ""
    return [f"{at}[{start + i}]: the receipt says {float(a[i])!r}, the game gives {float(b[i])!r}{more}"]


def _shape(game: Game) -> tuple[int, ...]:
    if isinstance(game.reference, list):
        return (sum(len(row) for row in game.reference),)
    shape = game.reference.shape
    return game.fields.policy_shape(shape)


def _header(shape: tuple[int, ...]) -> memoryview:
    """Return how a .npy file of float64 of this shape begins."""
    buffer = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getbuffer()


def beside(receipt: str | os.PathLike[str], line: int | None = None) -> Path:
    """Return where the policy of a receipt (of its line, counted from 1) goes: receipt.policy.npy."""
    path = Path(receipt)
    return path.parent / f"{path.stem}{'' if line is None else f'.{line}'}.policy.npy"
