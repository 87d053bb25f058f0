"""Scripts of TRL with the groups' rewards, the callback that settles, resets, and losses of preferences."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from rlhf_game import InputError
from rlhf_game.outcomes.rollouts import read_rollouts
from rlhf_game.trl import ElasticReset, GroupCallback, GroupRewards, PreferenceTrainer
from rlhf_game.trl.group_callback import trainer_of
from tests import tiny
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, STRENGTH, document
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL's own
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "trl_groups.py"
STEPS = {"steps": 4, "learning_rate": 3e-3, "batch_size": 32, "num_generations": 32, "lora": "full", "save_steps": 4}
DRAWS: dict[str, Any] = {"samples": 40, "choosing": 10, "size_limit": 2}


def groups() -> list[Mapping[str, Any]]:
    return [{"name": name, "size": 2 - k, "reward": reward} for k, (name, reward) in enumerate(REWARDS.items())]


def trained(model: Path, out: Path, rewards: GroupRewards, callback: GroupCallback, **arguments: Any) -> RLOOTrainer:
    """A plain script of TRL: its own trainer, its own data."""
    settings = {
        "beta": rewards.beta, "reward_weights": rewards.weights, "max_steps": 4, "learning_rate": 3e-3,
        "per_device_train_batch_size": 32, "num_generations": 32, "max_completion_length": LONGEST, "seed": 5,
        "data_seed": 5, "logging_steps": 1, "use_cpu": True, "bf16": False, "save_strategy": "no",
        "report_to": "none", "activation_checkpointing": False, "disable_tqdm": True, **arguments,
    }  # fmt: skip
    with torch.random.fork_rng():
        trainer = RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(model, padding_side="left"),
            reward_funcs=rewards.reward_funcs,
            args=RLOOConfig(str(out / "trainer"), **settings),
            train_dataset=Dataset.from_dict({"prompt": [PROMPT] * 4}),
            callbacks=[callback],
        )
        trainer.train()
    return trainer


def test_a_script_of_trl_leaves_the_receipt_of_a_run(place: Path, tmp_path: Path) -> None:
    rewards = GroupRewards(groups(), STRENGTH)
    callback = GroupCallback(
        rewards, [PROMPT], tmp_path / "settled", every=2, logged=20, outcomes=DRAWS, settlement_seed=9
    )
    trainer = trained(place / "model", tmp_path, rewards, callback)
    config = {**document({"kind": "finetuned", "max_new_tokens": LONGEST, **STEPS, **DRAWS}), "settlement_seed": 9}
    (place / "alike.json").write_text(json.dumps(config))
    ran = json.loads(command("run", place / "alike.json", "-o", tmp_path / "run", "--json").out)
    mine = callback.receipt
    assert mine is not None
    keys = ("groups", "certificate", "affine_social_welfare", "untouched_affine_social_welfare", "divergence")
    for key in (*keys, "social_welfare", "delivered", "trainer", "settlement_seed", "cap_from"):
        alike(mine[key], ran[key])
    assert json.loads((tmp_path / "settled/receipt.json").read_text())["groups"] == mine["groups"]
    assert command("verify", tmp_path / "settled/receipt.json", tmp_path / "settled/game.json").code == 0
    assert command("verify", tmp_path / "settled").code == 0
    assert command("report", tmp_path / "settled").code == 0
    logs = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    assert [step for step, row in logs.items() if "groups/first/value" in row] == [1, 3]  # of the policy before it
    for name in REWARDS:
        assert logs[1][f"groups/{name}/gap"] > 0
        assert {f"groups/{name}/{key}" for key in ("value", "externality", "payment")} <= logs[3].keys()
    untrained = parquet.read_table(tmp_path / "settled/samples.parquet").to_pydict()
    assert set(untrained["policy"]) == {"reference", "final"}
    (tmp_path / "settled/receipt.json").unlink()  # as after a kill: another training's draws are there
    with pytest.raises(InputError, match="settled: must be a new or empty folder, found files in it"):
        trained(place / "model", tmp_path, rewards, callback)


def test_grpo_is_settled_and_what_trl_writes_of_its_completions_gives_curves(place: Path, tmp_path: Path) -> None:
    """GRPOTrainer's completions/completions_STEP.parquet, as the TRL that is installed writes them."""
    rewards = GroupRewards(groups(), STRENGTH)
    callback = GroupCallback(rewards, [PROMPT], tmp_path / "settled", every=2, logged=2, outcomes=DRAWS)
    with torch.random.fork_rng():
        GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(place / "model", padding_side="left"),
            reward_funcs=rewards.reward_funcs,
            args=GRPOConfig(
                str(tmp_path / "trainer"), max_steps=3, per_device_train_batch_size=8, num_generations=8, seed=5,
                max_completion_length=LONGEST, reward_weights=rewards.weights, logging_steps=1, log_completions=True,
                use_cpu=True, bf16=False, save_strategy="no", report_to="none", activation_checkpointing=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": [PROMPT] * 4}),
            callbacks=[callback],
        ).train()  # fmt: skip
    assert callback.receipt is not None
    assert callback.receipt["trainer"]["reason"].startswith("its loss has no KL")  # TRL's default beta
    named = [{"name": name, "size": 2 - k} for k, name in enumerate(REWARDS)]
    (tmp_path / "groups.json").write_text(json.dumps({"strength": STRENGTH, "groups": named}))
    found = read_rollouts(tmp_path / "trainer/completions", tmp_path / "groups.json")
    assert [row["step"] for row in found.policy] == [1, 2, 3]
    assert [row["draws"] for row in found.policy] == [8, 8, 8]
    said = parquet.read_table(tmp_path / "trainer/completions/completions_00002.parquet").to_pydict()
    for name, curve in found.groups.items():
        assert curve[1]["value"] == pytest.approx(sum(said[name]) / 8)
        assert curve[1]["payment"] > 0
    assert found.lacks == ("externality", "gap")


