"""Reports of trained policies: the receipt, its certificate, and what is drawn before and after."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.errors import InputError
from rlhf_game.files.sampled import read_sampled_game, sampled_receipt
from rlhf_game.files.tables import digest
from rlhf_game.report import write_report
from tests.report.pages import data_of, page_of
from tests.report.test_escaping import HOSTILE, check_harmless

REWARDS = {HOSTILE[0]: 0.9, "calm": 0.6, HOSTILE[1]: 0.1}
DRAWS = 60
WITHOUT = "untouched_affine_social_welfare"


def folder_of(path: Path, *, is_faithful: bool = True, seed_from: str = "provider") -> Path:
    """A run of kind finetuned with draws made up here: the policy says the first text more often than the reference."""
    path.mkdir()
    rng, texts = np.random.default_rng(0), list(REWARDS)
    chances = {"reference": np.array([0.2, 0.3, 0.5]), "final": np.array([0.6, 0.3, 0.1])}
    rows: list[tuple[str, int, str, float, float]] = [
        (policy, b, texts[x], float(np.log(p[x])), float(np.log(chances["reference"][x])))
        for policy, p in chances.items() for b in (0, 1) for x in rng.choice(3, size=DRAWS, p=p)
    ]  # fmt: skip
    names = ("policy", "prompt", "text", "log_probability", "log_reference")
    parquet.write_table(pyarrow.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path / "samples.parquet")
    scored = [(b, text, reward, 1 - reward) for b in (0, 1) for text, reward in REWARDS.items()]
    names = ("prompt_index", "response", HOSTILE[2], "calm")
    parquet.write_table(
        pyarrow.table(dict(zip(names, zip(*scored, strict=True), strict=True))), path / "scores.parquet"
    )
    game: dict[str, Any] = {
        "space": "samples", "regularizer": "kl", "strength": 1.0, "payment": "affine", "payments_from": "samples",
        "level": 0.95, "cap": 4.0, "cap_from": "cap",
        "groups": [{"name": HOSTILE[2], "size": 2}, {"name": "calm", "size": 1}],
        "policies": ["reference", "final"],
        **{key: {"file": f"{key}.parquet", "sha256": digest(path / f"{key}.parquet")} for key in ("samples", "scores")},
        "trainer": {"name": "rloo", "is_faithful": is_faithful, "reason": HOSTILE[3]},
        "cost": {"trainings": 1, "tokens": 10, "drawn": 240, "seconds": "cost.json"},
        "settlement_seed": 3, "seed_from": seed_from,
        "provenance": {"prompts": [HOSTILE[4], HOSTILE[5]]},
    }  # fmt: skip
    (path / "game.json").write_text(json.dumps(game))
    (path / "receipt.json").write_text(json.dumps(sampled_receipt(read_sampled_game(path / "game.json")).model_dump()))
    return path


def test_the_receipt_its_bounds_and_the_draws_are_on_the_page(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    page, receipt = page_of(write_report(folder)), json.loads((folder / "receipt.json").read_text())
    check_harmless(page)
    for row, group in zip(data_of(page, "settlement-table"), receipt["groups"], strict=True):
        assert float(row["payment"]) == group["payment"]["estimate"]
        assert float(row["payment high"]) == group["payment"]["high"]
    bounds = [float(row["gain at most"]) for row in data_of(page, "regret")]
    assert bounds == [group["regret_bound"] for group in receipt["groups"]]
    before, after = (float(data_of(page, "rewards")[0][policy]) for policy in ("reference", "final"))
    assert after > before + 0.1
    assert len(data_of(page, "draws")) == 2 * 2 * 3
    assert "computed again from the draws" in page.one(id="settlement").one("p", class_="good").text
    incentives = page.one(id="incentives")
    assert not incentives.all("p", class_="bad")
    delivered, untouched = (receipt[key]["estimate"] for key in ("affine_social_welfare", WITHOUT))
    assert delivered < untouched
    assert "the trained one whatever they say" in incentives.all("p", class_="plain")[0].text
    assert page.one("h1").text == "Two groups share a fine-tuned model"


def test_no_bound_is_drawn_where_none_is_known(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "run", seed_from="config")))
    said = page.one(id="incentives").all("p", class_="plain")[-1].text
    assert "known before the reports (settlement_seed), so nothing bounds" in said
    assert not page.all(id="regret")


def test_a_trainer_that_is_not_the_mechanisms_is_said(tmp_path: Path) -> None:
    page = page_of(write_report(folder_of(tmp_path / "run", is_faithful=False)))
    assert HOSTILE[3] in page.one(id="incentives").one("p", class_="bad").text


def test_a_receipt_that_the_draws_do_not_give_is_said_and_one_of_another_game_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    receipt = json.loads((folder / "receipt.json").read_text())
    payment = receipt["groups"][0]["payment"]
    payment["estimate"] = 0.3 * payment["low"] + 0.7 * payment["high"]
    (folder / "receipt.json").write_text(json.dumps(receipt))
    assert (
        "The draws give other numbers" in page_of(write_report(folder)).one(id="settlement").one("p", class_="bad").text
    )
    (folder / "receipt.json").write_text(json.dumps(receipt | {"game_sha256": "0" * 64}))
    with pytest.raises(InputError, match="game_sha256"):
        write_report(folder)
