"""Draws that a server generates, against a stand-in that serves a model of which all responses are listed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.training_backends.lm.models import load_language_model
from tests.cli.runner import Result
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, SIZES, Truth, document
from tests.servers import Answer, serving
from tests.training_backends.trainers.policies.enumerable import END, responses, save_model

LISTED = responses(LONGEST)


def completing(
    p: np.ndarray, *, keeps_end: bool = False, wrong: Callable[[Any], Any] = lambda answer: answer
) -> Answer:
    """Answer like vLLM, with draws from listed probabilities; each token's log probability is an equal share."""

    def answer(asked: dict[str, Any], number: int) -> tuple[int, Any]:
        k = int(np.random.default_rng(asked["seed"]).choice(p.size, p=p))
        ids = list(LISTED[k])
        logs = [float(np.log(p[k])) / len(ids)] * len(ids)
        is_ended = ids[-1] == END
        if is_ended and keeps_end:
            ids, logs = ids[:-1], logs[:-1]
        said = {"tokens": [f"token_id:{one}" for one in ids], "token_logprobs": logs}
        choice = {"index": 0, "text": "", "logprobs": said, "finish_reason": "stop" if is_ended else "length"}
        return 200, wrong({"object": "text_completion", "choices": [choice]})

    return answer


@pytest.fixture(scope="module")
def models(place: Path) -> Path:
    save_model(place / "policy", seed=1)
    return place


def settled(models: Path, tmp_path: Path, servers: dict[str, str]) -> Result:
    named = {role: {"url": url, "name": "served", "workers": 4} for role, url in servers.items()}
    outcomes = {"max_new_tokens": LONGEST, "samples": 150, "choosing": 0, "servers": named}
    asked = {key: value for key, value in document(outcomes).items() if key != "model"}
    (tmp_path / "groups.json").write_text(json.dumps({**asked, "settlement_seed": 3}))
    given = ("--policy", models / "policy", "--reference", models / "model", "--groups", tmp_path / "groups.json")
    return command("settle", *given, "--json")


@pytest.mark.parametrize("keeps_end", [False, True])
def test_a_server_generates_and_the_models_here_say_how_probable_it_is(
    models: Path, tmp_path: Path, keeps_end: bool
) -> None:
    truth = Truth(load_language_model(str(models / "model")))
    p = truth.of(load_language_model(str(models / "policy")))
    with serving(completing(p, keeps_end=keeps_end)) as (policy, asked), serving(completing(truth.q)) as (reference, _):
        result = settled(models, tmp_path, {"policy": policy, "reference": reference})
    assert (result.code, result.err) == (0, "")
    receipt = json.loads(result.out)
    assert len(asked) == 150
    assert len({one["seed"] for one in asked}) == 150
    assert all(one["model"] == "served" and one["logprobs"] for one in asked)
    for interval, value in (
        (receipt["certificate"]["gap"], truth.best(SIZES) - truth.welfare(p, SIZES)),
        (receipt["divergence"], float(p @ np.log(p / truth.q))),
        *((group["value"], float(truth.rewards[i] @ p)) for i, group in enumerate(receipt["groups"])),
    ):
        assert interval["low"] <= value <= interval["high"]


def test_a_server_of_another_model_and_one_without_token_ids_are_refused(models: Path, tmp_path: Path) -> None:
    truth = Truth(load_language_model(str(models / "model")))
    p = truth.of(load_language_model(str(models / "policy")))
    with serving(completing(truth.q)) as (other, _):
        result = settled(models, tmp_path, {"policy": other})
    assert (result.code, result.out) == (2, "")
    assert "must serve the model that is here" in result.err

    def words(answer: Any) -> Any:
        answer["choices"][0]["logprobs"]["tokens"] = ["a"]
        return answer

    for wrong in (words, lambda answer: {"choices": []}, lambda answer: [1]):
        with serving(completing(p, wrong=wrong)) as (url, _):
            result = settled(models, tmp_path, {"policy": url})
        assert (result.code, result.out) == (1, "")
        assert "with tokens as token_id:N" in result.err
