"""Ensembles: aggregates of members' scores, and the refusal to compare what is not comparable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import KL, AffinePayments, InputError, Mechanism, Report, SocialWelfare
from rlhf_game.files.run_folder import read_parquet
from rlhf_game.outcomes import Candidates
from rlhf_game.rewards import (
    Brevity,
    Ensemble,
    Mean,
    MeanMinusDeviation,
    Minimum,
    RewardModel,
    TextTable,
    WeightAverage,
    call_reward,
)
from tests import tiny
from tests.cli.runner import run as command

LOW, HIGH = TextTable({"a": 0.0, "b": 4.0}), TextTable({"a": 2.0, "b": 0.0})
PROMPTS, TEXTS = ["good now", "good now", "thanks"], ["yes yes", "no", "bad bad maybe"]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [tiny.save_reward_model(tmp_path / f"m{k}", seed=k) for k in range(3)]


def card(folder: Path, eta: float) -> None:
    (folder / "reward_model.json").write_text(json.dumps({"eta": eta}))


def test_an_ensemble_aggregates_its_members() -> None:
    pair = (["p", "p"], ["a", "b"])
    assert call_reward(Ensemble((LOW, HIGH), Mean()), *pair).tolist() == [1, 2]
    assert call_reward(Ensemble((LOW, HIGH), Minimum()), *pair).tolist() == [0, 0]
    assert call_reward(Ensemble((LOW, HIGH), MeanMinusDeviation(0.5)), *pair).tolist() == [0.5, 1.0]
    with pytest.raises(InputError, match="members must hold at least one"):
        Ensemble((), Mean())


def test_members_that_are_not_identified_have_a_mean_and_no_minimum(models: list[Path]) -> None:
    members = tuple(RewardModel(str(model)) for model in models)
    alone = [call_reward(member, PROMPTS, TEXTS) for member in members]
    np.testing.assert_allclose(call_reward(Ensemble(members, Mean()), PROMPTS, TEXTS), np.mean(alone, axis=0))
    card(models[0], 0.01)
    card(models[1], 0.0)
    with pytest.raises(InputError, match=r"members\[1\]: must be identified for Minimum.*only known up to a constant"):
        call_reward(Ensemble(members, Minimum()), PROMPTS, TEXTS)
    told = Ensemble(members, Minimum(), assume_identified=True)
    np.testing.assert_allclose(call_reward(told, PROMPTS, TEXTS), np.min(alone, axis=0))
    for model in models:
        card(model, 0.01)
    identified = Ensemble(members, Minimum())
    assert identified.is_identified
    np.testing.assert_allclose(call_reward(identified, PROMPTS, TEXTS), np.min(alone, axis=0))


def test_warm_is_a_reward_like_any_other(models: list[Path]) -> None:
    warm = WeightAverage(("m0", "m1"), base=models[0].parent)
    found = call_reward(warm, PROMPTS, TEXTS)
    alone = [call_reward(RewardModel(str(model)), PROMPTS, TEXTS) for model in models[:2]]
    assert not np.allclose(found, np.mean(alone, axis=0))  # two layers below the head are averaged too
    assert len(warm.provenance["average_of"]) == 2
    once = WeightAverage(("m1", "m1"), base=models[0].parent)
    np.testing.assert_allclose(call_reward(once, PROMPTS, TEXTS), alone[1], atol=1e-5)


def test_a_report_takes_any_of_them(models: list[Path]) -> None:
    rewards: list[Any] = [
        lambda prompts, completions, **columns: [float(len(text)) for text in completions],
        TextTable({"yes yes": 1.0}, default=0.0),
        RewardModel(str(models[0])),
        Ensemble(tuple(RewardModel(str(model)) for model in models), Mean()),
        WeightAverage(tuple(map(str, models))),
        Ensemble((Brevity(4), TextTable({}, default=0.1)), Minimum()),
    ]
    space = Candidates(["good now", "thanks"], [["yes yes", "no", "no"], ["bad bad maybe", "please"]], KL(0.5))
    settled = Mechanism(SocialWelfare(), AffinePayments()).settle([Report(reward) for reward in rewards], space)
    assert (settled.payments >= 0).all()
    assert (settled.utilities >= -1e-12).all()


def test_a_run_takes_any_of_them(tmp_path: Path, models: list[Path]) -> None:
    tiny.save_language_model(tmp_path / "lm")
    for model in models:
        card(model, 0.01)
    members = [{"hf": f"m{k}"} for k in range(3)]
    document = {
        "model": "lm",
        "prompts": ["good", "thanks"],
        "outcomes": {"per_prompt": 4, "max_new_tokens": 3},
        "strength": 0.5,
        "groups": [
            {"name": "careful", "reward": {"ensemble": {"members": members, "aggregate": "min"}}},
            {"name": "wise", "reward": {"ensemble": {"members": members,
                                                     "aggregate": {"kind": "mean_minus_std", "c": 0.5}}}},
            {"name": "one", "reward": {"kind": "warm", "members": ["m0", "m1", "m2"], "spread": True}},
        ],
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(document))
    result = command("run", tmp_path / "run.json", "-o", tmp_path / "out", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert all(group["payment"] >= 0 for group in receipt["groups"])
    assert [one["members"] for one in receipt["provenance"]["over_members"]["groups"]] == [3, 3, 3]
    columns, _ = read_parquet(tmp_path / "out" / "scores.parquet")
    for k in range(3):  # of the average, too, where it is asked to
        assert columns[f"member {k}:one"] == columns[f"member {k}:careful"]


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"ensemble": {"members": []}}, "members"),
        (
            {"ensemble": {"members": ["sentiment"], "aggregate": {"kind": "min", "c": 1.0}}},
            "must not be given with mean",
        ),
        ({"ensemble": {"members": ["sentiment"], "aggregate": "best"}}, "aggregate"),
        ({"warm": []}, "members"),
        ({"endpoint": {"url": "http://x", "retries": -1}}, "retries"),
        ({"judge": {"model": "m"}}, "instruction"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(tmp_path: Path, reward: Any, said: str) -> None:
    groups = [{"name": "a", "reward": reward}]
    document = {"model": "m", "prompts": ["p"], "outcomes": {"per_prompt": 1}, "strength": 1.0, "groups": groups}
    (tmp_path / "run.json").write_text(json.dumps(document))
    result = command("run", tmp_path / "run.json", "-o", tmp_path / "out")
    assert result.code == 2
    assert said in result.err
    assert "groups[0].reward" in result.err
