"""Reports of exact draws: bills with their errors, what the tapes took, and what was served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.errors import InputError
from rlhf_game.files.drawn import drawn_receipt, exponentials, read_drawn_game
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.draws.tapes import Problem, cut
from rlhf_game.report import write_report
from tests.report.pages import data_of, page_of
from tests.report.test_escaping import HOSTILE, check_harmless

TEXTS, NAMES = (HOSTILE[0], "calm\nor not", HOSTILE[1]), (HOSTILE[2], "calm")
WORTH = np.array([[0.9, 0.6, 0.1], [0.1, 0.4, 0.9]])
SEED, DRAWS = 5, 6


def folder_of(path: Path, **changes: Any) -> Path:
    """A run of kind draws whose proposals are made up here; every text of it is anybody's."""
    path.mkdir()
    problem, rng = Problem(np.array([2.0, 1.0]), np.ones(2), 1.0, np.ones(2)), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for b in (0, 1):
        picked, waits = rng.integers(3, size=400), exponentials(SEED, 0, b, 400)
        tape = cut(problem, WORTH[:, picked], waits, DRAWS)
        assert tape is not None
        for j, x in enumerate(picked[: tape.proposals].tolist()):
            rewards = {f"reward:{name}": WORTH[i, x] for i, name in enumerate(NAMES)}
            place = {
                "part": 0,
                "prompt": b,
                "proposal": j,
                "response": TEXTS[x],
                "is_whole": True,
                "exponential": waits[j],
            }
            rows.append({**place, "accepted": j in tape.accepted, **rewards})
    parquet.write_table(pyarrow.Table.from_pylist(rows), path / "tape.parquet")
    game: dict[str, Any] = {
        "space": "draws", "regularizer": "kl", "strength": 1.0, "payment": "affine", "estimator": "rao_blackwell",
        "draws": DRAWS, "max_proposals": 10**6, "level": 0.95, "prompts": 2, "settlement_seed": SEED,
        "groups": [{"name": NAMES[0], "size": 2, "ceiling": 1.0}, {"name": NAMES[1], "size": 1, "ceiling": 1.0}],
        "seed_from": "provider", "size_limit": 2,
        "tape": {"file": "tape.parquet", "sha256": digest(path / "tape.parquet")},
        "provenance": {"prompts": [HOSTILE[4], HOSTILE[5]]},
    }  # fmt: skip
    (path / "game.json").write_text(json.dumps(game | changes))
    (path / "receipt.json").write_text(json.dumps(drawn_receipt(read_drawn_game(path / "game.json")).model_dump()))
    return path


def test_bills_tapes_and_draws_are_on_the_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    page, receipt = page_of(write_report(folder)), json.loads((folder / "receipt.json").read_text())
    check_harmless(page)
    for row, group, second in zip(
        data_of(page, "bills"), receipt["groups"], receipt["draws"]["second_payments"], strict=True
    ):
        assert float(row["standard error"]) == pytest.approx(group["payment"]["standard_error"])
        assert float(row["second payment"]) == pytest.approx(second)
        assert float(row["regret bound, in expectation over draws"]) == group["regret_bound"] < 1e-6
    for row, prompt in zip(data_of(page, "tapes"), receipt["draws"]["prompts"], strict=True):
        assert int(row["proposals"]) == prompt["proposals"]
        assert float(row["log Z"]) == pytest.approx(prompt["log_z"]["estimate"])
    served = data_of(page, "served")
    assert len(served) == 2 * 3
    assert {row["response"].lstrip("'") for row in served} <= set(TEXTS)
    assert TEXTS[1] in [cell.text for cell in page.one(id="served").all("bdi", class_="text")]  # as it was written
    assert not [one for one in page.one(id="served").all("td", class_="n") if one.all("bdi", class_="text")]  # unbroken
    assert page.one("h1").text == "Two groups share draws of the optimum"
    levels = "with probability 0.95, and the sums with at least 0.9."  # each of two groups' at .95
    assert levels in page.one(id="settlement").one("p", class_="section-lead").text
    assert "nothing bounds" not in page.one(id="bills-section").text
    assert "computed again from the tape" in page.one(id="settlement").one("p", class_="good").text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seed_from": "config"}, "The draws were known before the reports (settlement_seed)"),
        ({"size_limit": None}, "No size_limit is declared"),
        ({"payment": "none"}, "Nobody pays"),
    ],
)
def test_why_nothing_bounds_a_lie_is_said(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    page = page_of(write_report(folder_of(tmp_path / "run", **changes)))
    assert [why in note.text for note in page.one(id="bills-section").all("p", class_="plain")].count(True) == 1
    assert {row["regret bound, in expectation over draws"] for row in data_of(page, "bills")} == {""}


def test_an_audit_of_draws_is_on_the_page_with_the_lies_that_are_told_together(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    group = {"truthful_utility": 1.0, "regret_found": 0.0, "regret_bound": 0.0, "best_gain": 0.0}
    group |= {"best_strategy": "Truthful", "best_report": {"size": 1, "reward": [0.5]}}
    document = {
        "payment": "affine", "groups": [{**group, "name": name} for name in NAMES], "starts": 2, "seed": 0,
        "bounds_hold": "on the tape's texts alone",
        "coalitions": [{"members": list(NAMES), "truthful_utility": 2.0, "gain": 0.25}],
    }  # fmt: skip
    (folder / "audit.json").write_text(json.dumps(document))
    page = page_of(write_report(folder))
    assert "on the tape's texts alone" in page.one(id="incentives").text
    assert [row["gain found"] for row in data_of(page, "joint")] == ["0.25"]


def test_free_draws_have_a_page_too(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "run", payment="none")))
    assert [row["standard error"] for row in data_of(page, "bills")] == ["0.0", "0.0"]


def test_a_receipt_that_the_tape_does_not_give_is_said_and_one_of_another_game_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    receipt = json.loads((folder / "receipt.json").read_text())
    receipt["groups"][0]["utility"]["standard_error"] *= 1.01
    (folder / "receipt.json").write_text(json.dumps(receipt))
    said = page_of(write_report(folder)).one(id="settlement").one("p", class_="bad").text
    assert "The tape gives other numbers" in said
    (folder / "receipt.json").write_text(json.dumps(receipt | {"game_sha256": "0" * 64}))
    with pytest.raises(InputError, match="game_sha256"):
        write_report(folder)
