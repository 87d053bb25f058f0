"""The Hugging Face hub: rows of a dataset (or of a folder that ``save_to_disk`` wrote), and where a model is sent."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetNotFoundError
from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from huggingface_hub import HfApi

from rlhf_game.errors import InputError, boundary
from rlhf_game.training_backends.lm.reach import hub_answers, without_hub


def load_rows(name: str, *, split: str, revision: str | None = None, base: Path | None = None) -> list[Any]:
    """Return the rows of one split. Raises InputError when there is no such dataset or split.

    No code of a dataset is ever run: ``datasets`` reads data files only.
    """
    folder = (base or Path()) / Path(name).expanduser()
    had_bars = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        if folder.is_dir():
            found: Any = load_from_disk(str(folder))
            found = found[split] if isinstance(found, DatasetDict) else found
        else:
            with nullcontext() if hub_answers(name, "dataset", revision) else without_hub():
                found = load_dataset(name, split=split, revision=revision)
    except (DatasetNotFoundError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"dataset: {name} (split {split}) cannot be loaded: {reason}") from error
    finally:
        if had_bars:
            enable_progress_bar()
    return Dataset.to_list(found)  # type: ignore[no-any-return]


def push_folder(folder: Path, repository: str, *, is_private: bool = False, revision: str | None = None) -> None:
    """Send a model's folder to the hub, with the login or HF_TOKEN of this machine. Raises RunError when it cannot."""
    with boundary(f"{repository} cannot be pushed to"):
        api = HfApi()
        api.create_repo(repository, private=is_private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, revision=revision, commit_message="A reward model")
