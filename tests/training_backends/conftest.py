from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from tests import tiny


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_language_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def language_model(folder: Path) -> LanguageModel:
    return load_language_model(str(folder))
