"""Reports of settled games: what they say is what the receipt says, and payments add up."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from rlhf_game.files.games import parse_game, read_game
from rlhf_game.files.receipts import Receipt, receipt_of
from rlhf_game.report import write_report
from rlhf_game.report.lies import make_audit
from rlhf_game.report.page import Note
from rlhf_game.report.policy_page import policies
from rlhf_game.report.settlements import SHARPNESS, breakdowns, changes, sharpness
from rlhf_game.report.spreads import spread_blocks
from tests.report.pages import Node, data_of, page_of

GAMES = sorted((Path(__file__).resolve().parents[2] / "examples" / "games").glob("*.yaml"))
HAND: dict[str, Any] = {  # theory: one game by hand
    "reference": [0.5, 0.5],
    "outcomes": ["left", "right"],
    "strength": 1.0,
    "groups": [{"name": "a", "size": 1, "reward": [1.0, 0.0]}, {"name": "b", "size": 1, "reward": [0.0, 1.0]}],
}
PROMPTS: dict[str, Any] = {
    "reference": [[0.5, 0.3, 0.2], [0.25, 0.75]],
    "outcomes": [["yes", "no", "maybe"], ["tea", "coffee"]],
    "prompt_weights": [1.0, 3.0],
    "strength": 0.4,
    "weights": {"legal": 2.0},
    "groups": [
        {"name": "legal", "size": 2, "reward": [[1.0, 0.0, 0.2], [0.1, 0.6]]},
        {"name": "sales", "size": 1, "reward": [[0.0, 0.9, 0.4], [0.7, 0.2]]},
        {"name": "help", "size": 3, "reward": [[0.2, 0.3, 0.4], [0.5, 0.5]]},
    ],
    "provenance": {"prompts": ["May I?", "What to drink?"]},
}
TRIE: dict[str, Any] = {
    "reference": [[0.7, 0.3]], "outcomes": [["yes", "no"]], "missing": [0.02], "bounds": [0.0, 1.0], "strength": 0.5,
    "groups": [
        {"name": "for", "size": 2, "reward": [[1.0, 0.0]]},
        {"name": "against", "size": 1, "reward": [[0.0, 1.0]]},
    ],
}  # fmt: skip


def folder_of(path: Path, game: Mapping[str, Any]) -> Path:
    """A folder as `run` leaves it: game.json and receipt.json."""
    path.mkdir(exist_ok=True)
    (path / "game.json").write_text(json.dumps(game))
    read = read_game(path / "game.json")
    (path / "receipt.json").write_text(receipt_of(read, settle(read)).text())
    return path


def report_of(path: Path, game: Mapping[str, Any]) -> Node:
    return page_of(write_report(folder_of(path, game)))


def receipt_in(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "receipt.json").read_text())
    return found


@pytest.mark.parametrize("game", GAMES, ids=lambda path: path.stem)
def test_the_parts_of_each_payment_add_up_to_that_of_the_receipt(game: Path) -> None:
    one = read_game(game)
    receipt = receipt_of(one, settle(one))
    scale = 1.0 + sum(
        abs(float(np.max(np.abs(np.concatenate([np.ravel(r) for r in reward]))))) for reward in one.rewards
    )
    for i, (part, group) in enumerate(zip(breakdowns(one), receipt.groups, strict=True)):
        assert part.costs[i] == 0
        total = sum(part.costs) + part.boost + part.regularizer + part.extra
        assert total == pytest.approx(group.payment, abs=1e-12 * scale * group.size)
        assert part.payment == group.payment
        assert part.value == pytest.approx(group.size * group.value, abs=1e-12 * scale * group.size)


def test_the_parts_of_each_payment_of_a_trie_add_up_to_it(tmp_path: Path) -> None:
    """At another strength than 1: the provider's share was taken at strength 1."""
    game = parse_game({**TRIE, "strength": 0.4}, "trie", tmp_path, False)
    parts, payments = breakdowns(game), settle(game).payments
    for part, payment in zip(parts, payments, strict=True):
        assert sum(part.costs) + part.regularizer == pytest.approx(payment, rel=1e-9)


