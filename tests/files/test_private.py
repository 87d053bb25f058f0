"""What whole receipts say of privacy: by training without each group, checked by verify, and only where it is known."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game import InputError, registry
from rlhf_game.files.build import settle
from rlhf_game.files.drawn import drawn_receipt, read_drawn_game
from rlhf_game.files.games import parse_game
from rlhf_game.files.own import check_own, own_receipt
from rlhf_game.files.receipts import receipt_of
from rlhf_game.files.verify import verify
from tests.files import forgeries

G3: dict[str, Any] = {
    "reference": [0.7, 0.2, 0.1], "strength": 0.5, "normalization": "sum",
    "groups": [
        {"name": "a", "size": 3, "reward": [0.6, 0.3, 0.1]}, {"name": "b", "size": 2, "reward": [0.1, 0.2, 0.7]},
    ],
}  # fmt: skip


def said(document: dict[str, Any]) -> list[dict[str, Any] | None]:
    game = parse_game(document, "game", Path(), trusted=False)
    return [(group.model_extra or {}).get("privacy") for group in receipt_of(game, settle(game)).groups]


def test_the_golden_game_and_prompts_and_weights() -> None:
    a, b = (one or {} for one in said(G3))
    assert (a["epsilon"], a["epsilon_leaving"], a["epsilon_of_each_prompt"]) == (12.0, 6.0, 12.0)
    assert [one["realised_loss"] for one in (a, b)] == pytest.approx([2.0398, 2.3141], abs=5e-5)
    several = copy.deepcopy(G3) | {"reference": [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], "weights": {"a": 0.5}}
    for group in several["groups"]:
        group["reward"] = [group["reward"], group["reward"][::-1]]
    first = said(several)[0] or {}
    assert (first["epsilon"], first["epsilon_of_each_prompt"]) == (6.0, 12.0)
    shares = np.array([1.5, 2.0])
    scores = np.tensordot(shares, np.array([group["reward"] for group in several["groups"]]), 1)
    own = 1.5 * np.array(several["groups"][0]["reward"])
    rows = [np.array(several["reference"]) * np.exp(score / 0.5) for score in (scores, scores - own)]
    here, without = (row / row.sum(axis=1, keepdims=True) for row in rows)
    assert first["realised_loss"] == pytest.approx(np.abs(np.log(here / without)).max(), rel=1e-12)


def test_an_affine_maximiser_of_ones_own_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})

    @rg.register("training", "halved")
    class Halved(rg.AffineRule):
        def multipliers(self, groups: int) -> np.ndarray:
            return np.full(groups, 0.5)

    assert said(G3 | {"training": "halved"}) == said(G3 | {"weights": {"a": 0.5, "b": 0.5}})


@pytest.mark.parametrize(
    "change",
    [
        {"regularizer": "l2"},
        {"payment": "participation", "participation_cost": 0.01},
        {"models": {"at_most": 2, "cost": 0.1}},
        {"training_cost": 0.01},
    ],
)
def test_nothing_is_said_where_the_policy_is_no_exponential_mechanism(change: dict[str, Any]) -> None:
    assert said(G3 | change) == [None, None]


def test_without_a_domain_only_the_realised_loss_is_known() -> None:
    for one in said(G3 | {"normalization": "none"}):
        assert one is not None
        assert one["epsilon"] is one["epsilon_leaving"] is one["epsilon_of_each_prompt"] is None
        assert one["realised_loss"] > 2


@pytest.mark.parametrize("key", ["epsilon", "epsilon_leaving", "epsilon_of_each_prompt", "realised_loss"])
def test_a_wrong_number_is_found_in_the_whole_and_in_the_own_receipt(key: str, tmp_path: Path) -> None:
    game, receipt, own, mine = (tmp_path / f"{name}.json" for name in ("game", "receipt", "own", "mine"))
    game.write_text(json.dumps(G3))
    mine.write_text(json.dumps({"reward": G3["groups"][0]["reward"], "size": 3}))
    parsed = parse_game(G3, str(game), tmp_path, trusted=False)
    whole, part = receipt_of(parsed, settle(parsed)).model_dump(), own_receipt(parsed, "a").document()
    for factor, count in ((1.0, 0), (1 + 1e-6, 1)):
        whole["groups"][0]["privacy"][key] *= factor
        part["privacy"][key] *= factor
        receipt.write_text(json.dumps(whole))
        own.write_text(json.dumps(part))
        found = [*verify(receipt, game)[1], *check_own(own, mine)[0]]
        assert len(found) == 2 * count
        assert all(f"privacy.{key}" in line for line in found)
    del part["privacy"][key], whole["groups"][0]["privacy"][key]
    own.write_text(json.dumps(part))
    receipt.write_text(json.dumps(whole))
    assert len(verify(receipt, game)[1]) == 1
    if key == "epsilon":
        assert len(check_own(own, mine)[0]) > 0
    if key == "realised_loss":
        with pytest.raises(InputError, match="privacy.realised_loss"):
            check_own(own, mine)


def test_draws_say_what_a_response_tells_at_most(tmp_path: Path) -> None:
    receipt = drawn_receipt(read_drawn_game(forgeries.draws(tmp_path)))
    a, b = ((group.model_extra or {})["privacy"] for group in receipt.groups)
    assert (a["epsilon"], a["epsilon_of_each_prompt"], a["realised_loss"]) == (4.0, 8.0, None)
    assert b["epsilon_leaving"] == 1.0
