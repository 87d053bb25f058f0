"""Specifications: sweeps over any field, messages that name it, and what stays the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.errors import InputError
from rlhf_game.simulations.study import read_study
from tests.simulations.studies import GAMES, MARKET, rows, study


def test_a_sweep_is_the_product_of_its_fields_in_order() -> None:
    made = study(
        {"sweep": {"strength": [0.1, 1.0], "scenario.groups": [2, 4], "strategies[0].temperature": [2.0, 8.0]}}
    )
    assert [dict(point.values) for point in made.points[:3]] == [
        {"strength": 0.1, "scenario.groups": 2, "strategies[0].temperature": 2.0},
        {"strength": 0.1, "scenario.groups": 2, "strategies[0].temperature": 8.0},
        {"strength": 0.1, "scenario.groups": 4, "strategies[0].temperature": 2.0},
    ]
    assert len(made.points) == 8
    last = made.points[-1].fields
    assert last.strength == 1.0
    assert last.scenario.groups == 4  # type: ignore[union-attr]
    assert [lie.label for lie in last.choices()] == ["truthful", "polarize(temperature=8.0)", "resize(factor=2.0)"]


def test_whole_parts_can_be_swept() -> None:
    scenarios = [{"kind": "random"}, {"kind": "heavy", "factor": 2.0}]
    made = study({"sweep": {"scenario": scenarios, "liars": ["each", 0.5]}})
    assert made.points[2].fields.scenario.kind == "heavy"
    assert json.loads(made.points[2].columns["scenario"]) == scenarios[1]
    assert [point.columns["liars"] for point in made.points[:2]] == ["each", "0.5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -1.0}, "^study.yaml: strength: must be greater than 0"),
        ({"colour": 1}, "^study.yaml: colour: must be one of the keys"),
        ({"kind": "poker"}, "^study.yaml: kind: must be games or market or equilibrium, found the text"),
        ({"games": 0}, "^study.yaml: games: must be"),
        ({"scenario": {"kind": "random", "groups": 0}}, "^study.yaml: scenario.random.groups: must be"),
        ({"payments": ["affine", "affine"]}, "^study.yaml: payments: must name each rule once"),
        ({"payments": ["revenue"], "normalization": "none"}, "^study.yaml: payments: revenue must come with"),
        ({"strategies": [{"kind": "polarize"}] * 2}, "^study.yaml: strategies: must differ"),
        ({"sweep": 3}, "^study.yaml: sweep: must be a mapping"),
        ({"sweep": {"strength": []}}, "^study.yaml: sweep.strength: must be a list of at least one"),
        ({"sweep": {"seed": [1, 2]}}, "^study.yaml: sweep.seed: must not be"),
        ({"sweep": {"scenario.colour.red": [1]}}, "^study.yaml: sweep.scenario.colour.red: must be a field"),
        (
            {"sweep": {"strategies[7].temperature": [1.0]}},
            "^study.yaml: sweep.strategies.7..temperature: must be a field",
        ),
        ({"sweep": {"strength": [1.0, -1.0]}}, "^study.yaml: with strength = -1.0: strength: must be greater"),
        ({"games": 0, "sweep": {"strength": [1.0, 2.0]}}, "^study.yaml: games: must be"),
        ({"sweep": {"s-t": [1.0]}}, "^study.yaml: sweep.s-t: must be a field"),
    ],
)
def test_a_wrong_specification_names_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        study(changes)
    assert "\n" not in str(error.value)


def test_the_document_of_a_study_is_a_study_with_the_same_hash(tmp_path: Path) -> None:
    for of in (GAMES, MARKET):
        made = study({"sweep": {"strength": [0.1, 1.0]}}, of)
        (tmp_path / "config.json").write_text(json.dumps(made.document()))
        again = read_study(tmp_path / "config.json")
        assert again.document() == made.document()
        assert again.sha256 == made.sha256
        assert study({"seed": 77}, of).sha256 != made.sha256


def test_chunks_cover_every_game_once_in_the_order_of_the_rows() -> None:
    made = study({"games": 40, "chunk": 16, "sweep": {"strength": [0.1, 1.0]}})
    chunks = list(made.chunks())
    assert [chunk.number for chunk in chunks] == list(range(made.count))
    assert [(chunk.point.index, *chunk.games[:1], len(chunk.games)) for chunk in chunks] == [
        (0, 0, 16), (0, 16, 16), (0, 32, 8), (1, 0, 16), (1, 16, 16), (1, 32, 8),
    ]  # fmt: skip


def test_points_of_a_sweep_draw_games_of_their_own() -> None:
    made = study({"sweep": {"strength": [0.5, 0.5]}, "payments": ["none"]})
    first, second = (rows(made, at)["welfare"] for at in (0, 1))
    assert not set(first) & set(second)