def test_the_parts_of_the_game_by_hand(tmp_path: Path) -> None:
    """Without b the policy is (e, 1) / (1 + e): b loses e / (1 + e) - 1 / 2 to a, and the provider saves the KL."""
    folder_of(tmp_path / "run", HAND)
    part = breakdowns(read_game(tmp_path / "run/game.json"))[0]
    share = float(np.e / (1 + np.e))
    kl = share * np.log(2 * share) + (1 - share) * np.log(2 * (1 - share))
    assert part.costs == pytest.approx((0.0, share - 0.5))
    assert part.regularizer == pytest.approx(-kl)
    assert part.payment == pytest.approx(0.120114506958, abs=1e-12)
    assert (part.boost, part.extra) == (0.0, pytest.approx(0.0, abs=1e-15))


@pytest.mark.parametrize("game", [HAND, PROMPTS, TRIE], ids=["hand", "prompts", "trie"])
def test_the_settlement_on_the_page_is_the_receipt(tmp_path: Path, game: dict[str, Any]) -> None:
    page, receipt = report_of(tmp_path / "run", game), receipt_in(tmp_path / "run")
    rows = data_of(page, "settlement-table")
    for row, group in zip(rows, receipt["groups"], strict=True):
        assert (row["group"], int(row["size"])) == (group["name"], group["size"])
        for key in ("value", "payment", "utility"):
            if isinstance(group[key], dict):
                ends = {
                    end: float(row[f"{key} {end}".removesuffix(" estimate")]) for end in ("estimate", "low", "high")
                }
                assert ends == {end: group[key][end] for end in ends}
            else:
                assert float(row[key]) == group[key]
    names = [cell.text for cell in page.one(id="settlement-table").all("th", scope="row")]
    assert names == [*(group["name"] for group in receipt["groups"]), "All"]


@pytest.mark.parametrize("game", [HAND, PROMPTS, TRIE], ids=["hand", "prompts", "trie"])
def test_the_waterfall_on_the_page_ends_at_the_receipt(tmp_path: Path, game: dict[str, Any]) -> None:
    page, receipt = report_of(tmp_path / "run", game), receipt_in(tmp_path / "run")
    rows = data_of(page, "waterfall")
    for group in receipt["groups"]:
        payment, utility = (
            group[k]["estimate"] if isinstance(group[k], dict) else group[k] for k in ("payment", "utility")
        )
        items = {row["item"]: float(row["amount"]) for row in rows if row["group"] == group["name"]}
        steps = [value for item, value in items.items() if item not in ("own value", "payment", "utility")]
        assert sum(steps) == pytest.approx(payment, abs=1e-12)
        assert items["own value"] - items["payment"] == pytest.approx(items["utility"], abs=1e-12)
        assert items["utility"] == pytest.approx(utility, abs=1e-12)
        assert len(steps) == len(receipt["groups"])  # the others, and the provider


def test_the_policy_on_the_page_is_that_of_the_receipt(tmp_path: Path) -> None:
    page, receipt = report_of(tmp_path / "run", PROMPTS), receipt_in(tmp_path / "run")
    rows = data_of(page, "policy")
    after = {(r["prompt"], r["response"]): float(r["after"]) for r in rows}
    before = {(r["prompt"], r["response"]): float(r["before"]) for r in rows}
    for b, prompt in enumerate(PROMPTS["provenance"]["prompts"]):
        for x, response in enumerate(PROMPTS["outcomes"][b]):
            assert after[prompt, response] == pytest.approx(receipt["policy"][b][x], abs=1e-15)
            assert before[prompt, response] == pytest.approx(PROMPTS["reference"][b][x], abs=1e-15)
    assert float(rows[0]["reward: legal"]) in PROMPTS["groups"][0]["reward"][0]
    bars = page.one(id="policy").all("svg", role="img")
    assert len(bars) == len(rows)
    assert all(bar.attributes["aria-label"].startswith("before ") for bar in bars)


