"""What the page to cheat on says: the three ways that remain, the scores, and what all get. Needs Chromium."""

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

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
        "Left for Marketing, bill paid": changes[0],
        "Left for Legal, bill paid": changes[1],
        "Left for you two": changes[0] + changes[1],
        "Left for the others": changes[2],
    }
    for name, change in wanted.items():
        assert float(rows[name].replace("\u2212", "-")) == pytest.approx(change, abs=6e-4)
    said = played.run(TEXT.format("together"))
    fates = [f"by {signed(x)} for {name}" for name, x in zip(["Marketing", "Legal"], changes[:2], strict=True)]
    assert f"What is left changes {' and '.join(fates)}. Together you gain 0.493, the most of " in said
    costs = [got_by(i, [*lies[:i], truth[i], *lies[i + 1 :]], True) - got_by(i, lies, True) for i in (0, 1)]
    assert f"the other report stays, loses nothing: {signed(costs[0])} for you, {signed(costs[1])} for Legal." in said
    assert min(costs) > 5e-4


def signed(x: float) -> str:
    sign = "+" if x >= 5e-4 else "\u2212" if x <= -5e-4 else "\u00b1"
    return f"{sign}{abs(x):.3f}"


WISHES = np.array([*product((0.0, 0.5, 1.0), repeat=5)])


def brought(groups: list[dict[str, Any]], wishes: Array, size: int) -> Array:
    """What the real groups pay together where the provider invents a group that wants this, for each of the rows."""
    game = game_of_the_page()
    real = np.array([group["reward"] for group in groups])
    rewards = np.stack([np.vstack([real, wish]) for wish in wishes])
    sizes = [*(group["size"] for group in groups), size]
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
    wants = "a group of 6 that wants \u201cPlease see clause 7 of our terms.\u201d most, the best for you"
    assert wants in played.run(TEXT.format("provider"))
    assert "all bills together rise by 0.739, which you keep." in played.run(TEXT.format("provider"))
    played.run("document.querySelector('.play').api.pays(true)")
    scores = played.run(BOARD)
    assert scores == ["not tried", "nothing gained", "+0.493", "+0.247", "+0.739"]
    truth = game_of_the_page()["groups"]
    most = max(brought(truth, WISHES, size).max() for size in range(1, 7))  # the page searches; these are all halves
    assert 0.65 < most - float(sum(settled_by(truth).payments)) < 0.739
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
    assert played.run(head) == f"Bills, roundedone name{count} names"
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
        who = "everybody" if is_alone else "you, and the others by what they say"
        assert rows[2][0] == f"{who}, together, less what moving the model costs"


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
    assert played.run(TEXT.format("verdict")).startswith(
        "Alone, against the present report of Legal, this lie costs you "
    )
    played.run(
        "const s = document.querySelector('[data-part=partner] select'); s.value = '1';"
        "s.dispatchEvent(new Event('change'))"
    )
    truth = game_of_the_page()["groups"]
    assert [one["reward"][0] for one in played.run(REPORTS)] == [one["reward"] for one in truth]
    assert played.run(TEXT.format("others")) == "Everybody else tells the truth."


POSITIONS = [([0, 0, 0, 0, 1], 3), ([0, 0, 0, 0, 1], 1), ([0, 0, 0, 0, 1], 6), ([1, 1, 1, 1, 1], 6)]
SAY = (
    "const a = document.querySelector('.play').api; a.state.me = {}; a.state.reports = JSON.parse('{}');"
    "a.pays({}); return ['ways', 'fate', 'verdict'].map(p => document.querySelector(`[data-part=${{p}}]`).textContent)"
)


def said_of(page: Browser, me: int, groups: list[dict[str, Any]], is_paid: bool = False) -> list[str]:
    """What the page says when these are the reports: what to try, what the lie brings, the verdict."""
    reports = json.dumps([{**one, "reward": [one["reward"]]} for one in groups])
    return list(page.run(SAY.format(me, reports, json.dumps(is_paid))))


def fate(gain: float) -> str:
    small = "changes less than 0.001 for you"
    return small if abs(gain) < 5e-4 else f"{'gains' if gain > 0 else 'costs'} you {abs(gain):.3f}"


