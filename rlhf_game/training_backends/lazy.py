"""Names that are imported on first use; without the extra ``train`` that raises MissingExtra, which names it."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module

from rlhf_game.errors import MissingExtra

PACKAGES = frozenset(
    {
        "accelerate", "datasets", "gguf", "huggingface_hub", "peft", "safetensors", "tokenizers", "torch",
        "transformers", "trl",
    }
)  # fmt: skip
"""What the extra ``train`` brings; any other module that is missing is an error of its own."""


def lazily(package: str, names: Mapping[str, Iterable[str]]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of a package. names: for each module the public names that it defines."""
    locations = {name: module for module, defined in names.items() for name in defined}

    def get(name: str) -> object:
        if name not in locations:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(locations[name]), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in PACKAGES:
                raise
            raise MissingExtra("train", missing) from error

    return get
