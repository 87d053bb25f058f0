"""Seals: commitments by an independent program, what is found when a report is exchanged, receipts under a seal."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.files.games import read_game
from rlhf_game.files.seals import (
    make_seal,
    read_seal,
    reports_of,
    revealed_seed,
    seal_differences,
)
from tests.cli.runner import run as command

SALTS = {"legal": "11" * 32, "sales": "22" * 32}
GAME: dict[str, Any] = {
    "reference": [0.5, 0.3, 0.2], "regularizer": "kl", "strength": 0.5,
    "groups": [
        {"name": "sales", "size": 1, "reward": [0, 0.2, 0.8], "salt": SALTS["sales"]},
        {"name": "legal", "size": 3, "reward": [1, 0, 0], "salt": SALTS["legal"]},
        {"name": "art", "size": 2, "reward": [0.5, 0.5, 0]},
    ],
}  # fmt: skip


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "game.json").write_text(json.dumps(GAME))
    return tmp_path / "game.json"


def changed(game: Path, i: int, **fields: Any) -> Path:
    groups = [dict(group) for group in GAME["groups"]]
    groups[i] |= fields
    path = game.with_name("changed.json")
    path.write_text(json.dumps({**GAME, "groups": groups}))
    return path


def test_a_seal_is_what_the_contract_says_by_hand(game: Path) -> None:
    out = game.with_name("seal.json")
    assert command("seal", game, "-o", out).code == 0
    seal = json.loads(out.read_text())
    assert [(group["name"], group["salt_from"]) for group in seal["groups"]] == [
        ("art", "provider"), ("legal", "group"), ("sales", "group"),
    ]  # fmt: skip
    reports = {
        "art": '{"name":"art","reward":[0.5,0.5,0.0],"size":2}',
        "legal": '{"name":"legal","reward":[1.0,0.0,0.0],"size":3}',
        "sales": '{"name":"sales","reward":[0.0,0.2,0.8],"size":1}',
    }
    leaves = []
    for group in seal["groups"]:
        salt = bytes.fromhex(group["salt"])
        assert salt.hex() == SALTS.get(group["name"], group["salt"])
        leaves.append(hashlib.sha256(salt + reports[group["name"]].encode()).digest())
        assert group["commitment"] == leaves[-1].hex()
    root = hashlib.sha256(hashlib.sha256(leaves[0] + leaves[1]).digest() + leaves[2]).digest()
    assert seal["root"] == root.hex()
    salts = b"".join(bytes.fromhex(group["salt"]) for group in seal["groups"])
    assert seal["seed"] == int.from_bytes(hashlib.sha256(root + salts).digest()[:8], "big") >> 1
    assert seal["seed_from"] == "salts"
    assert (opened := command("open", out, game)).code == 0
    assert str(seal["seed"]) in opened.out


def test_what_was_not_sealed_is_found_and_who_does_not_reveal_is_named(game: Path) -> None:
    out = game.with_name("seal.json")
    command("seal", game, "-o", out)
    for i, fields, said in (
        (0, {"size": 2}, "'sales' reports something else"),
        (1, {"reward": [1, 0, 0.1]}, "'legal' reports something else"),
        (1, {"salt": "33" * 32}, "'legal' has another salt"),
        (2, {"name": "arts"}, "'arts' was not sealed"),
    ):
        other = changed(game, i, **fields)
        opened, settled = command("open", out, other), command("settle", other, "--seal", out)
        assert (opened.code, settled.code) == (3, 2)
        assert said in opened.out
        assert said in settled.err
    absent = game.with_name("absent.json")
    absent.write_text(json.dumps({**GAME, "groups": GAME["groups"][:2]}))
    receipt = json.loads(command("settle", absent, "--seal", out, "--json").out)
    assert receipt["commitments"]["not_revealed"] == ["art"]
    assert len(receipt["groups"]) == 2
    seal, reports = read_seal(out), reports_of(read_game(absent))
    assert seal_differences(seal, reports) == []
    assert revealed_seed(seal, reports) != seal.seed  # the salt of who stays away decides nothing


def test_receipts_under_a_seal_hold_the_commitments_and_each_group_can_check_its_own(game: Path) -> None:
    seal, receipt, own = (game.with_name(name) for name in ("seal.json", "receipt.json", "own.json"))
    command("seal", game, "-o", seal)
    assert command("settle", game, "--seal", seal, "-o", receipt).code == 0
    said = json.loads(receipt.read_text())
    sealed = json.loads(seal.read_text())
    assert said["commitments"] == {
        "root": sealed["root"], "groups": {group["name"]: group["commitment"] for group in sealed["groups"]},
    }  # fmt: skip
    assert said["game_sha256"] == json.loads(command("settle", game, "--json").out)["game_sha256"]
    assert command("verify", receipt, game).code == 0
    result = command("verify", receipt, game, "--seal", seal)
    assert result.code == 0
    assert "commitments" not in result.out
    said["commitments"]["groups"]["art"] = "00" * 32
    receipt.write_text(json.dumps(said))
    assert command("verify", receipt, game, "--seal", seal).code == 3
    assert command("receipt", game, "--for", "legal", "--seal", seal, "-o", own).code == 0
    report = game.with_name("report.json")
    report.write_text(json.dumps({"reward": [1, 0, 0], "size": 3, "salt": SALTS["legal"]}))
    assert command("verify", own, report).code == 0
    for field in ("commitment", "root", "path"):
        document = json.loads(own.read_text())
        document[field] = [["left", "00" * 32]] if field == "path" else "00" * 32
        own.with_name("forged.json").write_text(json.dumps(document))
        assert command("verify", own.with_name("forged.json"), report).code == 3, field


def test_a_beacon_decides_the_seed_under_the_root_that_was_published(game: Path) -> None:
    with pytest.raises(InputError, match="'art' must have a salt of its own with a beacon"):
        make_seal(reports_of(read_game(game)), "drand 1234")
    own = changed(game, 2, salt="44" * 32)
    reports = reports_of(read_game(own))
    published, drawn = make_seal(reports), make_seal(reports, "drand 1234")
    assert drawn.root == published.root
    assert drawn.seed_from == "beacon:drand 1234"
    expected = hashlib.sha256(bytes.fromhex(drawn.root) + b"drand 1234").digest()[:8]
    assert drawn.seed == int.from_bytes(expected, "big") >> 1


def test_no_output_takes_the_place_of_the_seal(game: Path) -> None:
    seal = game.with_name("seal.json")
    command("seal", game, "-o", seal)
    kept = seal.read_bytes()
    for arguments in (("settle", game, "--seal", seal, "-o", seal),
                      ("receipt", game, "--for", "art", "--seal", seal, "-o", seal)):  # fmt: skip
        result = command(*arguments)
        assert (result.code, "seal" in result.err) == (2, True)
    assert seal.read_bytes() == kept


@pytest.mark.parametrize("field", ["root", "seed", "seed_from", "groups"])
def test_a_seal_that_does_not_give_its_own_root_or_seed_is_refused(game: Path, field: str) -> None:
    out = game.with_name("seal.json")
    command("seal", game, "-o", out)
    seal = json.loads(out.read_text())
    seal[field] = {
        "root": "00" * 32, "seed": seal["seed"] ^ 1, "seed_from": "beacon:mine", "groups": seal["groups"][::-1],
    }[field]  # fmt: skip
    out.write_text(json.dumps(seal))
    result = command("open", out, game)
    assert result.code == 2
    assert result.err.count("\n") == 1