def alike(mine: Any, theirs: Any) -> None:
    """Equal, numbers within 1e-9."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            alike(mine[key], theirs[key])
    elif isinstance(theirs, list):
        for one, other in zip(mine, theirs, strict=True):
            alike(one, other)
    else:
        assert mine == (pytest.approx(theirs, rel=1e-9, abs=1e-9) if isinstance(theirs, float) else theirs)


def test_what_is_not_settled_as_it_is_trained_is_refused(place: Path, tmp_path: Path) -> None:
    rewards = GroupRewards(groups(), STRENGTH)
    assert (rewards.weights, rewards.beta) == ([2.0, 1.0], STRENGTH)
    for arguments, said in (
        ({"reward_weights": [1.0, 1.0]}, r"reward_weights must be rewards.weights, \[2.0, 1.0\]"),
        ({"beta": 0.1}, "beta must be rewards.beta, 0.4, got 0.1"),
    ):
        callback = GroupCallback(rewards, [PROMPT], tmp_path / "no", outcomes=DRAWS)
        with pytest.raises(InputError, match=said):
            trained(place / "model", tmp_path, rewards, callback, **arguments)
    for wrong, said in (
        ([{"name": "a", "reward": lambda completions: [2.0] * len(completions)}], r"in \[0, 1\]"),
        ([{"name": "a"}], "reward: must be given"),
        ([{"name": "a", "reward": {"brevity": 3}, "calibration": "rank"}], "calibration: must not be rank"),
        ([{"name": "a", "reward": {"brevity": 3}, "weight": 0}], r"groups\[0\].weight must be a number > 0"),
        ([{"name": "a", "reward": "clean"}] * 2, "a"),
        (["a"], r"groups\[0\] must be a mapping"),
        ([], "groups must be at least one, got none"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            GroupRewards(wrong, 1.0).score(["x"], ["y"], {})  # type: ignore[arg-type]
    for strength in (0, "1", float("inf"), float("nan"), True):
        with pytest.raises(InputError, match="strength must be a number > 0, got"):
            GroupRewards(groups(), strength)  # type: ignore[arg-type]
    system = [{"role": "system", "content": "a"}]
    for prompts, said in (
        ("a b", "prompts must be a list of at least one text or conversation, got 'a b'"),  # not its letters
        ([], "prompts must be a list of at least one"),
        (["a", " "], r"prompts\[1\]: must be text with something in it"),
        ([system], r"prompts\[0\]: must end with a turn to be answered, found a system turn"),
        ([b"a"], r"prompts\[0\]: must be text or messages, found b'a'"),
    ):
        with pytest.raises(InputError, match=said):
            GroupCallback(rewards, prompts, tmp_path / "no")
    with pytest.raises(InputError, match="every must be"):
        GroupCallback(rewards, [PROMPT], tmp_path, every=0)


def test_the_thirty_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    tiny.save_language_model(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "model"), str(tmp_path / "out")])
    with torch.random.fork_rng():
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert "kind pays" in said
    assert (tmp_path / "out/settled/receipt.json").exists()
    assert command("verify", tmp_path / "out/settled").code == 0


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None), ({"top_k": None, "min_p": 0.0, "gradient_accumulation_steps": 2}, None),
        ({"normalize_advantages": True}, "normalize_advantages"), ({"top_p": 0.9}, "top_p"),
        ({"top_k": 20}, "top_k"), ({"repetition_penalty": 1.05}, "repetition_penalty"), ({"min_p": 0.1}, "min_p"),
        ({"generation_kwargs": {"top_k": 3}}, "generation_kwargs"), ({"sync_ref_model": True}, "sync_ref_model"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"mask_truncated_completions": True}, "mask_truncated_completions"),
        ({"steps_per_generation": 4}, "steps_per_generation"),
    ],
)  # fmt: skip
def test_the_receipt_says_what_moves_the_optimum(tmp_path: Path, changes: dict[str, Any], fault: str | None) -> None:
    plain = {"use_cpu": True, "bf16": False, "report_to": "none", "activation_checkpointing": False}
    args = RLOOConfig(str(tmp_path), **plain, **changes)
    said = trainer_of(args)
    assert said is not None
    assert said["is_faithful"] == (fault is None)
    assert fault is None or said["reason"] == f"its {fault} moves the optimum"


def test_the_receipt_says_why_a_grpo_is_not_the_mechanisms(tmp_path: Path) -> None:
    plain = {"use_cpu": True, "bf16": False, "report_to": "none", "activation_checkpointing": False}
    for changes, said in (
        ({}, "its loss has no KL"),
        ({"beta": 0.5}, "its rewards are divided by their deviation"),
        ({"beta": 0.5, "scale_rewards": "batch"}, "its rewards are divided by their deviation"),
        ({"beta": 0.5, "scale_rewards": "none"}, "its KL is per token"),
        ({"beta": 0.5, "scale_rewards": False}, "its KL is per token"),
    ):
        trainer = trainer_of(GRPOConfig(str(tmp_path), **plain, **changes))
        assert trainer is not None
        assert not trainer["is_faithful"]
        assert trainer["reason"].startswith(said)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_two_processes_train_and_the_first_settles(tmp_path: Path, launcher: str) -> None:
    """The example as it is, by gloo on a CPU: accelerate as its configuration says, or torchrun."""
    tiny.save_language_model(tmp_path / "model")
    known = (EXAMPLE.parent / "accelerate/ddp.yaml").read_text()
    (tmp_path / "ddp.yaml").write_text(known.replace("use_cpu: false", "use_cpu: true"))
    starts = {
        "accelerate": ("accelerate.commands.launch", "--config_file", str(tmp_path / "ddp.yaml")),
        "torchrun": ("torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    }[launcher]
    told = (str(EXAMPLE), str(tmp_path / "model"), str(tmp_path / "out"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run([sys.executable, "-m", *starts, *told], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if " pays " in line]
    assert len(said) == 4  # both processes have the receipt
    assert len(set(said)) == 2
    assert done.stdout.count("groups/kind/gap") == 2  # logged once at each second step of four
    assert command("verify", tmp_path / "out/settled").code == 0
    names = {path.name for path in (tmp_path / "out/settled").iterdir()}
    assert {"receipt.json", "samples.parquet", "scores.parquet", "policy"} <= names


def test_a_model_in_shards_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    callback = GroupCallback(GroupRewards(groups(), STRENGTH), [PROMPT], tmp_path / "out", outcomes=DRAWS)
    state = type("State", (), {"distributed_type": "FSDP"})
    monkeypatch.setattr("rlhf_game.trl.group_callback.AcceleratorState", state)
    with pytest.raises(InputError, match="must have the whole model in each process, found one that is cut"):
        callback.on_train_begin(None, None, None)


def test_a_preference_loss_in_a_script_of_trl(tmp_path: Path) -> None:
    model = tiny.save_language_model(tmp_path / "model", chat=None)
    rows = {"prompt": ["good ", "no "] * 4, "chosen": ["yes please", "thanks"] * 4, "rejected": ["bad", "maybe no"] * 4}

    def losses(trainer: Any, **named: Any) -> list[float]:
        args = DPOConfig(
            str(tmp_path / "trainer"), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, beta=0.1, seed=1,
            use_cpu=True, bf16=False, activation_checkpointing=False, logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True,
        )  # fmt: skip
        with torch.random.fork_rng():
            made = trainer(
                model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
                args=args,
                train_dataset=Dataset.from_dict(rows),
                processing_class=AutoTokenizer.from_pretrained(model),
                **named,
            )
            made.train()
        return [row["loss"] for row in made.state.log_history if "loss" in row]

    theirs = losses(DPOTrainer)
    for objective in ("dpo", "cell"):
        mine = losses(PreferenceTrainer, objective=objective)
        assert mine[-1] < mine[0]
        assert (mine == pytest.approx(theirs, rel=1e-5)) == (objective == "dpo")
    with pytest.raises(InputError, match="which needs strength"):
        losses(PreferenceTrainer, objective="spce")


def test_resets_that_lost_their_average_are_refused() -> None:
    state = type("State", (), {"global_step": 4, "max_steps": 9})()
    args = type("Arguments", (), {"gradient_accumulation_steps": 1})()
    model = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match="resumed"):
        ElasticReset(3).on_train_begin(args, state, None, model=model)