@needs_chromium
def test_what_is_said_of_a_lie_and_what_is_advised_holds_from_every_position(played: Browser) -> None:
    """Each advice beats the truth and the present sliders by what it says; the lie's fate is its own numbers."""
    rng = np.random.default_rng(19)
    truth = game_of_the_page()["groups"]
    fates, advised = set(), 0
    drawn = [(rng.choice([0, 0.25, 0.5, 1.0], 5).tolist(), int(rng.integers(1, 7))) for _ in range(12)]
    for me, (reward, size) in product(range(3), [*POSITIONS, *drawn]):
        lies = [{**one, "reward": reward, "size": size} if i == me else one for i, one in enumerate(truth)]
        honest, gain = got_by(me, truth, False), got_by(me, lies, False) - got_by(me, truth, False)
        ways, told, verdict = said_of(played, me, lies)
        assert told.startswith(f"What you say now {fate(gain)}: ")
        assert ("this lie pays" in told) is (gain >= 5e-4)
        assert verdict == f"As the others report now, this lie {fate(gain)}."
        fates.add(fate(gain).split()[0])
        for words, amount in re.findall(r"([A-Za-z][^()]*?) \(it gains you ([0-9.]+)\)", ways):
            best = int(np.argmax(truth[me]["reward"]))
            tried = {
                "claim 6 members": (reward, 6),
                "say that your favourite answer is worth the most": ([*reward[:best], 1.0, *reward[best + 1 :]], size),
                "say that all answers but your favourite are worth nothing": (
                    [r if x == best else 0.0 for x, r in enumerate(reward)],
                    size,
                ),
            }[words[0].lower() + words[1:]]
            then = [
                {**lies[me], "reward": tried[0], "size": tried[1]} if i == me else one for i, one in enumerate(truth)
            ]
            found = got_by(me, then, False) - honest
            assert found == pytest.approx(float(amount), abs=6e-4)
            assert found > max(gain, 0)
            advised += 1
        if (reward, size) in POSITIONS:
            assert played.run("return document.querySelector('.play').api.bestLie().gain") >= max(gain - 1e-9, 0.5)
    assert fates == {"gains", "costs"}
    assert advised > 20


@needs_chromium
def test_a_favourite_below_the_top_may_be_pushed_up(chromium: Browser, tmp_path: Path) -> None:
    game = {"reference": [0.5, 0.5], "strength": 1.0, "size_limit": 3, "groups": [
        {"name": "a", "size": 3, "reward": [0.5, 0.1]}, {"name": "b", "size": 1, "reward": [0.1, 1.0]}
    ]}  # fmt: skip
    (tmp_path / "game.json").write_text(json.dumps(game))
    chromium.open(write_play_page(tmp_path / "play.html", tmp_path / "game.json"))
    ways = chromium.run(TEXT.format("ways"))
    assert ways.startswith("Say that your favourite answer is worth the most (it gains you ")
    assert "members" not in ways  # three is the limit
    chromium.run(ROLE.format(1))
    assert chromium.run(TEXT.format("split")) == "One member cannot be divided"
    assert chromium.run("return document.querySelector('[data-part=split]').disabled")
    assert chromium.run(TEXT.format("ways")).startswith("Claim 3 members")
    chromium.run(
        "const a = document.querySelector('.play').api; a.state.reports[1] = {...a.rules.truth[1], reward: [[0, 1]],"
        "size: 3}; a.pays(false)"
    )
    assert chromium.run(TEXT.format("ways")) == "Move the sliders"


@needs_chromium
def test_a_lie_too_small_to_show_is_so_with_payments_and_may_gain_without(played: Browser) -> None:
    truth = game_of_the_page()["groups"]
    lies = [{**truth[0], "reward": [0.71, 0.3, 0.0, 0.0, 1.0]}, *truth[1:]]
    free, paid = (got_by(0, lies, is_paid) - got_by(0, truth, is_paid) for is_paid in (False, True))
    assert free > 5e-4 > -paid > 0
    verdict = "As the others report now, this lie changes less than 0.001 for you, bill paid."
    assert said_of(played, 0, lies, is_paid=True)[2] == verdict
    assert said_of(played, 0, lies)[2] == f"As the others report now, this lie gains you {free:.3f}."


