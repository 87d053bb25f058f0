"""The page to cheat on: its settlement is the package's, and what it says of lies is true. Needs Chromium."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlhf_game import KL, AffinePayments, AffineWelfare, Mechanism, Report, Table
from rlhf_game.report import write_report
from rlhf_game.report.play import play_page, write_play_page
from tests.report.browser import CHROMEDRIVER, CHROMIUM, Browser
from tests.report.test_games import PROMPTS, folder_of

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)",
)
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "games"
GAMES = 1000
TWELVE_DIGITS = 1e-12
SMALL = 1e-11
"""Of payments far below 1: what the package itself keeps of them (60 digits were the judge: the page is the nearer)."""


def game_of_the_page() -> dict[str, Any]:
    loaded = yaml.safe_load((Path(play_page.__code__.co_filename).parent / "templates" / "play.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def settled_by(groups: list[dict[str, Any]]) -> Any:
    """The page's game under these reports, settled by the package."""
    game = game_of_the_page()
    reports = [Report(np.reshape(one["reward"], (1, -1)), one["size"]) for one in groups]
    space = Table([game["reference"]], KL(game["strength"]))
    return Mechanism(AffineWelfare(np.ones(len(groups)), None), AffinePayments()).settle(reports, space)


def got_by(i: int, groups: list[dict[str, Any]], is_paid: bool) -> float:
    """What group i of the page's game gets by its true wishes when these are the reports."""
    out = settled_by(groups)
    mine = game_of_the_page()["groups"][i]
    worth = mine["size"] * float(np.ravel(out.policy.probabilities) @ np.asarray(mine["reward"]))
    return worth - is_paid * float(out.payments[i])


REPORTS = "return document.querySelector('.play').api.state.reports"
ROLE = (
    "const role = document.querySelector('[data-part=who] select'); role.value = '{}';"
    "role.dispatchEvent(new Event('change'))"
)
TEXT = "return document.querySelector('[data-part={}]').textContent"


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
    game = game_of_the_page()
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
def test_a_lie_is_compared_with_my_own_truth_as_the_others_report(played: Browser) -> None:
    rng = np.random.default_rng(11)
    truth = game_of_the_page()["groups"]
    signs = set()
    for me, is_paid in [(0, False), (1, False), (2, False), (0, True), (1, True), (2, True)]:
        lies = [{**one, "reward": rng.random(5).tolist(), "size": int(rng.integers(1, 7))} for one in truth]
        if not is_paid:
            lies[me] = {**truth[me], "size": 6}
        said = json.dumps([{**one, "reward": [one["reward"]]} for one in lies])
        played.run(
            f"const a = document.querySelector('.play').api; a.state.me = {me}; a.state.reports = {said};"
            f"a.pays({json.dumps(is_paid)})"
        )
        sincere = [truth[me] if i == me else one for i, one in enumerate(lies)]
        before, now = got_by(me, sincere, is_paid), got_by(me, lies, is_paid)
        does = "gains" if now > before else "costs"
        signs.add(does)
        liars = [one["name"] for i, one in enumerate(truth) if i != me]
        lie = f"this lie {does} you {abs(now - before):.3f}{', bill paid' * is_paid}."
        wanted = f"Alone, against the present reports of {liars[0]} and {liars[1]}, {lie}"
        assert played.run(TEXT.format("verdict")) == wanted
        row = f"[...document.querySelectorAll('[data-part=numbers] tr')][{int(is_paid)}]"
        cells = played.run(f"return [...{row}.querySelectorAll('td')].map(c => c.textContent)")
        assert [float(cell.replace("\u2212", "-")) for cell in cells] == pytest.approx(
            [before, now, now - before], abs=6e-4
        )
        assert played.run(TEXT.format("others")) == f"Lying now: {liars[0]} and {liars[1]}."
    assert signs == {"gains", "costs"}


@needs_chromium
def test_after_everybody_exaggerated_the_next_step_starts_with_honest_others(played: Browser) -> None:
    for _ in range(3):
        played.click("[data-part=next]")
    played.click("[data-part=everybody]")
    truth = game_of_the_page()["groups"]
    shouts = [{**one, "reward": one["reward"][0]} for one in played.run(REPORTS)]
    assert all(one["size"] == 6 for one in shouts)
    all_honest, shouted = (got_by(0, reports, False) for reports in (truth, shouts))
    alone = got_by(0, [truth[0], *shouts[1:]], False)
    assert alone < shouted < all_honest  # shouting is everybody's better answer, for the others below
    for i in (1, 2):
        assert got_by(i, [truth[j] if j == i else one for j, one in enumerate(shouts)], False) < got_by(
            i, shouts, False
        )
    said = played.run(TEXT.format("searched"))
    net_honest, net_shouted = (
        sum(got_by(i, reports, False) for i in range(3)) - settled_by(reports).policy.divergence
        for reports in (truth, shouts)
    )
    assert net_shouted < net_honest
    assert "weighs" not in said + played.run(TEXT.format("story"))  # the provider weighs all alike
    assert f"get {net_shouted:.3f}; when everybody was honest it was {net_honest:.3f}." in said
    assert f"You get {shouted:.3f}; when everybody was honest it was {all_honest:.3f}" in said
    everybody = "Everybody would get less by going back to the truth alone: when shouting is free, everybody shouts."
    assert said.endswith(f"if you alone went back to the truth now, {alone:.3f}. {everybody}")
    gain = f"Alone, against the present reports of Legal and Support, this lie gains you {shouted - alone:.3f}."
    assert played.run(TEXT.format("verdict")) == gain
    played.click("[data-part=next]")
    assert [one["reward"][0] for one in played.run(REPORTS)[1:]] == [one["reward"] for one in truth[1:]]
    assert played.run(TEXT.format("others")) == "Everybody else tells the truth."
    assert played.run(TEXT.format("searched")) == ""
    gain = got_by(0, [shouts[0], *truth[1:]], True) - got_by(0, truth, True)
    assert played.run(TEXT.format("verdict")) == f"As the others report now, this lie costs you {-gain:.3f}, bill paid."


