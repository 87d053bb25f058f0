"""Rows of ``settle --draws`` that are no draws of what they are said to be of, with right log probabilities."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, sample
from tests.cli.runner import Result
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, Truth, document
from tests.training_backends.trainers.policies.enumerable import PROMPT, responses, save_model

Rows = list[dict[str, Any]]
EACH = 100
LISTED = responses(LONGEST)
MODELS = ("--policy", "policy", "--reference", "model")
SOURCE = "source: must be {} in rows that are independent draws of it, found {}"
REPEATS = "the same ones again and again"


@pytest.fixture(scope="module")
def models(place: Path) -> Path:
    save_model(place / "policy", seed=1)
    return place


@pytest.fixture(scope="module")
def draw(models: Path) -> Callable[..., Rows]:
    """Draw rows of a source from its listed probabilities, changed before the draw by ``drawn``."""
    truth = Truth(load_language_model(str(models / "model")))
    laws = {"policy": truth.of(load_language_model(str(models / "policy"))), "reference": truth.q}
    texts = [" ".join("abcd"[one - 2] for one in ids if one > 1) for ids in LISTED]

    def draw(source: str, drawn: Callable[[np.ndarray], np.ndarray] = lambda p: p) -> Rows:
        law = drawn(laws[source])
        return [
            {"prompt": PROMPT, "response": texts[k], "source": source, "token_ids": list(LISTED[k]),
             "log_policy": float(np.log(laws["policy"][k])), "log_reference": float(np.log(truth.q[k])),
             "first": float(truth.rewards[0, k]), "second": float(truth.rewards[1, k])}
            for k in np.random.default_rng(4).choice(law.size, size=EACH, p=law / law.sum())
        ]  # fmt: skip

    return draw


@pytest.fixture
def settle(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(models)
    names: Rows = [{"name": "first", "size": 2}, {"name": "second", "size": 1}]

    def settle(rows: Rows, *options: str, longest: int = LONGEST) -> Result:
        (tmp_path / "draws.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = document({"max_new_tokens": longest, "choosing": 20}, groups=names)
        (tmp_path / "groups.json").write_text(json.dumps({key: asked[key] for key in asked if key != "model"}))
        files = ("--draws", tmp_path / "draws.jsonl", "--groups", tmp_path / "groups.json")
        return command("settle", *files, *options, "--json")

    return settle


Change = Callable[[Rows, Rows, Callable[..., Rows]], Rows]
CHANGED: dict[str, tuple[Change, str]] = {
    "as they are": (lambda policy, reference, draw: policy + reference, ""),
    "one, copied": (lambda policy, reference, draw: policy[:1] * EACH + reference, SOURCE.format("policy", REPEATS)),
    "the likeliest": (
        lambda policy, reference, draw: policy + draw("reference", lambda q: q * (q == q.max())),
        SOURCE.format("reference", REPEATS),
    ),
    "cold": (
        lambda policy, reference, draw: policy + draw("reference", lambda q: q**5),
        SOURCE.format("reference", ""),
    ),
    "the reference's as the policy's": (
        lambda policy, reference, draw: [{**row, "source": "policy"} for row in reference] + reference,
        SOURCE.format("policy", "draws of the reference"),
    ),
    "the policy's as the reference's": (
        lambda policy, reference, draw: policy + [{**row, "source": "reference"} for row in policy],
        SOURCE.format("reference", "draws of the policy"),
    ),
    "means over tokens": (
        lambda policy, reference, draw: [{**row, "log_policy": row["log_policy"] / 2} for row in policy + reference],
        "log_policy: must be log probabilities of whole responses, in nats: those of all distinct",
    ),
    "bits": (
        lambda policy, reference, draw: [
            {**row, "log_reference": row["log_reference"] / math.log(2)} for row in policy + reference
        ],
        SOURCE.format("reference", ""),
    ),
    "a list": (
        lambda policy, reference, draw: [{**row, "source": ["policy"]} for row in policy],
        "line 1: source: must be policy or reference",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGED)
def test_rows_that_are_no_draws_of_their_source_are_refused(
    settle: Callable[..., Result], draw: Callable[..., Rows], name: str
) -> None:
    change, said = CHANGED[name]
    result = settle(change(draw("policy"), draw("reference"), draw))
    assert (result.code, result.err.count("\n")) == ((2, 1) if said else (0, 0)), result.err[:200]
    assert said in result.err
    assert "draws.jsonl: " in result.err or not said


def test_of_tokens_that_nobody_knows_nothing_is_known(settle: Callable[..., Result], draw: Callable[..., Rows]) -> None:
    """A text may be of several tokens, and so more probable than the ones that the tokenizer reads it as."""
    blind = {"token_ids": None, "log_policy": None, "log_reference": None}
    word = next(row for row in draw("reference") if len(row["response"]) == 1)
    assert settle(draw("policy") + [{**word, **blind}] * EACH, *MODELS).code == 0
    assert settle(draw("policy") + [word] * EACH, *MODELS).code == 2


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_long_responses_that_were_drawn_colder_are_refused(
    settle: Callable[..., Result], models: Path, temperature: float
) -> None:
    """None of them comes twice: the model's own probabilities say that another temperature explains them better."""
    rows = []
    for source, name, heat in (("policy", "policy", 1.0), ("reference", "model", temperature)):
        (found,) = sample(load_language_model(str(models / name)), [PROMPT], 60, seed=1, sampling=Sampling(10, heat))
        rows += [
            {"prompt": PROMPT, "response": one.text, "source": source, "token_ids": list(one.token_ids),
             "first": len(one.text) / 99, "second": 1.0}
            for one in found
        ]  # fmt: skip
    result = settle(rows, *MODELS, longest=10)
    said = "" if temperature == 1 else SOURCE.format("reference", "draws at temperature 0.5")
    assert (result.code, said in result.err) == (2 if said else 0, True), result.err[:200]
