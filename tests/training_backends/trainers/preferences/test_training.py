"""Training on pairs: the same steps as TRL's own losses, the stored reference, and a training that was killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from rlhf_game import InputError, RunError
from rlhf_game.optimization import Lora
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.policies.policy_training import load_policy
from rlhf_game.training_backends.trainers.preferences import (
    LOSSES,
    PreferenceLoss,
    PreferenceTraining,
    implicit_scorer,
    judge_pairs,
    sequence_kl,
    train_preferences,
)
from rlhf_game.training_backends.trainers.preferences.preference_rows import encode_pairs
from rlhf_game.training_backends.trainers.resuming import checkpoints
from rlhf_game.training_backends.trainers.token_rows import ordered
from tests.training_backends.trainers.preferences.interrupted import PAIRS
from tests.training_backends.trainers.preferences.interrupted import training as interrupted
from tests.trainings import made

Make = Callable[..., PreferenceTraining]


@pytest.fixture
def make(folder: Path) -> Make:
    def make(**changes: Any) -> PreferenceTraining:
        known = {"steps": 6, "learning_rate": 1e-2, "max_length": 64, "device": "cpu", "seed": 3}
        return made(PreferenceTraining, str(folder), **{**known, **changes})

    return make


def of_trl(model: LanguageModel, folder: Path, name: str, work: Path, steps: int) -> list[dict[str, float]]:
    """TRL's own trainer with its own reference, on the same token ids in the same order."""

    class Stock(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *others: Any, **named: Any) -> Any:
            return dataset

    pairs = encode_pairs(model, PAIRS, None)
    order = ordered(made(PreferenceTraining, str(folder), steps=steps, seed=3).optimization, len(pairs), 1)
    rows = [
        {"prompt": "", "prompt_ids": list(p.prompt), "chosen_ids": list(p.chosen), "rejected_ids": list(p.rejected)}
        for p in (pairs[k] for k in order)
    ]
    settings = DPOConfig(
        output_dir=str(work), max_steps=steps, learning_rate=1e-2, per_device_train_batch_size=8, beta=0.1,
        max_length=None, loss_type=[name], train_sampling_strategy="sequential", seed=3, save_strategy="no",
        logging_steps=1, use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    with torch.random.fork_rng(), quiet_transformers():
        fresh = load_language_model(str(folder), device="cpu")
        trainer = Stock(
            model=fresh.model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=fresh.tokenizer
        )
        trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.trl])
def test_losses_that_trl_has_are_trained_as_trl_trains_them(
    language_model: LanguageModel, folder: Path, tmp_path: Path, make: Make, name: str
) -> None:
    mine = train_preferences(make(loss=name), PAIRS, tmp_path / "mine").log
    stock = of_trl(language_model, folder, str(LOSSES[name].trl), tmp_path / "stock", 6)
    for key, theirs in (("loss", "loss"), ("margin", "rewards/margins"), ("reward_chosen", "rewards/chosen"),
                        ("gradient_norm", "grad_norm")):  # fmt: skip
        found, expected = [row[key] for row in mine], [row[theirs] for row in stock]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4, err_msg=key)  # float32, six steps on
        assert len(found) == 6
        assert found[0] != found[-1]


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_a_policy_learns_its_pairs_and_is_what_its_folder_says(
    language_model: LanguageModel, tmp_path: Path, make: Make, lora: Lora | None
) -> None:
    trained = train_preferences(make(lora=lora, steps=25), PAIRS, tmp_path / "out")
    assert (trained.steps, len(trained.log), trained.dropped) == (25, 25, 0)
    assert trained.log[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)  # it begins at the reference
    policy = load_policy(tmp_path / "out")
    judged = judge_pairs(policy, language_model, PAIRS, LOSSES["dpo"], 0.1)
    assert judged.losses.mean() < 0.6
    assert np.mean(judged.margins > 0) > 0.7
    names = {path.name for path in trained.model.iterdir()}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not (tmp_path / "out/checkpoints").exists()
    card = json.loads((tmp_path / "out/policy.json").read_text())
    assert card["reference"] == dict(language_model.provenance)
    again = train_preferences(make(lora=lora, steps=25), PAIRS, tmp_path / "out")  # finished: only read
    assert again == trained


