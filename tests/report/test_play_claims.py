"""What the page to cheat on claims of a game and of its searches, in games unlike the one that comes with it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.play import play_page, write_play_page
from tests.report.browser import Browser
from tests.report.test_games import PROMPTS, folder_of
from tests.report.test_play import ROLE, TEXT, needs_chromium, settled

PAIR: dict[str, Any] = {
    "reference": [0.5, 0.3, 0.2],
    "strength": 1.0,
    "groups": [{"name": "a", "size": 3, "reward": [0.2, 0.9, 0.4]}, {"name": "b", "size": 1, "reward": [0.1, 0.2, 1]}],
}


def written(path: Path, game: dict[str, Any]) -> Path:
    path.write_text(json.dumps(game))
    return path


def rewarding(first: Any, second: Any) -> dict[str, Any]:
    """The pair with other rewards."""
    rewards = zip(PAIR["groups"], (first, second), strict=True)
    return {**PAIR, "groups": [{**group, "reward": reward} for group, reward in rewards]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fee": 0.5}, "fee: must be left out to be played"),
        ({"training_cost": 0.5}, "training_cost: must be left out to be played"),
        ({"models": {"at_most": 2, "cost": 0.1}}, "models: must be left out to be played"),
        ({**rewarding([0.2, 1, 0.4], [0.1, 0.2, 1]), "normalization": "max", "payment": "revenue"}, "must be affine"),
        ({"normalization": "sum"}, r"groups\[0\].reward: must have sum 1"),
    ],
    ids=["fee", "training cost", "models", "revenue", "normalization"],
)
def test_a_game_that_is_settled_otherwise_than_the_page_would_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """The page billed VCG alone in all of these, where settle bills more or refuses."""
    with pytest.raises(InputError, match=words):
        play_page(written(tmp_path / "game.json", {**PAIR, **change}))


APART = "the groups do not agree on which is best"


@pytest.mark.parametrize(
    ("game", "words"),
    [
        (PAIR, f"It can answer in 3 ways, and {APART}."),
        (rewarding([0.9, 0.9, 0], [0, 1, 0.5]), "It can answer in 3 ways, and there is one that all groups like best."),
        (PROMPTS, f"It is asked 2 prompts and can answer each in 2 to 3 ways, and {APART}."),
        (
            {**rewarding([[1, 0], [1, 0]], [[1, 0], [0, 1]]), "reference": [[0.5, 0.5]] * 2},
            f"It is asked 2 prompts and can answer each in 2 ways, and {APART} for 1 of them.",
        ),
        (
            {**rewarding([[1, 0], [1, 0]], [[1, 0], [1, 0]]), "reference": [[0.5, 0.5]] * 2},
            "It is asked 2 prompts and can answer each in 2 ways, and each has one that all groups like best.",
        ),
    ],
    ids=["apart", "a favourite in common", "prompts", "one of two", "both in common"],
)
def test_the_story_begins_with_what_the_groups_want(game: dict[str, Any], words: str, tmp_path: Path) -> None:
    page = play_page(written(tmp_path / "game.json", game))
    assert f" share one assistant. {words}" in page
    together = "so that all members together{} get as much as possible, less what moving"
    assert together.format(", as the provider weighs them" if "weights" in game else "") in page


@needs_chromium
def test_a_report_is_true_where_the_provider_hears_the_truth(chromium: Browser, tmp_path: Path) -> None:
    """Of rewards that are scaled to sum to 1, a slider elsewhere can say the same: it was called a lie."""
    game = {**rewarding([0, 1, 0], [0.5, 0, 0.5]), "normalization": "sum"}
    chromium.open(write_play_page(tmp_path / "play.html", written(tmp_path / "game.json", game)))
    assert "add up to 1: the numbers on the right are what the provider hears" in chromium.run(
        "return document.querySelector('.board .note').textContent"
    )
    move = (
        "const a = document.querySelectorAll('.sliders input')[{}]; a.value = {}; a.dispatchEvent(new Event('input'));"
        "return ['verdict', 'fate'].map(p => document.querySelector(`[data-part=${{p}}]`).textContent)"
    )
    lies = "return document.querySelectorAll('.said.lie').length"
    true = ["You are telling the truth.", "Watch what you get: not every lie pays."]
    assert chromium.run(move.format(1, 0.4)) == true
    assert chromium.run(lies) == 0
    assert "this lie" in chromium.run(move.format(2, 0.4))[0]
    assert chromium.run(lies) == 2


def drawn_games() -> list[dict[str, Any]]:
    rng = np.random.default_rng(18)
    games = []
    for _ in range(8):
        n, m = (int(k) for k in rng.integers([2, 3], [5, 6]))
        rewards = [np.round(rng.random(m) ** rng.choice([0.5, 4]), 2).tolist() for _ in range(n)]
        groups = [{"name": f"g{i}", "size": int(rng.integers(1, 6)), "reward": r} for i, r in enumerate(rewards)]
        games.append(
            {"reference": rng.dirichlet(np.ones(m)).tolist(), "strength": float(rng.uniform(0.5, 8)), "groups": groups}
        )
    same = [{"name": name, "size": 2, "reward": [0, 1, 0]} for name in "ab"]
    return [*games, {**PAIR, "groups": same, "strength": 0.05}]


@needs_chromium
def test_who_would_shout_is_who_gets_less_by_going_back(chromium: Browser, tmp_path: Path) -> None:
    kinds = set()
    for game in drawn_games():
        chromium.open(write_play_page(tmp_path / "play.html", written(tmp_path / "game.json", game)))
        rules, truth, shouts = chromium.run(
            "const p = document.querySelector('.play'); document.querySelector('[data-part=everybody]').click();"
            "return [p.api.rules.game, p.api.rules.truth, p.api.state.reports]"
        )

        def worth(i: int, reports: list[dict[str, Any]], rules: Any = rules, truth: Any = truth) -> float:
            policy = np.asarray(settled(rules, reports)["policy"])
            return float(truth[i]["size"] * (policy * np.asarray(truth[i]["reward"])).sum())

        fallen = [
            truth[i]["name"]
            for i in range(len(truth))
            if worth(i, shouts) - worth(i, [truth[j] if j == i else one for j, one in enumerate(shouts)]) >= 5e-4
        ]
        kind = "Nobody" if not fallen else "Everybody" if len(fallen) == len(truth) else "Who"
        said = chromium.run(TEXT.format("searched"))
        assert f". {kind} would get less by going back to the truth alone" in said
        if kind == "Who":
            assert re.split(", | and ", said.partition("the truth alone: ")[2].removesuffix(".")) == fallen
        kinds.add(kind)
    assert kinds == {"Nobody", "Everybody", "Who"}


@needs_chromium
def test_of_several_prompts_it_is_said_of_which_one_a_wish_is(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_play_page(tmp_path / "play.html", written(tmp_path / "game.json", PROMPTS)))
    chromium.click("[data-part=skip]")
    chromium.run(ROLE.format(0).replace("select'", "label:nth-of-type(2) select'").replace("'0'", "'1'"))
    chromium.click("[data-part=collude]")
    assert "Report of sales on \u201cWhat to drink?\u201d" in chromium.run(TEXT.format("together"))
    wish = chromium.run("return document.querySelector('.play').api.invent()")["reward"][1]
    wanted = PROMPTS["outcomes"][1][int(np.argmax(wish))]
    assert wish[0] != wish[1]
    said = f"that wants \u201c{wanted}\u201d most as the answer to \u201cWhat to drink?\u201d, the best for you of "
    assert said in chromium.run(TEXT.format("provider"))


@needs_chromium
def test_no_number_of_a_drawing_is_cut_off(chromium: Browser, tmp_path: Path) -> None:
    """The lowest loss has as many digits as its group has members."""
    groups = [{**group, "size": 4000 * group["size"]} for group in PAIR["groups"]]
    game = {**PAIR, "groups": groups, "strength": 4000.0}
    chromium.open(write_play_page(tmp_path / "play.html", written(tmp_path / "game.json", game)))
    chromium.click("[data-part=skip]")
    chromium.run(ROLE.format(1))
    ticks = chromium.run("return [...document.querySelectorAll('[data-part=sizes] .tick')].map(t => t.textContent)")
    assert min(float(tick.replace("\u2212", "-")) for tick in ticks[:4]) < -1000
    outside = (
        "return [...document.querySelectorAll('.curves svg text')].filter(t => { const [a, s] = [t, t.closest('svg')]"
        ".map(e => e.getBoundingClientRect()); return a.left < s.left || a.right > s.right; }).map(t => t.textContent)"
    )
    for width in (1200, 380):
        chromium.resize(width)
        assert chromium.run(outside) == []
    chromium.resize(1200)


@needs_chromium
@pytest.mark.parametrize(("payment", "is_paid"), [("affine", True), ("none", False)])
def test_the_board_of_a_report_begins_with_the_payments_of_its_game(
    chromium: Browser, tmp_path: Path, payment: str, is_paid: bool
) -> None:
    chromium.open(write_report(folder_of(tmp_path / "run", {**PAIR, "payment": payment})))
    assert chromium.run("return document.querySelector('#what-if [data-part=charge]').checked") is is_paid
    assert chromium.run("return document.querySelector('#what-if .invoice').checkVisibility()") is is_paid
