"""Signatures (Ed25519): who wrote a receipt, a seal or the files of a folder. All that is in them is signed.

Of a JSON document the canonical JSON of everything but ``signature`` is signed (UTF-8, sorted keys, no spaces); of a
folder the lines of .sha256sums, which lists every file, sorted and each once. Keys are PEM files, as openssl writes
them.
"""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, final

from pydantic import Field

from rlhf_game.errors import InputError, MissingExtra, boundary
from rlhf_game.files.atomic import write_json
from rlhf_game.files.documents import parse_json, parse_json_lines, read_text, shown
from rlhf_game.files.schema import Strict, parse_model
from rlhf_game.files.workspace import SIGNATURE, SUMS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY: Final = "signature"
"""Of a document: where its signature is."""


@final
class Signature(Strict):
    """Who signed, by the 32 bytes of the public key, and the 64 bytes of the signature, both in hexadecimal."""

    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    value: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


def signed(document: Mapping[str, Any], key: Path | None) -> dict[str, Any]:
    """Return a document with the signature of a private key; without a key, as it is."""
    if key is None:
        return dict(document)
    return {**document, KEY: _sign(_canonical(document), key).model_dump()}


def sign_folder(folder: Path, key: Path) -> None:
    """Sign all files of a finished folder, as they are listed."""
    write_json(folder / SIGNATURE, _sign(_listed(folder), key).model_dump())


def signature_differences(path: Path, key: Path, *, lines: bool = False) -> list[str]:
    """Return a line for each document of a file that a public key has not signed as it is. lines: one on each line."""
    found = []
    for where, document in _documents(path, lines):
        said = document.get(KEY) if isinstance(document, dict) else None
        if said is None:
            found.append(f"{where}: {KEY}: must be there, found none")
        elif fault := _fault(_canonical(document), parse_model(Signature, said, f"{where}: {KEY}"), key):
            found.append(f"{where}: {KEY}: {fault}")
    return found


def is_signed(path: Path, *, lines: bool = False) -> bool:
    """Return whether a folder, or any document of a file, has a signature, whoever made it."""
    if path.is_dir():
        return (path / SIGNATURE).is_file()
    return any(isinstance(one, dict) and one.get(KEY) is not None for _, one in _documents(path, lines))


def _documents(path: Path, lines: bool) -> list[tuple[str, Any]]:
    name, text = shown(os.fspath(path), 200), read_text(path)
    return list(parse_json_lines(text, name)) if lines else [(name, parse_json(text, name))]


def folder_differences(folder: Path, key: Path) -> list[str]:
    """Return a line if a public key has not signed the list of files of a folder."""
    path, name = folder / SIGNATURE, shown(str(folder / SIGNATURE), 200)
    if not path.is_file():
        return [f"{name}: must be there, found none"]
    said = parse_model(Signature, parse_json(read_text(path), name), name)
    fault = _fault(_listed(folder), said, key)
    return [f"{name}: {fault}"] if fault else []


def key_name(key: Path) -> str:
    """Return what a public key is called: its 32 bytes in hexadecimal."""
    return _public(key).public_bytes_raw().hex()


def check_key(key: Path | None, *, is_written: bool = True) -> None:
    """Raise InputError or MissingExtra, before anything is done, when a file cannot be signed with.

    is_written: whether anything will be left that can be signed.
    """
    if key is None:
        return
    if not is_written:
        raise InputError("--sign: must come with what is written, a receipt (-o or --json) or a folder, found nothing")
    _private(key)


def _canonical(document: Mapping[str, Any]) -> bytes:
    rest = {name: value for name, value in document.items() if name != KEY}
    return json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _listed(folder: Path) -> bytes:
    return b"\n".join(sorted(set((folder / SUMS).read_bytes().split(b"\n"))))


def _sign(content: bytes, key: Path) -> Signature:
    private = _private(key)
    return Signature(key=private.public_key().public_bytes_raw().hex(), value=private.sign(content).hex())


def _fault(content: bytes, said: Signature, key: Path) -> str | None:
    """Return what is wrong with a signature under a public key, or None."""
    name = key_name(key)
    from cryptography.exceptions import InvalidSignature

    if said.key != name:
        return f"must be by the key {name}, found one by {said.key}"
    try:
        _public(key).verify(bytes.fromhex(said.value), content)
    except InvalidSignature:
        return f"must be by the key {said.key}, found that what was signed is not what is here"
    return None


def _private(path: Path) -> "Ed25519PrivateKey":
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    what = f"{shown(str(path), 200)}: must be a private Ed25519 key as PEM, without a password"
    with boundary(what, InputError):
        found = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(found, Ed25519PrivateKey):
        raise InputError(f"{what}; found a key of another kind")
    return found


def _public(path: Path) -> "Ed25519PublicKey":
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    what = f"{shown(str(path), 200)}: must be a public Ed25519 key as PEM"
    with boundary(what, InputError):
        found = load_pem_public_key(path.read_bytes())
    if not isinstance(found, Ed25519PublicKey):
        raise InputError(f"{what}; found a key of another kind")
    return found


def _check_installed() -> None:
    if find_spec("cryptography") is None:
        raise MissingExtra("sign", "cryptography")