def test_every_loss_takes_steps_by_its_name(tmp_path: Path, make: Make) -> None:
    weights = {}
    for name, loss in LOSSES.items():
        columns = {key: [0.8] * len(PAIRS) for key in loss.columns}
        trained = train_preferences(make(loss=name, steps=2), PAIRS, tmp_path / name, columns=columns)
        weights[name] = load_file(trained.model / "model.safetensors")["lm_head.weight"]
    for name, weight in weights.items():  # IPO's two forms differ too
        assert torch.isfinite(weight).all()
        assert [other for other in weights if torch.equal(weights[other], weight)] == [name]


def test_the_mean_of_a_batch_is_trained_on_with_accumulated_gradients(tmp_path: Path, make: Make) -> None:
    whole = train_preferences(make(steps=2, batch_size=8), PAIRS, tmp_path / "whole")
    parts = train_preferences(make(steps=2, batch_size=4, accumulation_steps=2), PAIRS, tmp_path / "parts")
    first, second = (load_file(one.model / "model.safetensors")["lm_head.weight"] for one in (whole, parts))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    assert whole.tokens == parts.tokens


def test_columns_reach_a_loss_of_ones_own(tmp_path: Path, make: Make) -> None:
    seen: list[tuple[float, ...]] = []

    def own(batch: Any) -> Any:
        seen.append(tuple(batch.columns["weight"].tolist()))
        return batch.columns["weight"] * torch.nn.functional.softplus(-batch.margin)

    loss = PreferenceLoss("weighted", own, "w softplus(-z)", columns=("weight",))
    weights = [float(k) for k in range(len(PAIRS))]
    training = make(loss=loss, steps=2)
    train_preferences(training, PAIRS, tmp_path / "out", columns={"weight": weights})
    order = ordered(training.optimization, len(PAIRS), 1)
    assert seen == [tuple(weights[k] for k in order[:8]), tuple(weights[k] for k in order[8:16])]
    assert json.loads((tmp_path / "out/policy.json").read_text())["training"]["formula"] == "w softplus(-z)"
    for columns, said in (({}, "columns must hold weight"), ({"weight": [1.0]}, "columns.'weight'. must hold 64")):
        with pytest.raises(InputError, match=said):
            train_preferences(training, PAIRS, tmp_path / "other", columns=columns)
    assert not (tmp_path / "other").exists()


def test_spce_with_certain_labels_is_dpo(tmp_path: Path, make: Make) -> None:
    one = train_preferences(make(loss="spce"), PAIRS, tmp_path / "a", columns={"strength": [1.0] * len(PAIRS)})
    other = train_preferences(make(loss="dpo"), PAIRS, tmp_path / "b")
    np.testing.assert_allclose([row["loss"] for row in one.log], [row["loss"] for row in other.log], rtol=1e-6)
    with pytest.raises(InputError, match="strength.* must be in .0, 1., got 2.0"):
        train_preferences(make(loss="spce"), PAIRS, tmp_path / "c", columns={"strength": [2.0] * len(PAIRS)})


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_a_later_round_goes_on_from_the_weights_and_keeps_the_reference(
    language_model: LanguageModel, tmp_path: Path, make: Make, lora: Lora | None
) -> None:
    first = train_preferences(make(lora=lora, steps=20), PAIRS, tmp_path / "first")
    second = train_preferences(
        make(lora=lora, steps=1, start=str(first.folder), batch_size=64), PAIRS, tmp_path / "second"
    )
    judged = judge_pairs(load_policy(first.folder), language_model, PAIRS, LOSSES["dpo"], 0.1)
    assert second.log[0]["loss"] == pytest.approx(judged.losses.mean(), rel=1e-4)
    assert second.log[0]["margin"] > 0.5
    wrong = make(lora=None if lora else Lora(rank=4), start=str(first.folder))
    with pytest.raises(InputError, match="start must hold"):
        train_preferences(wrong, PAIRS, tmp_path / "third")