def test_many_responses_are_cut_to_the_likeliest_and_the_rest_is_said(tmp_path: Path) -> None:
    game = {
        "reference": [0.05] * 20,
        "strength": 1.0,
        "groups": [{"name": "a", "size": 1, "reward": [float(x) / 20 for x in range(20)]}],
    }
    page = report_of(tmp_path / "run", game)
    rows = data_of(page, "policy")
    assert [row["response"] for row in rows] == [f"outcome {x}" for x in range(19, 13, -1)]
    assert "14 more responses, together" in page.one(id="policy").text


def test_lies_gain_nothing_with_payments_and_something_without(tmp_path: Path) -> None:
    page = report_of(tmp_path / "run", PROMPTS)
    rows = data_of(page, "regret")
    with_payments = [row for row in rows if row["payments"] == "affine"]
    without = [row for row in rows if row["payments"] == "none"]
    assert [float(row["gain found"]) for row in with_payments] == [0.0] * 3
    assert all(float(row["gain at most"]) < 1e-9 for row in with_payments)
    assert max(float(row["gain found"]) for row in without) > 0.01
    assert [row["gain at most"] for row in without] == [""] * 3  # nothing is proved without payments
    assert "Truth is a best report of every group" in page.one(id="incentives").text
    assert data_of(page, "witnesses")[0]["true reward"] != data_of(page, "witnesses")[0]["reward said"]


def test_where_nobody_pays_the_page_says_that_lies_gain(tmp_path: Path) -> None:
    page = report_of(tmp_path / "run", {**PROMPTS, "payment": "none"})
    assert "can gain by lying" in page.one(id="incentives").one("p", class_="bad").text
    items = data_of(page, "waterfall")
    assert {float(row["amount"]) for row in items if row["item"] == "payment"} == {0.0}
    assert sum(float(row["amount"]) < 0 for row in items if row["item"] == "not charged") == 3


EIGHT = (
    "accountability office", "brand communications", "customer experience", "data protection officers",
    "engineering platform", "finance and procurement", "government relations", "human resources",
)  # fmt: skip


@pytest.mark.parametrize("payment", ["affine", "none"])
def test_eight_groups_fit_a_page_with_whole_words_and_none_is_left_out(tmp_path: Path, payment: str) -> None:
    rewards = np.random.default_rng(0).dirichlet(np.ones(5), 8)
    groups = [{"name": n, "size": 2, "reward": r.tolist()} for n, r in zip(EIGHT, rewards, strict=True)]
    page = report_of(tmp_path / "run", {"reference": [0.2] * 5, "strength": 1.0, "payment": payment, "groups": groups})
    words = {*" ".join(EIGHT).split(), "cost", "to", "gain", "of"}
    labels = []
    for text in page.all("text", class_="label"):
        parts = [c if isinstance(c, str) else c.text if c.name == "tspan" else "" for c in text.children]
        labels.append(" ".join(parts).replace("\N{HORIZONTAL ELLIPSIS}", " ").split())
    named = [label for label in labels if words & set(label)]
    assert len(named) > 8 * 7
    for label in named:
        assert not [word for word in set(label) - words if any(whole.startswith(word) for whole in words)], label
    for key in ("shares", "waterfall", "regret"):
        shown = {name for row in data_of(page, key) for name in row.values()}
        assert set(EIGHT) <= shown, key
    assert len(page.one(id="waterfall").all("svg", role="img")) == 8
    charged = page.one(id="payments").text
    assert ("Nobody pays" in charged) == (payment == "none")
    assert ("is charged for" in charged or "is paid for it" in charged) == (payment != "none")


def test_utility_is_highest_at_the_truth_with_payments_only(tmp_path: Path) -> None:
    folder_of(tmp_path / "run", PROMPTS)
    swept = sharpness(read_game(tmp_path / "run/game.json"))
    assert swept is not None
    truth = SHARPNESS.index(1.0)
    receipt = receipt_in(tmp_path / "run")
    for one, group in zip(swept, receipt["groups"], strict=True):
        assert one.with_payments[truth] == pytest.approx(group["utility"], abs=1e-12)
        assert max(one.with_payments) <= one.with_payments[truth] + 1e-12
        assert one.without[truth] == pytest.approx(group["size"] * group["value"], abs=1e-12)
    assert any(max(one.without) > one.without[truth] + 0.01 for one in swept)


