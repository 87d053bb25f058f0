from pathlib import Path

import pytest

from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from tests import tiny


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Every test of this room, and what its modules make once."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def language_model(folder: Path) -> LanguageModel:
    return load_language_model(str(folder))
