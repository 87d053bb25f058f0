"""``audit`` of a configuration with draws: the exact game over all responses, where they can be listed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.draws.listing import exact_game
from rlhf_game.training_backends.lm.models import load_language_model
from tests.cli.runner import run as command
from tests.outcomes.listed import LONGEST, SIZES, Truth, document
from tests.training_backends.trainers.policies.enumerable import PROMPT

CEILING = 0.9
DRAWS: dict[str, Any] = {
    "kind": "draws", "draws": 12, "max_proposals": 5_000, "max_new_tokens": LONGEST, "ceilings": {"first": CEILING},
}  # fmt: skip
Config = Callable[..., Path]


@pytest.fixture
def config(place: Path) -> Config:
    def write(outcomes: dict[str, Any] | None = None, **changes: Any) -> Path:
        asked = document(DRAWS | (outcomes or {}), settlement_seed=7, prompts=[PROMPT])
        (place / "listed.json").write_text(json.dumps(asked | changes))
        return place / "listed.json"

    return write


def test_audit_plays_the_exact_game_where_all_responses_can_be_listed(config: Config, place: Path) -> None:
    """The truth pays what listing says, at its ceilings, and no lie gains; without payments one does (the control)."""
    result = command("audit", config(), "--json", "--starts", 2)
    assert (result.code, result.err) == (0, "")
    truth = Truth(load_language_model(str(place / "model")))
    truth.rewards[0] = np.minimum(truth.rewards[0], CEILING)
    audited, p = json.loads(result.out), truth.optimum(SIZES)
    utilities = SIZES * (truth.rewards @ p) - truth.payments(p)
    assert audited["outcomes"] == "all"
    assert [group["truthful_utility"] for group in audited["groups"]] == pytest.approx(utilities, abs=1e-6)
    assert max(group["regret_found"] for group in audited["groups"]) <= 1e-9
    free = command("audit", config(payment="none"), "--json", "--starts", 2)
    assert min(group["regret_found"] for group in json.loads(free.out)["groups"]) > 0.05


@pytest.mark.parametrize(
    ("outcomes", "changes", "said"),
    [
        ({"max_new_tokens": 8}, {}, r"must have at most 200000 responses, found 1\.68e\+06 of 8 tokens"),
        ({"temperature": 0.5}, {}, "must be drawn with temperature 1"),
        ({}, {"model": {"name": "x", "endpoint": {"url": "http://127.0.0.1:9/v1"}}}, "must be a model on this machine"),
    ],
)
def test_what_cannot_be_listed_is_not_audited(
    config: Config, outcomes: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=f"outcomes: {said}"):
        exact_game(read_config(config(outcomes, **changes)))
    result = command("audit", config({"max_new_tokens": 8}))
    assert (result.code, "nothing was audited" in result.err) == (2, True)
