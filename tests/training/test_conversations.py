"""Trainings on conversations: pairs, demonstrations and prompts in TRL's conversational layouts, to the end."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf_game import InputError
from rlhf_game.rewards import ImplicitReward, RewardModel, call_reward
from rlhf_game.training_backends import load_language_model, log_probabilities
from rlhf_game.training_backends.trainers.policies import (
    EsoTraining,
    PolicyTraining,
    load_policy,
    train_eso,
    train_policy,
)
from rlhf_game.training_backends.trainers.preferences import PreferenceTraining, train_preferences
from rlhf_game.training_backends.trainers.self_training import Example, SupervisedTraining, train_supervised
from tests import tiny
from tests.cli.runner import run as command
from tests.training_backends.test_templates import CHATML, GEMMA, TURNS, WORDS
from tests.trainings import changed, made

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = TURNS  # a system turn, two turns of the user, one of the assistant between them
WORTH = (("yes yes", "no"), ("thanks", "bad bad"), ("good", "bad"), ("good yes", "now"))


def assistant_turn(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SPLITS = (None, None, None, "test")
SMALL = {"prompts": 1, "per_prompt": 2, "max_new_tokens": 3}
PAIRS = [
    {
        "prompt": "no",
        "chosen": [*ASKED, assistant_turn(good)],
        "rejected": [*ASKED, assistant_turn(bad)],
        "split": split,
    }
    for (good, bad), split in zip(WORTH, SPLITS, strict=True)
]


@pytest.fixture(scope="module")
def chatml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("chatml"), chat=CHATML, more=WORDS)


def write(folder: Path, document: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(document), encoding="utf-8")
    return folder / "config.json"


def test_dpo_on_conversations_and_its_implicit_reward(chatml: Path, tmp_path: Path) -> None:
    """In the layout of ultrafeedback_binarized; the reward of a conversation is that of its own rendering."""
    document = {
        "kind": "preference", "data": "rows.jsonl", "model": str(chatml), "lora": {"rank": 2}, "learning_rate": 0.01,
        "max_length": 64, "steps": 3, "device": "cpu", "divergence": SMALL,
    }  # fmt: skip
    result = command("train", write(tmp_path, document, PAIRS), "-o", tmp_path / "out")
    assert result.code == 0, result.err
    reward = ImplicitReward(str(tmp_path / "out"))
    found = call_reward(reward, [ASKED, ASKED], [[assistant_turn("yes")], "yes"])
    assert found[0] == found[1]
    reference, policy = load_language_model(str(chatml), device="cpu"), load_policy(tmp_path / "out", device="cpu")
    end = reference.end_id
    assert reference.tokenizer.convert_ids_to_tokens(end) == "<end>"
    ids, yes = reference.encode_prompt(ASKED), [6, end]  # type: ignore[arg-type]
    ratio = log_probabilities(policy, [ids], [yes]) - log_probabilities(reference, [ids], [yes])  # type: ignore[list-item]
    assert found[0] == pytest.approx(0.1 * ratio[0], abs=1e-5)  # float32 logits
    assert call_reward(reward, ["no"], ["yes"])[0] != pytest.approx(found[0], abs=1e-5)  # the other turns count


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": ASKED, "completion": word} for word in ("yes", "no", "good")],
        [{"messages": [*ASKED, assistant_turn(word)]} for word in ("yes", "no", "good")],
    ],
    ids=["prompt and completion", "messages"],
)
def test_eso_on_demonstrations_that_are_conversations(chatml: Path, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (key,) = {"prompt", "messages"} & set(rows[0])
    other = {**rows[0], key: rows[0][key][1:]}  # without the system turn: another prompt
    document = {
        "kind": "eso", "data": {"file": "rows.jsonl", "test_share": 0.4}, "model": str(chatml), "lora": {"rank": 2},
        "epochs": 1, "eso_epochs": 1, "max_length": 60, "max_new_tokens": 3, "device": "cpu",
        "temperatures": [0.5, 1.0],
    }  # fmt: skip
    result = command("train", write(tmp_path, document, [*rows, other]), "-o", tmp_path / "out")
    assert result.code == 0, result.err


@pytest.mark.parametrize("trainer", ["rloo", "best_of_n"])
def test_policies_are_trained_on_conversations_with_rewards_as_trl_calls_them(
    chatml: Path, tmp_path: Path, trainer: Any
) -> None:
    seen: list[Any] = []

    def reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.append((prompts, completions, columns))
        return [len(completion[0]["content"]) / 100 for completion in completions]

    training = made(
        PolicyTraining,
        model=str(chatml), strength=0.5, weights=(1.0,), trainer=trainer, steps=1, batch_size=4, num_generations=4,
        max_new_tokens=3, device="cpu",
    )  # fmt: skip
    trained = train_policy(training, [ASKED, ASKED[:2]], {"a": reward}, tmp_path / "out", columns={"n": [1, 2]})
    assert trained.steps == 1
    prompts, completions, columns = seen[0]
    assert prompts[0] in (ASKED, ASKED[:2])
    assert set(completions[0][0]) == {"role", "content"}
    assert "n" in columns
    whole = changed(training, fold_system=True)
    assert whole.document() != training.document()


def test_a_policy_that_was_trained_with_folded_system_turns_folds_them_when_it_is_loaded(tmp_path: Path) -> None:
    model = tiny.save_language_model(tmp_path / "gemma", chat=GEMMA, more=WORDS)
    document = {
        "kind": "preference", "data": "rows.jsonl", "model": str(model), "lora": {"rank": 2}, "max_length": 64,
        "steps": 1, "device": "cpu", "divergence": SMALL,
    }  # fmt: skip
    result = command("train", write(tmp_path, document, PAIRS), "-o", tmp_path / "refused")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "say fold_system: true" in result.err
    declared = write(tmp_path, {**document, "fold_system": True}, PAIRS)
    assert command("train", declared, "-o", tmp_path / "out").code == 0
    assert load_policy(tmp_path / "out", device="cpu").folds_system
    scores = call_reward(ImplicitReward(str(tmp_path / "out")), [ASKED], ["yes"])
    assert np.isfinite(scores).all()


def test_reward_models_read_whole_conversations_by_their_own_template(tmp_path: Path) -> None:
    tiny.save_reward_model(tmp_path)
    tiny.tokenizer("{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}").save_pretrained(
        tmp_path
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = call_reward(
        RewardModel(str(tmp_path)), [ASKED, ASKED[1:2], "good yes"], [[assistant_turn("yes")], "yes", "yes"]
    )
    for score, turns in zip(found, (ASKED, ASKED[1:2], ASKED[1:2]), strict=True):
        text = tokenizer.apply_chat_template([*turns, assistant_turn("yes")], tokenize=False)
        with torch.inference_mode():
            logit = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits[0, 0]
        assert score == pytest.approx(float(logit), abs=1e-5)
    assert found[0] != pytest.approx(found[1], abs=1e-3)


@pytest.mark.parametrize("trainer", ["sft", "dpo", "eso", "best_of_n", "rloo", "grpo", "ppo"])
def test_a_model_without_an_end_and_without_padding_is_one_line_for_every_trainer(tmp_path: Path, trainer: Any) -> None:
    model = str(tiny.save_language_model(tmp_path / "model", chat=None))
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    for settings in (network.config, network.generation_config):
        settings.eos_token_id = settings.pad_token_id = None
    network.save_pretrained(model)
    how: dict[str, Any] = {"device": "cpu", "batch_size": 4}
    train: dict[str, Callable[[], Any]] = {
        "sft": lambda: train_supervised(
            made(SupervisedTraining, model, steps=1, **how), [Example("good", "yes")], tmp_path / "out"
        ),
        "dpo": lambda: train_preferences(
            made(PreferenceTraining, model, steps=1, **how), [("good", "yes", "no")], tmp_path / "out"
        ),
        "eso": lambda: train_eso(
            made(EsoTraining, model, max_new_tokens=3, **how), [("good", "yes")], reward_of_length, tmp_path / "out"
        ),
    }
    policy = made(
        PolicyTraining,
        model, strength=0.5, weights=(1.0,), trainer=trainer if trainer not in train else "rloo", steps=1,
        num_generations=4, max_new_tokens=3, **how,
    )  # fmt: skip
    of_rewards = lambda: train_policy(policy, ["good"], {"a": reward_of_length}, tmp_path / "out")  # noqa: E731
    with pytest.raises(InputError, match="must have a token that ends a text or one for padding, found neither"):
        train.get(trainer, of_rewards)()


def reward_of_length(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [len(completion) / 100 for completion in completions]
