"""``run`` with outcomes of kind trie: intervals, resumption, merged texts, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.files.run_folder import StagePart
from rlhf_game.outcomes import read_config, run, tries
from tests.cli.runner import run as command

Write = Callable[..., Path]
TRIE = {"kind": "trie", "mass": 0.9, "max_tokens": 3, "max_nodes": 2000}
GROUPS = [
    {"name": "kind", "size": 2, "reward": {"kind": "table", "values": {"good": 1.0, "please": 0.5}, "default": 0.25}},
    {"name": "brief", "reward": {"brevity": 5}},
]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def intervals(receipt: dict[str, Any]) -> list[dict[str, float]]:
    found = [receipt[key] for key in ("social_welfare", "divergence", "affine_social_welfare")]
    return found + [group[key] for group in receipt["groups"] for key in ("value", "payment", "utility")]


def test_numbers_are_intervals_that_narrow_with_the_mass_and_hold_the_whole(write: Write, tmp_path: Path) -> None:
    receipts = {}
    for mass in (0.8, 0.99, 1.0):
        out = tmp_path / str(mass)
        result = command("run", write(outcomes=TRIE | {"mass": mass}, groups=GROUPS, strength=2.0), "-o", out, "--json")
        assert (result.code, result.err) == (0, "")
        receipts[mass] = json.loads(result.out)
        assert command("verify", out / "receipt.json", out / "game.json").code == 0
        missing = json.loads((out / "game.json").read_text())["missing"]
        assert all(delta <= 1 - mass + 1e-12 for delta in missing)
    for some, more, whole in zip(*(intervals(receipt) for receipt in receipts.values()), strict=True):
        truth = whole["estimate"]
        assert whole["high"] - whole["low"] == pytest.approx(0, abs=1e-12)
        assert more["high"] - more["low"] < some["high"] - some["low"]
        for interval in (some, more):
            assert interval["level"] == 1.0
            assert interval["low"] - 1e-12 <= truth <= interval["high"] + 1e-12


def test_people_see_an_interval_wherever_a_number_is_not_known(write: Write, tmp_path: Path) -> None:
    config, out = write(outcomes=TRIE, groups=GROUPS, strength=2.0), tmp_path / "out"
    shown = command("run", config, "-o", out).out
    assert "value without" not in shown
    assert "[lowest, highest]: certain, over all outcomes" in shown
    numbers = [line for line in shown.splitlines() if "." in line and "/" not in line]
    assert [line.count("[") for line in numbers] == [3, 3, 1, 1, 1, 1]
    payments = [group["payment"] for group in json.loads((out / "receipt.json").read_text())["groups"]]
    low, high = (sum(payment[end] for payment in payments) for end in ("low", "high"))
    assert f"[{low:.6g}, {high:.6g}]" in next(line for line in numbers if "revenue" in line)
    assert command("audit", out, "--starts", 2, "--assert").code == 0


def test_the_outcomes_are_distinct_texts_with_their_whole_probability(write: Write, tmp_path: Path) -> None:
    """The special tokens <pad>, <bos> and <eos> leave no trace in the text, so several sequences spell it."""
    run(read_config(write(outcomes=TRIE | {"mass": 1.0}, groups=GROUPS)), tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/candidates.parquet").to_pydict()
    pairs = list(zip(table["prompt"], table["response"], strict=True))
    assert len(set(pairs)) == len(pairs)
    assert max(table["count"]) > 1
    for b in range(3):
        weights = [w for w, p in zip(table["weight"], table["prompt_index"], strict=True) if p == b]
        assert sum(weights) == pytest.approx(1.0)


def test_an_interrupted_expansion_goes_on_with_the_same_bytes(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = read_config(write(outcomes=TRIE, groups=GROUPS))
    run(configuration, tmp_path / "whole")
    kept = StagePart.write

    def interrupted(part: StagePart, value: Any) -> None:
        if part.path.name == "trie-000001.json":
            raise KeyboardInterrupt
        kept(part, value)

    with monkeypatch.context() as patch:
        patch.setattr(StagePart, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(configuration, tmp_path / "broken")
    asked = []
    merge = tries.merge_texts
    monkeypatch.setattr(tries, "merge_texts", lambda *given: asked.append(given) or merge(*given))
    run(configuration, tmp_path / "broken")
    assert len(asked) == 2  # of three prompts, the first was there
    for name in ("candidates.parquet", "scores.parquet", "game.json", "receipt.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": TRIE | {"mass": 1.5}}, "outcomes.mass: must be less than or equal to 1, found 1.5"),
        ({"outcomes": TRIE | {"max_tokens": 0}}, "outcomes.max_tokens: must be greater than or equal to 1, found 0"),
        ({"outcomes": TRIE | {"per_prompt": 3}}, "outcomes.per_prompt: must not be here: unknown key"),
        ({"regularizer": "l2"}, "regularizer: must be kl with outcomes trie, found l2"),
        ({"payment": "revenue", "normalization": "max"}, "normalization: must be none with outcomes trie, found max"),
        ({"groups": [GROUPS[1] | {"calibration": "rank"}]}, r"groups\[0\].calibration: must not be rank with outcomes"),
    ],
)
def test_a_configuration_without_meaning_is_refused(write: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_config(write(**{"outcomes": TRIE, "groups": GROUPS} | changes))


@pytest.mark.weights
def test_the_example_prints_intervals_for_99_percent_of_smollm2(tmp_path: Path) -> None:
    result = command("run", EXAMPLES / "run_trie.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert max(json.loads((tmp_path / "out/game.json").read_text())["missing"]) <= 0.01
    for interval in intervals(receipt):
        assert interval["low"] < interval["estimate"] < interval["high"]
        assert interval["level"] == 1.0
    assert all(group["utility"]["low"] > 0 for group in receipt["groups"])
