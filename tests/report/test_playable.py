"""Which games can be played, and the command that writes their page."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.cli import main
from rlhf_game.errors import InputError
from rlhf_game.report.play import write_play_page
from tests.report.test_games import PROMPTS, TRIE

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "games"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (TRIE, "space: must be a table"),
        ({**PROMPTS, "regularizer": "l2"}, "regularizer: must be kl"),
        ({**PROMPTS, "groups": PROMPTS["groups"][:1]}, "groups: must be 2 to 8"),
        ({"reference": [1 / 13] * 13, "strength": 1.0, "groups": [
            {"name": name, "size": 1, "reward": [1.0] * 13} for name in "ab"
        ]}, "at most 12 outcomes"),
        ({"reference": [0.5, 0.5], "strength": 1.0, "groups": [
            {"name": name, "size": 1, "reward": [1.0, -1.0]} for name in "ab"
        ]}, r"groups\[0\].reward: must be >= 0"),
    ],
)  # fmt: skip
def test_a_game_that_cannot_be_played_is_refused_in_one_line(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "game.json").write_text(json.dumps(change))
    with pytest.raises(InputError, match=words):
        write_play_page(tmp_path / "play.html", tmp_path / "game.json")
    assert not (tmp_path / "play.html").exists()


@pytest.mark.parametrize("name", ["table", "prompts", "affine_maximiser"])
def test_the_command_writes_the_page_of_a_game(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", str(EXAMPLES / f"{name}.yaml"), "-o", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"page: {tmp_path / 'page.html'}\n"
    assert "Try to cheat" in (tmp_path / "page.html").read_text()
