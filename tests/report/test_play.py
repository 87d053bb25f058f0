"""The page to cheat on: its settlement is the package's, and what it says of lies is true. Needs Chromium."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlhf_game import KL, AffinePayments, AffineWelfare, Mechanism, Report, Table
from rlhf_game.cli import main
from rlhf_game.errors import InputError
from rlhf_game.report import write_report
from rlhf_game.report.play import play_page, write_play_page
from tests.report.browser import CHROMEDRIVER, CHROMIUM, Browser, browser
from tests.report.test_games import PROMPTS, TRIE, folder_of

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "games"
GAMES = 1000
TWELVE_DIGITS = 1e-12
SMALL = 1e-11
"""Of payments far below 1: what the package itself keeps of them (60 digits were the judge: the page is the nearer)."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        one.resize(1200)
        one.prefer("light")
        yield one


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_play_page(tmp_path_factory.mktemp("play") / "play.html")


@pytest.fixture
def played(chromium: Browser, page: Path) -> Browser:
    chromium.open(page)
    chromium.run("localStorage.clear()")
    chromium.open(page)
    return chromium


def drawn(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A random game: strengths over six orders of magnitude, sizes, weights, a boost, excluded outcomes."""
    prompts, n, m = (int(k) for k in rng.integers([1, 1, 2], [4, 6, 8]))
    reference = rng.dirichlet(np.full(m, 0.7), prompts)
    reference[:, 0] *= rng.random() < 0.8
    reference /= reference.sum(axis=1, keepdims=True)
    game = {
        "reference": reference.tolist(),
        "promptWeights": rng.dirichlet(np.ones(prompts)).tolist(),
        "strength": float(10 ** rng.uniform(-2, 4)),
        "weights": rng.uniform(0.5, 2, n).tolist(),
        "boosts": rng.normal(size=(prompts, m)).tolist(),
    }
    reports = [{"reward": rng.random((prompts, m)).tolist(), "size": int(rng.integers(1, 20))} for _ in range(n)]
    return game, reports


def settled(game: dict[str, Any], reports: list[dict[str, Any]]) -> dict[str, Any]:
    """The same by the package."""
    space = Table(game["reference"], KL(game["strength"]), prompt_weights=game["promptWeights"])
    rule = AffineWelfare(game["weights"], game["boosts"])
    out = Mechanism(rule, AffinePayments()).settle([Report(one["reward"], one["size"]) for one in reports], space)
    return {
        "policy": np.asarray(out.policy.probabilities).tolist(),
        "values": out.values.tolist(),
        "payments": out.payments.tolist(),
        "divergence": out.policy.divergence,
    }


@needs_chromium
def test_a_thousand_games_settle_in_the_page_as_in_the_package(played: Browser) -> None:
    rng = np.random.default_rng(20261128)
    games = [drawn(rng) for _ in range(GAMES)]
    found = played.run(
        f"return {json.dumps(games)}.map(([game, reports]) => Settlement.settle(game, reports))"
        ".map(s => ({policy: s.policy, values: s.values, payments: s.payments, divergence: s.divergence}))"
    )
    for (game, reports), mine in zip(games, found, strict=True):
        theirs = settled(game, reports)
        for key, wanted in theirs.items():
            np.testing.assert_allclose(
                mine[key], wanted, rtol=TWELVE_DIGITS, atol=TWELVE_DIGITS, err_msg=f"{key} {game}"
            )
            np.testing.assert_allclose(mine[key], wanted, rtol=SMALL, atol=1e-300, err_msg=f"{key} {game}")


@needs_chromium
def test_the_bill_is_what_the_others_lose_and_what_moving_the_model_costs(played: Browser) -> None:
    got = played.run(
        "const a = document.querySelector('.play').api; a.pays(true);"
        "const s = Settlement.settle(a.rules.game, a.rules.truth), b = a.bill();"
        "return [b.total, b.others, b.provider, s.payments[0]]"
    )
    game = yaml.safe_load((Path(play_page.__code__.co_filename).parent / "templates" / "play.yaml").read_text())
    rewards = np.array([group["reward"] for group in game["groups"]])
    sizes = np.array([group["size"] for group in game["groups"]])
    table = Table(game["reference"], KL(game["strength"]))

    def trained(which: list[int]) -> Any:
        return table.maximize(sizes[which].astype(float), [table.read(rewards[i]) for i in which])

    now, without = trained([0, 1, 2]), trained([1, 2])
    others = (sizes[1:] * (rewards[1:] @ (without.probabilities - now.probabilities))).sum()
    provider = game["strength"] * (now.divergence - without.divergence)
    np.testing.assert_allclose(got, [others + provider, others, provider, others + provider], rtol=1e-12)


@needs_chromium
def test_without_payments_the_best_lie_gains_and_with_them_no_lie_does(played: Browser) -> None:
    """The negative control: the same search that finds 1.158 without payments finds nothing with them."""
    search = "const a = document.querySelector('.play').api; a.pays({}); return a.bestLie()"
    free, paid = played.run(search.format("false")), played.run(search.format("true"))
    assert free["gain"] == pytest.approx(1.158, abs=5e-4)
    assert paid["gain"] < 1e-12
    assert min(free["tried"], paid["tried"]) > 1000
    assert "None gains" in played.run("return document.querySelector('[data-part=searched]').textContent")


@needs_chromium
def test_a_story_of_seven_steps_leads_to_the_three_ways_that_remain(played: Browser) -> None:
    assert played.run("return document.querySelectorAll('.step').length") == 7
    seen = "return [...document.querySelectorAll('{}')].map(s => s.checkVisibility())"
    for step in range(7):
        assert played.run(seen.format(".step")) == [k == step for k in range(7)]
        if step < 6:
            played.click("[data-part=next]")
    assert all(played.run(seen.format(".act")))
    for part in ("collude", "split", "invent"):
        played.click(f"[data-part={part}]")
    played.run("document.querySelector('.play').api.pays(true)")
    scores = played.run("return [...document.querySelectorAll('[data-part=board] td')].map(t => t.textContent)")
    assert scores == ["not tried", "not tried", "+0.493", "+0.247", "+0.340"]
    played.click("[data-part=forget]")
    assert set(played.run("return [...document.querySelectorAll('[data-part=board] td')].map(t => t.textContent)")) == {
        "not tried"
    }


@needs_chromium
def test_scores_outlive_the_page_and_belong_to_its_game(
    played: Browser, page: Path, tmp_path: Path, chromium: Browser
) -> None:
    played.click("[data-part=skip]")
    played.click("[data-part=split]")
    read = "return [...document.querySelectorAll('[data-part=board] td')].map(t => t.textContent)"
    chromium.open(page)
    assert chromium.run(read)[3] == "+0.247"
    chromium.open(write_play_page(tmp_path / "other.html", EXAMPLES / "table.yaml"))
    assert set(chromium.run(read)) == {"not tried"}


@needs_chromium
def test_a_slider_is_moved_by_the_keyboard_and_says_what_it_means(played: Browser) -> None:
    played.run("document.querySelector('.sliders input').focus()")
    for kind in ("keyDown", "keyUp"):
        played.devtools(
            "Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39
        )
    assert played.run("return document.querySelector('.sliders input').value") == "0.71"
    said = played.run("return document.querySelector('.sliders input').getAttribute('aria-valuetext')")
    assert said == "0.710, in truth 0.700"
    assert played.run("return document.querySelector('.sliders .said').classList.contains('lie')")
    unnamed = played.run(
        "return [...document.querySelectorAll('input, button, select, svg')].filter(e => e.checkVisibility() &&"
        " !(e.labels && e.labels.length) && !e.getAttribute('aria-label') && !e.textContent.trim()).length"
    )
    assert unnamed == 1  # the mark of the name, which is hidden from screen readers


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 380])
def test_the_page_fits_every_width_and_colour(played: Browser, width: int, scheme: str) -> None:
    played.resize(width)
    played.prefer(scheme)
    try:
        for part in ("skip", "best"):
            played.click(f"[data-part={part}]")
        assert played.log() == []
        assert played.run("return document.documentElement.scrollWidth <= window.innerWidth")
        requests = played.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in requests if not name.startswith("data:")] == []
    finally:
        played.resize(1200)
        played.prefer("light")


@needs_chromium
def test_on_paper_the_whole_story_is_there(played: Browser) -> None:
    played.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        assert all(played.run("return [...document.querySelectorAll('.step')].map(s => s.checkVisibility())"))
        assert not played.run("return document.querySelector('[data-part=next]').checkVisibility()")
    finally:
        played.devtools("Emulation.setEmulatedMedia", media="")
        played.prefer("light")


@needs_chromium
def test_a_hostile_game_runs_nothing(chromium: Browser, tmp_path: Path) -> None:
    hostile = "</script><img src=x onerror=window.pwned=1>'\"&"
    game = {**PROMPTS, "outcomes": [[hostile, "no", "maybe"], ["tea", "coffee"]]}
    game["groups"] = [{**group, "name": f"{hostile}{k}"} for k, group in enumerate(game["groups"])]
    del game["weights"]
    (tmp_path / "game.json").write_text(json.dumps(game))
    chromium.open(write_play_page(tmp_path / "play.html", tmp_path / "game.json"))
    assert chromium.log() == []
    assert chromium.run("return window.pwned === undefined && document.querySelectorAll('img').length === 0")
    assert chromium.run("return document.querySelector('.sliders bdi').textContent") == hostile


@needs_chromium
def test_a_report_lets_a_group_try_other_reports(chromium: Browser, tmp_path: Path) -> None:
    chromium.prefer("light")
    chromium.open(write_report(folder_of(tmp_path / "run", PROMPTS)))
    assert chromium.log() == []
    chromium.click("#what-if [data-part=best]")
    assert "None gains" in chromium.run("return document.querySelector('[data-part=searched]').textContent")
    payments = json.loads((tmp_path / "run" / "receipt.json").read_text())["groups"]
    mine = chromium.run("const a = document.querySelector('.play').api; return a.rules.honest.payments")
    np.testing.assert_allclose(mine, [group["payment"] for group in payments], rtol=TWELVE_DIGITS)


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
