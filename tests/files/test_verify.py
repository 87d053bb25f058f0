"""What verify says beside what it finds; test_forgeries.py holds what it finds."""

import json
from pathlib import Path

from rlhf_game.files.verify import ON_TRUST
from tests.cli.runner import run
from tests.files.forgeries import KINDS, receipt, with_lie


def test_what_is_taken_on_trust_is_said(tmp_path: Path) -> None:
    game = KINDS["trie"](tmp_path)
    (tmp_path / "receipt.json").write_text(json.dumps(receipt(game)))
    result = run("verify", tmp_path / "receipt.json", game)
    assert result.code == 0
    assert all(key in result.out for key in ON_TRUST if key != "signature")  # there is none


def test_a_report_marks_a_receipt_that_does_not_verify(tmp_path: Path) -> None:
    game, path = KINDS["trie"](tmp_path), tmp_path / "receipt.json"
    honest = receipt(game)
    for forged, said in ((honest, "Checked"), (with_lie(honest, ("groups", 0, "payment"), 0.0), "not what the")):
        path.write_text(json.dumps(forged))
        assert run("report", game, "--receipt", path, "-o", tmp_path / "page.html").code == 0
        assert said in (tmp_path / "page.html").read_text()
