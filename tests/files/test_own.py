"""Own receipts: a right one is verified with the group's own report, and every wrong leaf of one is found."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from rlhf_game.errors import InputError
from rlhf_game.files.own import check_own, climb, commitment, merkle
from tests.cli.runner import run
from tests.files.forgeries import at, places, with_lie

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "games"
CHECKABLE = ["table", "prompts", "automaton", "l2", "affine_maximiser"]
UNCHECKED = {"initial"}
"""Of numbers, what does not enter a bill: an automaton's start."""
WIDE = {"l2": {("weight",), ("strength",)}}
"""Numbers that are not told from the bill where the policy is 0 and the bill therefore an interval."""


def own(folder: Path, game: str) -> tuple[Path, Path]:
    path = EXAMPLES / f"{game}.yaml"
    group = yaml.safe_load(path.read_text())["groups"][0]
    assert run("receipt", path, "--for", group["name"], "-o", folder / "own.json").code == 0
    (folder / "report.json").write_text(json.dumps({"reward": group["reward"], "size": group["size"]}))
    return folder / "own.json", folder / "report.json"


@pytest.mark.parametrize("game", CHECKABLE)
def test_an_own_receipt_agrees_with_the_own_report_and_the_whole_receipt(game: str, tmp_path: Path) -> None:
    receipt, report = own(tmp_path, game)
    found = run("verify", receipt, report)
    assert found.code == 0, found.out
    assert "not proved" in found.out
    wanted = "the bill is between" if game == "l2" else "proved: the bill, given the delivered policy"
    assert wanted in found.out
    whole = json.loads(run("settle", EXAMPLES / f"{game}.yaml", "--json").out)["groups"][0]
    mine = json.loads(receipt.read_text())
    assert {key: mine[key] for key in ("size", "value", "payment", "utility")} == {
        key: whole[key] for key in ("size", "value", "payment", "utility")
    }
    parts = mine["breakdown"]
    assert parts["cost_to_others"] + parts["provider_share"] == pytest.approx(mine["payment"], rel=1e-12)
    others = [group["name"] for group in yaml.safe_load((EXAMPLES / f"{game}.yaml").read_text())["groups"][1:]]
    assert not any(name in receipt.read_text() for name in others)


@pytest.mark.parametrize("game", CHECKABLE)
def test_every_wrong_number_of_an_own_receipt_is_found(game: str, tmp_path: Path) -> None:
    receipt, report = own(tmp_path, game)
    document, accepted = json.loads(receipt.read_text()), set()
    for place in places(document):
        if type(value := at(document, place)) not in (int, float) or place[0] in UNCHECKED:
            continue
        for by in (1e-5, 3.0) if isinstance(value, float) else (1, 3):
            receipt.write_text(json.dumps(with_lie(document, place, value + by)))
            try:
                if not check_own(receipt, report)[0]:
                    accepted.add(place)
            except InputError:
                continue
    assert accepted <= WIDE.get(game, set())


@pytest.mark.parametrize("regularizer", ["l2", "chi2"])
def test_where_the_policy_is_0_the_interval_is_said_to_be_proved_and_no_number(
    regularizer: str, tmp_path: Path
) -> None:
    group = {"name": "legal", "size": 3, "reward": [1, 0, 0]}
    others = [{"name": "sales", "size": 1, "reward": [0, 0.2, 0.8]}]
    game = {"reference": [0.5, 0.3, 0.2], "regularizer": regularizer, "strength": 0.5, "groups": [group, *others]}
    path, receipt, report = (tmp_path / f"{name}.json" for name in ("game", "own", "report"))
    path.write_text(json.dumps(game))
    report.write_text(json.dumps({"reward": group["reward"], "size": 3}))
    assert run("receipt", path, "--for", "legal", "-o", receipt).code == 0
    said = run("verify", receipt, report).out
    match = re.search("the bill is between (.*) and (.*), given", said)
    assert match is not None, said
    low, high = map(float, match.groups())
    mine = json.loads(receipt.read_text())
    assert low <= mine["payment"] <= high
    assert high - low > 0.01
    for payment, code in ((low + 1e-6, 0), (high - 1e-6, 0), (low - 1e-6, 3), (high + 1e-6, 3)):
        parts = {**mine["breakdown"], "provider_share": payment - mine["breakdown"]["cost_to_others"]}
        forged = {**mine, "payment": payment, "utility": 3 * mine["value"] - payment, "breakdown": parts}
        receipt.write_text(json.dumps(forged))
        assert run("verify", receipt, report).code == code, payment


