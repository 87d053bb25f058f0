"""Studies of rules that are not affine: lies are searched for under the rule that is paid, not under ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from tests.simulations.studies import MARKET, rows, study

BID = """
import numpy as np
import rlhf_game as rg

class PayAsBid(rg.PaymentRule[rg.AffineRule]):
    def charge(self, optimum):
        return optimum.sizes * optimum.values()
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(BID)
    return tmp_path


def test_a_best_response_is_one_to_the_rule_that_is_paid(base: Path) -> None:
    small: dict[str, Any] = {
        "games": 2, "payments": ["affine", "mine.py:PayAsBid"], "normalization": "max",
        "strategies": [{"kind": "best_response", "starts": 2}, {"kind": "coalition", "starts": 2, "steps": 5}],
    }  # fmt: skip
    found = rows(study(small, base=base))
    best = np.char.startswith(found["strategy"].astype(str), "best_response")
    pair = np.char.startswith(found["strategy"].astype(str), "coalition")
    bid = found["payment"] == "mine.py:PayAsBid"
    assert (found["gain_i"][best & bid] > 0.01).all()  # who bids what it is worth keeps nothing
    assert (found["gain_i"][best & ~bid] == 0).all()
    assert (found["gain"][pair & bid] > 0.01).all()


def test_a_rule_of_ones_own_that_learns_of_a_space_has_learned_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("""
from dataclasses import dataclass
import rlhf_game as rg

@dataclass(frozen=True)
class Likes(rg.TrainingRule):
    likes: float = 0.0

    def fitted(self, space):
        return Likes(1 + space.strength)

    def train(self, profile, space):
        return space.maximize(self.likes * profile.sizes, profile.rewards)
""")
    rules = {"games": 2, "payments": ["none"], "training": "mine.py:Likes", "strategies": [{"kind": "truthful"}]}
    made, plain = study(rules, base=tmp_path), rows(study({**rules, "training": "social_welfare"}))["value_i"]
    found = rows(made)["value_i"]
    np.testing.assert_allclose(settle(made.game(1)).values, found[1], rtol=1e-9)
    assert np.abs(found - plain).max() > 1e-3


def test_groups_learn_under_the_rule_that_is_paid(base: Path) -> None:
    """Whoever pays its bid learns to ask for less; with affine payments nobody does."""
    changes = {
        "games": 4, "rounds": 40, "payments": ["affine", "mine.py:PayAsBid"], "normalization": "max",
        "menu": [{"kind": "polarize", "temperature": 6.0}], "learning": {"kind": "best_response", "start": "truthful"},
    }  # fmt: skip
    found = rows(study(changes, MARKET, base))
    last = found["round"] == 39
    assert (found["truthful"][last & (found["payment"] == "affine")] == 1).all()
    assert found["truthful"][last & (found["payment"] != "affine")].mean() < 0.5


def test_best_reports_under_a_rule_without_a_gradient_are_refused_in_a_market(base: Path) -> None:
    learning = {"kind": "best_response", "over": "reports"}
    with pytest.raises(InputError, match="learning.over: must be menu .* found reports with mine.py:PayAsBid"):
        study({"payments": ["mine.py:PayAsBid"], "learning": learning}, MARKET, base)
