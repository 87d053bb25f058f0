"""Fees and participation in games: what receipts say, what is refused, and that verify finds every wrong number."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import run

GAME: dict[str, Any] = {
    "reference": [0.7, 0.2, 0.1],
    "strength": 0.5,
    "normalization": "max",
    "groups": [
        {"name": "a", "size": 3, "reward": [1.0, 0.3, 0.1]},
        {"name": "b", "size": 2, "reward": [0.1, 0.2, 1.0]},
    ],
}


def settle(folder: Path, **changes: Any) -> dict[str, Any]:
    game = folder / "game.json"
    game.write_text(json.dumps(GAME | changes))
    assert run("settle", game, "-o", folder / "receipt.json").code == 0
    assert run("verify", folder / "receipt.json", game).code == 0
    document: dict[str, Any] = json.loads((folder / "receipt.json").read_text())
    return document


def test_a_fee_is_in_every_payment_and_stands_beside_it(tmp_path: Path) -> None:
    plain, charged = settle(tmp_path), settle(tmp_path, fee=0.25)
    assert "fee" not in plain
    assert (charged["fee"], charged["false_name_proof"]) == (0.25, False)
    for before, after in zip(plain["groups"], charged["groups"], strict=True):
        assert after["fee"] == 0.25
        assert after["payment"] == pytest.approx(before["payment"] + 0.25, rel=1e-12)
        assert after["utility"] == pytest.approx(before["utility"] - 0.25, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "fee"),
    [
        ({"owner_limit": 3}, 0.735326),
        ({"owner_limit": 4}, 1.325003),
        ({"owner_limit": 3, "weights": {"a": 0.5, "b": 0.5}}, None),
        ({"owner_limit": 4, "regularizer": "l2"}, 2.0),
        ({"owner_limit": 5, "regularizer": "chi2"}, 2.5),
    ],
)
def test_the_fee_of_the_theorem_by_name(changes: dict[str, Any], fee: float | None, tmp_path: Path) -> None:
    receipt = settle(tmp_path, fee="false_name_proof", **changes)
    assert receipt["false_name_proof"] is True
    assert fee is None or receipt["fee"] == pytest.approx(fee, abs=5e-7)
    enough = settle(tmp_path, **changes, fee=receipt["fee"])
    less = settle(tmp_path, **changes, fee=receipt["fee"] * 0.999)
    assert (enough["false_name_proof"], less["false_name_proof"]) == (True, False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fee": "false_name_proof"}, "owner_limit: must be given"),
        ({"fee": "false_name_proof", "owner_limit": 3, "normalization": "none"}, "normalization: must be sum or max"),
        ({"fee": "false_name_proof", "owner_limit": 3, "weights": {"a": 2.0}}, "weights: must be the same"),
        ({"fee": "false_name_proof", "owner_limit": 3, "payment": "none"}, "payment: must be affine"),
        ({"owner_limit": 2}, "groups[0].size: must be at most the owner_limit (2), found 3"),
        ({"fee": -0.1}, "fee"),
        ({"fee": "enough"}, "fee"),
        ({"participation_cost": 0.1}, "participation_cost: must be given with payment participation"),
        ({"payment": "participation"}, "participation_cost: must be given with payment participation"),
    ],
)
def test_what_has_no_meaning_is_one_line(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "game.json").write_text(json.dumps(GAME | changes))
    found = run("settle", tmp_path / "game.json")
    assert found.code == 2
    assert words in found.err


def test_groups_that_do_not_take_part_get_and_pay_nothing(tmp_path: Path) -> None:
    both = settle(tmp_path, payment="participation", participation_cost=0.0)
    one = settle(tmp_path, payment="participation", participation_cost=1.2)
    assert [group["takes_part"] for group in both["groups"]] == [True, True]
    assert [group["takes_part"] for group in one["groups"]] == [True, False]
    assert one["groups"][1] == {
        "name": "b",
        "size": 2,
        "value": 0.0,
        "payment": 0.0,
        "utility": 0.0,
        "takes_part": False,
    }
    assert one["groups"][0]["utility"] >= 0
    nobody = settle(tmp_path, payment="participation", participation_cost=9.0)
    assert nobody["divergence"] == pytest.approx(0.0, abs=1e-12)
    audit = json.loads(run("audit", tmp_path / "game.json", "--json", "--starts", "4").out)
    assert all(group["regret_found"] == 0 for group in audit["groups"])


@pytest.mark.parametrize(
    "changes", [{"fee": 0.25, "owner_limit": 9}, {"payment": "participation", "participation_cost": 1.2}]
)
def test_verify_finds_every_wrong_number(changes: dict[str, Any], tmp_path: Path) -> None:
    receipt = settle(tmp_path, **changes)
    wrong: list[dict[str, Any]] = [receipt | {"fee": 0.3}, receipt | {"false_name_proof": True}]
    if "fee" not in receipt:
        wrong = []
    for i in range(2):
        for key, value in receipt["groups"][i].items():
            other = (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "x"
            groups = [dict(group) for group in receipt["groups"]]
            groups[i][key] = other
            wrong.append(receipt | {"groups": groups})
    for document in wrong:
        (tmp_path / "receipt.json").write_text(json.dumps(document))
        assert run("verify", tmp_path / "receipt.json", tmp_path / "game.json").code == 3


def test_audits_know_the_fee(tmp_path: Path) -> None:
    settle(tmp_path, fee=0.25)
    with_fee = json.loads(run("audit", tmp_path / "game.json", "--json", "--starts", "4").out)["groups"]
    settle(tmp_path)
    without = json.loads(run("audit", tmp_path / "game.json", "--json", "--starts", "4").out)["groups"]
    for mine, theirs in zip(with_fee, without, strict=True):
        assert mine["regret_found"] == 0
        assert mine["regret_bound"] == theirs["regret_bound"]
        assert mine["ir_bound"] == pytest.approx(theirs["ir_bound"] - 0.25)
        assert mine["truthful_utility"] == pytest.approx(theirs["truthful_utility"] - 0.25)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fee": -1.0}, "fee: must be greater than or equal to 0, or 'false_name_proof', found -1.0"),
        ({"fee": "x"}, "fee: must be a number, or 'false_name_proof', found the text \"x\""),
        ({"fee": "x", "strength": -1.0}, " (and 1 more)"),
        ({"models": {"at_most": "x", "cost": "x"}}, "models.at_most: must be an integer"),
        ({"weights": {"a": "x", "team b": "x"}}, 'weights.a: must be a number, found the text "x" (and 1 more)'),
        ({"my-key": 1, "other": 1}, "my-key"),
    ],
)
def test_a_value_of_none_of_its_types_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    """The type's own name (``fee.'function-after[...]'``) stood in the message, and each type was a fault."""
    game = tmp_path / "game.json"
    game.write_text(json.dumps(GAME | changes))
    refused = run("settle", game)
    assert refused.code == 2
    assert said in refused.err
    assert "[" not in refused.err
