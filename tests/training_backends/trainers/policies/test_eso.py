"""ESO: its loss and gradient by hand and by an independent computation, its draws, its epochs, and resuming."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rlhf_game import InputError, RunError
from rlhf_game.optimization import Lora
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.trainers.policies.eso_trainer import EsoSampler, EsoTrainer, eso_loss, split_rows
from rlhf_game.training_backends.trainers.policies.eso_training import EsoTraining, _settings, _trainer, train_eso
from rlhf_game.training_backends.trainers.policies.policy_training import load_policy
from tests.trainings import changed, made

ROWS = [("good bad", "yes yes"), ("yes", "no now please"), ("no please", "maybe"), ("maybe now", "thanks no")]


class Judge:
    """The share of a completion's words that the response has too, less a little for length; it remembers."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def __call__(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], completion: Sequence[str] = (), **columns: Any
    ) -> list[float]:
        self.asked += zip(prompts, completions, completion, strict=True)
        pairs = zip(completions, completion, strict=True)
        return [len(set(a.split()) & set(b.split())) / len(set(b.split())) - len(a.split()) / 20 for a, b in pairs]


def training_of(folder: Path, **changes: Any) -> EsoTraining:
    small = made(
        EsoTraining,
        str(folder),
        epochs=3,
        learning_rate=0.01,
        batch_size=2,
        max_new_tokens=5,
        save_steps=2,
        device="cpu",
    )
    return changed(small, **changes)


def trainer_of(training: EsoTraining, work: Path, judge: Judge) -> EsoTrainer:
    with quiet_transformers():
        trainer, _ = _trainer(training, _settings(training, work), ROWS, judge)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def batch_of(trainer: EsoTrainer, rows: Sequence[int]) -> dict[str, Any]:
    dataset: Any = trainer.train_dataset
    return dict(trainer.data_collator([dict(dataset[row]) for row in rows]))


