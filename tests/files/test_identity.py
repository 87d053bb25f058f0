"""Functions that do different things have different identities, whatever they are called; the same in any process."""

import functools
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, final

import numpy as np
import pytest

from rlhf_game.errors import InputError
from rlhf_game.files.identity import digest_of, identity_of
from rlhf_game.registry import load, source_of


def scaled(by: Any) -> Callable[[float], float]:
    def scale(x: float, more: float = 0.0) -> float:
        return x * by + more

    return scale


def counting(words: list[str]) -> Callable[[str], int]:
    return lambda text: sum(word in {"good", "fine", "best"} for word in text.split()) + len(words)


@final
class Model:
    """An object that anybody might write."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights
        self.table = {"a": 1.0}

    def score(self, x: float) -> float:
        return x

    def __call__(self, x: float) -> float:
        return x


@final
@dataclass(frozen=True)
class Scaled:
    """A dataclass with a cache that is no part of it."""

    by: float
    cache: dict[str, float] = field(default_factory=dict, compare=False)

    def __call__(self, x: float) -> float:
        return self.cache.setdefault(str(x), self.by * x)


def plus(x: float, y: float) -> float:
    return x + y


DIFFERENT = {
    "closure": (scaled(2.0), scaled(3.0)),
    "closure over a list": (counting(["a"]), counting(["b"])),
    "closure over an array": (scaled(np.zeros(3)), scaled(np.ones(3))),
    "partial": (functools.partial(plus, 1.0), functools.partial(plus, 2.0)),
    "object": (Model(np.zeros(2)), Model(np.ones(2))),
    "object's type of number": (Model(np.zeros(2)), Model(np.zeros(2, dtype=np.float32))),
    "method": (Model([1.0]).score, Model([2.0]).score),
    "dataclass": (Scaled(1.0), Scaled(2.0)),
    "code": (lambda x: x + 1, lambda x: x + 2),
    "names": (lambda x: abs(x), lambda x: len(x)),
    "generator": (Model(np.random.default_rng(0)), Model(np.random.default_rng(1))),
    "number and text": ([1], ["1"]),
    "sets": ({"a", "b"}, {"a", "c"}),
    "builtin": (len, abs),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_has_another_identity_and_the_same_has_the_same(what: str) -> None:
    one, other = DIFFERENT[what]
    assert digest_of(one) != digest_of(other)
    assert digest_of(one) == digest_of(one)


def test_a_cache_is_no_part_of_it() -> None:
    used, fresh = Scaled(2.0), Scaled(2.0)
    used(3.0)
    assert digest_of(used) == digest_of(fresh)


def test_the_file_and_the_modules_beside_it_count_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\ndef reward(x):\n    return helper.half(x)\n")
    (tmp_path / "helper.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "other.py").write_text("")
    first = digest_of(load("mine.py:reward", tmp_path))
    (tmp_path / "other.py").write_text("x = 1\n")
    assert digest_of(load("mine.py:reward", tmp_path)) == first
    (tmp_path / "helper.py").write_text("def half(x):\n    return x / 3\n")
    assert digest_of(load("mine.py:reward", tmp_path)) != first


def test_what_was_typed_in_counts_with_the_globals_that_it_reads() -> None:
    def typed(**known: Any) -> FunctionType:
        exec("def reward(x):\n    return x * FACTOR", known)
        return known["reward"]  # type: ignore[no-any-return]

    assert digest_of(typed(FACTOR=2)) != digest_of(typed(FACTOR=3))
    assert digest_of(typed(FACTOR=2, UNREAD=1)) == digest_of(typed(FACTOR=2, UNREAD=2))


def test_a_class_that_was_typed_in_counts_with_its_functions_and_values() -> None:
    """As a part or a reward that is written in a notebook: it has no file, and was known by its name alone."""

    def typed(returned: str, scale: float = 1.0, base: str = "object") -> type:
        known: dict[str, Any] = {"__name__": "notebook"}
        exec(f"class Base:\n    def f(self):\n        return {base!r}\n", known)
        exec(f"class Reward(Base):\n    scale = {scale}\n    def __call__(self, x):\n        return {returned}", known)
        return known["Reward"]  # type: ignore[no-any-return]

    one = typed("self.scale * x")
    assert digest_of(one) == digest_of(typed("self.scale * x"))
    for other in (typed("self.scale + x"), typed("self.scale * x", 2.0), typed("self.scale * x", 1.0, "other")):
        assert digest_of(one) != digest_of(other)
        assert digest_of(one()) != digest_of(other())


def test_a_module_of_a_package_counts_with_the_modules_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept/inner").mkdir(parents=True)
    for file, text in {
        "kept/__init__.py": "", "kept/inner/__init__.py": "", "kept/helper.py": "two = 2\n",
        "kept/inner/mine.py": "from kept.helper import two\ndef reward(x):\n    return two * x\n",
    }.items():  # fmt: skip
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    reward = load("kept.inner.mine:reward")
    files = identity_of(reward)["files"]
    assert set(files) == {"kept/__init__.py", "kept/inner/__init__.py", "kept/helper.py", "kept/inner/mine.py"}
    assert source_of("kept.inner.mine:reward").document() == files
    (tmp_path / "kept/helper.py").write_text("two = 3\n")
    assert identity_of(reward)["files"] != files


def test_what_has_no_identity_says_how_to_get_one() -> None:
    with pytest.raises(InputError, match="must be known by what it holds, or have an attribute identity"):
        identity_of(Model(threading.Lock()))
    held = Model(threading.Lock())
    held.identity = "version 3"  # type: ignore[attr-defined]
    assert json.loads(json.dumps(identity_of(held)))["identity"] == "version 3"


def test_what_holds_itself_is_no_endless_story() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert digest_of(loop) == digest_of(loop)


def test_another_process_finds_the_same() -> None:
    script = "from tests.files.test_identity import *\nprint([digest_of(one) for one, _ in DIFFERENT.values()])"
    found = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[2], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1] != ""
