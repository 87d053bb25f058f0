"""Elastic Reset: a trajectory by hand, the recursion on a language model, full and LoRA, resumed and not."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from rlhf_game import InputError
from rlhf_game.optimization import Lora
from rlhf_game.training_backends.trainers.policies.elastic_callback import ElasticReset, resets, updates_per_generation
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.policies.policy_training import TrainedPolicy, train_policy
from tests.trainings import made

Weights = dict[str, Tensor]


class Well(nn.Module):
    """Half of the squared weight: a step of SGD with rate 1/2 halves it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": 0.5 * self.weight**2 + 0.0 * x.sum()}


class Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(1)}


class Seen(TrainerCallback):
    """What is trained, as it is at the end of each step."""

    def __init__(self) -> None:
        self.weights: list[Weights] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.weights.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def well(folder: Path, reset: ElasticReset, steps: int) -> list[float]:
    seen = Seen()
    args = TrainingArguments(
        output_dir=str(folder), max_steps=steps, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant",
        max_grad_norm=0.0, per_device_train_batch_size=1, use_cpu=True, report_to="none", save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    Trainer(model=Well(), args=args, train_dataset=Rows(), callbacks=[reset, seen]).train()
    return [float(weights["weight"]) for weights in seen.weights]


def test_the_trajectory_on_a_parabola_is_that_of_a_hand(tmp_path: Path) -> None:
    # theta: 1 -> 1/2 -> 1/4, average: 1 -> 3/4 -> 1/2; reset: theta = 1/2, average = 1; theta: 1/4 -> 1/8,
    # average: 5/8 -> 3/8; reset: theta = 3/8, average = 1; theta: 3/16.
    reset = ElasticReset(2, decay=0.5)
    assert well(tmp_path, reset, 5) == [0.5, 0.5, 0.25, 0.375, 0.1875]
    assert reset.tensors()["average.weight"] == 0.5 * 0.1875 + 0.5
    assert resets(2, 5) == [2, 4]


def test_there_is_no_reset_after_the_last_step(tmp_path: Path) -> None:
    assert well(tmp_path, ElasticReset(2, decay=0.5), 4) == [0.5, 0.5, 0.25, 0.125]
    assert resets(2, 4) == [2]
    assert well(tmp_path, ElasticReset(1, decay=0.0), 3) == [0.5, 0.25, 0.125]  # an average of the last one only


PROMPTS = ["good bad", "yes", "no please", "maybe now"]


def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [text.split().count("good") - 0.5 * text.split().count("bad") for text in completions]


def train(
    folder: Path, out: Path, reset: ElasticReset, *others: TrainerCallback, lora: bool, **changes: Any
) -> TrainedPolicy:
    settings: dict[str, Any] = {
        "steps": 7, "learning_rate": 0.02, "batch_size": 8, "max_new_tokens": 4, "save_steps": 2, "device": "cpu",
        "lora": Lora(rank=2, targets=("q_proj", "v_proj")) if lora else None,
    }  # fmt: skip
    training = made(PolicyTraining, str(folder), 0.1, (1.0,), **{**settings, **changes})
    return train_policy(training, PROMPTS, {"good": reward}, out, callbacks=[*others[:1], reset, *others[1:]])


def as_defined(before: list[Weights], initial: Weights, every: int, decay: float, steps: int) -> list[Weights]:
    """Return the weights after each step's reset, from those before it, by the definition in float64."""
    average = {name: value.double() for name, value in initial.items()}
    found = []
    for step, weights in enumerate(before, start=1):
        average = {n: (1 - decay) * weights[n].double() + decay * average[n] for n in average}
        if step % every == 0 and step < steps:
            found.append(dict(average))
            average = {name: value.double() for name, value in initial.items()}
        else:
            found.append({name: value.double() for name, value in weights.items()})
    return found


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("place", ["cpu", "model"])
def test_a_language_model_follows_the_recursion(folder: Path, tmp_path: Path, lora: bool, place: Any) -> None:
    before, after = Seen(), Seen()
    reset = ElasticReset(3, decay=0.8, place=place)
    train(folder, tmp_path / "out", reset, before, after, lora=lora)
    initial = {n: reset.tensors()[f"initial.{n}"] for n in before.weights[0]}
    expected = as_defined(before.weights, initial, 3, 0.8, 7)
    for found, wanted in zip(after.weights, expected, strict=True):
        assert all(torch.allclose(found[n].double(), wanted[n], rtol=0, atol=1e-6) for n in wanted)
    moved = [
        max(float((b[n] - a[n]).abs().max()) for n in b) for a, b in zip(before.weights, after.weights, strict=True)
    ]
    assert [step for step, distance in enumerate(moved, start=1) if distance > 0] == [3, 6]
    assert all(("lora" in name) == lora for name in initial)


@pytest.mark.parametrize("lora", [False, True])
def test_a_stopped_training_goes_on_as_if_it_had_not(folder: Path, tmp_path: Path, lora: bool) -> None:
    whole = train(folder, tmp_path / "whole", ElasticReset(3, decay=0.8), lora=lora)
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "stopped", ElasticReset(3, decay=0.8), Stop(5), lora=lora)
    kept = [path.suffix for path in (tmp_path / "stopped").rglob("*") if path.is_file()]
    assert set(kept) <= {".json", ".jsonl", ".safetensors", ".jinja", ".md", ""}  # "": the sums
    resumed = train(folder, tmp_path / "stopped", ElasticReset(3, decay=0.8), lora=lora)
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (resumed.model / weights).read_bytes() == (whole.model / weights).read_bytes()
    plain = train(folder, tmp_path / "plain", ElasticReset(7, decay=0.8), lora=lora)  # would fall on the last step
    assert (plain.model / weights).read_bytes() != (whole.model / weights).read_bytes()


