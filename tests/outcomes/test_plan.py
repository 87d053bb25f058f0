"""``run --plan``: a pilot of reference draws says what each kind of outcome would take, near what it then takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.mechanism.draws.yardstick import fresh_candidates, kept
from rlhf_game.outcomes import read_config, run
from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
from rlhf_game.outcomes.draws.plan import plan
from rlhf_game.rewards.calibration import is_flat
from rlhf_game.training_backends.lm.models import load_language_model
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, QUICK, SIZES, STRENGTH, Truth, document
from tests.servers import chatting, serving

Config = Callable[..., Path]
KINDS: dict[str, dict[str, Any]] = {
    "candidates": {"kind": "candidates", "per_prompt": 8, "max_new_tokens": LONGEST},
    "trie": {"kind": "trie", "max_tokens": LONGEST},
    "draws": {"kind": "draws", "draws": 30, "max_proposals": 10**6, "max_new_tokens": LONGEST},
    "finetuned": QUICK,
}


@pytest.fixture
def config(place: Path) -> Config:
    def write(kind: str = "draws", **changes: Any) -> Path:
        (place / "plan.json").write_text(json.dumps(document(KINDS[kind], settlement_seed=3, **changes)))
        return place / "plan.json"

    return write


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_is_planned_from_each(config: Config, kind: str, tmp_path: Path) -> None:
    before = sorted(config(kind).parent.iterdir())
    result = command("run", config(kind), "--plan", "--json", "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    assert not (tmp_path / "out").exists()
    assert sorted(config(kind).parent.iterdir()) == before
    plans = json.loads(result.out)["plans"]
    assert [one["kind"] for one in plans] == ["candidates", "trie", "draws", "finetuned"]
    for one in plans:
        assert {"kind", "tokens", "seconds", "proves", "width", "acceptance_rate"} <= set(one)
        assert one["tokens"] > 0
        assert one["seconds"] > 0


def test_what_is_planned_is_near_what_it_takes(config: Config, place: Path, tmp_path: Path) -> None:
    planned = plan(read_config(config()))["plans"][2]
    truth = Truth(load_language_model(str(place / "model")))
    rate = truth.q @ np.exp((SIZES @ truth.rewards - SIZES.sum()) / STRENGTH)
    assert planned["acceptance_rate"] == pytest.approx(rate, rel=0.4)
    assert planned["acceptance_rates"] == [pytest.approx(planned["acceptance_rate"])]
    done = run(read_config(config()), tmp_path / "out")
    assert isinstance(done, DrawsRun)
    group = done.receipt.model_dump()["groups"][0]
    assert planned["width"] == pytest.approx(group["payment"]["high"] - group["payment"]["low"], rel=0.6)
    proposals = [one["proposals"] for one in planned["changes"]]
    assert proposals[0] > proposals[1] > proposals[2]  # half, the same, twice the strength
    assert proposals[3] < proposals[1]  # ceilings
    assert proposals[1] == pytest.approx(30 / planned["acceptance_rate"])
    center, spread = truth.rewards @ truth.q, np.sqrt(truth.rewards**2 @ truth.q - (truth.rewards @ truth.q) ** 2)
    steep = 1 / (1 + np.exp(-(truth.rewards - center[:, None]) / (0.5 * spread[:, None])))
    rate = truth.q @ np.exp((SIZES @ steep - SIZES.sum()) / STRENGTH)
    assert planned["changes"][4]["change"] == "logistic calibrations of scale 0.5 standard deviations"
    assert proposals[4] == pytest.approx(30 / rate, rel=0.4)


def test_the_plan_is_printed_for_people(config: Config) -> None:
    groups = document(KINDS["draws"])["groups"]
    groups.append({"name": "bored", "reward": {"table": {"values": {}, "default": 0.5}}})
    result = command("run", config(groups=groups), "--plan")
    assert result.code == 0
    for said in (
        "width of a payment", "ceilings first", "strength 0.2", "bored's reward varies by less than a tenth",
        "proposals for 30 draws", "logistic calibrations of scale 0.5", "right payments",
    ):  # fmt: skip
        assert said in result.out
    assert "first's reward varies" not in result.out


def test_an_endpoint_is_planned_without_a_trie_and_what_is_no_text_is_refused(config: Config) -> None:
    with serving(chatting(lambda asked: "a b")) as (url, seen):
        model = {"name": "stand-in", "endpoint": {"url": f"{url}/v1"}}
        plans = plan(read_config(config(model=model)))["plans"]
        assert len(seen) == 64
    assert [one["tokens"] is None for one in plans] == [False, True, False, False]
    result = command("run", config("candidates", regularizer="l2"), "--plan")
    assert result.code == 2
    assert "outcomes: must be candidates, trie, draws, finetuned with regularizer kl" in result.err


def test_flat_rewards_are_told_from_others() -> None:
    rng = np.random.default_rng(0)
    assert is_flat(0.5 + 0.04 * (rng.random(200) - 0.5))
    assert is_flat([0.5] * 99 + [1.0])  # one in a hundred does not count
    assert not is_flat(rng.random(200))
    assert not is_flat([0.0] * 9 + [1.0])


def test_the_yardstick_says_what_candidates_keep(config: Config, place: Path, tmp_path: Path) -> None:
    """Eight fresh candidates, against all responses: the listed reference stands for all draws of it."""
    result = command("run", config("candidates"), "--yardstick", "--json", "-o", tmp_path / "out")
    assert (result.code, result.err) == (0, "")
    measured = json.loads(result.out)["yardstick"]
    assert (measured["per_prompt"], measured["draws"], measured["interval"]) == (8, 128, "bootstrap")
    truth, rng = Truth(load_language_model(str(place / "model"))), np.random.default_rng(0)
    drawn = rng.choice(SIZES @ truth.rewards, size=20_000, p=truth.q)
    share, gain = kept([drawn], STRENGTH, fresh_candidates(8), rng, resamples=2)
    assert measured["kept"]["low"] <= float(share.value) <= measured["kept"]["high"]
    assert measured["exact_gain"]["low"] <= float(gain.value) <= measured["exact_gain"]["high"]
    assert measured["kept"]["high"] - measured["kept"]["low"] < 0.2
    again = command("run", config("candidates"), "--yardstick", "-o", tmp_path / "out")
    assert "8 fresh candidates a response keep " in again.out
    assert command("verify", tmp_path / "out/receipt.json", tmp_path / "out/game.json").code == 0
    refused = command("run", config("draws"), "--yardstick", "-o", tmp_path / "draws")
    assert refused.code == 2
    assert "must be candidates of the reference" in refused.err