@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_training_that_was_killed_ends_with_the_same_weights(folder: Path, tmp_path: Path, how: str) -> None:
    script = [
        sys.executable,
        "-m",
        "tests.training_backends.trainers.preferences.interrupted",
        str(folder),
        str(tmp_path),
        how,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    work = tmp_path / "killed" / "checkpoints"
    assert [path.name for path in checkpoints(work)] == ["checkpoint-3", "checkpoint-6"]
    known = (tmp_path / "killed/reference.json").read_bytes()
    steps: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("train the policy"):
            steps.append(done)

    training = interrupted(str(folder), how)
    killed = train_preferences(training, PAIRS, tmp_path / "killed", watch=watch)
    assert steps == list(range(7, 13))
    whole = train_preferences(training, PAIRS, tmp_path / "whole")
    assert (
        (tmp_path / "killed/reference.json").read_bytes() == known == (tmp_path / "whole/reference.json").read_bytes()
    )
    name = "model.safetensors" if how == "full" else "adapter_model.safetensors"
    first, second = load_file(killed.model / name), load_file(whole.model / name)
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert killed.log == whole.log
    with pytest.raises(InputError, match="must be a new folder or that of this training, found one with other pairs"):
        train_preferences(training, PAIRS[:32], tmp_path / "killed")


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, make: Make
) -> None:
    calls = [0]

    def breaks(batch: Any) -> Any:
        calls[0] += 1
        return LOSSES["dpo"].of(batch) * (1.0 if calls[0] <= 4 else float("nan"))

    training = make(loss=PreferenceLoss("breaks", breaks, "breaks"), save_steps=2)
    with pytest.raises(RunError, match=r"diverged at step 5: its loss is nan; lower learning_rate .*of step 4"):
        train_preferences(training, PAIRS, tmp_path / "out")
    (*_, last) = checkpoints(tmp_path / "out/checkpoints")
    assert last.name == "checkpoint-4"
    assert all(torch.isfinite(weight).all() for weight in load_file(last / "model.safetensors").values())
    assert not (tmp_path / "out/model").exists()


def test_the_implicit_reward_is_the_scaled_log_ratio(
    language_model: LanguageModel, folder: Path, tmp_path: Path, make: Make
) -> None:
    train_preferences(make(lora=Lora(rank=4), beta=0.3), PAIRS, tmp_path / "out")
    scorer = implicit_scorer(tmp_path / "out")
    judged = judge_pairs(load_policy(tmp_path / "out"), language_model, PAIRS[:6], LOSSES["dpo"], 0.3)
    found = scorer.score([(prompt, yes) for prompt, yes, _ in PAIRS[:6]])
    np.testing.assert_allclose(found, 0.3 * judged.chosen, atol=1e-5)
    assert np.abs(found).max() > 0.01
    assert scorer.provenance["reference_sha256"] == language_model.provenance["sha256"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must hold a policy trained on preferences"):
        implicit_scorer(tmp_path / "empty")


def test_the_sequence_kl_is_that_of_enumerated_responses(
    language_model: LanguageModel, tmp_path: Path, make: Make
) -> None:
    """Two tokens at most: the exact KL, token by token, lies within three standard errors of the estimate."""
    train_preferences(make(steps=3), PAIRS, tmp_path / "out")
    policy, prompts = load_policy(tmp_path / "out"), ["good please", "maybe now"]
    ratios = sequence_kl(policy, language_model, prompts, per_prompt=400, max_new_tokens=2, seed=0)
    assert ratios.shape == (2, 400)
    for k, prompt in enumerate(prompts):
        exact = 0.0
        start = language_model.encode_prompt(prompt)
        first = [_next(model, start) for model in (policy, language_model)]
        exact += float((first[0].exp() * (first[0] - first[1])).sum())
        for token, chance in enumerate(first[0].exp().tolist()):
            if token not in language_model.end_ids:
                second = [_next(model, [*start, token]) for model in (policy, language_model)]
                exact += chance * float((second[0].exp() * (second[0] - second[1])).sum())
        assert exact > 0.05
        error = ratios[k].std(ddof=1) / np.sqrt(400)
        assert abs(ratios[k].mean() - exact) < 3 * error


def _next(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(dim=-1)


def test_rows_are_whole_steps_of_shuffled_passes_and_long_pairs_are_left_out(
    folder: Path, tmp_path: Path, make: Make
) -> None:
    order = ordered(made(PreferenceTraining, str(folder), batch_size=4, epochs=2.0, seed=1).optimization, 10, 1)
    assert len(order) == 20
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert len(ordered(made(PreferenceTraining, str(folder), batch_size=8).optimization, 10, 1)) == 16
    rows = [*PAIRS[:8], ("good", "yes " * 45, "no")]
    assert train_preferences(make(steps=1, max_length=40), rows, tmp_path / "out").dropped == 1
    with pytest.raises(InputError, match="all 9 are longer than 2 tokens"):
        train_preferences(make(max_length=2), rows, tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0.0}, "beta must be a number > 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number > 0"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"loss": "magic"}, "loss must be one of dpo"),
        ({"loss": "dbaql", "batch_size": 1}, "batch_size must be >= 2 with loss dbaql"),
    ],
)
def test_values_without_a_meaning_are_refused(make: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make(**changes)
