"""No game, however mutated, gives a traceback: it settles (code 0) or is refused in one line (code 2)."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_game.files.documents import parse_yaml
from tests.cli.runner import run

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "games").glob("*.yaml"))
VALUES = (
    st.sampled_from([None, True, False, 0, 1, -1, 2, 0.5, 1e-300, 1e300, -1e308, 5e-324, 2**53, 10**25, "", "kl", "l2"])
    | st.sampled_from(["js", "chi2", "hellinger", "reverse_kl", "alpha:3", "alpha:-1", "alpha:0", "none", "sum", "max"])
    | st.sampled_from(["revenue", "affine", "menu", "table", [], {}, [[]], [1], [[1.0]], {"file": "x.npy"}, "\x00\n"])
    | st.floats()
    | st.text(max_size=3)
)

NUMBERS = (
    st.sampled_from([0.0, 1.0, 1e-320, 1e-150, 1e-30, 1e-8, 1e8, 1e30, 1e139, 1e300, 1, 2, 7, 10**6, 2**53])
    | st.floats(0, 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
REGULARIZERS = ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger", "alpha:3", "alpha:-1.5", "alpha:0.3", "alpha:40"]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and every key or index of it."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutate(draw: st.DrawFn, document: Any, other: Callable[[Any, Any], Any]) -> None:
    """Replace, remove, double or rename one to three places. other: what is put at a key of a holder."""
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(places(document)) or [([0], 0)]))
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "rename"])):
            case "replace":
                holder[key] = other(holder, key)
            case "remove":
                del holder[key]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=3))] = holder.pop(key)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """An example game with one to three places replaced, removed, doubled or renamed."""
    document = parse_yaml(draw(st.sampled_from(EXAMPLES)).read_text(), "example")

    def other(holder: Any, key: Any) -> Any:
        if key == "horizon":  # one of 2**31 is right, and takes its time
            return holder[key]
        is_number = isinstance(holder[key], int | float) and draw(st.booleans())
        return draw(NUMBERS) if is_number else copy.deepcopy(draw(VALUES))

    mutate(draw, document, other)
    return document


@st.composite
def extreme(draw: st.DrawFn) -> Any:
    """A well-formed game with numbers of any magnitude."""
    outcomes = draw(st.integers(1, 4))
    row = st.lists(NUMBERS, min_size=outcomes, max_size=outcomes)
    parts = draw(st.lists(st.integers(0, 3), min_size=outcomes, max_size=outcomes).filter(any))
    reference = [part / sum(parts) for part in parts]
    document: dict[str, Any] = {"strength": draw(st.just(0.5) | NUMBERS.map(abs).filter(bool))}
    match draw(st.sampled_from(["table", "table", "menu", "automaton"])):
        case "table":
            document["reference"] = reference
            document["regularizer"] = draw(st.sampled_from(REGULARIZERS))
        case "menu":
            document |= {"space": "menu", "divergence": [abs(number) for number in draw(row)]}
        case "automaton":
            document |= {"space": "automaton", "reference": [reference], "horizon": draw(st.integers(1, 5))}
            document["next_state"] = [draw(st.lists(st.integers(-1, 0), min_size=outcomes, max_size=outcomes))]
            row = row.map(lambda numbers: [numbers])  # type: ignore[assignment, arg-type, return-value]
    rewards = draw(st.lists(row, min_size=1, max_size=3))
    sizes = st.sampled_from([1, 2, 10**6, 2**53])
    document["groups"] = [{"name": f"g{i}", "size": draw(sizes), "reward": reward} for i, reward in enumerate(rewards)]
    if draw(st.booleans()):
        document |= {"boosts": draw(row), "weights": {"g0": draw(NUMBERS.map(abs).filter(bool))}}
    return document


def check(path: Path) -> None:
    for arguments in (["--json"], []):
        result = run("settle", path, *arguments)
        if result.code == 0:
            assert result.err == ""
            if arguments:
                json.loads(result.out, parse_constant=pytest.fail)  # every number is finite
        else:
            assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
            assert result.err.startswith(f"rlhf-game: {path}: ")
            assert result.err[:-1].isprintable()


@settings(max_examples=200)
@given(mutated())
def test_a_mutated_game_settles_or_is_refused(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.json"
        path.write_text(json.dumps(document))
        check(path)


@settings(max_examples=200)
@given(extreme())
def test_a_game_with_extreme_numbers_settles_or_is_refused(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.json"
        path.write_text(json.dumps(document))
        check(path)


@settings(max_examples=100)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_game_with_broken_bytes_settles_or_is_refused(example: Path, data: st.DataObject) -> None:
    text = bytearray(example.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        cut = data.draw(st.integers(0, 3))
        text[at : at + cut] = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"[", b"]", b":", b"- ", b"\t", b"&a "])
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.yaml"
        path.write_bytes(text)
        check(path)
