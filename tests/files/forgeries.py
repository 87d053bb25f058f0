"""Forgeries of every leaf of every kind of receipt, each also with every unsigned hash made to fit; what then passes.

A liar who holds no key can write any number into a receipt, an own receipt, a seal, a game, its tables or the files of
a run, and make every hash anew that is not a signature's. ``LISTED`` is what no check can find then: it is printed in
docs/own_bill.md, and test_forgeries.py holds that nothing else passes, and that each line of it does.
"""

import copy
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow
import yaml
from pyarrow import parquet

from rlhf_game.files.build import settle
from rlhf_game.files.drawn import drawn_receipt, exponentials, read_drawn_game
from rlhf_game.files.games import read_game
from rlhf_game.files.receipts import receipt_of
from rlhf_game.files.sampled import read_sampled_game, sampled_receipt
from rlhf_game.files.tables import digest
from rlhf_game.mechanism.draws.tapes import Problem, cut

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "games"
WIDE = {"estimate": 1000, "low": -1e308, "high": 1e308, "level": 1.0}
Place = tuple[str | int, ...]

TABLE: dict[str, Any] = yaml.safe_load((EXAMPLES / "table.yaml").read_text())
THREE = {
    "reference": [0.7, 0.2, 0.1], "strength": 0.5,
    "groups": [
        {"name": "a", "size": 3, "reward": [0.6, 0.3, 0.1]}, {"name": "b", "size": 2, "reward": [0.1, 0.2, 0.7]},
        {"name": "c", "size": 1, "reward": [0.3, 0.4, 0.3]},
    ],
}  # fmt: skip
TRIE = {
    "reference": [[0.6, 0.3, 0.1], [0.5, 0.5]], "missing": [0.01, 0.05], "bounds": [0, 1], "strength": 0.5,
    "groups": [
        {"name": "a", "size": 2, "reward": [[1, 0, 0.5], [0.2, 0.7]]},
        {"name": "b", "size": 1, "reward": [[0, 1, 0.5], [0.2, 0.7]]},
    ],
}  # fmt: skip
CANDIDATES = {
    "reference": [[0.5, 0.25, 0.25], [0.75, 0.25]], "outcomes": [["x", "y", "z"], ["x", "y"]], "strength": 0.3,
    "effective_sample_size": [3.5, 4.0], "provenance": {"prompts": ["p", "q"]},
    "groups": [
        {"name": "a", "size": 2, "reward": [[0.1, 0.9, 0.4], [1.0, 0.2]]},
        {"name": "b", "size": 1, "reward": [[0.8, 0.0, 0.4], [0.3, 0.9]]},
    ],
}  # fmt: skip
GAMES: Final[dict[str, dict[str, Any]]] = {
    **{path.stem: yaml.safe_load(path.read_text()) for path in sorted(EXAMPLES.glob("*.yaml"))},
    **{name: {**TABLE, "regularizer": name} for name in ("reverse_kl", "chi2", "js", "hellinger", "alpha:1.5")},
    "free": {**TABLE, "payment": "none"},
    "candidates": CANDIDATES,
    "trie": TRIE,
    "several models": {**THREE, "models": {"at_most": 2, "cost": 0.15}},
    "trained or not": {**THREE, "training_cost": 0.01},
    "participation": {**THREE, "payment": "participation", "participation_cost": 0.2},
    "a fee": {**THREE, "normalization": "sum", "fee": "false_name_proof", "owner_limit": 4},
    "a rule without money": {**THREE, "training": "nash", "payment": "none"},
}


