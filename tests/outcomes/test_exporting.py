"""Rewards for other engines, in the layouts of their public sources.

verl-project's verl at b178a3cd56f58b2d502255daba591e92833930a7: verl/trainer/ppo/reward.py (get_custom_reward_fn) and
verl/workers/reward_manager/naive.py call ``compute_score(data_source=, solution_str=, ground_truth=, extra_info=)`` and
take a number or a mapping with ``score``; verl/utils/dataset/rl_dataset.py reads ``prompt`` as messages,
``data_source``, ``reward_model.ground_truth`` and ``extra_info``; keys are those of
verl/trainer/config/_generated_ppo_trainer.yaml.
OpenRLHF at 3c3be6234e0cb353e76bb8019947db9dfe99fca7: openrlhf/utils/agent.py calls ``reward_func(queries, prompts,
labels)`` with lists of one, and takes ``rewards``, ``scores`` and ``extra_logs``; options are those of
openrlhf/cli/train_ppo_ray.py; openrlhf/datasets/prompts_dataset.py reads ``input`` and ``label``.
TRL at the version that is installed: its own class is asked.
"""

import importlib.util
import inspect
import json
import os
import runpy
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pyarrow import parquet

from rlhf_game import InputError
from rlhf_game.outcomes.run_config import read_config
from rlhf_game.outcomes.scoring import GroupScorer
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from tests import tiny
from tests.cli.runner import run as command

VERL = {
    "algorithm.adv_estimator", "algorithm.use_kl_in_reward", "algorithm.kl_penalty", "algorithm.kl_ctrl.type",
    "algorithm.kl_ctrl.kl_coef", "actor_rollout_ref.actor.use_kl_loss", "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.ppo_epochs", "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.optim.lr", "actor_rollout_ref.model.path", "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.rollout.name", "actor_rollout_ref.rollout.n", "actor_rollout_ref.rollout.temperature",
    "data.train_files", "data.val_files", "data.train_batch_size", "data.max_response_length",
    "custom_reward_function.path", "custom_reward_function.name", "trainer.total_training_steps", "trainer.save_freq",
}  # fmt: skip
OPENRLHF = {
    "--algo.advantage.estimator", "--algo.kl.estimator", "--algo.kl.init_coef", "--reward.clip_range",
    "--reward.remote_url", "--actor.model_name_or_path", "--data.prompt_dataset", "--data.input_key",
    "--data.label_key", "--data.apply_chat_template", "--rollout.n_samples_per_prompt", "--rollout.temperature",
    "--rollout.max_new_tokens", "--rollout.batch_size", "--train.batch_size", "--train.max_epochs", "--ds.lora.rank",
    "--ds.lora.alpha",
}  # fmt: skip
PROMPTS, TEXTS, PLACES = ["good", "please no yes"], ["good yes", "bad", "now maybe now"], [1, 0, 1]


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    tiny.save_language_model(tmp_path / "model")

    def export(engine: str, **changes: Any) -> Path:
        config = {
            "model": "model", "prompts": PROMPTS, "strength": 0.25, "weights": {"kind": 2.0},
            "outcomes": {"kind": "finetuned", "max_new_tokens": 4, "steps": 3},
            "groups": [
                {"name": "kind", "size": 2, "reward": {"table": {"values": {"good yes": 1.0}, "default": 0.25}}},
                {"name": "brief", "reward": {"brevity": 5}},
            ],
            **changes,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(config))
        result = command("export", engine, tmp_path / "config.json", "-o", tmp_path / engine)
        assert (result.code, result.err) == (0, "")
        return tmp_path / engine

    return export