@needs_chromium
def test_where_the_provider_weighs_the_groups_it_is_that_sum_which_exaggerating_lowers(
    chromium: Browser, tmp_path: Path
) -> None:
    chromium.open(write_play_page(tmp_path / "affine.html", EXAMPLES / "affine_maximiser.yaml"))
    game, truth, honest, shouted, shouts = chromium.run(
        "const p = document.querySelector('.play'), a = p.api, R = a.rules;"
        "document.querySelector('[data-part=everybody]').click();"
        "return [R.game, R.truth, R.net(R.honest), R.net(R.outcome(a.state.reports)), a.state.reports]"
    )

    def net(reports: list[dict[str, Any]]) -> float:
        policy = settled(game, reports)
        p = np.asarray(policy["policy"])
        worth = [w * one["size"] * np.asarray(one["reward"]) for w, one in zip(game["weights"], truth, strict=True)]
        wanted = sum(worth) + (0 if game["boosts"] is None else np.asarray(game["boosts"]))
        return float(np.asarray(game["promptWeights"]) @ (p * wanted).sum(axis=1)) - game["strength"] * float(
            policy["divergence"]
        )

    assert [honest, shouted] == pytest.approx([net(truth), net(shouts)], rel=1e-9)
    assert shouted < honest
    assert "as the provider weighs them" in chromium.run(TEXT.format("searched"))
    assert "as the provider weighs them" in chromium.run(TEXT.format("story"))


@needs_chromium
def test_a_slider_is_moved_by_the_keyboard_and_says_what_it_means(played: Browser) -> None:
    played.run("document.querySelector('.sliders input').focus()")
    played.press("ArrowRight", 39)
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
def test_the_keyboard_keeps_its_place(played: Browser) -> None:
    """The choosers are drawn anew, and Skip hides itself: the focus fell to the body."""
    focused = "return document.activeElement.getAttribute('aria-label')"
    played.run("document.querySelector('[data-part=who] select').focus()")
    for _ in range(2):
        played.press("ArrowDown", 40)
        assert played.run(focused) == "You are"
    assert played.run("return document.querySelector('.play').api.state.me") == 2
    assert played.run(TEXT.format("searched")) == "You are Support now, and everybody tells the truth again."
    played.click("[data-part=skip]")
    assert played.run(focused) == "The story"
    played.run("document.querySelector('[data-part=partner] select').focus()")
    played.press("ArrowDown", 40)
    assert played.run(focused) == "Your friend"


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
        assert played.too_wide() == 0
        requests = played.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [name for name in requests if not name.startswith("data:")] == []
    finally:
        played.resize(1200)
        played.prefer("light")


@needs_chromium
def test_nothing_is_pressed_through_the_bar_of_a_phone_and_nothing_stays_under_it(played: Browser) -> None:
    """What the verdict covered was pressed through it; a longer verdict covered what the keyboard had reached."""
    played.resize(380, 700)
    try:
        for part in ("next", "next", "next", "everybody"):
            played.click(f"[data-part={part}]")
        where = "const bar = document.querySelector('.verdict').getBoundingClientRect();"
        assert played.run(f"{where} return bar.height") > 64  # three lines
        assert played.run(f"{where} return document.elementFromPoint(190, bar.top + 40).className").startswith(
            "verdict"
        )
        covered = played.run(
            f"{where} return [...document.querySelectorAll('.play :is(input, button, select)')]"
            ".filter(e => { e.focus(); return e === document.activeElement &&"
            " e.getBoundingClientRect().bottom > bar.top; }).map(e => e.outerHTML)"
        )
        assert covered == []
        played.run("scrollTo(0, document.body.scrollHeight)")
        last = "document.querySelector('footer').lastElementChild.getBoundingClientRect()"
        assert played.run(f"{where} return {last}.bottom <= bar.top")
    finally:
        played.resize(1200)


@needs_chromium
def test_on_paper_the_whole_story_is_there(played: Browser) -> None:
    played.click("[data-part=skip]")
    played.run("document.querySelector('[data-part=everybody]').click()")
    played.resize(700)  # paper is not wide
    played.devtools("Emulation.setEmulatedMedia", media="print")
    try:
        seen = "return [...document.querySelectorAll('{}')].map(s => s.checkVisibility())"
        assert all(played.run(seen.format(".step, .tally, .curves, .invoice, .act, .who select")))  # and who you are
        verdict = "document.querySelector('.verdict.lying')"
        assert played.run(f"return getComputedStyle({verdict}).position") == "static"  # not on every sheet
        assert not any(played.run(seen.format("[data-part=next], .presses, .switch, .act button")))
    finally:
        played.devtools("Emulation.setEmulatedMedia", media="")
        played.resize(1200)
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
