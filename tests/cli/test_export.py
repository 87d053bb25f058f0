"""``export``: a game file as a .nfg file, with its equilibria."""

import json
from pathlib import Path

import pytest

from tests.cli.runner import run
from tests.cli.test_audit_more import GAME


def written(tmp_path: Path, payment: str = "none") -> Path:
    (tmp_path / "g.json").write_text(json.dumps({**GAME, "payment": payment}))
    return tmp_path / "g.json"


def test_the_equilibria_are_printed_and_the_game_written(tmp_path: Path) -> None:
    free = run("export", written(tmp_path), "-o", tmp_path / "g.nfg")
    assert (free.code, free.err) == (0, "")
    assert "both, both" in free.out
    assert "1.8311" in free.out
    assert "1.8910" in free.out
    assert (tmp_path / "g.nfg").read_text().startswith('NFG 1 R "g.json, payment none"')
    assert len((tmp_path / "g.nfg").read_text().splitlines()) == 4 + 16
    paid = run("export", written(tmp_path, "affine"), "-o", tmp_path / "g.nfg")
    assert "truth, truth" in paid.out


def test_the_menu_may_be_one_s_own(tmp_path: Path) -> None:
    menu = [
        {"kind": "polarize", "temperature": 9.0, "name": "loud"},
        [{"kind": "polarize"}, {"kind": "resize"}],
        "indifferent",
    ]
    (tmp_path / "menu.json").write_text(json.dumps(menu))
    result = run("export", written(tmp_path), "-o", tmp_path / "g.nfg", "--strategies", tmp_path / "menu.json")
    assert result.code == 0
    assert '{ "truth" "loud" "polarize + resize" "indifferent" }' in (tmp_path / "g.nfg").read_text()


@pytest.mark.parametrize(
    ("menu", "message"),
    [
        ([], "must be a list of strategies"),
        ({"kind": "polarize"}, "must be a list of strategies"),
        ([{"temperature": 1.0}], "[0]: must be a strategy with a kind"),
        ([{"kind": "shout"}], "[0]"),
        ([{"kind": "polarize", "volume": 3}], "[0]"),
    ],
)
def test_a_wrong_menu_names_its_place(tmp_path: Path, menu: object, message: str) -> None:
    (tmp_path / "menu.json").write_text(json.dumps(menu))
    result = run("export", written(tmp_path), "-o", tmp_path / "g.nfg", "--strategies", tmp_path / "menu.json")
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert not (tmp_path / "g.nfg").exists()


def test_the_file_must_be_one_of_gambit_s(tmp_path: Path) -> None:
    result = run("export", written(tmp_path), "-o", tmp_path / "g.txt")
    assert (result.code, "must be a file ending in .nfg" in result.err) == (2, True)


def test_prompts_may_have_different_numbers_of_outcomes(tmp_path: Path) -> None:
    groups = [
        {"name": "a", "size": 2, "reward": [[1, 0], [0, 1, 0.5]]},
        {"name": "b", "size": 1, "reward": [[0.3, 0.6], [0.2, 0.4, 0.9]]},
    ]
    document = {"reference": [[0.5, 0.5], [0.2, 0.3, 0.5]], "strength": 0.7, "groups": groups}
    (tmp_path / "p.json").write_text(json.dumps(document))
    result = run("export", tmp_path / "p.json", "-o", tmp_path / "g.nfg")
    assert (result.code, result.err) == (0, "")
