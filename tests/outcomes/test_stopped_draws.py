"""Nothing that looks at reports refuses or stops a tape, and what stops it gives nobody another one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import InputError
from rlhf_game.outcomes import settlement_seed
from rlhf_game.outcomes.draws.draws_spec import DrawsSpec
from rlhf_game.outcomes.scoring import GroupScorer
from tests.cli.runner import run as command
from tests.outcomes.listed import document
from tests.outcomes.test_draws import DRAWS, contents

Config = Callable[..., Path]


@pytest.fixture
def config(place: Path) -> Config:
    def write(outcomes: dict[str, Any] | None = None, **changes: Any) -> Path:
        (place / "stopped.json").write_text(json.dumps(document(DRAWS | (outcomes or {}), **changes)))
        return place / "stopped.json"

    return write


@pytest.mark.parametrize(("most", "is_refused"), [(10, True), (10_000, True), (10**7, False)])
def test_what_is_refused_beforehand_is_the_same_for_all_reports_within_the_declared_sizes(
    most: int, is_refused: bool
) -> None:
    spec = DrawsSpec(kind="draws", draws=12, max_proposals=most, size_limit=3)
    said = {spec.fault({"a": a, "b": b}, {"b": 0.5}, 0.4) for a in (1, 2, 3) for b in (1, 3)}
    assert len(said) == 1
    assert (said != {None}) == is_refused


def test_fewer_proposals_than_draws_are_refused_before_anything_is_drawn() -> None:
    for estimator, draws, is_refused in (("tape", 12, True), ("auto", 2, True), ("tape", 2, False)):
        spec = DrawsSpec(kind="draws", draws=draws, max_proposals=11, estimator=estimator)
        fault = spec.fault({"a": 1}, {}, 1.0)
        assert (fault or "").startswith("max_proposals: must be at least the ") == is_refused
    (much,) = {DrawsSpec(kind="draws", draws=2, max_proposals=11, size_limit=1).fault({"a": 1}, {}, 1e-4)}
    assert much is not None
    assert "inf" not in much


def test_a_reward_that_fails_in_the_middle_gets_no_other_tape(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group could let its reward fail on tapes that it does not like. The seed stays, whichever way it fails."""
    path, taken = config({"batch_size": 20}), iter(range(50, 100))
    monkeypatch.setattr(settlement_seed.secrets, "randbelow", lambda most: next(taken))
    whole = tmp_path / "whole"
    assert command("run", path, "-o", whole).code == 0
    score, rounds = GroupScorer.score, 0

    def failing(self: GroupScorer, *arguments: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 2:
            raise InputError("groups[0].calibration: scores must be in [0, 1]")
        return score(self, *arguments)

    monkeypatch.setattr(GroupScorer, "score", failing)
    monkeypatch.setattr(settlement_seed.secrets, "randbelow", lambda most: 50)  # as that of the whole run
    out = tmp_path / "out"
    stopped = command("run", path, "-o", out)
    assert (stopped.code, "groups[0].calibration" in stopped.err) == (2, True)
    assert not (out / "receipt.json").exists()
    monkeypatch.setattr(settlement_seed.secrets, "randbelow", lambda most: 51)
    monkeypatch.setattr(GroupScorer, "score", score)
    assert command("run", path, "-o", out).code == 0
    assert json.loads((out / "receipt.json").read_text())["settlement_seed"] == 50
    assert contents(out) == contents(whole)


def test_a_sealed_run_that_was_interrupted_goes_on_under_its_seal_alone(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = document(DRAWS)["groups"]
    groups[0]["salt"] = "ab" * 32
    path, seal, out = config({"batch_size": 20}, groups=groups), tmp_path / "seal.json", tmp_path / "out"
    assert command("seal", path, "-o", seal).code == 0

    def interrupted(self: GroupScorer, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(GroupScorer, "score", interrupted)
        command("run", path, "-o", out, "--seal", seal)
    assert not (out / "receipt.json").exists()
    other = json.loads(seal.read_text()) | {"seed": 1}
    (tmp_path / "other.json").write_text(json.dumps(other))
    assert command("run", path, "-o", out, "--seal", tmp_path / "other.json").code == 2
    assert command("run", path, "-o", out).code == 0  # the seal is in the folder
    receipt = json.loads((out / "receipt.json").read_text())
    assert (receipt["seed_from"], receipt["settlement_seed"]) == ("salts", json.loads(seal.read_text())["seed"])
    assert command("verify", out).code == 0
