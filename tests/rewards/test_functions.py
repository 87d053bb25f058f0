"""Reward functions as TRL calls them: whatever can be called, whatever it returns numbers in."""

import asyncio
import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerState

from rlhf_game import KL, AffinePayments, InputError, Mechanism, Report, RunError, SocialWelfare, Table
from rlhf_game.rewards import Mix, MixPart, Unit, call_reward
from rlhf_game.rewards.functions import PythonFunction

TEXTS = ["a", "bb", "ccc"]
LENGTHS = [0.25, 0.5, 0.75]
SOURCE = """
import asyncio
import functools
import torch

def lengths(completions):
    return [len(text) / 4 for text in completions]

def with_gradients(prompts, completions, **kwargs):
    return torch.tensor(lengths(completions), requires_grad=True)

def in_bf16(prompts, completions, **kwargs):
    return torch.tensor(lengths(completions), dtype=torch.bfloat16)

def list_of_tensors(prompts, completions, **kwargs):
    return [torch.tensor(value, requires_grad=True) for value in lengths(completions)]

async def later(prompts, completions, **kwargs):
    await asyncio.sleep(0)
    return lengths(completions)

class Scaled:
    def __init__(self, by):
        self.by = by
    def __call__(self, completions, **kwargs):
        return [self.by * value for value in lengths(completions)]

class Later:
    async def __call__(self, completions, **kwargs):
        return lengths(completions)

scaled = Scaled(1.0)
scaled_later = Later()
def by(completions, factor):
    return [factor * value for value in lengths(completions)]
part = functools.partial(by, factor=1.0)

def by_ids(completions, completion_ids):
    return [len(ids) / 4 for ids in completion_ids]

def at_the_start(completions, trainer_state, log_extra, log_metric, **kwargs):
    log_metric("length", 1.0)
    log_extra("length", [1.0])
    assert kwargs["more"] == ["x", "y", "z"]
    return [value + trainer_state.global_step for value in lengths(completions)]

def abstains(completions, **kwargs):
    return [None if text == "bb" else len(text) / 4 for text in completions]

def of_texts(completions, **kwargs):
    return [str(value) for value in lengths(completions)]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "with_gradients",
        "in_bf16",
        "list_of_tensors",
        "later",
        "scaled",
        "scaled_later",
        "part",
        "by_ids",
        "at_the_start",
    ],
)
def test_whatever_trl_calls_is_called(folder: Path, name: str) -> None:
    reward = PythonFunction(f"mine.py:{name}", folder)
    columns: dict[str, Any] = {"completion_ids": [[1], [1, 2], [1, 2, 3]], "more": ["x", "y", "z"]}
    np.testing.assert_array_equal(call_reward(reward, ["p"] * 3, TEXTS, columns), LENGTHS)
    inside = Mix((MixPart(reward, Unit()),))
    np.testing.assert_array_equal(call_reward(inside, ["p"] * 3, TEXTS, columns), LENGTHS)
    assert len(reward.provenance["sha256"]) == 64 or name == "part"


def test_a_running_event_loop_does_not_matter(folder: Path) -> None:
    async def inside() -> Any:
        return call_reward(PythonFunction("mine.py:later", folder), ["p"] * 3, TEXTS)

    np.testing.assert_array_equal(asyncio.run(inside()), LENGTHS)


def test_functions_of_python_are_called_the_same_way() -> None:
    async def later(completions: list[str], trainer_state: Any) -> Any:
        return torch.tensor([len(text) / 4 for text in completions], requires_grad=True) + trainer_state.epoch

    np.testing.assert_array_equal(call_reward(later, ["p"] * 3, TEXTS), LENGTHS)
    np.testing.assert_array_equal(call_reward(functools.partial(later), ["p"] * 3, TEXTS), LENGTHS)
    weights = torch.tensor([0.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    reports = [Report(weights), Report(weights.tolist())]
    settled = [
        Mechanism(SocialWelfare(), AffinePayments()).settle([one], Table([0.5, 0.5], KL(1.0))) for one in reports
    ]
    np.testing.assert_array_equal(settled[0].policy.probabilities, settled[1].policy.probabilities)
    np.testing.assert_array_equal(call_reward(lambda completions: map(len, completions), ["p"] * 3, TEXTS), [1, 2, 3])


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([1j, 1j, 1j]),
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        [torch.ones(1, device="meta")] * 3,
        torch.ones(3, 1),
        {1.0, 2.0, 3.0},
        None,
    ],
    ids=str,
)
def test_what_holds_no_numbers_is_one_line(wrong: Any) -> None:
    with pytest.raises(RunError, match="must return"):
        call_reward(lambda completions: wrong, ["p"] * 3, TEXTS)


def test_the_state_outside_of_a_training_is_that_of_transformers_before_its_first_step() -> None:
    seen: dict[str, Any] = {}

    def watching(completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(completions)

    call_reward(watching, ["p"] * 3, TEXTS)
    assert vars(seen["trainer_state"]) == asdict(TrainerState())
    assert set(seen) == {"prompts", "trainer_state", "log_extra", "log_metric"}


def test_none_is_what_abstain_declares_and_nothing_else(folder: Path) -> None:
    with pytest.raises(RunError, match="got a list of 3 with None in it, for which abstain declares no number"):
        call_reward(PythonFunction("mine.py:abstains", folder), ["p"] * 3, TEXTS)
    reward = PythonFunction("mine.py:abstains", folder, abstain=0.0)
    np.testing.assert_array_equal(call_reward(reward, ["p"] * 3, TEXTS), [0.25, 0.0, 0.75])


def test_what_nobody_knows_is_said(folder: Path) -> None:
    with pytest.raises(InputError, match="must ask for nothing but .*, found completion_ids, which nobody knows here"):
        call_reward(PythonFunction("mine.py:by_ids", folder), ["p"] * 3, TEXTS)
    with pytest.raises(RunError, match="must return a list of numbers"):
        call_reward(PythonFunction("mine.py:of_texts", folder), ["p"] * 3, TEXTS)
