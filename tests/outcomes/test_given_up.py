"""Texts that cannot count any more are given up while they are written: the same money from fewer tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.mechanism.draws.tapes import Problem, averaged_utilities, cut, may_count
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.rewards import Affine, Brevity, Clean, Sentiment
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.rewards.texts import upper_bounds
from tests.cli.runner import run as command

Write = Callable[..., Path]
TEXTS = ("one two three", "short", "a  b\tc\nd", "日本語 テスト 文", "no, no! shit happens", "")


def config(write: Write, **changes: Any) -> Path:
    """Two groups that want short texts, each in its own words, and one that does not say what it may still be."""
    groups = [
        {"name": "brief", "size": 2, "reward": {"brevity": 10}},
        {"name": "briefer", "reward": {"mix": [{"reward": {"brevity": 7}}, {"reward": "clean"}]}},
        {"name": "kind", "reward": {"python": "mine.py:good"}, "calibration": {"kind": "affine", "low": -2, "high": 2}},
    ]
    outcomes = {"kind": "draws", "draws": 3, "max_proposals": 10**6, "max_new_tokens": 16, "batch_size": 64}
    return write(
        **(
            {"outcomes": outcomes, "groups": groups, "strength": 0.8, "settlement_seed": 3, "prompts": ["good"]}
            | changes
        )
    )


def test_the_same_money_from_fewer_tokens(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(write)
    run(read_config(path), tmp_path / "given up")
    monkeypatch.setattr(GroupScorer, "bounds_beginnings", lambda self: False)
    run(read_config(path), tmp_path / "whole")
    receipts, tapes = [], []
    for name in ("given up", "whole"):
        receipt = json.loads((tmp_path / name / "receipt.json").read_text())
        receipts.append({key: value for key, value in receipt.items() if key not in ("game_sha256", "provenance")})
        tapes.append(parquet.read_table(tmp_path / name / "tape.parquet").to_pydict())
    assert receipts[0] == receipts[1]
    less, all_of = (sum(tape["tokens"]) for tape in tapes)
    assert less < 0.9 * all_of
    assert all(tapes[1]["is_whole"])
    for one, other, is_whole, accepted in zip(
        tapes[0]["response"], tapes[1]["response"], tapes[0]["is_whole"], tapes[0]["accepted"], strict=True
    ):
        assert other.startswith(one)
        assert (one == other) or not is_whole
        assert is_whole or not accepted
    for name in ("receipt.json", "game.json"):
        assert (tmp_path / "given up" / name).is_file()
    assert command("verify", tmp_path / "given up").code == 0


def test_what_counts_cannot_have_been_given_up(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(read_config(config(write)), out)
    table = parquet.read_table(out / "tape.parquet")
    wholes = [whole and not accepted for whole, accepted in zip(table["is_whole"], table["accepted"], strict=True)]
    place = table.column_names.index("is_whole")
    forged = table.set_column(place, "is_whole", pyarrow.array([bool(one) for one in wholes]))
    parquet.write_table(forged, out / "tape.parquet")
    assert (
        "is_whole: must be true of what counts in a bill"
        in command("verify", out / "receipt.json", out / "game.json").out
    )


@pytest.mark.parametrize(
    "reward", [Brevity(3), Clean(), Mix((MixPart(Brevity(3), Affine(0, 1)), MixPart(Sentiment(), Affine(-1, 1))))]
)
def test_a_bound_holds_for_every_text_that_begins_so(reward: Any) -> None:
    for text in TEXTS:
        score = reward([""], [text])[0]
        found = upper_bounds(reward, [text[:end] for end in range(len(text) + 1)])
        assert (found >= score - 1e-12).all()
        assert (np.diff(found) <= 1e-12).all()
    assert np.isinf(upper_bounds(Sentiment(), ["a"])).all()


def test_given_up_proposals_change_no_bill() -> None:
    """Rewards of proposals that may not count are raised to their bounds: nothing changes, of random tapes.

    The control: where the first two groups' scores rule out the draw alone, the third's may not be left out.
    """
    rng = np.random.default_rng(0)
    problem = Problem(np.array([2.0, 1.0, 1.0]), np.ones(3), 0.5, np.array([1.0, 0.8, 1.0]))
    given_up, changed = 0, 0
    for _ in range(40):
        rewards, waits = rng.random((3, 400)), rng.standard_exponential(400)
        most = rewards + (1 - rewards) * rng.random((3, 400)) ** 3
        left = ~may_count(problem, most, waits)
        given_up += left.sum()
        tapes = [cut(problem, np.where(left, most, rewards), waits, 2), cut(problem, rewards, waits, 2)]
        assert tapes[0] is not None
        assert tapes[1] is not None
        assert np.array_equal(tapes[0].accepted, tapes[1].accepted)
        assert np.array_equal(tapes[0].levels, tapes[1].levels)
        assert (tapes[0].levels[:, left[: tapes[0].proposals]] == 1).all()
        short = problem.shares @ np.maximum(problem.ceilings[:, None] - rewards, 0) - np.maximum(1 - rewards[2], 0)
        unscored = np.vstack([rewards[:2], np.where(short > problem.strength * waits, 1.0, rewards[2])])
        without = cut(problem, unscored, waits, 2)
        assert without is not None
        assert np.array_equal(without.accepted, tapes[1].accepted)
        changed += (np.abs(averaged_utilities(without) - averaged_utilities(tapes[1])) > 1e-6).any()
    assert given_up > 1000
    assert changed > 20
