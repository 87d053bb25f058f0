"""``train``: arguments of TRL, the hub, and texts that are not read whole."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rlhf_game import InputError
from rlhf_game.rewards.reward_specs import SomeReward
from rlhf_game.training import read_training
from tests import tiny
from tests.cli.runner import run as command
from tests.preferences import preferences

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write preferences and a small configuration, changed at the given keys."""
    backbone = tiny.save_language_model(tmp_path / "backbone")
    rows = [{"prompt": r.prompt, "chosen": r.chosen, "rejected": r.rejected} for r in preferences(60, seed=0)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(**changes: Any) -> Path:
        document = {
            "kind": "reward_model", "data": {"file": "p.jsonl", "test_share": 0.25}, "backbone": str(backbone),
            "method": "head", **changes,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(document))
        return tmp_path / "config.json"

    return write


def test_a_model_is_pushed_as_trl_names_it(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    done: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, name, **more: done.append((name, more)))
    config = write(trl={"push_to_hub": True, "hub_model_id": "me/rm", "hub_private_repo": True})

    def full(self: HfApi, **more: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(HfApi, "upload_folder", full)
    result = command("train", config, "-o", tmp_path / "out")
    assert result.code == 1
    assert "me/rm cannot be pushed to: OSError: no space left" in result.err
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **more: done.append((more["repo_id"], more)))
    assert command("train", config, "-o", tmp_path / "out").code == 0  # it goes on with what was not done
    (first, created), _, (name, sent) = done
    assert (first, created["private"], name) == ("me/rm", True, "me/rm")
    assert Path(sent["folder_path"]) == tmp_path / "out" / "model"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "lora", "trl": {"output_dir": "x"}}, "trl.output_dir: must be one of activation_checkpointing"),
        ({"trl": {"bf16": True}}, "trl.bf16: must be left out with method head, a convex fit, found True"),
        ({"trl": {"push_to_hub": True}}, "trl.hub_model_id: must name the repository to push to, found none"),
        (
            {"kind": "ensemble", "members": [{"seed": 1}, {"seed": 2}], "resample": True,
             "trl": {"push_to_hub": True, "hub_model_id": "me/rm"}},
            "trl.hub_model_id: must be another one for each member, found me/rm twice",
        ),
        ({"truncate": "middle"}, "truncate: must be 'head' or 'tail'"),
    ],
)  # fmt: skip
def test_arguments_for_trl_that_cannot_be_are_said(write: Write, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_training(write(**changes))
    assert said in str(caught.value)


def test_texts_that_are_not_read_whole_are_counted_in_the_receipt(write: Write, tmp_path: Path) -> None:
    result = command("train", write(truncate="tail"), "-o", tmp_path / "rm")
    assert (result.code, result.err) == (0, "")
    assert json.loads((tmp_path / "rm/model/reward_model.json").read_text())["truncate"] == "tail"
    game = {
        "model": json.loads(write().read_text())["backbone"], "prompts": ["yes " * 50, "no"], "strength": 1.0,
        "outcomes": {"per_prompt": 2, "max_new_tokens": 2},
        "groups": [{"name": "a", "reward": {"hf": "rm"}}, {"name": "b", "reward": {"hf": "rm", "truncate": "head"}}],
    }  # fmt: skip
    (tmp_path / "game.json").write_text(json.dumps(game))
    result = command("run", tmp_path / "game.json", "-o", tmp_path / "run", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads((tmp_path / "run/receipt.json").read_text())
    assert "truncated" not in receipt["provenance"]
    long = {**game, "prompts": ["yes " * 70, "no"], "model": str(tiny.save_language_model(tmp_path / "lm", seed=1))}
    (tmp_path / "lm/config.json").write_text(
        json.dumps(json.loads((tmp_path / "lm/config.json").read_text()) | {"max_position_embeddings": 256})
    )
    (tmp_path / "long.json").write_text(json.dumps(long))
    result = command("run", tmp_path / "long.json", "-o", tmp_path / "long", "--json")
    assert (result.code, result.err) == (0, "")
    receipt = json.loads((tmp_path / "long/receipt.json").read_text())
    counted = receipt["provenance"]["truncated"]
    distinct = len(receipt["policy"][0])
    assert counted == {"a": distinct, "b": distinct}  # every response to the first prompt


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"hf": "rm", "truncate": "tail"}, {"kind": "hf", "model": "rm", "truncate": "tail"}),
        ({"python": "f.py:f", "abstain": 0.5}, {"kind": "python", "function": "f.py:f", "abstain": 0.5}),
        (
            {"similarity": "yes", "model": "m", "truncate": "head"},
            {"kind": "similarity", "text": "yes", "model": "m", "truncate": "head"},
        ),
        ({"table": {"yes": 1.0}}, {"kind": "table", "values": {"yes": 1.0}}),
    ],
)
def test_the_short_form_of_a_reward_may_say_more(short: dict[str, Any], long: dict[str, Any]) -> None:
    read = TypeAdapter(SomeReward).validate_python
    assert read(short) == read(long)


@pytest.mark.parametrize("wrong", [{"hf": "a", "python": "b"}, {"hf": {"model": "a"}, "truncate": "tail"}, {"no": 1}])
def test_a_short_form_names_one_reward(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="must name a reward"):
        TypeAdapter(SomeReward).validate_python(wrong)
