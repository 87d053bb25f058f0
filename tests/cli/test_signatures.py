"""Signed receipts, own receipts, seals and folders: whoever changes anything without the key is found."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

from rlhf_game import __version__
from rlhf_game.files import signatures
from tests.cli.runner import run

GAME: dict[str, Any] = {
    "reference": [0.5, 0.3, 0.2], "strength": 0.5,
    "groups": [{"name": "legal", "size": 3, "reward": [1, 0, 0]}, {"name": "sales", "reward": [0, 0.2, 0.8]}],
}  # fmt: skip


def key_pair(folder: Path, name: str = "key") -> tuple[Path, Path]:
    private = ed25519.Ed25519PrivateKey.generate()
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    secret.write_bytes(private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return secret, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path)


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "game.json").write_text(json.dumps(GAME))
    return tmp_path / "game.json"


def test_a_signed_receipt_is_checked_by_an_independent_program(game: Path, keys: tuple[Path, Path]) -> None:
    secret, public = keys
    receipt = game.with_name("receipt.json")
    assert run("settle", game, "--sign", secret, "-o", receipt).code == 0
    said = json.loads(receipt.read_text())
    signature = said.pop("signature")
    content = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    key = pem.load_pem_public_key(public.read_bytes())
    assert isinstance(key, ed25519.Ed25519PublicKey)
    key.verify(bytes.fromhex(signature["value"]), content)
    found = run("verify", receipt, game, "--key", public)
    assert (found.code, signature["key"] in found.out) == (0, True)
    assert "by whom is not checked" not in found.out
    assert "by whom is not checked" in run("verify", receipt, game).out


def test_what_a_receipt_says_on_trust_is_signed_too(game: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Leaves that no game gives again, a signature taken away or of another key: found with the key, and only so."""
    receipt, (secret, public) = game.with_name("receipt.json"), keys
    other_secret, _ = key_pair(tmp_path, "other")
    run("settle", game, "--sign", secret, "-o", receipt)
    whole = json.loads(receipt.read_text())
    for forged in (
        {**whole, "version": "0.0.9"},
        {**whole, "provenance": {"model": "better"}},
        {key: value for key, value in whole.items() if key != "signature"},
        signatures.signed({key: value for key, value in whole.items() if key != "signature"}, other_secret),
    ):
        receipt.write_text(json.dumps(forged))
        assert run("verify", receipt, game).code == 0
        assert run("verify", receipt, game, "--key", public).code == 3
    receipt.write_text(json.dumps({**whole, "signature": {**whole["signature"], "value": "00"}}))
    assert run("verify", receipt, game, "--key", public).code == 2


def test_own_receipts_seals_and_every_line_are_signed(game: Path, keys: tuple[Path, Path]) -> None:
    secret, public = keys
    own, seal, report = (game.with_name(name) for name in ("own.json", "seal.json", "report.json"))
    report.write_text(json.dumps({"reward": [1, 0, 0], "size": 3}))
    run("receipt", game, "--for", "legal", "-o", own, "--sign", secret)
    run("seal", game, "-o", seal, "--sign", secret)
    assert run("verify", own, report, "--key", public).code == 0
    assert run("open", seal, game, "--key", public).code == 0
    for path, arguments in ((own, ("verify", own, report)), (seal, ("open", seal, game))):
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0.0.9"}))
        assert run(*arguments).code == 0
        assert run(*arguments, "--key", public).code == 3
    assert run("settle", game, "--seal", seal, "--json").code == 0  # a signed seal is a seal
    lines, many = game.with_name("games.jsonl"), game.with_name("many.jsonl")
    lines.write_text((json.dumps(GAME) + "\n") * 2)
    run("settle", lines, "--sign", secret, "-o", many)
    assert run("verify", many, lines, "--key", public).code == 0
    first, second = many.read_text().splitlines()
    many.write_text(first + "\n" + second.replace(f'"version":"{__version__}"', '"version":"0.0.9"') + "\n")
    found = run("verify", many, lines, "--key", public)
    assert (found.code, "line 2" in found.out, "line 1" in found.out) == (3, True, False)


def test_a_signed_folder_cannot_be_sealed_anew_without_the_key(keys: tuple[Path, Path], tmp_path: Path) -> None:
    secret, public = keys
    rows = [{"prompt": "p", "response": text, "good": score} for text, score in (("a", 0.2), ("b", 1.0))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "outcomes": {"kind": "given", "file": "rows.jsonl"}, "strength": 0.5, "payment": "affine",
        "groups": [{"name": "kind", "size": 2, "reward": {"column": "good"}, "calibration": "unit"}],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    assert run("run", tmp_path / "run.json", "-o", out, "--sign", secret).code == 0
    found = run("verify", out, "--key", public)
    assert (found.code, "signed" in found.out) == (0, True), found.out
    assert run("run", tmp_path / "run.json", "-o", out).code == 0  # a finished run is only read
    assert run("verify", out, "--key", public).code == 0
    sums = (out / ".sha256sums").read_text()
    (out / ".sha256sums").write_text(sums + "0" * 64 + "  receipt.json\n")  # a second content that would do
    assert run("verify", out).code == 0
    assert run("verify", out, "--key", public).code == 3
    (out / ".sha256sums").write_text(sums)
    (out / ".signature.json").unlink()
    assert run("verify", out, "--key", public).code == 3


def test_keys_that_cannot_sign_or_check_are_refused_before_anything_is_done(
    game: Path, keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, public = keys
    receipt, other, words = tmp_path / "receipt.json", tmp_path / "x.pem", tmp_path / "words.pem"
    exchange = x25519.X25519PrivateKey.generate()
    other.write_bytes(exchange.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    words.write_text("no key")
    for key in (public, other, words, tmp_path / "absent.pem"):
        found = run("settle", game, "--sign", key, "-o", receipt)
        assert (found.code, found.err.count("\n"), "Ed25519" in found.err) == (2, 1, True)
        assert not receipt.exists()
    run("settle", game, "--sign", secret, "-o", receipt)
    assert run("verify", receipt, game, "--key", secret).code == 2
    assert run("settle", game, "--sign", secret, "-o", secret).code == 2
    monkeypatch.setattr(signatures, "find_spec", lambda name: None)
    found = run("verify", receipt, game, "--key", public)
    assert (found.code, "rlhf-game[sign]" in found.err) == (2, True)
    assert run("verify", receipt, game).code == 0


def test_a_signature_of_nothing_is_refused(game: Path, keys: tuple[Path, Path]) -> None:
    """A receipt that is only shown signs nothing, and nobody was told."""
    for arguments in (
        ("settle", game), ("run", game, "--dry-run"), ("run", game, "--plan"), ("train", game, "--dry-run"),
        ("discover", game, "--dry-run"), ("simulate", "--replay", game, "--game", 1, "-o", game.with_name("g.json")),
    ):  # fmt: skip
        found = run(*arguments, "--sign", keys[0])
        assert (found.code, found.out) == (2, "")
        assert "--sign: must come with what is written" in found.err