def loaded(folder: Path) -> ModuleType:
    """The reward file as an engine loads it: by its path."""
    spec = importlib.util.spec_from_file_location("exported", folder / "rewards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected(folder: Path, places: Sequence[int] = PLACES) -> tuple[list[float], Any]:
    rewards = GroupScorer(read_config(folder.parent / "config.json"), folder / "calls").score(list(places), TEXTS)[1]
    return [float(4 * a + b) for a, b in rewards.T], rewards


def test_verl_gets_one_number_for_each_response(export: Callable[..., Path]) -> None:
    folder = export("verl")
    compute, (totals, rewards) = loaded(folder).compute_score, expected(folder)
    assert list(inspect.signature(compute).parameters) == ["data_source", "solution_str", "ground_truth", "extra_info"]
    rows = parquet.read_table(folder / "prompts.parquet").to_pylist()
    assert rows[1]["prompt"] == [{"role": "user", "content": PROMPTS[1]}]
    for k, place in enumerate(PLACES):
        truth = rows[place]["reward_model"]["ground_truth"]
        found = compute(data_source="rlhf-game", solution_str=TEXTS[k], ground_truth=truth, extra_info={})
        assert found == {"score": totals[k], "group_kind": rewards[0, k], "group_brief": rewards[1, k]}
    words = shlex.split((folder / "launch.sh").read_text().split("set -e\n")[1])
    given = dict(word.split("=", 1) for word in words if "=" in word)
    assert given.keys() <= VERL
    assert (given["algorithm.kl_ctrl.kl_coef"], given["algorithm.use_kl_in_reward"]) == ("0.25", "True")
    assert (given["actor_rollout_ref.actor.use_kl_loss"], given["algorithm.adv_estimator"]) == ("False", "rloo")
    said = (folder / "README.md").read_text()
    assert "another objective" in said
    assert "rlhf-game settle --policy" in said


def test_openrlhf_gets_tensors_of_queries_with_their_prompts(export: Callable[..., Path]) -> None:
    folder = export("openrlhf")
    reward, (totals, rewards) = loaded(folder).reward_func, expected(folder)
    assert list(inspect.signature(reward).parameters)[:3] == ["queries", "prompts", "labels"]
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    assert [(row["input"][0]["content"], row["label"]) for row in rows] == [(PROMPTS[0], "0"), (PROMPTS[1], "1")]
    asked = [f"{PROMPTS[place]} <bos>" for place in PLACES]
    queries = [f"<bos> {prompt}{text}<eos>" for prompt, text in zip(asked, TEXTS, strict=True)]
    found = reward(queries, asked, [rows[place]["label"] for place in PLACES])
    assert found["rewards"].tolist() == pytest.approx(totals)
    assert found["scores"].tolist() == pytest.approx([total / 5 for total in totals])
    assert found["extra_logs"]["group_kind"].tolist() == pytest.approx(rewards[0].tolist())
    spaced, query = "please  no yes <bos> ", "please no yes <bos> good yes <eos>"  # its tokenizer gives one space back
    assert reward([query], [spaced], ["1"])["rewards"].tolist() == pytest.approx([4 * 1.0 + 0.6])
    with pytest.raises(InputError, match="queries: must begin with their prompts, 'please no"):
        reward(["now yes"], ["please no"], ["1"])
    words = shlex.split((folder / "launch.sh").read_text().split("set -e\n")[1])
    assert {word for word in words if word.startswith("--")} <= OPENRLHF
    assert words[words.index("--algo.kl.init_coef") + 1] == "0.25"
    assert words[words.index("--reward.clip_range") + 1 :][:2] == ["-5.0", "5.0"]
    assert "--algo.kl.use_loss" not in words


def test_trl_gets_functions_and_weights(export: Callable[..., Path]) -> None:
    folder = export("trl")
    module, (totals, _) = loaded(folder), expected(folder)
    said = [function(prompts=[""] * 3, completions=TEXTS, place=PLACES) for function in module.reward_funcs]
    assert [function.__name__ for function in module.reward_funcs] == ["group_kind", "group_brief"]
    sums = [sum(w * row[k] for w, row in zip(module.reward_weights, said, strict=True)) for k in range(3)]
    assert sums == pytest.approx(totals)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # TRL's own
def test_what_trl_is_launched_with_trains_and_the_same_configuration_bills(
    export: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/engines.md has it: export, launch, settle; the model is named from another folder."""
    monkeypatch.chdir(tmp_path)
    lora = {"rank": 2, "alpha": 6, "targets": ["q_proj"]}
    how = {"kind": "finetuned", "max_new_tokens": 4, "steps": 2, "batch_size": 4, "lora": lora, "samples": 4}
    export("trl", outcomes={**how, "choosing": 0})
    assert command("export", "trl", "config.json", "-o", "here").code == 0
    words = shlex.split((tmp_path / "here/launch.sh").read_text().split("set -e\n")[1].replace("\\\n", ""))
    assert (words[0], words[-1]) == ("python3", "$@")
    assert words[words.index("--model_name_or_path") + 1] == str(tmp_path / "model")  # of a relative configuration too
    further = ["--use_cpu", "--bf16", "False", "--report_to", "none", "--disable_tqdm", "True", "--max_steps", "1"]
    further += ["--activation_checkpointing", "False"]
    monkeypatch.setattr("sys.argv", [*words[1:-1], *further])
    with quiet_transformers(), torch.random.fork_rng():
        runpy.run_path(words[1], run_name="__main__")
    policy = tmp_path / "here/trained/checkpoint-1"  # what stands after the launch line wins
    adapter = json.loads((policy / "adapter_config.json").read_text())
    assert [adapter[key] for key in ("r", "lora_alpha", "lora_dropout", "target_modules")] == [2, 6, 0.0, ["q_proj"]]
    bill = shlex.split((tmp_path / "here/README.md").read_text().split("```\n")[1])
    result = command(*(policy if word == "CHECKPOINT" else word for word in bill[1:]))
    assert (result.code, result.err) == (0, "")
    assert "trained elsewhere" in result.out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": {"kind": "finetuned", "trainer": "grpo"}}, "must be rloo to be exported, found grpo: its KL is"),
        ({"groups": [{"name": "a", "reward": "clean", "calibration": "rank"}],
          "outcomes": {"kind": "candidates", "per_prompt": 2}, "weights": {}}, "calibration: must not be rank"),
    ],
)  # fmt: skip
def test_what_has_another_optimum_is_not_exported(
    export: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(AssertionError):
        export("verl", **changes)
    result = command("export", "verl", tmp_path / "config.json", "-o", tmp_path / "verl")
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert not (tmp_path / "verl").exists()


def test_responses_are_as_long_as_the_configuration_says(export: Callable[..., Path]) -> None:
    folder = export("verl", outcomes={"kind": "candidates", "per_prompt": 2, "max_new_tokens": 12})
    assert "data.max_response_length=12" in (folder / "launch.sh").read_text()


@pytest.mark.parametrize("engine", ["trl", "verl", "openrlhf"])
def test_given_rows_have_no_model_to_train(tmp_path: Path, engine: str) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "good", "response": "yes"}) + "\n")
    document = {
        "outcomes": {"kind": "given", "file": "rows.jsonl"},
        "strength": 1,
        "groups": [{"name": "a", "reward": {"brevity": 5}}],
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    result = command("export", engine, tmp_path / "config.json", "-o", tmp_path / engine)
    assert (result.code, result.out) == (2, "")
    assert f"model: must be given to be trained by {engine}, found outcomes given" in result.err
    assert not (tmp_path / engine).exists()


def test_an_engine_needs_a_configuration_and_a_new_folder(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("")
    for arguments, said in (
        (("verl", "-o", tmp_path / "out"), "CONFIG: must be given after verl"),
        (("verl", tmp_path / "none.yaml", "-o", tmp_path / "full"), "must be a new or empty folder, found files in it"),
        (("game.yaml", tmp_path / "none.yaml", "-o", tmp_path / "g.nfg"), "must be trl, verl or openrlhf before"),
    ):
        result = command("export", *arguments)
        assert (result.code, result.out) == (2, "")
        assert said in result.err


def test_openrlhf_is_given_no_path_that_it_would_cut(export: Callable[..., Path], tmp_path: Path) -> None:
    export("openrlhf")
    for name in ("a,b", "a@b"):
        result = command("export", "openrlhf", tmp_path / "config.json", "-o", tmp_path / name)
        assert (result.code, result.out) == (2, "")
        assert "must be a path without , and @, at which OpenRLHF cuts it, found " + name[1] in result.err
        assert not (tmp_path / name).exists()


ODD = ["class", "it's", 'say "hi"', "two\nlines", "\u00fc\u4e2d", "a\\b", "{x}", "$(touch owned)", '"""']
"""Names that are keywords, or mean something to Python, a shell or Hydra."""


@pytest.mark.parametrize("engine", ["trl", "verl", "openrlhf"])
def test_odd_names_are_names(tmp_path: Path, engine: str) -> None:
    """Of groups, of the configuration and of the folder: what is exported loads, and its launch is one command."""
    place = tmp_path / ("a 'b' $(touch owned) \"c\"" + ("" if engine == "openrlhf" else ", d=e@f"))
    place.mkdir()
    tiny.save_language_model(place / "model")
    named = [{"name": name, "reward": {"brevity": k + 2}} for k, name in enumerate(ODD)]
    file = place / '"""; x.json'
    file.write_text(json.dumps({"model": "model", "prompts": PROMPTS, "strength": 0.5, "groups": named}))
    result = command("export", engine, file, "-o", place / "out 1")
    assert (result.code, result.err) == (0, "")
    module = loaded(place / "out 1")
    if engine == "trl":
        assert [one.__name__ for one in module.reward_funcs] == [f"group_{name}" for name in ODD]
        assert module.reward_funcs[0](prompts=["x"], completions=["yes"], place=[0]) == [0.5]
    elif engine == "verl":
        found = module.compute_score("rlhf-game", "yes", "0")
        assert [key for key in found if key != "score"] == [f"group_{name}" for name in ODD]
    else:
        logs = module.reward_func(["good yes"], ["good "], ["0"])["extra_logs"]
        assert list(logs) == [f"group_{name}" for name in ODD]  # OpenRLHF puts them beside its own "reward" and others
    script = (place / "out 1/launch.sh").read_text()
    words = shlex.split(script.split("set -e\n")[1])
    assert words[-1] == "$@"
    assert any(str(place / "out 1") in word.replace("\\'", "'") for word in words)
    seen = tmp_path / "seen"
    fake = f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {shlex.quote(str(seen))}\n"
    (tmp_path / "python3").write_text(fake)
    (tmp_path / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", place / "out 1/launch.sh", "--more"], cwd=tmp_path, env=environment, check=True)
    given = seen.read_text().splitlines()
    assert given[0] == (str(place / "out 1" / "rewards.py") if engine == "trl" else "-m")
    assert given[-1] == "--more"
    assert not list(tmp_path.rglob("owned"))
