"""Game files that name parts: their fields, their errors, and code that runs only where it is trusted."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import run
from tests.test_registry import HALF

GAME = {
    "reference": [0.5, 0.3, 0.2],
    "strength": 0.5,
    "groups": [{"name": "a", "size": 3, "reward": [1, 0, 0]}, {"name": "b", "size": 1, "reward": [0, 0.2, 0.8]}],
}
PART = (
    HALF.replace("import dataclass", "import dataclass\nfrom typing import Annotated\nfrom pydantic import Field")
    .replace("    def charge", "    part: Annotated[float, Field(gt=0)] = 1.0\n\n    def charge")
    .replace("/ two", "/ two * self.part")
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PART)
    (tmp_path / "helper.py").write_text("two = 2\n")
    return tmp_path


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "game.json"
    path.write_text(json.dumps(GAME | changes))
    return path


def settled(path: Path, *options: object) -> dict[str, Any]:
    done = run("settle", path, "--json", *options)
    assert done.code == 0, done.err
    return json.loads(done.out)


def payments(receipt: dict[str, Any]) -> list[float]:
    return [group["payment"] for group in receipt["groups"]]


def test_a_payment_rule_of_ones_own_charges(folder: Path) -> None:
    whole = payments(settled(written(folder)))
    for part, factor in (("mine.py:Half", 0.5), ({"kind": "mine.py:Half", "part": 0.25}, 0.125)):
        receipt = settled(written(folder, payment=part), "--trust-code")
        assert payments(receipt) == pytest.approx([factor * payment for payment in whole], rel=1e-15)
    assert receipt["payment"] == "mine.py:Half(part=0.25)"


@pytest.mark.parametrize("command", ["settle", "audit", "verify", "report"])
def test_code_that_a_game_names_runs_only_where_it_is_trusted(folder: Path, command: str) -> None:
    (folder / "mine.py").write_text(PART + f"\nopen({str(folder / 'ran')!r}, 'w').close()\n")
    path = written(folder, payment="mine.py:Half")
    receipt = folder / "receipt.json"
    arguments = {"verify": (receipt, path), "report": (path, "-o", folder / "page.html")}.get(command, (path,))
    if command == "verify":
        assert run("settle", path, "-o", receipt, "--trust-code").code == 0
        (folder / "ran").unlink()
    done = run(command, *arguments)
    assert (done.code, (folder / "ran").exists()) == (2, False)
    assert "payment: must be one of affine, none, revenue" in done.err
    assert "--trust-code" in done.err
    assert run(command, *arguments, "--trust-code").code == 0


def test_the_source_is_in_the_identity_of_the_game(folder: Path) -> None:
    path = written(folder, payment="mine.py:Half")
    receipt = folder / "receipt.json"
    assert run("settle", path, "-o", receipt, "--trust-code").code == 0
    assert run("verify", receipt, path, "--trust-code").code == 0
    (folder / "helper.py").write_text("two = 2.0  # the same number\n")
    done = run("verify", receipt, path, "--trust-code")
    assert done.code == 3
    assert "game_sha256" in done.out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"payment": {"kind": "mine.py:Half", "parts": 1}},
            "payment.parts: must be one of the keys part; found another",
        ),
        ({"payment": {"kind": "mine.py:Half", "part": "all"}}, 'payment.part: must be a number, found the text "all"'),
        ({"payment": {"kind": "mine.py:Half", "part": 0}}, "payment.part: must be greater than 0, found 0"),
        ({"payment": {"part": 1}}, "payment: must be a name, or a mapping with the name as kind"),
        ({"payment": "affin"}, "payment: must be affine, none, revenue, participation, checkpoints, stopped, path/to"),
        ({"payment": "mine.py:Whole"}, "payment: must name something there is, found none called 'Whole' in mine.py"),
        ({"payment": "lost.py:Half"}, "payment: must name a file that exists"),
        ({"training": "nash"}, "AffinePayments pays for AffineRule, not NashWelfare"),
        ({"training": {"rule": "alpha_fair"}, "payment": "none"}, "training.alpha: must be given, found nothing"),
        (
            {"training": {"rule": "alpha_fair", "alpha": 1}, "payment": "none"},
            "alpha: must be a number > 0 other than 1",
        ),
        ({"training": "nash", "payment": "none", "weights": {"a": 2}}, "weights: must be left out with training nash"),
        ({"regularizer": {"kind": "kl", "strength": 1}}, "regularizer.strength: must"),
        ({"regularizer": {"kind": "alpha", "order": 1}}, "regularizer: must be kl, l2"),
    ],
)
def test_wrong_parts_are_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    done = run("settle", written(folder, **changes), "--trust-code")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert message in done.err


@pytest.mark.parametrize(
    ("training", "payment"),
    [
        ("social_welfare", "affine"), ("affine", "affine"), ("nash", "none"), ("egalitarian", "none"),
        ({"rule": "alpha_fair", "alpha": 2.0}, "none"), ("equal_say", "none"), ("median", "none"),
        ({"rule": "learned", "profiles": [[[1, 0, 0], [0, 0.2, 0.8]]]}, "affine"),
        ({"rule": "stopped", "steps": 5}, {"kind": "stopped", "steps": 3}),
        ({"rule": "stopped", "steps": 5}, "checkpoints"),
    ],
)  # fmt: skip
def test_every_training_rule_is_reached_from_a_game_file(folder: Path, training: Any, payment: Any) -> None:
    path = written(folder, training=training, payment=payment)
    receipt = settled(path)
    assert sum(receipt["policy"]) == pytest.approx(1)


@pytest.mark.parametrize(("training", "payment"), [("affine", "affine"), ("median", "none")])
def test_what_no_affine_maximiser_is_paid_for_has_no_bound(folder: Path, training: Any, payment: Any) -> None:
    done = run("audit", written(folder, training=training, payment=payment), "--json", "--starts", 1)
    assert done.code == 0, done.err
    bounds = {group["regret_bound"] for group in json.loads(done.out)["groups"]}
    assert bounds == ({0.0} if payment == "affine" else {None})


def test_a_mapping_with_only_a_name_is_the_name(folder: Path) -> None:
    plain = settled(written(folder, regularizer="alpha:3"))
    mapped = settled(written(folder, regularizer={"kind": "alpha", "order": 3.0}))
    assert mapped["policy"] == plain["policy"]
    assert mapped["regularizer"] == "alpha(order=3.0)"


def test_the_example_settles_is_audited_and_is_found_not_to_be_truthful() -> None:
    path = Path(__file__).resolve().parents[2] / "examples/parts/half.yaml"
    assert run("settle", path).code == 2
    receipt = settled(path, "--trust-code")
    assert receipt["payment"] == "half.py:Half(part=0.5)"
    assert sum(payments(receipt)) > 0.1
    done = run("audit", path, "--json", "--starts", 2, "--trust-code")
    assert any(group["regret_found"] > 1e-3 for group in json.loads(done.out)["groups"])
