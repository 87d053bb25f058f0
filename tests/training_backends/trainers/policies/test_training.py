"""What a training of a policy reads, asks, keeps and says, and how it ends when it cannot go on."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.rloo_config import RLOOConfig

from rlhf_game import InputError, MissingExtra, RunError
from rlhf_game.optimization import POLICY_ARGUMENTS, Lora
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.sampling import log_probabilities
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy
from rlhf_game.training_backends.trainers.policies.building import make_settings, make_trainer, ordered_rows
from rlhf_game.training_backends.trainers.policies.ppo import gae
from rlhf_game.training_backends.trainers.policies.trainers import NamedReward
from tests import tiny
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS, responses, save_model
from tests.trainings import changed, made

BASE = made(
        PolicyTraining,
    model="", strength=0.5, weights=(1.0, 2.0), steps=4, batch_size=8, max_new_tokens=3, learning_rate=1e-2,
    save_steps=2, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> PolicyTraining:
    return changed(BASE, model=str(save_model(tmp_path_factory.mktemp("enumerable"))))


class Recorder:
    """A reward that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[str], dict[str, Any]]] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        self.asked.append((prompts, completions, columns))
        return [float(len(text)) / 10 for text in completions]


def trainer_of(training: PolicyTraining, out: Path) -> Any:
    model = load_language_model(training.model.name)
    settings = make_settings(training, out / "checkpoints")
    named = [NamedReward(name, reward, model, ()) for name, reward in REWARDS.items()]
    return make_trainer(training, settings, model, named, ordered_rows(training, [PROMPT], {}, 1), ())


@pytest.mark.parametrize(("trainer", "passes"), [("rloo", 4 * 3), ("grpo", 4 * 2), ("ppo", 2 * 2 + 4)])
def test_the_reference_is_the_model_as_it_was_saved(
    base: PolicyTraining, tmp_path: Path, trainer: Any, passes: int
) -> None:
    """And beside generation a step passes once through the policy, once with gradients, once through the reference.

    GRPO asks for no old log probabilities; PPO's two updates on one generation share them, and the reference's.
    """
    saved = load_language_model(base.model.name).model.state_dict()
    with torch.random.fork_rng(), quiet_transformers():
        made = trainer_of(changed(base, trainer=trainer), tmp_path)
        own, seen = made._get_per_token_logps_and_entropies, []

        def counted(*arguments: Any, **named: Any) -> Any:
            seen.append(named)
            return own(*arguments, **named)

        made._get_per_token_logps_and_entropies = counted
        made.train()
    assert len(seen) == passes
    reference = made.ref_model.state_dict()
    assert all(torch.equal(reference[key], value) for key, value in saved.items())
    assert not all(torch.equal(made.model.state_dict()[key], value) for key, value in saved.items())
    assert made.beta == base.strength if trainer != "grpo" else made.beta == base.strength * 3 / 4


def test_the_reference_of_an_adapter_is_the_model_without_it(base: PolicyTraining, tmp_path: Path) -> None:
    saved = load_language_model(base.model.name).model
    with torch.random.fork_rng(), quiet_transformers():
        made = trainer_of(changed(base, lora=Lora(rank=4), learning_rate=0.1), tmp_path)
        made.train()
    ids = torch.tensor([[2, 3, 4]])
    assert made.ref_model is None
    assert not torch.allclose(made.model(input_ids=ids).logits, saved(input_ids=ids).logits, atol=1e-3)
    with made.model.disable_adapter():
        torch.testing.assert_close(made.model(input_ids=ids).logits, saved(input_ids=ids).logits)


