"""What the report of one game claims follows from that game: what was trained, what is charged, which lies gain."""

from pathlib import Path
from typing import Any

import pytest

from rlhf_game.files.games import read_game
from rlhf_game.report import write_report
from rlhf_game.report.incentives import incentives
from rlhf_game.report.lies import Audit, Bracket, Joint
from tests.report.pages import data_of, page_of
from tests.report.test_games import folder_of, report_of
from tests.report.test_play_claims import PAIR, rewarding, written

APART = rewarding([3.0, 0.0, 0.0], [0.0, 0.0, 3.0])


@pytest.mark.parametrize(
    ("change", "shared", "lead"),
    [
        ({}, "one policy", "was put into one policy, which is kept near its reference (KL divergence, strength 1); "
         "each group pays exactly what its report costs the others and the provider."),
        ({"fee": 0.5}, "one policy", "the others and the provider, and a fee of 0.5000 for every name."),
        ({"training_cost": 0.5}, "one policy", "was put into one policy, which is kept near"),
        ({"training_cost": 50.0}, "the reference",
         "want is not worth the cost of training, so the reference stays as it is; each group pays exactly"),
        ({"models": {"at_most": 2, "cost": 0.1}}, "two models", "was put into two models, each of which is kept near"),
        ({"models": {"at_most": 2, "cost": 50.0}}, "the reference", "is not worth the cost of training"),
        ({"payment": "none"}, "one policy", "nobody pays."),
    ],
    ids=["plain", "fee", "cost", "too dear", "two models", "no model", "none"],
)  # fmt: skip
def test_the_head_says_what_is_shared_and_what_is_paid(
    change: dict[str, Any], shared: str, lead: str, tmp_path: Path
) -> None:
    page = report_of(tmp_path, {**APART, **change})
    assert page.one("h1").text == f"Two groups share {shared}"
    assert lead in page.one(class_="lead").text


def test_liked_better_is_said_only_where_it_is_so(tmp_path: Path) -> None:
    """The provider's own wishes can move the policy against those of all groups."""
    liked = "to responses that the groups together like better."
    assert liked in report_of(tmp_path / "with", PAIR).one(id="policies").text
    against = {**PAIR, "boosts": [9.0, 0.0, 0.0]}
    moved = report_of(tmp_path / "against", against).one(id="policies").text
    assert "Training moved" in moved
    assert liked not in moved


def bracket(name: str, bound: float | None) -> Bracket:
    return Bracket(name=name, truthful_utility=1.0, regret_found=0.0, regret_bound=bound, best_gain=0.0)


@pytest.mark.parametrize(
    ("bound", "gain", "words"),
    [
        (0.0, 0.3, "no lie of a single group gains. That is no proof against groups that act as one"),
        (0.0, 0.0, "no lie of a single group gains. Of these none was found that gains"),
        (None, 0.3, "What a search found: such lies gain at least so much."),
    ],
)
def test_joint_lies_stand_beside_what_is_proved_of_single_ones(
    bound: float | None, gain: float, words: str, tmp_path: Path
) -> None:
    """Where nobody pays it was said that payments make every single group truthful."""
    audit = Audit(
        payment="none", groups=[bracket("a", bound), bracket("b", bound)], starts=1, seed=0,
        coalitions=[Joint(members=["a", "b"], truthful_utility=1.0, gain=gain)],
    )  # fmt: skip
    game = read_game(written(tmp_path / "game.json", {**PAIR, "payment": "none"}))
    said = repr(incentives(game, audit, []))
    assert words in said
    assert "is a loss" not in said  # no gain here is negative
    losing = audit.model_copy(update={"groups": [bracket("a", bound).model_copy(update={"best_gain": -0.1})] * 2})
    assert "A negative gain is a loss" in repr(incentives(game, losing, []))


def test_what_the_provider_could_do_is_shown_where_it_was_searched_for(tmp_path: Path) -> None:
    audit = {
        "payment": "affine", "starts": 1, "seed": 0,
        "groups": [{"name": name, "truthful_utility": 1.0, "regret_found": 0.0, "regret_bound": 0.0} for name in "ab"],
        "provider": {"revenue": 2.0, "best_revenue": 3.5, "gain": 1.5, "by_kind": {"invented": 3.5, "strength": 1.75}},
    }  # fmt: skip
    assert not report_of(tmp_path / "without", PAIR).all(id="provider")
    folder = folder_of(tmp_path / "run", PAIR)
    written(folder / "audit.json", audit)
    page = page_of(write_report(folder))
    rows = [(row["the provider"], float(row["collected"]), float(row["gain"])) for row in data_of(page, "provider")]
    assert rows == [("invents a group", 3.5, 1.5), ("trains at another strength", 1.75, -0.25)]
    assert "By the rules it collects 2.000. What a search found" in page.one(id="provider").text
