"""Reward models for a few real steps on a tiny network: the loss is the formula, a stopped training ends the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import RewardConfig

from rlhf_game import InputError
from rlhf_game.optimization import HUB, REWARD_ARGUMENTS, Lora
from rlhf_game.rewards.bradley_terry import Likelihood, fit_head
from rlhf_game.training_backends.lm.checkpoints import find_checkpoint
from rlhf_game.training_backends.lm.reward_networks import (
    CARD,
    Named,
    Networks,
    Scorer,
    is_identified,
    load_reward_model,
    save_head,
    set_head,
)
from rlhf_game.training_backends.lm.scorers import head_of, load_backbone
from rlhf_game.training_backends.trainers import reward_training
from rlhf_game.training_backends.trainers.resuming import last_checkpoint
from rlhf_game.training_backends.trainers.reward_training import (
    Finetuning,
    TrainingResult,
    finetune,
    frozen_features,
)
from tests.preferences import preferences, triples
from tests.training_backends.cases import ARCHITECTURES, Case
from tests.training_backends.interrupted import HOW
from tests.training_backends.matrix import save_case, save_network
from tests.trainings import made

ROWS = triples(preferences(64, seed=0))


def margins(scorer: Scorer, rows: list[tuple[str, str, str]] = ROWS) -> np.ndarray:
    chosen = scorer.score([(prompt, yes) for prompt, yes, _ in rows])
    return np.asarray(chosen - scorer.score([(prompt, no) for prompt, _, no in rows]))


def write_card(folder: Path, backbone: Path, **more: Any) -> None:
    known = dict(find_checkpoint(str(backbone)).provenance)
    (folder / CARD).write_text(json.dumps({"backbone": known, "eta": 0.01, **more}))


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_training_learns_and_its_checkpoint_scores_the_same(folder: Path, tmp_path: Path, lora: Lora | None) -> None:
    out = tmp_path / "model"
    how = made(Finetuning, lora=lora, steps=25, learning_rate=5e-3, max_length=64, seed=1)
    trained = finetune(str(folder), ROWS, how, out)
    assert trained.steps == 25
    assert trained.losses[-1] < trained.losses[0]
    write_card(out, folder)
    assert np.mean(margins(load_reward_model(str(out))) > 0) > 0.75
    names = {path.name for path in out.iterdir()}
    assert any(name.endswith(".safetensors") for name in names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not (tmp_path / "model.work").exists()


def test_the_loss_is_the_formula(folder: Path, tmp_path: Path) -> None:
    # The first loss that is logged is that of the first batch at the random head: here the whole data.
    how = made(Finetuning, steps=1, batch_size=64, max_length=64, eta=0.3, smoothing=0.2, seed=3)
    trained = finetune(str(folder), ROWS, how, tmp_path / "model")
    scorer = load_backbone(str(folder), seed=3)
    chosen = scorer.score([(prompt, yes) for prompt, yes, _ in ROWS])
    rejected = scorer.score([(prompt, no) for prompt, _, no in ROWS])
    d, s = chosen - rejected, chosen + rejected
    expected = np.mean(-0.8 * np.log(1 / (1 + np.exp(-d))) - 0.2 * np.log(1 / (1 + np.exp(d))) + 0.3 * s**2)
    assert trained.losses[0] == pytest.approx(expected, rel=1e-5)  # float32


@pytest.mark.parametrize(("how", "weights"), [("full", "model"), ("lora", "adapter_model")])
def test_a_training_that_was_killed_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, how: str, weights: str
) -> None:
    script = [sys.executable, "-m", "tests.training_backends.interrupted", str(folder), str(tmp_path / "killed"), how]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    died = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    work = tmp_path / "killed.work"
    assert last_checkpoint(work) == str(work / "checkpoint-6")
    assert not (tmp_path / "killed").exists()
    (work / "checkpoint-9").mkdir()  # one that was being written when the process died
    (work / "checkpoint-9" / "model.safetensors").write_bytes(b"half")

    steps: list[int] = []
    finetune(str(folder), ROWS, HOW[how], tmp_path / "killed", watch=lambda what, step, total: steps.append(step))
    assert steps == list(range(7, 13))
    finetune(str(folder), ROWS, HOW[how], tmp_path / "whole")
    killed, whole = (load_file(tmp_path / name / f"{weights}.safetensors") for name in ("killed", "whole"))
    assert killed.keys() == whole.keys()
    assert all(torch.equal(killed[key], whole[key]) for key in whole)


def test_another_seed_is_another_model(folder: Path, tmp_path: Path) -> None:
    how = [made(Finetuning, steps=1, max_length=64, seed=seed) for seed in (0, 1)]
    for k, one in enumerate(how):
        finetune(str(folder), ROWS, one, tmp_path / str(k))
    first, second = (load_file(tmp_path / name / "model.safetensors")["score.weight"] for name in "01")
    assert not torch.equal(first, second)


def test_what_does_not_fit_is_dropped_and_counted(folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS[:4], ("good", "yes " * 45, "no")]
    trained = finetune(str(folder), rows, made(Finetuning, steps=1, max_length=40), tmp_path / "model")
    assert trained.dropped == 1
    with pytest.raises(InputError, match="max_length must leave pairs to train on, all 5 are longer than 3 tokens"):
        finetune(str(folder), rows, made(Finetuning, max_length=3), tmp_path / "none")


def test_the_head_is_linear_in_the_features_that_it_sees(folder: Path) -> None:
    scorer = load_backbone(str(folder), seed=5)
    pairs = [(prompt, yes) for prompt, yes, _ in ROWS[:7]]
    weight = head_of(scorer.model).weight.detach().double().numpy()[0]
    np.testing.assert_allclose(scorer.features(pairs, batch_size=3) @ weight, scorer.score(pairs), atol=1e-5)


def test_a_head_on_frozen_features_is_fitted_exactly_and_read_back(folder: Path, tmp_path: Path) -> None:
    chosen, rejected, origin = frozen_features("head", str(folder), ROWS)
    head = fit_head(chosen, rejected, Likelihood(has_bias=False))
    save_head(tmp_path, head.weights, head.bias)
    (tmp_path / CARD).write_text(json.dumps({"backbone": origin, "method": "head", "eta": 0.01}))
    scorer = load_reward_model(str(tmp_path))
    np.testing.assert_allclose(margins(scorer), head(chosen) - head(rejected), atol=1e-5)  # float32
    assert np.mean(margins(scorer) > 0) > 0.7
    assert is_identified(str(tmp_path))


def test_a_linear_probe_is_where_a_training_starts(folder: Path, tmp_path: Path) -> None:
    chosen, rejected, _ = frozen_features("head", str(folder), ROWS)
    head = fit_head(chosen, rejected, Likelihood(has_bias=False))
    how = made(Finetuning, steps=1, batch_size=64, max_length=64, eta=0.01)
    trained = finetune(str(folder), ROWS, how, tmp_path / "model", head=(head.weights, head.bias))
    without_ridge = head.loss - 0.5e-3 * head.weights @ head.weights
    assert trained.losses[0] == pytest.approx(without_ridge, abs=1e-5)
    probe = load_backbone(str(folder))
    set_head(probe, head.weights, head.bias)
    np.testing.assert_allclose(margins(probe), head(chosen) - head(rejected), atol=1e-5)


def test_adapters_on_one_backbone_share_it(folder: Path, tmp_path: Path) -> None:
    for k in range(2):
        finetune(str(folder), ROWS, made(Finetuning, lora=Lora(), steps=3, max_length=64, seed=k), tmp_path / str(k))
        write_card(tmp_path / str(k), folder)
    names = [Named(str(tmp_path / str(k))) for k in range(2)]
    networks = Networks()
    together = [networks.reward_model(name) for name in names]
    assert together[0].model is together[1].model  # type: ignore[attr-defined]
    for shared, name in zip(together, names, strict=True):
        np.testing.assert_allclose(margins(shared), margins(load_reward_model(name.name)), atol=1e-6)
    assert not np.allclose(margins(together[0]), margins(together[1]))


def test_a_backbone_that_changed_is_refused(folder: Path, tmp_path: Path) -> None:
    save_head(tmp_path, np.ones(16), 0.0)
    (tmp_path / CARD).write_text(
        json.dumps({"backbone": {"model": str(folder), "sha256": "0" * 64}, "method": "head", "eta": 0.0})
    )
    with pytest.raises(InputError, match="must be used with the backbone that it was trained on"):
        load_reward_model(str(tmp_path))
    assert not is_identified(str(tmp_path))
    (tmp_path / CARD).unlink()
    with pytest.raises(InputError, match="must have a card, reward_model.json"):
        load_reward_model(str(tmp_path))


def trained(
    folder: Path, out: Path, rows: Any = ROWS, **changes: Any
) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    done = finetune(
        str(folder), rows, made(Finetuning, **{"steps": 3, "batch_size": 8, "max_length": 64, **changes}), out
    )
    (weights,) = out.glob("*model.safetensors")
    return done, load_file(weights)


def test_accumulated_gradients_are_those_of_the_larger_batch(folder: Path, tmp_path: Path) -> None:
    plain = {"optim": "sgd", "lr_scheduler_type": "constant"}
    _, large = trained(folder, tmp_path / "large", trl=plain, batch_size=8, learning_rate=0.1)
    accumulated = {**plain, "gradient_accumulation_steps": 4, "weight_decay": 0.0}
    _, small = trained(folder, tmp_path / "small", trl=accumulated, batch_size=2, learning_rate=0.1)
    moved = load_backbone(str(folder)).model.state_dict()
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, atol=1e-5, rtol=1e-4)
    assert any(not torch.allclose(large[name], moved[name], atol=1e-3) for name in large)


def test_activations_that_are_computed_again_change_nothing(folder: Path, tmp_path: Path) -> None:
    _, kept = trained(folder, tmp_path / "kept")
    _, again = trained(folder, tmp_path / "again", trl={"activation_checkpointing": True})
    for name, value in kept.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("lora", [None, Lora(rank=2)], ids=["full", "lora"])
def test_in_bf16_what_is_trained_stays_in_float32(folder: Path, tmp_path: Path, lora: Lora | None) -> None:
    done, weights = trained(folder, tmp_path / "half", lora=lora, trl={"bf16": True}, learning_rate=1e-3)
    exact, _ = trained(folder, tmp_path / "full", lora=lora, learning_rate=1e-3)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert done.losses[0] == pytest.approx(exact.losses[0], rel=0.03)  # bfloat16 has eight bits
    assert done.losses[0] != exact.losses[0]


def test_schedules_are_those_of_trl(folder: Path, tmp_path: Path) -> None:
    rates: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            rates.append(more["lr_scheduler"].get_last_lr()[0])

    real = reward_training._Trainer.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reward_training._Trainer, "train", lambda self, **more: (self.add_callback(Watch()), real(self, **more))
        )
        schedule = {"lr_scheduler_type": "cosine", "warmup_steps": 2}
        trained(folder, tmp_path / "out", steps=4, learning_rate=1.0, trl=schedule)
    np.testing.assert_allclose(rates, [0.5, 1.0, 0.5, 0.0], atol=1e-9)


def test_arguments_are_those_that_trl_knows(folder: Path, tmp_path: Path) -> None:
    assert {field.name for field in fields(RewardConfig)} >= REWARD_ARGUMENTS | HUB
    with pytest.raises(
        InputError, match=r"trl.output_dir: must be one of activation_checkpointing, .*found output_dir"
    ):
        made(Finetuning, trl={"output_dir": "elsewhere"})
    with pytest.raises(InputError, match=r"^trl: ValueError: .*no_such"):
        trained(folder, tmp_path / "out", trl={"lr_scheduler_type": "no_such"})


@pytest.mark.parametrize("end", ["", " <eos>", " now"])
def test_without_a_pad_id_the_last_token_is_trained_and_scored(folder: Path, tmp_path: Path, end: str) -> None:
    # What is trained in batches is what scores alone: the losses are those of the scores, whatever a text ends with.
    shutil.copytree(folder, tmp_path / "padless")
    settings = json.loads((tmp_path / "padless" / "config.json").read_text())
    (tmp_path / "padless" / "config.json").write_text(json.dumps(settings | {"pad_token_id": None}))
    rows = [(prompt, yes + end, no + end) for prompt, yes, no in ROWS]
    done, _ = trained(tmp_path / "padless", tmp_path / "out", rows, steps=1, batch_size=64, eta=0.0)
    expected = np.logaddexp(0.0, -margins(load_backbone(str(tmp_path / "padless")), rows)).mean()
    assert done.losses[0] == pytest.approx(expected, rel=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("pad_token_id") is None
    write_card(tmp_path / "out", tmp_path / "padless")
    assert np.isfinite(margins(load_reward_model(str(tmp_path / "out")), rows)).all()


def test_a_pair_is_trained_with_the_segments_that_it_is_scored_with(tmp_path: Path) -> None:
    bert = ARCHITECTURES["BERT"]
    place = save_case(tmp_path / "case", save_network(tmp_path / "bert", bert), bert, Case())
    done, _ = trained(place, tmp_path / "out", steps=1, batch_size=64, eta=0.0)
    expected = np.logaddexp(0.0, -margins(load_backbone(str(place)))).mean()
    assert done.losses[0] == pytest.approx(expected, rel=1e-5)
