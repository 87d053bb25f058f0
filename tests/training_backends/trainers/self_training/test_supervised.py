"""Supervised fine-tuning for a few real steps on a tiny model: the loss is the formula, a stopped one ends the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlhf_game import InputError
from rlhf_game.optimization import Lora
from rlhf_game.training_backends import load_language_model, log_probabilities
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.policies import load_policy
from rlhf_game.training_backends.trainers.self_training import Example, SupervisedTraining, train_supervised
from tests.preferences import preferences
from tests.trainings import changed, made

ROWS = preferences(12, seed=0)
EXAMPLES = [Example(row.prompt, row.chosen) for row in ROWS]


def nats(model: LanguageModel, examples: list[Example] = EXAMPLES) -> np.ndarray:
    """The negative log-probability of each response, of its end token too unless it was cut."""
    encoded = [model.encode_exchange(one.prompt, f"{one.lead}{one.response}") for one in examples]
    said = [ids if one.is_finished else ids[:-1] for one, (_, ids) in zip(examples, encoded, strict=True)]
    return -log_probabilities(model, [prompt for prompt, _ in encoded], said)


def test_the_loss_is_the_mean_over_tokens_of_responses(folder: Path, tmp_path: Path) -> None:
    examples = [
        Example("good", "yes no"),
        Example("bad now", "thanks thanks", lead="maybe maybe "),
        Example("bad", "yes yes", is_finished=False),
    ]
    trained = train_supervised(made(SupervisedTraining, str(folder), batch_size=3, steps=1), examples, tmp_path / "out")
    model = load_language_model(str(folder))
    assert trained.losses == (pytest.approx(nats(model, examples).sum() / (3 + 5 + 2), rel=1e-4),)  # float32


def test_a_cut_response_has_something_to_write() -> None:
    assert Example("good", "", lead="maybe ", is_finished=False).lead
    with pytest.raises(InputError, match="response must not be empty where it was cut"):
        Example("good", "", is_finished=False)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_a_training_that_was_stopped_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, lora: Lora | None
) -> None:
    how = made(
        SupervisedTraining,
        str(folder), lora=lora, steps=6, learning_rate=1e-2, batch_size=4, save_steps=2, schedule="cosine",
        warmup=0.3,
    )  # fmt: skip
    steps: list[int] = []

    def stop(what: str, done: int, total: int) -> None:
        steps.append(done)
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_supervised(how, EXAMPLES, tmp_path / "stopped", watch=stop)
    assert not (tmp_path / "stopped/policy.json").exists()
    stopped, whole = (train_supervised(how, EXAMPLES, tmp_path / name) for name in ("stopped", "whole"))
    assert stopped.losses == whole.losses
    assert whole.losses[-1] < whole.losses[0]
    name = "model" if lora is None else "adapter_model"
    a, b = (load_file(tmp_path / path / "model" / f"{name}.safetensors") for path in ("stopped", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in b)
    assert nats(load_policy(tmp_path / "whole")).sum() < nats(load_language_model(str(folder))).sum()
    again = train_supervised(how, EXAMPLES, tmp_path / "whole", watch=stop)  # finished: only read
    assert again.losses == whole.losses
    assert len(steps) == 5


@pytest.mark.parametrize("lora", [None, Lora(rank=4)], ids=["full", "lora"])
def test_a_training_can_begin_where_another_ended(folder: Path, tmp_path: Path, lora: Lora | None) -> None:
    first = made(SupervisedTraining, str(folder), lora=lora, steps=8, learning_rate=1e-2, batch_size=12)
    ended = train_supervised(first, EXAMPLES, tmp_path / "first")
    second = made(
        SupervisedTraining,
        str(folder),
        lora=lora,
        steps=1,
        learning_rate=1e-9,
        batch_size=12,
        start=str(tmp_path / "first"),
    )
    begun = train_supervised(second, EXAMPLES, tmp_path / "second")
    assert begun.losses[0] < ended.losses[-1] < ended.losses[0]
    np.testing.assert_allclose(nats(load_policy(tmp_path / "second")), nats(load_policy(tmp_path / "first")), atol=1e-3)
    other = made(SupervisedTraining, str(folder), lora=None if lora else Lora(rank=4), start=str(tmp_path / "first"))
    with pytest.raises(InputError, match="start must hold"):
        train_supervised(other, EXAMPLES, tmp_path / "third")
    for changes, said in (
        ({"model": "elsewhere"}, "start must be trained from model elsewhere, got one from "),
        ({"start": str(tmp_path / "none")}, "start: .*none must hold a trained policy, found no policy.json"),
    ):
        with pytest.raises(InputError, match=said):
            train_supervised(changed(second, **changes), EXAMPLES, tmp_path / "fourth" / str(len(said)))
    with pytest.raises(InputError, match="must be a new folder or that of this training, found one with other"):
        train_supervised(first, EXAMPLES[:3], tmp_path / "first")


def test_what_does_not_fit_is_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    rows = [*EXAMPLES[:2], Example("good", "yes " * 30)]
    trained = train_supervised(made(SupervisedTraining, str(folder), steps=1, max_length=24), rows, tmp_path / "out")
    assert trained.dropped == 1
    with pytest.raises(InputError, match="max_length must leave examples to train on, all 3 are longer than 4 tokens"):
        train_supervised(made(SupervisedTraining, str(folder), max_length=4), rows, tmp_path / "none")


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0.0), ("learning_rate", -1.0), ("batch_size", 0), ("steps", 0), ("warmup", 1.0)]
)
def test_values_that_make_no_sense_are_named(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} must be"):
        made(SupervisedTraining, "m", **{field: value})  # type: ignore[arg-type]
