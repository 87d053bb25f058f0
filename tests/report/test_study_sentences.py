"""Every sentence of a study's report is checked against the study's table by a program that knows no other sentence."""

import re
from pathlib import Path
from typing import Any

import pandas
import pytest

from rlhf_game.report import write_report
from rlhf_game.simulations.simulation_pipeline import simulate
from tests.report.market_sentences import OF_MARKETS
from tests.report.pages import page_of
from tests.report.sentences import SENTENCES, Table, sentences_of
from tests.simulations.studies import EQUILIBRIUM, GAMES, MARKET, study


def unproved(found: Table) -> list[str]:
    """What no checker knows, or what the table contradicts."""
    out = []
    for text in sentences_of(found.page):
        rest = text
        while rest:
            matches = [(m, check) for pattern, check in (*SENTENCES, *OF_MARKETS) if (m := re.match(pattern, rest))]
            if not matches or not any(check(found, *m.groups()) for m, check in matches):
                out.append(rest)
                break
            rest = rest[max(m.end() for m, _ in matches) :].strip()
    return out


LIES = [{"kind": "polarize"}, {"kind": "indifferent"}, {"kind": "resize"}, {"kind": "false_names"}]
PAIR = {"kind": "coalition", "steps": 5, "starts": 4}
STUDIES: dict[str, dict[str, Any]] = {
    "each": {"strategies": [*LIES, PAIR], "payments": ["affine", "revenue", "none"]},
    "first": {"strategies": LIES, "liars": "first"},
    "first, swept": {"strategies": [*LIES, PAIR], "liars": "first", "sweep": {"strength": [0.1, 1.0, 10.0]}},
    "all": {"strategies": LIES, "liars": "all"},
    "a third": {"strategies": LIES[:3], "liars": 0.33},
    "one that never gains": {"strategies": [{"kind": "absent"}, {"kind": "best_response", "steps": 5}]},
    "paid only": {"strategies": LIES[:2], "payments": ["affine"]},
    "free only": {"strategies": LIES[:2], "payments": ["none"], "regularizer": "l2"},
    "numbers of a lie": {"strategies": LIES[:2], "sweep": {"strategies[0].temperature": [0.5, 2.0]}},
    "noise": {"strategies": LIES, "noise": 0.2},
    "named": {"strategies": [{"kind": "polarize", "name": "truth; honest. With affine payments"}]},
}


def table_of(tmp_path: Path, changes: dict[str, Any], of: dict[str, Any]) -> Table:
    finished = simulate(study(changes, of), tmp_path / "out")
    page = page_of(write_report(tmp_path / "out"))
    return Table(pandas.read_parquet(finished.table), finished.summary, page)


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "named"])
def test_every_sentence_is_what_the_table_says(tmp_path: Path, name: str) -> None:
    found = table_of(tmp_path, STUDIES[name], GAMES)
    assert len(sentences_of(found.page)) > 5
    assert unproved(found) == []


@pytest.mark.parametrize("sweep", [{}, {"sweep": {"strength": [0.5, 5.0]}}], ids=["one", "swept"])
def test_every_sentence_on_a_market_is_what_its_table_says(tmp_path: Path, sweep: dict[str, Any]) -> None:
    assert unproved(table_of(tmp_path, {"games": 8, **sweep}, MARKET)) == []


ROUNDS = {
    "games": 6, "rounds": 5, "strength": 2.0, "reference": "last", "training_cost": 0.05, "reserve": 0.08,
    "always": True, "menu": [{"kind": "resize"}],
}  # fmt: skip


@pytest.mark.parametrize("sweep", [{}, {"sweep": {"reference": ["first", "last"]}}], ids=["one", "swept"])
def test_every_sentence_on_repeated_rounds_is_what_its_table_says(tmp_path: Path, sweep: dict[str, Any]) -> None:
    found = table_of(tmp_path, {**ROUNDS, **sweep}, MARKET)
    found.costs = 0.05
    assert sum("in every round" in text or "the provider earns" in text for text in sentences_of(found.page)) == 6
    assert unproved(found) == []
    worse = found.rows.copy()
    worse.surplus -= 0.1
    worse[[f"utility_{i}" for i in range(3)]] += 0.1
    wrong = Table(worse, found.summary, found.page)
    wrong.costs = 0.05
    assert (
        len(unproved(wrong)) >= 4
    )  # negative control: both rules' earnings, and what the truth brings beside learning


@pytest.mark.parametrize(
    "changes",
    [{}, {"sweep": {"strength": [0.3, 1.0]}}, {"rounds": 1, "beginnings": 1, "epsilon": 0.0, "payments": ["none"]}],
    ids=["one", "swept", "none found"],
)
def test_every_sentence_on_equilibria_is_what_its_table_says(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = table_of(tmp_path, {"games": 2, "rounds": 4, "steps": 6, "starts": 3, **changes}, EQUILIBRIUM)
    assert unproved(found) == []
    if "sweep" in changes:
        assert len(found.page.one(id="prices").all("div", class_="panel")) == 4


def test_what_a_lie_is_called_changes_no_verdict(tmp_path: Path) -> None:
    found = table_of(tmp_path, STUDIES["named"], GAMES)
    tones = [note.attributes["class"] for note in found.page.one(id="lies").all("p", class_="callout")]
    assert tones == ["callout good", "callout bad"]


def test_the_check_sees_a_false_sentence(tmp_path: Path) -> None:
    """Negative control: the same report beside the table of another study."""
    found = table_of(tmp_path, STUDIES["first"], GAMES)
    worse = found.rows.copy()
    worse.loc[worse.payment == "none", ["gain", "regret"]] = 0.0
    assert any("Without payments" in text for text in unproved(Table(worse, found.summary, found.page)))
    paid = found.rows.copy()
    paid.loc[paid.strategy.str.startswith("polarize") & (paid.payment == "affine"), "regret"] = 0.1
    assert any("With affine payments" in text for text in unproved(Table(paid, found.summary, found.page)))
