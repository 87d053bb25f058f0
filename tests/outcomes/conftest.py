import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.outcomes.listed import QUICK, Write, document
from tests.training_backends.trainers.policies.enumerable import save_model

REWARDS = """
def good(prompts, completions, **columns):
    return [c.split().count("good") - c.split().count("bad") for c in completions]

def short(prompts, completions, **columns):
    return [len(c.split()) for c in completions]
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """Write a small configuration, changed at the given keys, and the rewards that it names."""
    (tmp_path / "mine.py").write_text(REWARDS)

    def write(name: str = "config.json", **changes: Any) -> Path:
        document = {
            "model": str(model),
            "prompts": ["good", "please no yes", "thanks"],
            "outcomes": {"kind": "candidates", "per_prompt": 9, "max_new_tokens": 4, "batch_size": 8},
            "strength": 0.2,
            "groups": [
                {"name": "kind", "size": 2, "reward": {"python": "mine.py:good"},
                 "calibration": {"kind": "affine", "low": -2, "high": 2}},
                {"name": "brief", "reward": {"python": "mine:short"},
                 "calibration": {"kind": "logistic", "center": 2, "scale": -1.0 * -1.5}},
                {"name": "ranked", "size": 3, "reward": {"brevity": 5}, "calibration": "rank"},
            ],
            "seed": 4,
        }  # fmt: skip
        document = {key: value for key, value in {**document, **changes}.items() if value is not None}
        (tmp_path / name).write_text(json.dumps(document))
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Path]:
    """A folder with the model, and a cache of its own."""
    folder = tmp_path_factory.mktemp("finetuned")
    save_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_GAME_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture
def tuned(place: Path) -> Write:
    def write(outcomes: dict[str, Any] | None = None, name: str = "config.json", **changes: Any) -> Path:
        (place / name).write_text(json.dumps(document(QUICK | (outcomes or {}), **changes)))
        return place / name

    return write
