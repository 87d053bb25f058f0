"""Candidates from another proposal than the reference: importance weights (theory section 14)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import rlhf_game as rg
from rlhf_game import InputError
from rlhf_game.mechanism.draws.importance import effective_sample_size, normalized_weights
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.candidates import Candidates, merge
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities
from tests import tiny
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, SIZES, Truth, document
from tests.training_backends.trainers.policies.enumerable import save_model

CANDIDATES: dict[str, Any] = {"kind": "candidates", "per_prompt": 30, "max_new_tokens": LONGEST}
Config = Callable[..., Path]


@pytest.fixture
def config(place: Path) -> Config:
    if not (place / "other").exists():
        save_model(place / "other", seed=3, layers=2)

    def write(proposal: Any, **changes: Any) -> Path:
        path = place / "proposal.json"
        path.write_text(json.dumps(document(CANDIDATES | {"proposal": proposal} | changes)))
        return path

    return write


def test_the_complete_list_is_the_table() -> None:
    rng = np.random.default_rng(0)
    q, rewards = rng.dirichlet(np.ones(9)), rng.random((3, 9))
    texts = [f"text {k}" for k in range(9)]
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    reports = [rg.Report([reward], size=k + 1) for k, reward in enumerate(rewards)]
    listed = mechanism.settle(reports, Candidates(["?"], [texts], rg.KL(0.3), log_ratios=[np.log(q)]))
    table = mechanism.settle(reports, rg.Table(q[None], rg.KL(0.3)))
    for name in ("payments", "values", "utilities", "affine_social_welfare"):
        assert getattr(listed, name) == pytest.approx(getattr(table, name), rel=1e-9, abs=1e-12)
    assert listed.policy.probabilities[0] == pytest.approx(table.policy.probabilities[0], rel=1e-9)


def test_equal_draws_count_as_often_as_they_were_drawn() -> None:
    drafts = merge(["a", "b", "a", "c"], [np.log(2.0), 0.0, np.log(2.0), -np.inf])
    assert [(one.text, one.count) for one in drafts] == [("a", 2), ("b", 1), ("c", 1)]
    assert [one.weight for one in drafts] == pytest.approx([0.8, 0.2, 0.0])
    assert [one.weight for one in merge(["a", "b", "a"], [5.0, 5.0, 5.0])] == pytest.approx([2 / 3, 1 / 3])


def test_effective_sizes_are_kishs() -> None:
    assert effective_sample_size([0.25] * 4) == pytest.approx(4)
    assert effective_sample_size([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert normalized_weights([1000.0, 1000.0 + np.log(3)]) == pytest.approx([0.25, 0.75])
    for wrong in ([], [-np.inf], [np.nan, 0.0], [np.inf]):
        with pytest.raises(InputError, match="log ratios"):
            normalized_weights(wrong)


@pytest.mark.parametrize("proposal", [{"model": "other"}, {"system": "c d"}])
def test_weights_are_the_ratio_of_both_models(config: Config, place: Path, tmp_path: Path, proposal: Any) -> None:
    configuration = read_config(config(proposal))
    run(configuration, tmp_path / "out")
    table = parquet.read_table(tmp_path / "out/candidates.parquet").to_pydict()
    reference, prompt = load_language_model(str(place / "model")), configuration.source.prompts[0]
    other = reference if "system" in proposal else load_language_model(str(place / "other"))
    ids, how = table["token_ids"], Sampling(LONGEST)
    first = log_probabilities(reference, [reference.encode_prompt(prompt)] * len(ids), ids, sampling=how)
    second = log_probabilities(
        other, [other.encode_prompt(prompt, proposal.get("system"))] * len(ids), ids, sampling=how
    )
    np.testing.assert_allclose(table["log_reference"], first, atol=1e-5)
    np.testing.assert_allclose(table["log_probability"], second, atol=1e-5)
    assert sum(table["weight"]) == pytest.approx(1)
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    (size,) = receipt["effective_sample_size"]
    assert 1 <= size <= 30
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    (tmp_path / "out/receipt.json").write_text(json.dumps(receipt | {"effective_sample_size": [30.0]}))
    assert "effective_sample_size" in command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").out


def test_many_weighted_draws_settle_as_the_reference_does(config: Config, place: Path, tmp_path: Path) -> None:
    """Against all responses, listed; without the weights, the same draws settle another game (the control)."""
    run(read_config(config({"model": "other"}, per_prompt=6000, batch_size=3000)), tmp_path / "out")
    truth = Truth(load_language_model(str(place / "model")))
    exact = truth.payments(truth.optimum(SIZES))
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    paid = np.array([group["payment"] for group in receipt["groups"]])
    table = parquet.read_table(tmp_path / "out/candidates.parquet").to_pydict()
    counts = np.array(table["count"], dtype=float)
    values = [group["value"] for group in receipt["groups"]]
    assert paid == pytest.approx(exact, rel=0.06)
    assert values == pytest.approx(truth.rewards @ truth.optimum(SIZES), abs=0.01)
    weights = np.array(table["weight"])
    assert np.abs(weights - counts / counts.sum()).sum() > 0.2
    assert receipt["effective_sample_size"][0] > 600


def test_a_proposal_needs_probabilities_and_the_same_tokens(config: Config, place: Path, tmp_path: Path) -> None:
    for proposal, said in (
        ({}, "must be given where system is not"),
        ({"system": "a", "model": "other"}, "must be given where system is not"),
        ({"model": {"name": "x", "endpoint": {"url": "http://127.0.0.1:9/v1"}}}, "must be on this machine"),
    ):
        with pytest.raises(InputError, match=said):
            read_config(config(proposal))
    tiny.save_language_model(place / "foreign")
    with pytest.raises(InputError, match=r"outcomes.proposal.model: must have the tokens of"):
        run(read_config(config({"model": "foreign"})), tmp_path / "out")
    path = config({"system": "a"})
    with_endpoint = json.loads(path.read_text()) | {
        "model": {"name": "x", "endpoint": {"url": "http://127.0.0.1:9/v1"}}
    }
    path.write_text(json.dumps(with_endpoint))
    with pytest.raises(InputError, match="outcomes.proposal: must not be here with an endpoint: it needs"):
        read_config(path)