def test_the_logged_kl_is_that_of_whole_responses(base: PolicyTraining, tmp_path: Path) -> None:
    trained = train_policy(
        changed(base, steps=2, batch_size=512, num_generations=64, keeps_checkpoints=True, save_steps=1),
        [PROMPT], REWARDS, tmp_path / "out",
    )  # fmt: skip
    assert trained.log[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    # The second step draws from the policy of the first checkpoint: its exact KL is near the logged one.
    policy, reference = load_policy(trained.checkpoints[0]), load_language_model(base.model.name)
    listed = responses(base.max_new_tokens)
    asked = [reference.encode_prompt(PROMPT)] * len(listed)
    log_p, log_q = (log_probabilities(model, asked, listed, batch_size=1000) for model in (policy, reference))
    exact = float(np.exp(log_p) @ (log_p - log_q))
    assert exact > 0.005
    assert trained.log[1]["kl"] == pytest.approx(exact, rel=0.5)


def test_each_reward_is_asked_once_per_batch_on_the_texts_of_sampling(tmp_path: Path) -> None:
    # With a chat template: the reward sees the prompt as it was given, the model what sampling would show it.
    model = load_language_model(str(tiny.save_language_model(tmp_path / "tiny")))
    first, second = Recorder(), Recorder()
    how = changed(BASE, model=str(tmp_path / "tiny"), accumulation_steps=2, steps=2, max_new_tokens=4)
    prompts, ranks = ["good please", "maybe now", "yes no"], [1, 2, 3]
    trained = train_policy(how, prompts, {"a": first, "b": second}, tmp_path / "out", columns={"rank": ranks})
    assert len(first.asked) == len(second.asked) == 2
    for asked, texts, columns in first.asked:
        assert len(asked) == 16
        assert [ranks[prompts.index(prompt)] for prompt in asked] == columns["rank"]
        assert all("<eos>" not in text for text in texts)
    assert set(trained.log[0]["rewards"]) == {"a", "b"}
    assert trained.log[0]["reward"] == pytest.approx(3 * trained.log[0]["rewards"]["a"], rel=1e-5)
    first_prompts = {prompt for asked, _, _ in first.asked for prompt in asked}
    assert first_prompts == set(prompts)
    with torch.random.fork_rng(), quiet_transformers():
        read = trainer_of(how, tmp_path / "other")._tokenize_prompts(prompts)[0]
    assert read == [model.encode_prompt(prompt) for prompt in prompts]


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_what_is_written_has_no_pickle_and_loads(base: PolicyTraining, tmp_path: Path, lora: Lora | None) -> None:
    how = changed(base, lora=lora, trainer="ppo", keeps_checkpoints=True)
    trained = train_policy(how, [PROMPT], REWARDS, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert [folder.name for folder in trained.checkpoints] == ["checkpoint-2", "checkpoint-4"]
    last, kept = load_policy(trained.folder), load_policy(trained.checkpoints[-1])
    (weights,) = trained.model.glob("*.safetensors")
    assert not [key for key in load_file(weights) if "critic" in key]
    for key, value in last.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[key], value)
    card = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert card["reference"]["sha256"] == load_language_model(base.model.name).provenance["sha256"]
    assert card["tokens"] == trained.log[-1]["tokens"]


def test_an_adapter_refuses_another_backbone(base: PolicyTraining, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    train_policy(changed(base, model=str(model), lora=Lora(rank=4)), [PROMPT], REWARDS, tmp_path / "out")
    save_model(tmp_path / "model", seed=5)
    with pytest.raises(InputError, match="must be used with the backbone that it was trained on"):
        load_policy(tmp_path / "out")


def test_bfloat16_trains_float32_weights(base: PolicyTraining, tmp_path: Path) -> None:
    trained = train_policy(changed(base, dtype="bfloat16"), [PROMPT], REWARDS, tmp_path / "out")
    assert all(np.isfinite(row["kl"]) for row in trained.log)
    assert {value.dtype for value in load_policy(trained.folder).model.state_dict().values()} == {torch.float32}


def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    base: PolicyTraining, tmp_path: Path
) -> None:
    how = changed(base, learning_rate=1.0, kl_limit=0.5, steps=20, save_steps=1)
    with pytest.raises(RunError, match=r"diverged at step 2: its KL .* above kl_limit = 0.5; .* is of step 1"):
        train_policy(how, [PROMPT], REWARDS, tmp_path / "out")
    assert load_policy(tmp_path / "out" / "checkpoints" / "checkpoint-1")


class Poison(TrainerCallback):
    """Makes the weights numbers no more, after one step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        if state.global_step == self._step:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)


@pytest.mark.parametrize(("step", "message"), [(2, "no numbers any more after step 2"), (3, "are no numbers any more")])
def test_weights_that_are_no_numbers_are_never_kept(
    base: PolicyTraining, tmp_path: Path, step: int, message: str
) -> None:
    # After step 2 a checkpoint is due; after step 3 there is none, and the next generation fails.
    with pytest.raises(RunError, match=message):
        train_policy(base, [PROMPT], REWARDS, tmp_path / "out", callbacks=[Poison(step)])
    kept = sorted((tmp_path / "out" / "checkpoints").glob("*/whole.json"))
    assert [path.parent.name for path in kept] == ["checkpoint-2"] * (step > 2)


def test_a_reward_that_is_no_number_is_named(base: PolicyTraining, tmp_path: Path) -> None:
    def broken(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        return [float("nan")] * len(completions)

    with pytest.raises(RunError, match="the reward broken must return 8 finite numbers"):
        train_policy(changed(base, weights=(1.0,)), [PROMPT], {"broken": broken}, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), r"memory ran out; lower batch_size \(now 8\) and raise acc"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out; lower batch_size"),
        (MemoryError(), "memory ran out; lower batch_size"),
    ],
)
def test_out_of_memory_says_what_to_lower(base: PolicyTraining, tmp_path: Path, error: Exception, message: str) -> None:
    def hungry(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        raise error

    with pytest.raises(RunError, match=message):
        train_policy(changed(base, weights=(1.0,)), [PROMPT], {"hungry": hungry}, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "strength must be a number > 0"),
        ({"num_generations": 1}, "num_generations must be >= 2"),
        ({"weights": (-1.0,)}, "weights must be numbers >= 0"),
        ({"trl": (("beta", 0.0),)}, "trl.beta: must be one of"),
        ({"trl": (("scale_rewards", "group"),)}, "trl.scale_rewards: must be one of"),
        ({"trl": (("reward_clip_range", 1),)}, "trl.reward_clip_range: must be one of"),
        ({"lora": Lora(dropout=0.1)}, "lora.dropout: must be 0"),
    ],
)
def test_what_would_move_the_objective_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changed(BASE, **changes)


def test_arguments_of_trl_that_may_be_passed_are_arguments_of_trl(tmp_path: Path, base: PolicyTraining) -> None:
    for kind in (RLOOConfig, GRPOConfig):
        assert {field.name for field in fields(kind)} >= POLICY_ARGUMENTS
    settings = make_settings(changed(base, trl=(("max_grad_norm", 0.5), ("warmup_steps", 3))), tmp_path)
    assert (settings.max_grad_norm, settings.warmup_steps) == (0.5, 3)


def test_generation_by_vllm_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_game.training_backends.trainers.policies.policy_settings.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"vllm is not installed.*rlhf-game\[vllm\]"):
        changed(BASE, trl=(("use_vllm", True),))


def test_prompts_and_generations_have_to_fit(base: PolicyTraining, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_generations: must divide .* = 8, found 3"):
        train_policy(changed(base, num_generations=3), [PROMPT], REWARDS, tmp_path / "a")
    with pytest.raises(InputError, match=r"prompts\[0\] must leave room for max_new_tokens = 20"):
        train_policy(changed(base, max_new_tokens=20), [PROMPT], REWARDS, tmp_path / "b")
    with pytest.raises(InputError, match="weights must be 1, one per reward, got 2"):
        train_policy(base, [PROMPT], {"first": REWARDS["first"]}, tmp_path / "c")


def test_every_prompt_comes_equally_often(base: PolicyTraining) -> None:
    rows = ordered_rows(changed(base, steps=9, batch_size=8, num_generations=4), list("abc"), {"n": [1, 2, 3]}, 1)
    assert sorted(rows["prompt"]) == sorted("abc" * 6)
    assert [{"a": 1, "b": 2, "c": 3}[prompt] for prompt in rows["prompt"]] == rows["n"]


def test_generalised_advantages_by_hand() -> None:
    # One response of two tokens and one of one, GAE's lambda 1/2, by the recursion of the paper.
    rewards = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    values = torch.tensor([[0.5, 0.25], [1.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    last = 2.0 - 0.25
    expected = [[1.0 + 0.25 - 0.5 + 0.5 * last, last], [3.0 - 1.0, 0.0]]
    torch.testing.assert_close(gae(rewards, values, mask, 0.5), torch.tensor(expected))


def test_a_reward_gets_what_trl_hands_to_it(folder: Path, tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {"steps": [], "ids": []}

    async def watching(completions: Any, completion_ids: Any, trainer_state: Any, log_metric: Any) -> Any:
        seen["steps"].append(trainer_state.global_step)
        seen["ids"] += [list(ids) for ids in completion_ids]
        log_metric("texts", float(len(completions)))
        return torch.tensor([float(len(ids)) for ids in completion_ids], requires_grad=True)

    how = made(
        PolicyTraining,
        str(folder),
        strength=1.0,
        weights=(1.0,),
        steps=2,
        batch_size=4,
        num_generations=2,
        max_new_tokens=3,
    )
    train_policy(how, ["good", "bad"], {"a": watching}, tmp_path / "out")
    assert sorted(set(seen["steps"])) == [0, 1]
    assert all(1 <= len(ids) <= 3 for ids in seen["ids"])


def test_rewards_may_be_a_list_and_anything_else_is_one_line(base: PolicyTraining, tmp_path: Path) -> None:
    short = changed(base, steps=1)
    for name, rewards in (("named", REWARDS), ("listed", list(REWARDS.values()))):
        train_policy(short, [PROMPT], rewards, tmp_path / name)
    (one,), (two,) = (list((tmp_path / name).rglob("model.safetensors")) for name in ("named", "listed"))
    assert all(torch.equal(load_file(one)[key], value) for key, value in load_file(two).items())
    for wrong in ("sentiment", [1.0, 2.0], None):
        with pytest.raises(InputError, match="rewards must be a mapping from names to functions or a list"):
            train_policy(base, [PROMPT], wrong, tmp_path / "wrong")