def test_another_report_is_another_bill(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    for wrong in ({"reward": [0.9, 0.1, 0.0], "size": 3}, {"reward": [1, 0, 0], "size": 2}):
        report.write_text(json.dumps(wrong))
        assert run("verify", receipt, report).code == 3


@pytest.mark.parametrize("fits", [False, True], ids=["alone", "with all that fits it"])
def test_of_a_wrong_payment_the_right_numbers_are_said_and_nothing_else(fits: bool, tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    right = json.loads(receipt.read_text())
    more = right["payment"] * 0.01
    forged = right | {"payment": right["payment"] + more}
    if fits:
        parts = right["breakdown"]
        forged["utility"] = right["utility"] - more
        forged["breakdown"] = parts | {"provider_share": parts["provider_share"] + more}
    receipt.write_text(json.dumps(forged))
    found = run("verify", receipt, report)
    said = {line.partition(":")[0]: float(line.rpartition(" ")[2]) for line in found.out.splitlines()}
    expected = {"payment": right["payment"], "utility": right["utility"], "breakdown": right["payment"]}
    assert found.code == 3
    assert said == pytest.approx(expected if fits else {"payment": right["payment"]}, rel=1e-9)


def test_a_receipt_and_its_report_the_other_way_round_are_said_to_be_so(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    found = run("verify", report, receipt)
    assert (found.code, found.out) == (2, "")
    assert "found them the other way round" in found.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "must be"),
        (
            '{"reward": [1, 0], "size": 3}',
            "shaped like the receipt's policy and reference (a list of 3), found a list of 2",
        ),
        ('{"reward": [1, 0, "x"], "size": 3}', "policy and reference (a list of 3), found others"),
        ('{"reward": [1, 0, 0], "size": 0}', "size: must be"),
        ('{"reward": [1, 0, 0]}', "size"),
    ],
)
def test_a_wrong_report_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    report.write_text(content)
    found = run("verify", receipt, report)
    assert found.code == 2
    assert words in found.err


def test_weights_of_prompts_must_sum_to_one(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "prompts")
    document = json.loads(receipt.read_text())
    document["prompt_weights"][0] += 1e-6
    receipt.write_text(json.dumps(document))
    assert run("verify", receipt, report).code == 2


@pytest.mark.parametrize(("game", "words"), [("menu", "cannot be checked alone"), ("revenue", "must be affine")])
def test_a_bill_that_cannot_be_checked_alone_is_said_to_be_so(game: str, words: str, tmp_path: Path) -> None:
    group = yaml.safe_load((EXAMPLES / f"{game}.yaml").read_text())["groups"][0]["name"]
    found = run("receipt", EXAMPLES / f"{game}.yaml", "--for", group, "-o", tmp_path / "own.json")
    assert (found.code, list(tmp_path.iterdir())) == (2, [])
    assert words in found.err


def test_what_stands_in_the_way_of_a_bill_to_be_checked_alone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "game.json"
    path.write_text(json.dumps({**yaml.safe_load((EXAMPLES / "table.yaml").read_text()), "training_cost": 0.1}))
    found = run("receipt", path, "--for", "legal", "-o", tmp_path / "own.json")
    assert (found.code, found.err.endswith("found affine with training_cost\n")) == (2, True)