@needs_chromium
def test_nothing_about_payments_is_said_where_the_box_is_not_ticked(played: Browser) -> None:
    story = "return document.querySelector('.story').innerText"
    for step in range(1, 8):
        if step > 4:
            assert "not ticked" not in played.run(story)
            played.click("[data-part=charge]")
            said = played.run(story)
            assert "The box below the sliders is not ticked" in said
            for words in ("none gains anything", "last two rows", "honesty pays", "from now on you pay"):
                assert words not in said
            played.click("[data-part=best]")
            searched = played.run(TEXT.format("searched"))
            assert "This one gains 1.158" in searched
            played.click("[data-part=charge]")
        assert "not ticked" not in played.run(story)
        if step < 7:
            played.click("[data-part=next]")


@needs_chromium
def test_a_search_among_liars_was_tried_and_two_friends_find_the_same(played: Browser) -> None:
    played.click("[data-part=skip]")
    found = []
    for role in (0, 1):  # the friend of each is the other
        played.run(ROLE.format(role))
        played.click("[data-part=collude]")
        found.append(played.run(BOARD)[2])
        assert "lies tried." in played.run(TEXT.format("together"))
        played.click("[data-part=best]")
        assert "None gains" in played.run(TEXT.format("searched"))
        assert played.run(BOARD)[1] == "nothing gained"
    assert found == ["+0.493", "+0.493"]


@needs_chromium
@pytest.mark.parametrize("support", [3, 1])  # with one member, Support pays less
def test_who_pays_more_for_an_invented_group_and_why_is_read_from_the_table(
    chromium: Browser, tmp_path: Path, support: int
) -> None:
    chromium.open(write_play_page(tmp_path / "play.html", settings=[f"groups[2].size={support}"]))
    chromium.click("[data-part=skip]")
    extra = chromium.run("return document.querySelector('.play').api.invent()")
    tables = chromium.run(
        "return [...document.querySelectorAll('[data-part=provider] tbody')]"
        ".map(t => [...t.rows].map(r => [...r.cells].map(c => c.textContent)))"
    )
    truth = game_of_the_page()["groups"]
    truth[2]["size"] = support
    everybody = [*truth, {"name": "invented", "size": extra["size"], "reward": extra["reward"][0]}]
    settled_now, said = settled_by(everybody), chromium.run(TEXT.format("provider"))
    told = re.search(
        r"tried\. (?:More is billed to (.*?))?(?:, )?(?:[Ll]ess is billed to (.*?))?: all bills together rise by", said
    )
    assert told

    def parts(i: int, groups: list[dict[str, Any]]) -> Array:
        """What each of the groups, and the closeness, lose by the report of group i."""
        without, now = settled_by([one for j, one in enumerate(groups) if j != i]), settled_by(groups)
        fallen = np.ravel(without.policy.probabilities) - np.ravel(now.policy.probabilities)
        lost = [one["size"] * float(fallen @ np.asarray(one["reward"])) for j, one in enumerate(groups) if j != i]
        return np.array([*lost, game_of_the_page()["strength"] * (now.policy.divergence - without.policy.divergence)])

    for i, one in enumerate(truth):
        before, after = parts(i, truth), parts(i, everybody)
        change = [after[2], after[:2].sum() - before[:2].sum(), after[3] - before[2]]
        assert sum(change) == pytest.approx(settled_now.payments[i] - settled_by(truth).payments[i], abs=1e-9)
        shown = [[float(cell.replace("\u2212", "-").replace("\u00b1", "")) for cell in t[i][1:]] for t in tables]
        assert shown[1] == pytest.approx(change, abs=6e-4)
        assert shown[0][2] == pytest.approx(sum(change), abs=6e-4)
        assert one["name"] in told[1 if sum(change) > 0 else 2]
        assert one["name"] not in (told[2 if sum(change) > 0 else 1] or "")
