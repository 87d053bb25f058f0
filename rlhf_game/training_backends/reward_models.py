"""Reward models on disk: a linear head on frozen features, an adapter on a backbone, or a whole classifier.

All are safetensors beside a card, ``reward_model.json``, that says what was trained on what. Reward models that are
adapters or heads on one backbone share it when they are loaded together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from peft import PeftModel
from safetensors.numpy import load_file, save_file

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.checkpoints import find_checkpoint, model_folder
from rlhf_game.training_backends.models import quiet_transformers
from rlhf_game.training_backends.scorers import (
    Classifier,
    Embedder,
    head_of,
    load_backbone,
    load_classifier,
    load_embedder,
)

CARD = "reward_model.json"
HEAD = "head.safetensors"
ADAPTER = "adapter_config.json"


class Scorer(Protocol):
    """Whatever gives a number to a prompt and its response."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Which weights these are."""
        ...

    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the reward of each (prompt, completion): [k]."""
        ...


@final
@dataclass(frozen=True)
class Named:
    """A reward model as a user names it (see ``find_checkpoint``)."""

    name: str
    revision: str | None = None
    base: Path | None = None


@final
@dataclass(frozen=True, eq=False)
class EmbeddingReward:
    """A linear head on the embedding of a prompt and its response, joined by an empty line."""

    embedder: Embedder
    weights: Array
    bias: float
    provenance: Mapping[str, Any]

    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the reward of each (prompt, completion): [k]."""
        return embedding_features(self.embedder, pairs, batch_size=batch_size) @ self.weights + self.bias


def embedding_features(embedder: Embedder, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 32) -> Array:
    """Return the embeddings of (prompt, completion) pairs, [k, d]; of a long text the end is read, not the start."""
    embedder.tokenizer.truncation_side = "left"
    return embedder.embed([f"{prompt}\n\n{completion}" for prompt, completion in pairs], batch_size=batch_size)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return the card of a reward model's folder; empty where there is none (a model from elsewhere)."""
    path = Path(folder) / CARD
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def is_identified(name: str, base: Path | None = None) -> bool:
    """Return whether a reward model's level means the same for every prompt: its card says that eta was > 0."""
    return float(read_card(model_folder(name, base)).get("eta") or 0.0) > 0.0


def save_head(folder: Path, weights: Array, bias: float) -> None:
    """Write a linear head."""
    save_file({"weight": np.ascontiguousarray(weights), "bias": np.array([bias])}, folder / HEAD)


def load_head(folder: Path) -> tuple[Array, float]:
    """Return the weights [d] and the bias of a linear head."""
    tensors = load_file(folder / HEAD)
    return np.asarray(tensors["weight"], dtype=np.float64), float(tensors["bias"][0])


def set_head(classifier: Classifier, weights: Array, bias: float) -> None:
    """Give a classifier that head; one without a bias keeps none, and bias must then be 0."""
    head = head_of(classifier.model)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights)[None, :])
        if head.bias is not None:
            head.bias.fill_(bias)


def load_reward_model(
    name: str, *, revision: str | None = None, base: Path | None = None, device: str = "auto"
) -> Scorer:
    """Load one reward model (see ``load_reward_models``)."""
    return load_reward_models([Named(name, revision, base)], device=device)[0]


def load_reward_models(wanted: Sequence[Named], *, device: str = "auto") -> list[Scorer]:
    """Load reward models from safetensors; those on the same frozen backbone share it in memory.

    Raises InputError when one is not there, is no reward model, or its backbone is not the one that it was trained on.
    """
    opener = _Opener(device, {})
    return [opener.open(one) for one in wanted]


@final
@dataclass(frozen=True)
class _Opener:
    """Opens reward models; ``shared`` holds each backbone that is in use already."""

    device: str
    shared: dict[tuple[str, str], Any]

    def open(self, wanted: Named) -> Scorer:
        folder = model_folder(wanted.name, wanted.base)
        if (folder / HEAD).is_file():
            return self._head(wanted, folder)
        if (folder / ADAPTER).is_file():
            return self._adapter(wanted, folder)
        name = str(folder) if folder.is_dir() else wanted.name
        return load_classifier(name, revision=wanted.revision, base=wanted.base, device=self.device)

    def _head(self, wanted: Named, folder: Path) -> Scorer:
        card = read_card(folder)
        backbone = backbone_of(wanted.name, card)
        weights, bias = load_head(folder)
        origin = {**_origin(wanted), "backbone": dict(card["backbone"])}
        if card["method"] == "embedding":
            key = ("embedder", backbone.name)
            if key not in self.shared:
                self.shared[key] = load_embedder(backbone.name, revision=backbone.revision, device=self.device)
            return EmbeddingReward(self.shared[key], weights, bias, origin)
        classifier = load_backbone(backbone.name, revision=backbone.revision, device=self.device)
        set_head(classifier, weights, bias)
        return replace(classifier, provenance=origin)

    def _adapter(self, wanted: Named, folder: Path) -> Scorer:
        backbone = backbone_of(wanted.name, read_card(folder))
        origin = {**_origin(wanted), "backbone": dict(read_card(folder)["backbone"])}
        key = ("classifier", backbone.name)
        name = f"member{sum(kind == 'adapter' for kind, _ in self.shared)}"
        with quiet_transformers():
            if key not in self.shared:
                plain = load_backbone(backbone.name, revision=backbone.revision, device=self.device)
                model: Any = PeftModel.from_pretrained(plain.model, folder, adapter_name=name)
                self.shared[key] = replace(plain, model=model.eval())
            else:
                self.shared[key].model.load_adapter(folder, adapter_name=name)
        self.shared["adapter", name] = None
        shared: Classifier = self.shared[key]
        return replace(shared, provenance=origin, adapter=name)


def backbone_of(name: str, card: Mapping[str, Any]) -> Named:
    """Return the backbone that a card names, after comparing its weights with those that were trained on.

    Raises InputError when the card is missing, or the backbone has changed since.
    """
    if "backbone" not in card:
        raise InputError(f"hf: {name} must have a card, {CARD}, that names its backbone; found none")
    known = card["backbone"]
    found = find_checkpoint(known["model"], revision=known.get("revision"))
    if found.sha256 != known.get("sha256"):
        raise InputError(
            f"hf: {name} must be used with the backbone that it was trained on, {known['model']} of sha256 "
            f"{known.get('sha256')}; found one of sha256 {found.sha256}"
        )
    return Named(known["model"], known.get("revision"))


def _origin(wanted: Named) -> dict[str, Any]:
    known = dict(find_checkpoint(str(model_folder(wanted.name, wanted.base))).provenance)
    return {**known, "model": wanted.name}
