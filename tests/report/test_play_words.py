"""What the page to cheat on says: the three ways that remain, the scores, and what all get. Needs Chromium."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from rlhf_game import KL, settle_many
from rlhf_game.mechanism.arrays import Array
from rlhf_game.report.play import write_play_page
from tests.report.browser import Browser
from tests.report.test_play import (
    EXAMPLES,
    REPORTS,
    ROLE,
    TEXT,
    game_of_the_page,
    got_by,
    needs_chromium,
    settled,
    settled_by,
)

BOARD = "return [...document.querySelectorAll('[data-part=board] td')].map(t => t.textContent)"


@needs_chromium
def test_what_was_told_of_a_break_goes_when_the_role_or_the_payments_change(played: Browser) -> None:
    played.click("[data-part=skip]")
    leave = (
        ROLE.format(1),
        "document.querySelector('[data-part=charge]').click()",
    )
    for press, part in {"collude": "together", "split": "names", "invent": "provider"}.items():
        for change in leave:
            played.click(f"[data-part={press}]")
            assert played.run(TEXT.format(part)) != ""
            played.run(change)
            assert played.run(TEXT.format(part)) == ""
            assert played.run(TEXT.format("others")) == "Everybody else tells the truth." or press == "collude"


@needs_chromium
def test_the_friends_table_is_what_the_package_settles(played: Browser) -> None:
    played.click("[data-part=skip]")
    played.click("[data-part=collude]")
    truth = game_of_the_page()["groups"]
    lies = [{**one, "reward": one["reward"][0]} for one in played.run(REPORTS)]
    changes = [got_by(i, lies, True) - got_by(i, truth, True) for i in range(3)]
    rows = dict(
        played.run(
            "return [...document.querySelectorAll('[data-part=together] table:nth-of-type(2) tbody tr')]"
            ".map(r => [r.cells[0].textContent, r.cells[3].textContent])"
        )
    )
    wanted = {
        "Marketing keeps, bill paid": changes[0],
        "Legal keeps, bill paid": changes[1],
        "You two keep together": changes[0] + changes[1],
        "The others keep": changes[2],
    }
    for name, change in wanted.items():
        assert float(rows[name].replace("\u2212", "-")) == pytest.approx(change, abs=6e-4)
    fates = [
        f"{name} {'loses' if x < 0 else 'gains'} {abs(x):.3f}"
        for name, x in zip(["Marketing", "Legal"], changes[:2], strict=True)
    ]
    said = played.run(TEXT.format("together"))
    assert f"{fates[0]}, {fates[1]}: together you gain 0.493." in said
    costs = [got_by(i, [*lies[:i], truth[i], *lies[i + 1 :]], True) - got_by(i, lies, True) for i in (0, 1)]
    assert f"(yours {costs[0]:.3f}, that of Legal {costs[1]:.3f})" in said


def brought(wishes: Array) -> Array:
    """What the real groups pay together where the provider invents a group that wants this, for each of the rows."""
    game = game_of_the_page()
    real = np.array([group["reward"] for group in game["groups"]])
    rewards = np.stack([np.vstack([real, wish]) for wish in wishes])
    sizes = [*(group["size"] for group in game["groups"]), 6]
    paid = settle_many(rewards, sizes, game["reference"], KL(game["strength"])).payments
    return np.asarray(paid[:, :-1].sum(axis=1))


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
    wants = (
        "a group of 6 that wants \u201cPlease see clause 7 of our terms.\u201d most. Together the real groups pay 0.669"
    )
    assert wants in played.run(TEXT.format("provider"))
    played.run("document.querySelector('.play').api.pays(true)")
    scores = played.run(BOARD)
    assert scores == ["not tried", "not tried", "+0.493", "+0.247", "+0.669"]
    wishes = np.array([*product((0.0, 0.5, 1.0), repeat=5)])  # the page searches; these are all of them
    more = brought(wishes) - float(sum(settled_by(game_of_the_page()["groups"]).payments))
    assert more.max() == pytest.approx(0.669, abs=5e-4)
    assert wishes[more.argmax()].tolist() == [0.5, 0.0, 0.0, 1.0, 0.0]
    played.click("[data-part=forget]")
    assert set(played.run(BOARD)) == {"not tried"}


@needs_chromium
def test_scores_outlive_the_page_and_belong_to_its_game(
    played: Browser, page: Path, tmp_path: Path, chromium: Browser
) -> None:
    played.click("[data-part=skip]")
    played.click("[data-part=split]")
    chromium.open(page)
    assert chromium.run(BOARD)[3] == "+0.247"
    chromium.run(ROLE.format(1))
    assert set(chromium.run(BOARD)) == {"not tried"}
    chromium.run(ROLE.format(0))
    chromium.run("const a = document.querySelector('.play').api; a.state.reports[0].size = 4; a.pays(true)")
    assert chromium.run(BOARD) == ["not tried", "nothing gained", "not tried", "+0.247", "not tried"]
    chromium.open(write_play_page(tmp_path / "other.html", EXAMPLES / "table.yaml"))
    assert set(chromium.run(BOARD)) == {"not tried"}


@needs_chromium
@pytest.mark.parametrize("role", [0, 1, 2])
def test_a_search_that_finds_nothing_was_tried(played: Browser, role: int) -> None:
    played.click("[data-part=skip]")
    played.run(ROLE.format(role))
    played.click("[data-part=best]")
    assert "None gains" in played.run(TEXT.format("searched"))
    assert played.run(BOARD)[:2] == ["not tried", "nothing gained"]


@needs_chromium
@pytest.mark.parametrize(("role", "count"), [(0, "three"), (1, "two")])
def test_the_names_are_as_many_as_is_said(played: Browser, role: int, count: str) -> None:
    played.click("[data-part=skip]")
    played.run(ROLE.format(role))
    assert played.run(TEXT.format("split")) == f"Appear as {count} groups"
    assert played.run(TEXT.format("count")) == f"{count} groups that share your members"
    played.click("[data-part=split]")
    head = "return document.querySelector('[data-part=names] thead').textContent"
    assert played.run(head) == f"Billsone name{count} names"
    rows = played.run("return document.querySelectorAll('[data-part=names] tbody tr').length")
    assert rows - 1 == {"two": 2, "three": 3}[count]


@needs_chromium
def test_with_payments_my_gain_is_everybodys(played: Browser) -> None:
    """By my truth and what the others say, less what moving the model costs: as the package settles it."""
    rng = np.random.default_rng(5)
    truth = game_of_the_page()["groups"]

    def everybodys(me: int, said: list[dict[str, list[float]]]) -> float:
        out = settled_by(said)
        liked = [truth[i] if i == me else one for i, one in enumerate(said)]
        worth = sum(one["size"] * np.asarray(one["reward"]) for one in liked)
        return (
            float(np.ravel(out.policy.probabilities) @ worth) - game_of_the_page()["strength"] * out.policy.divergence
        )

    for me, is_alone in [(0, True), (1, True), (2, False), (0, False)]:
        said = [
            one if is_alone and i != me else {**one, "reward": rng.random(5).tolist(), "size": int(rng.integers(1, 7))}
            for i, one in enumerate(truth)
        ]
        reports = json.dumps([{**one, "reward": [one["reward"]]} for one in said])
        got = played.run(
            f"const a = document.querySelector('.play').api; a.state.me = {me}; a.state.reports = {reports};"
            "a.pays(true); return a.gains()"
        )
        sincere = [truth[me] if i == me else one for i, one in enumerate(said)]
        mine = got_by(me, said, True) - got_by(me, sincere, True)
        assert abs(mine) > 1e-3
        assert got["paid"] == pytest.approx(mine, abs=1e-9)
        assert got["all"] == pytest.approx(mine, abs=1e-9)
        assert everybodys(me, said) - everybodys(me, sincere) == pytest.approx(got["all"], abs=1e-9)
        rows = played.run(
            "return [...document.querySelectorAll('[data-part=numbers] tr')]"
            ".map(r => [r.cells[0].textContent, r.cells[3].textContent])"
        )
        assert rows[1][1] == rows[2][1]
        assert rows[2][0].startswith("everybody together, less what moving the model costs")
        assert ("by what the others say" in rows[2][0]) is not is_alone


@needs_chromium
def test_my_gain_is_everybodys_over_my_weight_where_the_provider_weighs(chromium: Browser, tmp_path: Path) -> None:
    chromium.open(write_play_page(tmp_path / "affine.html", EXAMPLES / "affine_maximiser.yaml"))
    for me in (0, 1):
        got, game, truth, reports = chromium.run(
            ROLE.format(me) + ";const a = document.querySelector('.play').api, s = a.state;"
            f"s.reports[{me}].reward = s.reports[{me}].reward.map(r => r.map((_, x) => x % 2)); a.pays(true);"
            "return [a.gains(), a.rules.game, a.rules.truth, s.reports]"
        )
        before, after = settled(game, truth), settled(game, reports)
        worth = truth[me]["size"] * np.asarray(truth[me]["reward"]) * np.asarray(game["promptWeights"])[:, None]
        mine = (np.asarray(after["policy"]) - np.asarray(before["policy"])).ravel() @ worth.ravel()
        mine -= after["payments"][me] - before["payments"][me]
        assert game["weights"][me] != 1 or game["weights"][1 - me] != 1
        assert abs(mine) > 1e-3
        assert [got["paid"], got["all"]] == pytest.approx([mine, mine], abs=1e-9)


@needs_chromium
def test_another_friend_puts_both_lies_back(played: Browser) -> None:
    played.click("[data-part=skip]")
    played.click("[data-part=collude]")
    assert played.run(TEXT.format("verdict")).startswith("Alone, against what Legal now says, this lie costs you ")
    played.run(
        "const s = document.querySelector('[data-part=partner] select'); s.value = '1';"
        "s.dispatchEvent(new Event('change'))"
    )
    truth = game_of_the_page()["groups"]
    assert [one["reward"][0] for one in played.run(REPORTS)] == [one["reward"] for one in truth]
    assert played.run(TEXT.format("others")) == "Everybody else tells the truth."


@needs_chromium
@pytest.mark.parametrize("role", [0, 1])
def test_a_favourite_at_the_top_is_not_pushed_up(played: Browser, role: int) -> None:
    assert played.run(ROLE.format(role) + ";" + TEXT.format("ways")) == "Push the others down, claim more members"


@needs_chromium
def test_a_favourite_below_the_top_is_pushed_up(chromium: Browser, tmp_path: Path) -> None:
    game = {"reference": [0.5, 0.5], "strength": 1.0, "size_limit": 3, "groups": [
        {"name": "a", "size": 3, "reward": [0.5, 0.1]}, {"name": "b", "size": 1, "reward": [0.1, 1.0]}
    ]}  # fmt: skip
    (tmp_path / "game.json").write_text(json.dumps(game))
    chromium.open(write_play_page(tmp_path / "play.html", tmp_path / "game.json"))
    assert chromium.run(TEXT.format("ways")) == "Push your favourite up, push the others down"
    chromium.run(ROLE.format(1))
    assert chromium.run(TEXT.format("split")) == "Appear as one group"
