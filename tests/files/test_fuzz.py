"""Every file format, mutated: it is read, or refused in one line by an error of this package."""

import copy
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rlhf_game.discovery import read_discovery
from rlhf_game.errors import RlhfGameError
from rlhf_game.files.documents import parse_yaml
from rlhf_game.files.preferences import read_preferences
from rlhf_game.files.tables import read_table
from rlhf_game.outcomes import read_config
from rlhf_game.outcomes.given_rows import GivenSpec, read_given
from rlhf_game.simulations.study import read_study
from rlhf_game.training import read_training
from tests.cli.runner import run
from tests.cli.test_fuzz import VALUES, mutate

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIGURATIONS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "run": (read_config, ("given", "run_smollm2", "run_trie", "finetuned", "prompts")),
    "train": (read_training, ("reward_model", "ensemble", "elastic_reset", "eso", "dpo", "osp", "seft", "distill")),
    "discover": (read_discovery, ("discover",)),
    "simulate": (read_study, ("sweep", "market")),
}
MORE = st.sampled_from([10**309, -(10**400), 10**25, "x" * 300, "\x00\n", [None], {"a": None}, {"kind": "x"}, "a.py:f"])


def held(read: Callable[[], Any]) -> None:
    try:
        read()
    except RlhfGameError as error:
        assert "\n" not in str(error)  # noqa: PT017 - that it is one of ours is the other half of the claim


@cache
def example(name: str) -> Any:
    return parse_yaml((EXAMPLES / f"{name}.yaml").read_text(), name)


@st.composite
def mutated(draw: st.DrawFn, documents: list[Any]) -> Any:
    document = copy.deepcopy(draw(st.sampled_from(documents)))
    mutate(draw, document, lambda holder, key: copy.deepcopy(draw(VALUES | MORE)))
    return document


@st.composite
def broken(draw: st.DrawFn, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """A file with one to four places changed, cut out or put in."""
    name, content = draw(st.sampled_from(files))
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(found) - 1))
        found[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=5))
        if not found:
            break
    return name, bytes(found)


@pytest.mark.parametrize("command", CONFIGURATIONS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_configuration(command: str, data: st.DataObject) -> None:
    read, names = CONFIGURATIONS[command]
    document = data.draw(mutated([example(name) for name in names]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.json"
        path.write_text(json.dumps(document))
        held(lambda: read(path))


def tables() -> list[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "a.npy", np.arange(6.0).reshape(2, 3))
        np.savez_compressed(folder / "a.npz", r=np.arange(6.0))
        np.savez(folder / "b.npz", r=np.arange(6.0))
        parquet.write_table(pa.table({"r": [[1.0, 2.0], [3.0, 4.0]]}), folder / "a.parquet")
        parquet.write_table(pa.table({"r": [1.0, 2.0]}), folder / "b.parquet")
        return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


@settings(max_examples=300)
@given(broken(tables()))
def test_a_table(file: tuple[str, bytes]) -> None:
    name, content = file
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        held(lambda: read_table(name if name.endswith(".npy") else f"{name}:r", Path(folder)))


SAID = {"prompt": "a", "response": "b", "x": 1.0, "count": 2, "chosen": "x", "rejected": "y", "split": "train"}
ASKED = [{"role": "user", "content": "q"}]
ANSWER = [{"role": "assistant", "content": "c"}]
ROWS = [SAID, {**SAID, "prompt": ASKED, "response": ANSWER, "chosen": ANSWER, "rejected": "d", "split": "test"}]


@settings(max_examples=200)
@given(mutated([ROWS]))
def test_rows(rows: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        held(lambda: read_given(GivenSpec(kind="given", file=path.name), path.parent))
        held(lambda: read_preferences(path))


def packed() -> list[tuple[str, bytes]]:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({key: [value, value] for key, value in SAID.items()}), sink)
    return [("r.parquet", sink.getvalue().to_pybytes()), ("r.jsonl", json.dumps(SAID).encode() + b"\n")]


@settings(max_examples=200)
@given(broken(packed()))
def test_broken_rows(file: tuple[str, bytes]) -> None:
    name, content = file
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        held(lambda: read_given(GivenSpec(kind="given", file=name), Path(folder)))
        held(lambda: read_preferences(Path(folder) / name))


GAME = EXAMPLES / "games/table.yaml"


@cache
def receipt() -> Any:
    return json.loads(run("settle", GAME, "--json").out)


@settings(max_examples=40)
@given(st.data())
def test_a_receipt(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.json"
        path.write_text(json.dumps(data.draw(mutated([receipt()]))))
        result = run("verify", path, GAME)
        assert result.code in (0, 2, 3)
        assert result.err.count("\n") == (result.code == 2)