def test_resumed_with_other_resets_it_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path / "out", ElasticReset(3), Stop(5), lora=True)
    with pytest.raises(InputError, match="every must be 3 as in the checkpoint that is resumed, got 2"):
        train(folder, tmp_path / "out", ElasticReset(2), lora=True)
    with pytest.raises(InputError, match=r"decay must be 0.995 as in the checkpoint that is resumed, got 0.9"):
        train(folder, tmp_path / "out", ElasticReset(3, decay=0.9), lora=True)
    with pytest.raises(InputError, match="every must be None as in the checkpoint"):
        ElasticReset(3).restore({})
    train(folder, tmp_path / "out", ElasticReset(3), lora=True)  # and finished it is not taken for another one
    with pytest.raises(InputError, match="found one with other callbacks"):
        train(folder, tmp_path / "out", ElasticReset(2), lora=True)


def test_the_critic_is_not_reset_and_resets_fall_between_generations(folder: Path, tmp_path: Path) -> None:
    reset = ElasticReset(2, decay=0.8)
    before, after = Seen(), Seen()
    train(folder, tmp_path / "out", reset, before, after, lora=False, trainer="ppo", steps=4)
    critic = [name for name in before.weights[0] if name.startswith("critic.")]
    assert critic
    assert not any("critic" in name for name in reset.tensors())
    assert all(torch.equal(before.weights[1][n], after.weights[1][n]) for n in critic)
    assert any(not torch.equal(before.weights[1][n], after.weights[1][n]) for n in before.weights[1])
    with pytest.raises(InputError, match="every must be a multiple of 2, the updates on one generation"):
        train(folder, tmp_path / "odd", ElasticReset(3), lora=False, trainer="ppo", steps=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ElasticReset(0), "every must be >= 1, got 0"),
        (lambda: ElasticReset(1, decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: ElasticReset(1, place="gpu"), "place must be cpu or model, got gpu"),  # type: ignore[arg-type]
    ],
)
def test_numbers_that_make_no_sense_are_refused(wrong: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrong()


def test_the_updates_on_one_generation() -> None:
    args = SimpleNamespace(num_iterations=2, steps_per_generation=6, gradient_accumulation_steps=3)
    assert updates_per_generation(args) == 4
    assert updates_per_generation(SimpleNamespace(gradient_accumulation_steps=3)) == 1