def test_the_loss_and_its_gradient_are_those_of_the_paper() -> None:
    # u = 1/2: (1/2 - 1)(-2) + (1/2 - 0)(-3) = -1/2; u = 1/3: (1/3)(-1) + (-2/3)(-4) + (1/3)(-2) = 5/3 (eq. 10)
    two = torch.tensor([[-2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    loss = eso_loss(two, torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    loss.sum().backward()
    assert loss.tolist() == [-0.5]
    assert two.grad is not None
    assert two.grad.tolist() == [[-0.5, 0.5]]  # eq. 12: the weight of each sample's gradient is u - R_j
    three = eso_loss(torch.tensor([[-1.0, -4.0, -2.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
    assert three.tolist() == pytest.approx([5 / 3])
    assert eso_loss(torch.randn(3, 4), torch.full((3, 4), 0.7)).abs().max() < 1e-6  # equal rewards say nothing


@pytest.mark.parametrize("lora", [None, Lora(rank=2, targets=("q_proj", "v_proj"))])
def test_the_trainers_gradient_is_that_of_an_independent_computation(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    judge, drawn = Judge(), []
    trainer = trainer_of(training_of(folder, weight=0.3, eso_epochs=3, lora=lora), tmp_path, judge)
    original = EsoTrainer._generate
    monkeypatch.setattr(
        EsoTrainer, "_generate", lambda self, prompts, u: drawn.extend(found := original(self, prompts, u)) or found
    )
    model: Any = trainer.model
    model.train()
    for parameter in model.parameters():  # a LoRA begins at 0, where half of its gradients are 0
        if parameter.requires_grad and lora is not None:
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    batch = batch_of(trainer, [0, 1])
    with quiet_transformers():
        total = trainer.compute_loss(model, dict(batch))
    total.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def log_probability(prompt: list[int], response: list[int]) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].double()
        steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        return steps.gather(-1, torch.tensor(response)[:, None]).sum()

    model.zero_grad()
    prompts, targets = split_rows(batch)
    k = 4
    rewards = judge(prompts=[0] * 8, completions=[a[1] for a in judge.asked], completion=[a[2] for a in judge.asked])
    wanted = -sum(log_probability(p, t) for p, t in zip(prompts, targets, strict=True)) / sum(map(len, targets))
    for i, prompt in enumerate(prompts):
        mine = rewards[k * i : k * i + k]
        for j in range(k):
            weight = (np.mean(mine) - mine[j]) * 0.3 / len(prompts)
            wanted = wanted + weight * log_probability(prompt, drawn[k * i + j])
    wanted.backward()
    assert total.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert len(set(rewards)) > 2
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, atol=1e-5, rtol=1e-4), name


def test_draws_have_the_probabilities_of_their_temperature() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    for temperature in (0.5, 2.0):
        count = 4000
        rng = np.random.default_rng(5)
        drawing = EsoSampler(torch.full((count,), temperature), torch.from_numpy(rng.random((count, 1))))
        out = drawing(None, logits.repeat(count, 1))
        assert ((out == 0).sum(dim=1) == 1).all()
        seen = np.bincount(out.argmax(dim=1).numpy(), minlength=4)
        expected = torch.softmax(logits / temperature, dim=0).numpy() * count
        assert chi2.sf(((seen - expected) ** 2 / expected).sum(), 3) > 1e-3
        other = torch.softmax(logits, dim=0).numpy() * count  # the wrong temperature is seen
        assert chi2.sf(((seen - other) ** 2 / other).sum(), 3) < 1e-6


def test_samples_do_not_depend_on_how_a_step_is_split(folder: Path, tmp_path: Path) -> None:
    together, apart = Judge(), Judge()
    wide = trainer_of(training_of(folder, batch_size=4, eso_epochs=3), tmp_path / "a", together)
    narrow = trainer_of(training_of(folder, batch_size=2, accumulation_steps=2, eso_epochs=3), tmp_path / "b", apart)
    with quiet_transformers():
        wide.compute_loss(wide.model, batch_of(wide, [0, 1, 2, 3]))
        for rows in ([0, 1], [2, 3]):
            narrow.compute_loss(narrow.model, batch_of(narrow, rows))
    assert together.asked == apart.asked
    assert len(set(together.asked)) > 8


def test_accumulated_steps_are_those_of_a_larger_batch(folder: Path, tmp_path: Path) -> None:
    finals = []
    for size, parts in ((4, 1), (2, 2)):
        out = tmp_path / str(size)
        training = training_of(folder, batch_size=size, accumulation_steps=parts, weight=2.0, eso_epochs=3)
        assert train_eso(training, ROWS, Judge(), out).steps == 3
        finals.append(load_language_model(str(out / "model"), device="cpu").model.state_dict())
    for name, value in finals[0].items():
        assert torch.allclose(value, finals[1][name], atol=1e-5), name


def test_only_the_last_epoch_has_the_loss_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    judge = Judge()
    done = train_eso(training_of(folder), ROWS, judge, tmp_path / "out")
    assert (done.steps, done.first_eso_step, done.dropped) == (6, 4, 0)
    assert [row["eso_loss"] is not None for row in done.log] == [False] * 4 + [True] * 2
    assert len(judge.asked) == 2 * 2 * 4
    assert {target for _, _, target in judge.asked} == {completion for _, completion in ROWS}
    assert all(row["sft_loss"] <= row["loss"] + 1 for row in done.log)
    assert done.tokens > 0
    plain = train_eso(training_of(folder, weight=0.0), ROWS, Judge(), tmp_path / "plain")
    assert [row["eso_loss"] for row in plain.log] == [None] * 6
    assert [row["loss"] for row in plain.log[:4]] == [row["loss"] for row in done.log[:4]]
    always = train_eso(training_of(folder, eso_epochs=3), ROWS, Judge(), tmp_path / "always")
    assert (always.first_eso_step, sum(row["eso_loss"] is not None for row in always.log)) == (0, 6)


def test_it_learns_what_it_is_shown_and_what_is_rewarded(folder: Path, tmp_path: Path) -> None:
    rows = [(prompt, "good yes") for prompt, _ in ROWS]
    first = train_eso(training_of(folder, epochs=10, weight=0.0), rows, Judge(), tmp_path / "sft")
    assert first.log[-1]["sft_loss"] < 0.5 * first.log[0]["sft_loss"]
    pushed = train_eso(training_of(folder, epochs=10, eso_epochs=10, weight=1.0), rows, Judge(), tmp_path / "eso")
    rewards = [row["eso_reward"] for row in pushed.log]
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.3


@pytest.mark.parametrize("lora", [None, Lora(rank=2, targets=("q_proj",))])
def test_a_stopped_training_goes_on_as_if_it_had_not(folder: Path, tmp_path: Path, lora: Lora | None) -> None:
    training = training_of(folder, eso_epochs=2, lora=lora)

    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    train_eso(training, ROWS, Judge(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train_eso(training, ROWS, Judge(), tmp_path / "stopped", watch=stop)
    files = {path.suffix for path in (tmp_path / "stopped").rglob("*") if path.is_file()}
    assert files <= {".json", ".jsonl", ".safetensors", ".jinja", ".md", ""}  # "": the sums
    told: list[str] = []
    train_eso(training, ROWS, Judge(), tmp_path / "stopped", watch=lambda what, done, total: told.append(what))
    assert told[0] == "resume from checkpoint-4"
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert (tmp_path / "stopped/model" / name).read_bytes() == (tmp_path / "whole/model" / name).read_bytes()
    loaded = load_policy(tmp_path / "whole", device="cpu")
    assert isinstance(loaded, LanguageModel)
    with pytest.raises(InputError, match="must be a new folder or that of this training, found one with other rows"):
        train_eso(training, ROWS[:2], Judge(), tmp_path / "whole")
    card = json.loads((tmp_path / "whole/policy.json").read_text())
    assert Counter(card["training"]["temperatures"]) == Counter([0.5, 1.0, 1.5, 2.0])


def test_a_loss_that_is_no_number_stops_the_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"diverged at step 2: its .* is nan; lower learning_rate \(now 1e\+30\); there"):
        train_eso(training_of(folder, learning_rate=1e30), ROWS, Judge(), tmp_path / "out")
    with pytest.raises(RunError, match="the reward must return 8 finite numbers"):
        train_eso(training_of(folder), ROWS, lambda **_: [float("nan")] * 8, tmp_path / "bad")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a number > 0, got 0"),
        ({"eso_epochs": 4}, "eso_epochs must be at most epochs = 3, got 4"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number > 0, got 0.0"),
        ({"weight": -1.0}, "weight must be a number >= 0, got -1.0"),
        ({"temperatures": (1.0,)}, r"temperatures must be two or more numbers > 0, got \[1.0\]"),
        ({"temperatures": (1.0, 0.0)}, "temperatures must be two or more numbers > 0"),
        ({"lora": Lora(dropout=0.1)}, "lora.dropout: must be 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_of(folder, **changes)


def test_rows_that_are_too_long_are_left_out(folder: Path, tmp_path: Path) -> None:
    rows = [*ROWS, ("yes", "no " * 40)]
    assert train_eso(training_of(folder, max_length=20), rows, Judge(), tmp_path / "out").dropped == 1
    with pytest.raises(InputError, match="max_length must leave rows to train on, all 5 are longer than 2 tokens"):
        train_eso(training_of(folder, max_length=2), rows, Judge(), tmp_path / "none")
