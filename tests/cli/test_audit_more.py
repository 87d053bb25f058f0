"""``audit`` of other people's mechanisms, over a prior, and of the core."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import run

GAME: dict[str, Any] = {
    "reference": [0.7, 0.2, 0.1],
    "strength": 0.5,
    "normalization": "sum",
    "groups": [
        {"name": "a", "size": 3, "reward": [0.6, 0.3, 0.1]},
        {"name": "b", "size": 2, "reward": [0.1, 0.2, 0.7]},
    ],
}
MINE = """
import numpy as np

def pay_as_bid(rewards, sizes):
    p = np.array([0.7, 0.2, 0.1]) * np.exp(sizes @ rewards / 0.5)
    p /= p.sum()
    return p, 0.5 * sizes * (rewards @ p)

def wrong(rewards, sizes):
    return [1.0, 0.0], [0.0, 0.0]
"""
PRIOR = "scenario: {kind: random, groups: 2, outcomes: 3, sizes: [1, 4]}\n"


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "prior.yaml").write_text(PRIOR)
    (tmp_path / "game.json").write_text(json.dumps(GAME))
    return tmp_path / "game.json"


def test_someone_else_s_mechanism_has_a_bracket_with_a_witness(game: Path) -> None:
    mine = f"{game.parent / 'mine.py'}:pay_as_bid"
    found = run("audit", game, "--mechanism", mine, "--json", "--starts", "2", "--assert")
    assert found.code == 3
    document = json.loads(found.out)
    assert document["payment"] == mine
    assert all(group["regret_found"] > 0.05 and group["regret_bound"] is None for group in document["groups"])


def test_coalitions_come_with_the_core(game: Path) -> None:
    document = json.loads(run("audit", game, "--coalitions", "--json", "--starts", "4").out)
    (pair,) = document["coalitions"]
    assert pair["members"] == ["a", "b"]
    assert pair["gain"] > 0.4
    assert document["core"]["is_in"] is True
    assert document["core"]["least_revenue"] == pytest.approx(0.373756102268, abs=1e-9)
    rational = document["coalitional_ir"]
    assert rational["is_met"] is True
    assert rational["own_model"]["members"] == ["b"]
    assert rational["own_model"]["gain"] > 0.1
    game.write_text(json.dumps({**GAME, "weights": {"a": 2.0}}))
    unknown = json.loads(run("audit", game, "--coalitions", "--json", "--starts", "2").out)["core"]
    assert (unknown["is_in"], unknown["worst_gain"]) == (None, None)
    assert unknown["why"].startswith("the core adds up utilities, which groups' weights")
    said = run("audit", game, "--coalitions", "--starts", "2").out
    assert "whether the settlement is in the core is not known: the core adds up" in " ".join(said.split())


def test_a_prior_gives_interim_regrets(game: Path) -> None:
    more = ("--prior", game.parent / "prior.yaml", "--samples", "8", "--json", "--starts", "2")
    paid = json.loads(run("audit", game, *more, "--types", "1").out)["groups"]
    assert [group["interim_regret"]["estimate"] for group in paid] == [0, 0]
    drawn = [one for group in paid for one in group["types"]]
    assert [one["interim_regret"]["estimate"] for one in drawn] == [0, 0]
    assert all(sum(one["type"]["reward"]) == pytest.approx(1) and one["type"]["size"] >= 1 for one in drawn)
    game.write_text(json.dumps({**GAME, "payment": "none"}))
    free = json.loads(run("audit", game, *more).out)["groups"]
    for group in free:
        regret = group["interim_regret"]
        assert 0 < regret["low"] <= regret["estimate"] <= regret["high"]
        assert group["interim_report"]["size"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--mechanism", "mine.py:wrong"), 1, "must return 3 probabilities"),
        (("--mechanism", "mine.py:nothing"), 2, "none called 'nothing'"),
        (("--mechanism", "mine.py"), 2, "must be package.module:Name or path/to/file.py:Name"),
        (("--mechanism", "mine.py:np"), 2, "--mechanism: must be a function"),
        (("--prior", "groups.yaml"), 2, "scenario.groups: must be 2, as many as the game has, found 3"),
        (("--prior", "outcomes.yaml"), 2, "scenario.outcomes: must be 3, as many as the game has, found 10"),
        (("--prior", "none.yaml"), 2, "found nothing there"),
    ],
)
def test_what_does_not_fit_is_one_line(
    game: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(game.parent)
    (game.parent / "groups.yaml").write_text("{kind: random, groups: 3, outcomes: 3}\n")
    (game.parent / "outcomes.yaml").write_text("{kind: random, groups: 2}\n")
    result = run("audit", "game.json", *arguments, "--starts", "2")
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_prior_goes_with_tables_of_one_prompt_only(game: Path) -> None:
    several = {**GAME, "reference": [[0.5, 0.3, 0.2]] * 2}
    several["groups"] = [{**group, "reward": [group["reward"]] * 2} for group in GAME["groups"]]
    menu = {"space": "menu", "outcomes": ["x", "y", "z"], "strength": 1.0, "groups": GAME["groups"]}
    for other in (several, menu):
        game.write_text(json.dumps(other))
        found = run("audit", game, "--prior", game.parent / "prior.yaml", "--starts", "1")
        assert found.code == 2
        assert "game.json: must be a table of outcomes for one prompt" in found.err