def test_an_audit_that_was_made_before_is_shown_instead_of_a_search(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", HAND)
    made = make_audit(read_game(folder / "game.json")).model_dump()
    made["groups"][0] |= {"regret_found": 0.125, "best_gain": 0.125, "regret_bound": 0.5}
    made |= {"coalitions": [{"members": ["a", "b"], "truthful_utility": 0.7, "gain": 0.25}], "starts": 77}
    (folder / "audit.json").write_text(json.dumps(made))
    page = page_of(write_report(folder))
    assert float(data_of(page, "regret")[0]["gain found"]) == 0.125
    assert float(data_of(page, "regret")[0]["gain at most"]) == 0.5
    assert data_of(page, "joint") == [
        {"who": "a + b", "how": "coalition", "truthful utility": "0.7", "gain found": "0.25"}
    ]
    assert "77 starts" in page.text
    assert "a can gain by lying" in page.text


def test_an_audit_of_another_game_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", HAND)
    made = make_audit(read_game(folder_of(tmp_path / "other", PROMPTS) / "game.json"))
    (folder / "audit.json").write_text(made.model_dump_json())
    with pytest.raises(InputError, match=r"audit\.json: game_sha256: must be that of the game"):
        write_report(folder)


def test_a_receipt_that_was_changed_is_told_from_a_good_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", HAND)
    page = page_of(write_report(folder))
    assert "every number of the receipt agrees" in page.one(id="settlement").one("p", class_="good").text
    receipt = receipt_in(folder)
    receipt["groups"][0]["payment"] *= 1.001
    (folder / "receipt.json").write_text(json.dumps(receipt))
    page = page_of(write_report(folder))
    assert "groups[0].payment" in page.one(id="settlement").one("p", class_="bad").text
    (folder / "receipt.json").write_text(json.dumps(receipt | {"game_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"receipt\.json: game_sha256"):
        write_report(folder)


def test_intervals_are_on_the_page(tmp_path: Path) -> None:
    page, receipt = report_of(tmp_path / "run", TRIE), receipt_in(tmp_path / "run")
    payment = receipt["groups"][0]["payment"]
    assert payment["low"] < payment["estimate"] < payment["high"]
    small = [one.text for one in page.one(id="settlement-table").all("small")]
    assert f"{payment['low']:.4f} to {payment['high']:.4f}" in small
    assert "for certain" in page.one(id="settlement").text
    assert len(page.one(id="shares-drawing").all("path", class_="whisker")) == 2


@pytest.mark.parametrize("game", GAMES, ids=lambda path: path.stem)
def test_every_kind_of_game_has_a_report(game: Path, tmp_path: Path) -> None:
    from rlhf_game.report.folder_pages import settled_page
    from rlhf_game.report.page import write_page

    page = page_of(write_page(tmp_path / "report.html", settled_page(game)))
    assert {section.attributes["id"] for section in page.all("section")} >= {"settlement", "payments", "incentives"}
    assert len(data_of(page, "settlement-table")) == len(read_game(game).fields.groups)


def test_a_large_game_is_checked_but_not_searched(tmp_path: Path) -> None:
    game = {
        "reference": [1 / 30_000] * 30_000,
        "strength": 1.0,
        "groups": [{"name": name, "size": 1, "reward": [0.5] * 30_000} for name in ("a", "b")],
    }
    page = report_of(tmp_path / "run", game)
    assert "Checked: the game was settled again" in page.one(id="settlement").text
    assert "rlhf-game audit" in page.one(id="incentives").text
    assert not page.all(id="policy")


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_report(folder_of(tmp_path / name, PROMPTS)).read_bytes() for name in ("one", "two"))
    assert one == two
    assert one.startswith(b"<!DOCTYPE html>")


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a folder of `run`"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_game_over_system_prompts_shows_them_as_what_they_are(tmp_path: Path) -> None:
    """They were shown as responses to the first question."""
    texts = ["Answer in one word.", "Explain like a teacher."]
    groups = [{**HAND["groups"][0], "size": 2}, HAND["groups"][1]]
    made = {
        **HAND,
        "groups": groups,
        "outcomes": texts,
        "provenance": {"prompts": ["Why?"], "candidates": {"system_prompts": []}},
    }
    page = report_of(tmp_path, made)
    rows = data_of(page, "policy")
    assert [row["system prompt"] for row in rows] == texts
    assert {row["prompt"] for row in rows} == {""}
    assert "Why?" not in page.one(id="policies").text
    assert "system prompts that the groups together like better" in page.one(id="policies").text
    assert page.one(id="policy").all("th", scope="col")[0].text == "System prompt"
    assert "response" not in page.one(id="settlement").text
    assert "you say one system prompt is worth" in page.one(id="what-if").text
    plain = report_of(tmp_path, {**made, "provenance": {"prompts": ["Why?"]}})
    assert {row["prompt"] for row in data_of(plain, "policy")} == {"Why?"}


def test_the_lead_of_an_automaton_says_how_far_its_first_token_moved(tmp_path: Path) -> None:
    game = {
        "space": "automaton", "next_state": [[1, 1], [-1, -1], [-1, -1]], "reference": [[0.5, 0.5]] * 3, "horizon": 2,
        "strength": 1.0, "groups": [{"name": "a", "reward": [[np.log(3), 0.0], [0.0, 0.0], [0.0, 0.0]]}],
    }  # fmt: skip
    found = changes(read_game(folder_of(tmp_path, game) / "game.json"), settle(read_game(tmp_path / "game.json")), ())
    assert [(one.prompt, one.labels, one.weight) for one in found] == [
        ("First token, state 0", ("token 0", "token 1"), 1)
    ]
    np.testing.assert_allclose(found[0].after, [0.75, 0.25])
    assert policies(found, ["a"], [1]).lead.startswith("Training moved 25.0%")


def test_what_could_have_been_otherwise_is_on_the_page(tmp_path: Path) -> None:
    """The intervals over questions and the spread over members stand beside the settlement, and not among origins."""
    folder = folder_of(tmp_path / "run", HAND)
    receipt = receipt_in(folder)
    names = [group["name"] for group in receipt["groups"]]
    interval = {"estimate": 0.25, "low": 0.125, "high": 0.5, "level": 0.95}
    money = {"value": interval, "payment": {**interval, "low": 0.0625}, "utility": interval}
    spread = {"min": 0.25, "median": 0.375, "max": 0.75}
    own = {"name": names[0], "members": 3, "payment": spread, "error": 0.125, "regret_bound": 0.625}
    joint = {"combinations": 4, "of": 9, "groups": [{"name": name, "payment": spread} for name in names]}
    over = {
        "over_questions": {"resamples": 200, "questions": 8, "groups": [{"name": name, **money} for name in names]},
        "over_members": {"what": "a spread", "groups": [own], "joint": joint},
    }
    (folder / "receipt.json").write_text(json.dumps({**receipt, "provenance": over}))
    page = page_of(write_report(folder))
    questions, members = data_of(page, "over-questions"), data_of(page, "over-members")
    assert [(row["payment"], row["payment low"], row["value low"]) for row in questions] == [
        ("0.25", "0.0625", "0.125")
    ] * len(names)
    assert [row["own member max"] for row in members] == ["0.75"] + [""] * (len(names) - 1)
    assert (members[0]["error"], members[0]["bound"], members[-1]["all members min"]) == ("0.125", "0.625", "0.25")
    assert "0.0625 to 0.5000" in page.one(id="over-questions").text
    assert "4 of 9" in page.one(id="over-members").text
    assert "over_questions" not in page.text
    unknown = {"over_members": {"unknown": "groups[0]: member 1"}}
    (note,) = spread_blocks(Receipt.model_validate({**receipt, "provenance": unknown}))
    assert isinstance(note, Note)
    assert "groups[0]: member 1" in note.text
    half = {**over["over_members"], "joint": {**joint, "groups": [{"name": names[0], "payment": {"min": 0.25}}]}}
    for wrong in ({"over_questions": {"groups": []}}, {"over_members": [1]}, {"over_members": half}):
        with pytest.raises(InputError, match=r"provenance\.over_"):
            spread_blocks(Receipt.model_validate({**receipt, "provenance": wrong}))