def test_code_in_an_own_receipt_is_not_run(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    (tmp_path / "mine.py").write_text("raise SystemExit(7)")
    document = json.loads(receipt.read_text()) | {"regularizer": f"{tmp_path}/mine.py:Mine"}
    receipt.write_text(json.dumps(document))
    found = run("verify", receipt, report)
    assert found.code == 2
    assert "must be one that is known" in found.err


def test_commitments_and_the_tree_are_as_declared() -> None:
    """Against the definition in a few lines: leaves in order, an odd one goes up unchanged."""
    salt = bytes(range(32))
    said = b'{"name":"a\xc3\xa9","reward":[1.0,0.5],"size":2}'
    assert commitment("a\u00e9", 2, [1, 0.5], salt) == hashlib.sha256(salt + said).hexdigest()

    def join(a: str, b: str) -> str:
        return hashlib.sha256(bytes.fromhex(a + b)).hexdigest()

    a, b, c, d, e = (hashlib.sha256(bytes([k])).hexdigest() for k in range(5))
    assert merkle([a])[0] == a
    assert merkle([a, b, c])[0] == join(join(a, b), c)
    root, paths = merkle([a, b, c, d, e])
    assert root == join(join(join(a, b), join(c, d)), e)
    assert [climb(leaf, path) for leaf, path in zip((a, b, c, d, e), paths, strict=True)] == [root] * 5
    assert climb(b, paths[0]) != root


def test_a_commitment_binds_the_name_and_the_report(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    document, mine = json.loads(receipt.read_text()), json.loads(report.read_text())
    salt = "ab" * 32
    leaf = commitment(document["for"], mine["size"], mine["reward"], bytes.fromhex(salt))
    root, paths = merkle([leaf, hashlib.sha256(b"other").hexdigest()])
    sealed = document | {"commitment": leaf, "path": paths[0], "root": root}
    right = mine | {"salt": salt}
    for own_document, own_report, code in (
        (sealed, right, 0),
        (sealed, mine, 3),
        (sealed, mine | {"salt": "cd" * 32}, 3),
        (sealed | {"for": "sales"}, right, 3),
        (sealed | {"root": leaf}, right, 3),
        (sealed | {"path": []}, right, 3),
        (document | {"root": root}, right, 3),
    ):
        receipt.write_text(json.dumps(own_document))
        report.write_text(json.dumps(own_report))
        assert run("verify", receipt, report).code == code


@pytest.mark.parametrize("game", ["table", "prompts", "affine_maximiser"])
def test_a_policy_without_the_group_that_was_trained_elsewhere_is_checked(game: str, tmp_path: Path) -> None:
    receipt, report = own(tmp_path, game)
    document = yaml.safe_load((EXAMPLES / f"{game}.yaml").read_text())
    rest, without = tmp_path / "rest.json", tmp_path / "without.json"
    rest.write_text(json.dumps({**document, "groups": document["groups"][1:]}))
    assert run("settle", rest, "-o", without).code == 0
    found = run("verify", receipt, report, "--without", without)
    assert (found.code, "is the one without this group" in found.out) == (0, True)
    honest = json.loads(without.read_text())
    others = document["groups"][1:]
    others[0] |= {"size": others[0].get("size", 1) + 1}  # another game without the group
    rest.write_text(json.dumps({**document, "groups": others}))
    run("settle", rest, "-o", without)
    found = run("verify", receipt, report, "--without", without)
    assert (found.code, "a spread of" in found.out) == (3, True)
    rows = [row if isinstance(row, list) else [row] for row in honest["policy"]]
    scaled = [[3 * x for x in row] if len(row) > 1 else 3 * row[0] for row in rows]  # as constant a spread
    without.write_text(json.dumps({**honest, "policy": scaled}))
    assert run("verify", receipt, report, "--without", without).code == 3
    without.write_text(json.dumps({**honest, "policy": [1.0]}))
    assert run("verify", receipt, report, "--without", without).code == 2
    rest.write_text((EXAMPLES / "l2.yaml").read_text())
    assert run("verify", own(tmp_path, "l2")[0], report, "--without", without).code == 2
    assert run("verify", without, rest, "--without", without).code == 2


def test_numbers_that_overflow_are_one_line_and_no_warning(tmp_path: Path) -> None:
    receipt, report = own(tmp_path, "table")
    honest, mine = json.loads(receipt.read_text()), json.loads(report.read_text())
    report.write_text(json.dumps({**mine, "reward": [1e308, -1e308, 1e308]}))
    found = run("verify", receipt, report)
    assert (found.code, found.err.count("\n"), found.err.count("float64 can hold")) == (2, 1, 1), found
    report.write_text(json.dumps(mine))
    receipt.write_text(json.dumps({**honest, "strength": 1e308}))
    found = run("verify", receipt, report)
    assert (found.code, found.err) == (3, ""), found
