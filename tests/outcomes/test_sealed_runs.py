"""Runs under a seal: the seed is of all salts, and every report is the sealed one."""

import json
from pathlib import Path
from typing import Any

from tests.cli.runner import run as command
from tests.outcomes.listed import document
from tests.outcomes.test_draws import DRAWS, contents


def test_under_a_seal_the_seed_is_of_all_salts_and_the_run_has_the_same_bytes_anywhere(
    place: Path, tmp_path: Path
) -> None:
    def config(**changes: Any) -> Path:
        changed = document(DRAWS, **changes)
        (place / "sealed.json").write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))
        return place / "sealed.json"

    groups = document(DRAWS)["groups"]
    groups[0]["salt"] = "ab" * 32
    path, seal = config(settlement_seed=None, groups=groups), tmp_path / "seal.json"
    assert command("seal", path, "-o", seal).code == 0
    sealed = json.loads(seal.read_text())
    for name in ("one", "two"):
        result = command("run", path, "-o", tmp_path / name, "--seal", seal, "--json")
        assert (result.code, result.err) == (0, "")
        receipt = json.loads(result.out)
        assert (receipt["seed_from"], receipt["settlement_seed"]) == ("salts", sealed["seed"])
        assert receipt["commitments"]["root"] == sealed["root"]
        assert command("verify", tmp_path / name).code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert command("open", seal, path).code == 0
    groups[1]["size"] += 1
    other = config(settlement_seed=None, groups=groups)
    assert command("open", seal, other).code == 3
    result = command("run", other, "-o", tmp_path / "three", "--seal", seal)
    assert (result.code, "reports something else" in result.err) == (2, True)
    result = command("run", config(settlement_seed=7), "-o", tmp_path / "four", "--seal", seal)
    assert (result.code, "settlement_seed: must not be here" in result.err) == (2, True)
