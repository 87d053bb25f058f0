"""The meter: totals are sums of prices, the interval covers, and unknown responses are named."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_game.files.games import read_game
from rlhf_game.files.meter import Served, meter
from tests.cli.runner import run
from tests.report.test_games import PROMPTS, folder_of

TEXTS = dict(zip(PROMPTS["provenance"]["prompts"], PROMPTS["outcomes"], strict=True))


def log(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "served.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "response": r}) + "\n" for p, r in rows))
    return path


def test_a_log_is_billed_response_by_response(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", PROMPTS)
    rows = [("May I?", "yes"), ("What to drink?", "tea"), ("May I?", "perhaps"), ("May I?", "maybe")]
    found = json.loads(run("meter", folder, "--responses", log(tmp_path, rows), "--json").out)
    assert found["unknown"] == [2]
    for group in found["groups"]:
        assert group["responses"][2] is None
        assert group["total"] == pytest.approx(sum(price for price in group["responses"] if price is not None))
        assert set(group["expected"]) == {"estimate", "low", "high", "level"}
    said = run("meter", folder, "--responses", log(tmp_path, rows)).out
    assert "rows 2" in said
    assert "rebate" in said


def test_every_outcome_at_its_probability_costs_the_bill(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", PROMPTS)
    receipt = json.loads((folder / "receipt.json").read_text())
    rows = [Served(p, r) for p, row in TEXTS.items() for r in row]
    found = meter(read_game(folder / "game.json"), rows)
    weights = np.concatenate([rho * np.array(p) for rho, p in zip((0.25, 0.75), receipt["policy"], strict=True)])
    bills = [group["payment"] for group in receipt["groups"]]
    np.testing.assert_allclose(found.prices @ weights, bills, rtol=1e-10)


def test_the_interval_of_the_total_covers(tmp_path: Path) -> None:
    """Seeded logs of 30 responses drawn from the policy; the negative control draws from the reference."""
    folder = folder_of(tmp_path / "run", PROMPTS)
    game = read_game(folder / "game.json")
    policy = json.loads((folder / "receipt.json").read_text())["policy"]
    rng = np.random.default_rng(5)
    outside = {"policy": 0, "reference": 0}
    for law, rows in {"policy": policy, "reference": PROMPTS["reference"]}.items():
        for _ in range(100):
            served = []
            for _ in range(30):
                b = int(rng.integers(2))
                prompt, outcomes = list(TEXTS.items())[b]
                served.append(Served(prompt, str(rng.choice(outcomes, p=rows[b]))))
            found = meter(game, served)
            outside[law] += not found.expected.contains(found.prices.sum(axis=1))
    assert outside["policy"] <= 5
    assert outside["reference"] > 50


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "found an empty file"), ("[1]\n", "must be a mapping"), ('{"prompt": "a"}\n', "response: must be a text")],
)
def test_a_wrong_log_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", PROMPTS)
    (tmp_path / "served.jsonl").write_text(content)
    found = run("meter", folder, "--responses", tmp_path / "served.jsonl")
    assert found.code == 2
    assert words in found.err


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_log_without_any_known_response_is_no_bill_of_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", PROMPTS)
    found = run("meter", folder, "--responses", log(tmp_path, [("May I?", "perhaps"), ("Who?", "yes")]), *options)
    assert (found.code, found.out) == (2, "")
    assert "at least one row whose response is an outcome" in found.err


def test_a_game_without_prompts_has_no_meter(tmp_path: Path) -> None:
    game = {key: value for key, value in PROMPTS.items() if key != "provenance"}
    folder = folder_of(tmp_path / "run", game)
    found = run("meter", folder, "--responses", log(tmp_path, [("May I?", "yes")]))
    assert found.code == 2
    assert "provenance.prompts" in found.err


def test_the_responses_of_a_trie_are_billed_by_the_mechanism_that_runs(tmp_path: Path) -> None:
    """Each response at its probability costs what the game over the listed responses charges."""
    game = {
        "space": "table", "reference": [[0.7, 0.3], [0.6, 0.4]], "missing": [0.1, 0.2], "bounds": [0, 1],
        "outcomes": [["yes", "no"], ["tea", "milk"]], "strength": 0.4,
        "groups": [{"name": "a", "size": 2, "reward": [[1, 0], [0.5, 0.1]]},
                   {"name": "b", "reward": [[0, 1], [0.2, 0.9]]}],
        "provenance": {"prompts": ["May I?", "What to drink?"]},
    }  # fmt: skip
    folder = folder_of(tmp_path / "run", game)
    rows = [("May I?", "yes"), ("May I?", "no"), ("What to drink?", "tea"), ("What to drink?", "milk"), ("Why?", "no")]
    found = json.loads(run("meter", folder, "--responses", log(tmp_path, rows), "--json").out)
    assert found["unknown"] == [4]
    receipt = json.loads((folder / "receipt.json").read_text())
    for group, paid in zip(found["groups"], receipt["groups"], strict=True):
        weights = np.ravel(receipt["policy"]) / 2
        assert weights @ group["responses"][:4] == pytest.approx(paid["payment"]["estimate"], rel=1e-10)
        assert paid["payment"]["low"] < paid["payment"]["high"]
