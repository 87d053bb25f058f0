"""The examples run as they are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import run as command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.weights
def test_run_smollm2_settles_with_a_function_of_the_users_own(tmp_path: Path) -> None:
    result = command("run", EXAMPLES / "run_smollm2.yaml", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert [group["name"] for group in receipt["groups"]] == ["marketing", "support", "legal"]
    assert all(group["utility"] >= 0 for group in receipt["groups"])
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0


@pytest.mark.weights
def test_own_reward_prints_payments_and_utilities() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "own_reward.py"], capture_output=True, text=True, check=True)
    assert done.stdout.count("[") == 2
    assert len((EXAMPLES / "own_reward.py").read_text().split("\n\n\n")) == 4
