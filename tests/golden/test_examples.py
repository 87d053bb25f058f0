"""What the commands say of every example game is what they said when examples.json was recorded.

The file holds the output of ``settle --json`` and ``audit --json --seed 0`` on each file of examples/games. A number
that is meant to change is recorded anew with ``python -m tests.golden.test_examples``, and the commit says why.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_game import __version__
from tests.cli.runner import run

HERE = Path(__file__).resolve().parent
GAMES = sorted((HERE.parents[1] / "examples/games").glob("*.yaml"))
RECORDED = HERE / "examples.json"
CLOSE = 1e-12
"""Relative; of amounts that may be rounding alone, relative to the largest amount of their document."""
SEARCHED = 1e-9
"""What the end of a search may lose, relative to the largest amount of the document."""


def documents_of(path: Path) -> dict[str, Any]:
    out = {}
    for name, command in {
        "settle": ("settle", path, "--json"),
        "audit": ("audit", path, "--json", "--seed", 0),
    }.items():
        done = run(*command)
        assert done.code == 0, done.err
        out[name] = json.loads(done.out.replace(f'"version": "{__version__}"', '"version": null'))
    return out


def apart(mine: Any, theirs: Any, at: str, scale: float, close: float = CLOSE) -> list[str]:
    """Return a line for each leaf that differs; ``scale``: the largest amount there is."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        if mine.keys() != theirs.keys():
            return [f"{at}: keys {sorted(mine)} instead of {sorted(theirs)}"]
        return [line for key in theirs for line in apart(mine[key], theirs[key], f"{at}.{key}", scale, close)]
    if isinstance(theirs, list) and isinstance(mine, list) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [line for i, (a, b) in pairs for line in apart(a, b, f"{at}[{i}]", scale, close)]
    if isinstance(theirs, float) and isinstance(mine, float):
        slack = close * (abs(theirs) if ".payment" in at or ".policy" in at else scale)
        return (
            [] if abs(mine - theirs) <= max(slack, close * abs(theirs)) else [f"{at}: {mine!r} instead of {theirs!r}"]
        )
    return [] if mine == theirs and type(mine) is type(theirs) else [f"{at}: {mine!r} instead of {theirs!r}"]


def searched(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """Split a group of an audit into what is computed, and what the end of a search decides."""
    found = {"regret_found": group["regret_found"], "best_gain": group["best_gain"]}
    rest = {key: value for key, value in group.items() if key not in {*found, "best_strategy", "best_report", "gains"}}
    simple = {name: gain for name, gain in group["gains"].items() if not name.startswith("BestResponse")}
    return {**rest, "gains": simple}, found


def largest(document: Any) -> float:
    if isinstance(document, dict | list):
        values = document.values() if isinstance(document, dict) else document
        return max([0.0, *map(largest, values)])
    return abs(document) if isinstance(document, float) else 0.0


@pytest.mark.parametrize("path", GAMES, ids=lambda path: path.stem)
def test_the_examples_say_what_they_said(path: Path) -> None:
    recorded, now = json.loads(RECORDED.read_text(encoding="utf-8"))[path.stem], documents_of(path)
    scale = largest(recorded["settle"])
    assert apart(now["settle"], recorded["settle"], "settle", scale) == []
    pairs = list(zip(now["audit"].pop("groups"), recorded["audit"].pop("groups"), strict=True))
    assert apart(now["audit"], recorded["audit"], "audit", scale) == []
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys()
        assert mine["gains"].keys() == theirs["gains"].keys()
        (sure, found), (wanted, least) = searched(mine), searched(theirs)
        assert apart(sure, wanted, "audit.groups", scale) == []
        for key, amount in least.items():
            assert found[key] >= amount - SEARCHED * scale, key


def test_every_example_is_recorded() -> None:
    assert {path.stem for path in GAMES} == set(json.loads(RECORDED.read_text(encoding="utf-8")))


def test_a_digit_a_key_and_a_sign_are_seen() -> None:
    settle = json.loads(RECORDED.read_text(encoding="utf-8"))["table"]["settle"]
    scale = largest(settle)
    for change in (
        {"divergence": settle["divergence"] + 3e-12 * scale},
        {
            "groups": [
                {**settle["groups"][0], "payment": settle["groups"][0]["payment"] * (1 + 3e-12)},
                settle["groups"][1],
            ]
        },
        {"policy": [-p for p in settle["policy"]]},
        {"more": 1},
    ):
        assert len(apart({**settle, **change}, settle, "settle", scale)) >= 1


if __name__ == "__main__":
    RECORDED.write_text(
        json.dumps({path.stem: documents_of(path) for path in GAMES}, indent=1) + "\n", encoding="utf-8"
    )