LISTED: Final[dict[str, dict[str, str]]] = {
    "receipt": {
        "version": "which release wrote it; one newer than yours is found",
        "provenance": "of which models and files it is; `verify FOLDER` compares it with the files of a run",
        "commitments": "found with `--seal`",
        "signature": "found with `--key`",
    },
    "game, its hash made to fit": {
        "outcomes": "what the outcomes are called: nothing is computed from it",
        "normalization": "the domain of reports, but for payment revenue: it bounds lies, not this bill",
        "provenance": "where the numbers come from; `verify FOLDER` compares it with the files of a run",
    },
    "game over a menu, its hash made to fit": {
        "outcomes": "what the entries are called",
        "normalization": "the domain of reports: it bounds lies, not this bill",
        "divergence": "numbers of an entry that neither the choice nor a payment depends on",
        "groups[].reward": "the same",
    },
    "game with several models, its hash made to fit": {"models.at_most": "more than are trained"},
    "game over samples, its hash made to fit": {"policies": "their order"},
    "game over draws, its hash made to fit": {
        "max_proposals": "it only moves a bound that is smaller than rounding",
        "size_limit": "the same",
    },
    "tape.parquet, all hashes made to fit": {"response": "the text of a proposal; its rewards are there and checked"},
    "own receipt": {
        "": "keys that are not known are not read",
        "version": "which release wrote it",
        "for": "whose it is; found with a seal",
        "initial": "where there is no automaton",
        "outcomes": "what the outcomes are called: the report's numbers are about them",
        "prompts": "what was asked: the same",
        "reference": "under KL the bill does not depend on it; others: changes of less than 1e-6",
        "privacy": "that there is a domain at all",
        "policy": "of an automaton, in states that are never reached; where it is 0, what the bill's interval allows",
        "weight": "the same interval",
        "strength": "the same interval",
    },
    "own receipt, commitment and root made to fit": {
        "for": "compare the root with the one that was published",
        "commitment": "the same",
        "path": "the same",
        "root": "the same",
    },
    "seal": {"version": "which release wrote it"},
    "seal, commitments, root and seed made to fit": {
        "groups[].commitment": "the lie is undone by making it fit",
        "groups[].salt": "of a group without a salt of its own; the root is then another than the published one",
        "root": "the lie is undone by making it fit",
        "seed": "the same",
    },
    "config.json of a run, all hashes made to fit": {
        "outcomes.columns": "what columns of the rows were read as what; the rows are not read again",
        "groups[].reward": "the reward's own defaults, written out or not",
        "files": "of files that no digest in the folder names",
    },
    "candidates.parquet of a run, all hashes made to fit": {"count": "of given rows; what is used is weight"},
}
"""What passes every check but a signature's: document, place (whatever begins with it), why."""


def samples(folder: Path, payments_from: str = "samples") -> Path:
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
        "space": "samples", "regularizer": "kl", "strength": 1.0,
        "payment": "none" if payments_from == "none" else "affine",
        "payments_from": "samples" if payments_from == "none" else payments_from,
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


def draws(folder: Path, payment: str = "affine") -> Path:
    """A game over a tape whose proposals are made up here."""
    worth, seed, count = np.array([[0.9, 0.6, 0.1], [0.1, 0.4, 0.9]]), 5, 4
    problem, rng = Problem(np.array([2.0, 1.0]), np.ones(2), 1.0, np.ones(2)), np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for b in (0, 1):
        picked, waits = rng.integers(3, size=400), exponentials(seed, 0, b, 400)
        tape = cut(problem, worth[:, picked], waits, count)
        assert tape is not None
        for j, x in enumerate(picked[: tape.proposals].tolist()):
            rewards = {f"reward:{name}": worth[i, x] for i, name in enumerate("ab")}
            place = {
                "part": 0,
                "prompt": b,
                "proposal": j,
                "response": f"text {x}",
                "exponential": waits[j],
                "is_whole": True,
            }
            rows.append({**place, "accepted": j in tape.accepted, **rewards})
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "tape.parquet")
    game = {
        "space": "draws", "regularizer": "kl", "strength": 1.0, "payment": payment, "estimator": "rao_blackwell",
        "draws": count, "max_proposals": 10**6, "level": 0.95, "prompts": 2, "settlement_seed": seed,
        "groups": [{"name": "a", "size": 2, "ceiling": 1.0}, {"name": "b", "size": 1, "ceiling": 1.0}],
        "seed_from": "provider", "size_limit": 2,
        "tape": {"file": "tape.parquet", "sha256": digest(folder / "tape.parquet")},
    }  # fmt: skip
    (folder / "game.json").write_text(json.dumps(game))
    return folder / "game.json"


