"""Language models and reward models: the one place where torch, transformers, trl and peft are imported.

Names are imported on first use; without the extra ``train`` that raises MissingExtra, which names it.
"""

from importlib import import_module

from rlhf_game.errors import MissingExtra

_PACKAGES = frozenset(
    {"accelerate", "datasets", "gguf", "peft", "safetensors", "tokenizers", "torch", "transformers", "trl"}
)
"""What the extra ``train`` brings; any other module that is missing is an error of its own."""

_LOCATIONS: dict[str, str] = {}

__all__ = sorted(_LOCATIONS)


def __getattr__(name: str) -> object:
    if name not in _LOCATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LOCATIONS[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise MissingExtra("train", package) from error
