"""Populations out of game files that runs have written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.recorded import RunScenario
from tests.simulations.studies import MARKET, rows, study

GAME: dict[str, Any] = {
    "reference": [[0.5, 0.3, 0.2], [0.4, 0.6]],
    "outcomes": [["a", "b", "c"], ["d", "e"]],
    "prompt_weights": [3.0, 1.0],
    "strength": 0.5,
    "groups": [
        {"name": "legal", "size": 3, "reward": [[1, 0, 0], [0.5, 0.25]]},
        {"name": "sales", "size": 1, "reward": [[0, 0.2, 0.8], [0, 1]]},
    ],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "game.json").write_text(json.dumps({**GAME, **changes}))
    return folder


def test_a_game_is_on_one_of_the_prompts_in_their_proportions(tmp_path: Path) -> None:
    folder = written(tmp_path)
    source = RunScenario(kind="run", game=str(folder)).source(Path(), Normalization.NONE)
    drawn = [source.draw(np.random.default_rng(seed), Normalization.NONE) for seed in range(400)]
    wide = [one for one in drawn if one.reference.size == 3]
    assert abs(len(wide) / 400 - 0.75) < 0.1
    np.testing.assert_array_equal(wide[0].rewards, [[1, 0, 0], [0, 0.2, 0.8]])
    np.testing.assert_array_equal(wide[0].reference, [0.5, 0.3, 0.2])
    assert wide[0].sizes.tolist() == [3.0, 1.0]


def test_sizes_can_be_drawn_anew(tmp_path: Path) -> None:
    scenario = RunScenario(kind="run", game=str(written(tmp_path) / "game.json"), sizes=[4, 6])
    source = scenario.source(Path(), Normalization.NONE)
    sizes = [source.draw(np.random.default_rng(seed), Normalization.NONE).sizes for seed in range(40)]
    assert set(np.concatenate(sizes)) == {4.0, 5.0, 6.0}


def test_games_of_different_widths_are_one_study(tmp_path: Path) -> None:
    folder = written(tmp_path)
    changes = {"scenario": {"kind": "run", "game": str(folder)}, "normalization": "none"}
    made = study(changes)
    assert list(made.files) == [f"{folder}/game.json"]
    found = rows(made)
    assert [error for error in found["error"] if error] == []
    assert found["game"].tolist() == sorted(found["game"].tolist())
    one = next(iter(found["utility_i"][found["strategy"] == "truthful"]))
    assert one.shape == (2,)


@pytest.mark.parametrize(
    ("changes", "normalization", "message"),
    [
        ({"weights": {"legal": 2.0}}, "none", "scenario.game: must hold a table"),
        ({}, "sum", "normalization: must be that of the game file .none., found sum"),
        ({"reference": [[0.5, 0.3, 0.1], [0.4, 0.6]]}, "none", "must sum to 1"),
    ],
)
def test_other_games_are_refused(tmp_path: Path, changes: dict[str, Any], normalization: str, message: str) -> None:
    folder = written(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        study({"scenario": {"kind": "run", "game": str(folder)}, "normalization": normalization})


def test_a_folder_without_a_game_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/game\.json: must be a file"):
        study({"scenario": {"kind": "run", "game": "nowhere"}}, base=tmp_path)


@pytest.mark.parametrize("kind", ["multiplicative_weights", "bandit"])
def test_groups_learn_beside_one_that_wants_nothing(tmp_path: Path, kind: str) -> None:
    """Its own payoffs are counted in the largest reward of the game; without payments it has nothing to learn."""
    nothing, some = ({"name": name, "reward": reward} for name, reward in (("a", [0, 0, 0]), ("b", [1, 0, 0.5])))
    folder = written(tmp_path, reference=[0.2, 0.3, 0.5], outcomes=None, prompt_weights=None, groups=[nothing, some])
    changes = {"scenario": {"kind": "run", "game": str(folder)}, "normalization": "none", "games": 3, "rounds": 5}
    found = rows(study({**changes, "learning": {"kind": kind}}, MARKET))
    assert [error for error in found["error"] if error] == []
    free = found["payment"] == "none"
    np.testing.assert_array_equal(found["coarse_regret_i"][free, 0], 0)
    if kind == "multiplicative_weights":
        np.testing.assert_allclose(found["mixture_i"][free][:, 0].tolist(), 1 / 4)
        paid = found["payment"] == "affine"
        assert (found["utility_i"][paid, 0] <= 0).all()
        assert found["truthful"][paid].astype(float)[4] > found["truthful"][paid].astype(float)[0]
