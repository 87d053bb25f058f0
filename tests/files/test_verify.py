"""Every leaf of every kind of receipt is computed again, or is named among what is taken on trust."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from rlhf_game.errors import InputError
from rlhf_game.files.build import settle
from rlhf_game.files.games import read_game
from rlhf_game.files.receipts import receipt_of
from rlhf_game.files.sampled import read_sampled_game, sampled_receipt
from rlhf_game.files.tables import digest
from rlhf_game.files.verify import ON_TRUST, verify
from tests.cli.runner import run

GAMES = sorted((Path(__file__).resolve().parents[2] / "examples" / "games").glob("*.yaml"))
WIDE = {"estimate": 1000, "low": -1e308, "high": 1e308, "level": 1.0}
ANY = {"version": "0.0.1", "provenance": {"model": {"sha256": "0" * 64}, "versions": {"numpy": "1"}, "seed": 7}}

Place = tuple[str | int, ...]


def trie(folder: Path) -> Path:
    game = {
        "reference": [[0.6, 0.3, 0.1], [0.5, 0.5]], "missing": [0.01, 0.05], "bounds": [0, 1], "strength": 0.5,
        "groups": [
            {"name": "a", "size": 2, "reward": [[1, 0, 0.5], [0.2, 0.7]]},
            {"name": "b", "size": 1, "reward": [[0, 1, 0.5], [0.2, 0.7]]},
        ],
    }  # fmt: skip
    (folder / "game.json").write_text(json.dumps(game))
    return folder / "game.json"


def samples(folder: Path, payment: str = "affine") -> Path:
    """A game over draws of two policies, which are not trained but drawn here."""
    rng = np.random.default_rng(0)
    chances = {"reference": [0.4, 0.3, 0.3], "final": [0.6, 0.3, 0.1]}
    rows = [
        (policy, b, f"text {x}", float(np.log(p[x])), float(np.log(chances["reference"][x])))
        for policy, p in chances.items() for b in (0, 1) for x in rng.choice(3, size=40, p=p)
    ]  # fmt: skip
    names = ("policy", "prompt", "text", "log_probability", "log_reference")
    drawn = dict(zip(names, zip(*rows, strict=True), strict=True))
    parquet.write_table(pyarrow.table(drawn), folder / "samples.parquet")
    scored = [(b, f"text {x}", x / 2, abs(1 - x / 2)) for b in (0, 1) for x in range(3)]
    scores = dict(zip(("prompt_index", "response", "a", "b"), zip(*scored, strict=True), strict=True))
    parquet.write_table(pyarrow.table(scores), folder / "scores.parquet")
    game = {
        "space": "samples", "regularizer": "kl", "strength": 1.0, "payment": payment, "payments_from": "samples",
        "level": 0.95, "cap": 4.0, "cap_from": "cap",
        "groups": [{"name": "a", "size": 2}, {"name": "b", "size": 1}],
        "policies": ["reference", "final"],
        **{name: {"file": f"{name}.parquet", "sha256": digest(folder / f"{name}.parquet")}
           for name in ("samples", "scores")},
        "trainer": {"name": "rloo", "is_faithful": True, "reason": "its optimum is the mechanism's"},
        "cost": {"trainings": 1, "tokens": 10, "drawn": 240, "seconds": "cost.json"},
        "settlement_seed": 3, "seed_from": "provider",
    }  # fmt: skip
    (folder / "game.json").write_text(json.dumps(game))
    return folder / "game.json"


def receipt(game: Path) -> dict[str, Any]:
    if json.loads(game.read_text()).get("space") == "samples" if game.suffix == ".json" else False:
        return sampled_receipt(read_sampled_game(game)).model_dump()
    one = read_game(game)
    return receipt_of(one, settle(one)).model_dump()


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every place of a document, of leaves and of what holds them; of a long list its ends only."""
    yield place
    pairs: list[Any] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(i, value[i]) for i in sorted({0, 1, len(value) - 2, len(value) - 1} & set(range(len(value))))]
    for key, inner in pairs:
        yield from places(inner, (*place, key))


def forgeries(value: Any) -> list[Any]:
    """What a liar could put in the place of a value."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int):
        return [value + 1, value - 1, float(value), True, 10**399, None, WIDE]
    if isinstance(value, float):
        moved = value * (1 + 1e-6) if value else 1e-6
        around = {"estimate": value, "low": value, "high": value, "level": 1.0}
        return [
            moved,
            -value if value else -1e-6,
            10**399,
            float("inf"),
            float("nan"),
            str(value),
            True,
            None,
            [value],
            WIDE,
            around,
        ]
    if isinstance(value, str):
        return [value + "x", "", value.swapcase(), "f" * 64, None, 1]
    if value is None:
        return ["kl", 0, 0.5, WIDE]
    if isinstance(value, list):
        return [value[:-1], [*value, value[-1]], [], value[0], {"file": "x.npy", "sha256": "0" * 64}, None]
    forged = [{**value, "more": 1.0}, {key: value[key] for key in list(value)[1:]}, {}, None, [value]]
    if {"estimate", "low", "high"} <= value.keys():
        forged += [value["estimate"], WIDE, {**value, "level": 1.0 if value["level"] < 1 else 0.5}]
        forged += [{**value, "low": value["high"], "high": value["low"]}, {**value, "low": -1e308}]
        forged += [{**value, "estimate": value["high"] + 1.0}, {**value, "high": 1e308}]
    return forged


def with_forgery(document: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    document = copy.copy(document)
    document[place[0]] = with_forgery(document[place[0]], place[1:], value)
    return document


def is_found(forged: Any, game: Path, path: Path) -> bool:
    path.write_text(json.dumps(forged))
    try:
        return bool(verify(path, game)[1])
    except InputError:
        return True


KINDS: dict[str, Callable[[Path], Path]] = {
    **{path.stem: (lambda _, path=path: path) for path in GAMES},  # type: ignore[misc]
    "trie": trie,
    "samples": samples,
    "samples for free": lambda folder: samples(folder, "none"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_forged_leaf_is_found_or_taken_on_trust(kind: str, tmp_path: Path) -> None:
    game = KINDS[kind](tmp_path)
    honest = receipt(game)
    assert not is_found(honest, game, tmp_path / "receipt.json")
    assert not is_found({**honest, **ANY}, game, tmp_path / "receipt.json")
    missed = [
        (place, forged)
        for place in places(honest)
        if place[:1] != ("version",)
        for forged in forgeries(eval_at(honest, place))
        if not is_found(with_forgery(honest, place, forged), game, tmp_path / "receipt.json")
    ]
    assert missed == []


def eval_at(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def test_what_is_taken_on_trust_is_said(tmp_path: Path) -> None:
    game = trie(tmp_path)
    (tmp_path / "receipt.json").write_text(json.dumps(receipt(game)))
    result = run("verify", tmp_path / "receipt.json", game)
    assert result.code == 0
    assert all(key in result.out for key in ON_TRUST)


def test_a_report_marks_a_receipt_that_does_not_verify(tmp_path: Path) -> None:
    game, path = trie(tmp_path), tmp_path / "receipt.json"
    honest = receipt(game)
    for forged, said in ((honest, "Checked"), (with_forgery(honest, ("groups", 0, "payment"), 0.0), "not what the")):
        path.write_text(json.dumps(forged))
        assert run("report", game, "--receipt", path, "-o", tmp_path / "page.html").code == 0
        assert said in (tmp_path / "page.html").read_text()