def written(folder: Path, game: dict[str, Any]) -> Path:
    (folder / "game.json").write_text(json.dumps(game))
    return folder / "game.json"


KINDS: Final[dict[str, Callable[[Path], Path]]] = {
    **{name: functools.partial(lambda folder, game: written(folder, game), game=game) for name, game in GAMES.items()},
    "samples": samples,
    "samples by the reference": lambda folder: samples(folder, "reference"),
    "samples for free": lambda folder: samples(folder, "none"),
    "draws": draws,
    "draws for free": lambda folder: draws(folder, "none"),
}
"""How to make a game of each kind in a folder."""


def receipt(game: Path) -> dict[str, Any]:
    """Return the receipt of a game, as its file says it."""
    space = json.loads(game.read_text()).get("space")
    if space == "samples":
        made = sampled_receipt(read_sampled_game(game))
    elif space == "draws":
        made = drawn_receipt(read_drawn_game(game))
    else:
        one = read_game(game)
        made = receipt_of(one, settle(one))
    found: dict[str, Any] = json.loads(json.dumps(made.model_dump()))
    return found


def document_of(kind: str) -> str:
    """Return what LISTED calls the game of a kind."""
    of = {"menu": "over a menu", "several models": "with several models"}.get(kind, "")
    of = of or ("over samples" if kind.startswith("samples") else "over draws" if kind.startswith("draws") else "")
    return f"game {of}, its hash made to fit" if of else "game, its hash made to fit"


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


def lies(value: Any) -> list[Any]:
    """What a liar could put in the place of a value."""
    if isinstance(value, bool):
        return [not value, int(value), None]
    if isinstance(value, int):
        return [value + 1, value - 1, float(value), True, 10**399, None, WIDE]
    if isinstance(value, float):
        moved = value * (1 + 1e-6) if value else 1e-6
        around = {"estimate": value, "low": value, "high": value, "level": 1.0}
        other = [moved, -value if value else -1e-6, 1 - value if value != 0.5 else 0.25]
        return [*other, 10**399, float("inf"), float("nan"), str(value), True, None, [value], WIDE, around]
    if isinstance(value, str):
        swapped = "right" if value == "left" else value.swapcase()
        return [value + "x", "", value[:-1], "0.0.2" if value[:1] == "0" else "none", swapped, "f" * 64, None, 1]
    if value is None:
        return ["kl", 0, 0.5, WIDE]
    if isinstance(value, list):
        return [value[:-1], [*value, value[-1]], value[::-1], [], value[0], {"file": "x.npy", "sha256": "0" * 64}, None]
    forged = [{**value, "more": 1.0}, {key: value[key] for key in list(value)[1:]}, {}, None, [value]]
    if {"estimate", "low", "high"} <= value.keys():
        forged += [value["estimate"], WIDE, {**value, "level": 1.0 if value["level"] < 1 else 0.5}]
        forged += [{**value, "low": value["high"], "high": value["low"]}, {**value, "low": -1e308}]
        forged += [{**value, "estimate": value["high"] + 1.0}, {**value, "high": 1e308}]
    return forged


def with_lie(document: Any, place: Place, value: Any) -> Any:
    if not place:
        return value
    document = copy.copy(document)
    document[place[0]] = with_lie(document[place[0]], place[1:], value)
    return document


def at(document: Any, place: Place) -> Any:
    return functools.reduce(lambda value, key: value[key], place, document)


def forged(document: Any, most: int | None = None) -> Iterator[tuple[str, Any]]:
    """Every forgery of a document, with the name of its place; lies that change nothing are left out.

    most: of each place, so many.
    """
    for place in places(document):
        was = at(document, place)
        for lie in lies(was)[:most]:
            if type(lie) is type(was) and lie == was:
                continue
            yield named(place), with_lie(document, place, lie)


def named(place: Place) -> str:
    """Return a place as the docs name it: groups[].reward[]."""
    return re.sub(r"^\.", "", "".join("[]" if isinstance(key, int) else f".{key}" for key in place))
