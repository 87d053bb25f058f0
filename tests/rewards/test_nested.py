"""Rewards inside rewards: one walk finds what a check looks for, however deep it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import KL, InputError
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.candidates import Candidates
from rlhf_game.rewards import Affine, Brevity, Ensemble, Mean, Mix, MixPart, Rank, TextTable, Unit, call_reward
from rlhf_game.rewards.nested import nested
from rlhf_game.rewards.texts import is_pointwise
from rlhf_game.training.training_config import read_training
from tests.trainings import made

RANKED = {"reward": {"brevity": 5}, "calibration": "rank"}
DEEP = {"reward": {"ensemble": {"members": ["sentiment", {"mix": [{"reward": "clean"}, RANKED]}]}}}
PLACES = {
    "groups[0].calibration": RANKED,
    "groups[0].reward.parts[1].calibration": {"reward": {"mix": [{"reward": "clean"}, RANKED]}},
    "groups[0].reward.parts[0].reward.members[1].parts[1].calibration": {"reward": {"mix": [DEEP]}},
}
TRIE = {"kind": "trie", "mass": 0.9, "max_tokens": 3, "max_nodes": 2000}
TUNED = {"kind": "finetuned", "trainer": "rloo"}
POLICY = {"kind": "policy", "model": "model", "prompts": ["a"], "strength": 1.0}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(**document: Any) -> Path:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(document))
        return path

    return write


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("outcomes", [TRIE, TUNED])
def test_a_rank_is_refused_where_outcomes_are_open(write: Any, place: str, outcomes: dict[str, Any]) -> None:
    """What a trie printed as certain for a ranked part did not hold the truth."""
    rest = {"model": "smollm2-135m-instruct", "prompts": ["a"], "strength": 1.0, "outcomes": outcomes}
    with pytest.raises(InputError) as caught:
        read_config(write(**rest, groups=[{"name": "a", **PLACES[place]}]))
    assert f"config.json: {place}: must not be rank with outcomes {outcomes['kind']}: a rank among" in str(caught.value)


@pytest.mark.parametrize("place", PLACES)
def test_a_rank_is_refused_where_batches_come_one_after_the_other(write: Any, tmp_path: Path, place: str) -> None:
    group = {"name": "a", **PLACES[place]}
    with pytest.raises(InputError) as caught:
        read_training(write(**POLICY, groups=[group]))
    assert f"{place}: must not be rank: a rank among the responses of one batch" in str(caught.value)
    if "calibration" not in group:
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        with pytest.raises(InputError, match="must not be rank: a rank among the responses of one batch"):
            read_training(write(kind="eso", model="model", data="rows.jsonl", reward=group["reward"]))
        with pytest.raises(InputError, match=r"gold\.\S+: must not be rank"):
            read_training(write(kind="osp", model="model", prompts=["a", "b"], gold=group["reward"]))


def test_ranks_are_let_in_where_outcomes_are_a_fixed_set(write: Any) -> None:
    rest = {"model": "smollm2-135m-instruct", "prompts": ["a"], "strength": 1.0, "outcomes": {"per_prompt": 3}}
    for group in PLACES.values():
        found = read_config(write(**rest, groups=[{"name": "a", **group}])).fields.groups[0]
        assert [one.place for one in nested(found.reward)][0] == "reward"


def test_the_walk_finds_every_file_and_model(write: Any, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a": 1}')
    (tmp_path / "f.py").write_text("def f(prompts, completions, **columns): return [0.0 for _ in completions]")
    mix = {"mix": [{"reward": {"python": "f.py:f"}}, {"reward": {"hf": "x"}}]}
    ensemble = {"ensemble": {"members": [{"table": "t.json"}, mix]}}
    reward = {"mix": [{"reward": ensemble}, {"reward": {"similarity": "text"}}]}
    rest = {"model": "smollm2-135m-instruct", "prompts": ["a"], "strength": 1.0, "outcomes": {"per_prompt": 3}}
    found = read_config(write(**rest, groups=[{"name": "a", "reward": reward}])).fields.groups[0].reward
    assert found.files() == ("t.json",)
    assert [target for one in nested(found) for target in one.reward.own_code()] == ["f.py:f"]
    assert found.models()[0] == "x"
    assert len(found.models()) == 2


def test_what_depends_on_other_texts_says_so_however_deep() -> None:
    ranked = Mix((MixPart(Brevity(5), Unit()), MixPart(Brevity(5), Rank())))
    assert not is_pointwise(ranked)
    assert not is_pointwise(Mix((MixPart(Ensemble((Brevity(5), ranked), Mean()), Affine(0, 1)),)))
    assert is_pointwise(Mix((MixPart(Ensemble((Brevity(5),), Mean()), Affine(0, 1)),)))
    assert is_pointwise(lambda prompts, completions: [0.0])


def test_trainers_refuse_ranks_in_python_too(tmp_path: Path) -> None:
    from rlhf_game.training_backends.trainers.policies import PolicyTraining, train_policy

    ranked = Mix((MixPart(Brevity(5), Rank()),))
    with pytest.raises(InputError, match="rewards\\['a'\\] must not be calibrated by rank"):
        train_policy(
            made(PolicyTraining, "nowhere", strength=1.0, weights=(1.0,)), ["a"], {"a": ranked}, tmp_path / "out"
        )


def test_two_prompts_of_one_text_are_ranked_apart() -> None:
    """The best of each prompt has rank 1, though the other prompt with the same text has a better one."""
    values = TextTable({"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0})
    ranked = Mix((MixPart(values, Rank()),))
    space = Candidates(["same", "same"], [["a", "b"], ["c", "d"]], KL(1.0))
    np.testing.assert_array_equal(space.read(ranked)[0], [[0, 1], [0, 1]])
    inside = Ensemble((ranked, values), Mean())
    np.testing.assert_array_equal(space.read(inside)[0], [[0.5, 1.5], [1.5, 2.5]])
    scores = call_reward(ranked, ["same"] * 4, ["a", "c", "b", "d"], {"x": [0, 1, 0, 1]}, places=[0, 1, 0, 1])
    assert scores.tolist() == [0, 0, 1, 1]
    assert call_reward(ranked, ["same"] * 4, list("abcd")).tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
