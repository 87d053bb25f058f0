"""Reward models on disk: a linear head on frozen features, an adapter on a backbone, or a whole classifier.

All are safetensors beside a card, ``reward_model.json``, that says what was trained on what. Reward models that are
adapters or heads on one backbone share it when they are loaded together.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.training_backends.lm.checkpoints import Checkpoint, find_checkpoint, model_folder
from rlhf_game.training_backends.lm.models import load_pretrained
from rlhf_game.training_backends.lm.quiet import quiet_transformers
from rlhf_game.training_backends.lm.reading import Truncate
from rlhf_game.training_backends.lm.scorers import (
    Classifier,
    Embedder,
    head_of,
    joined,
    load_backbone,
    load_classifier,
    load_embedder,
)

CARD = "reward_model.json"
HEAD = "head.safetensors"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class Scorer(Protocol):
    """Whatever gives a number to a prompt and its response."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Which weights these are."""
        ...

    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the reward of each (prompt, completion): [k]."""
        ...

    def count_cut(self, pairs: Sequence[tuple[Text, Text]]) -> int:
        """Return how many of the pairs it does not read whole."""
        ...


@final
@dataclass(frozen=True)
class Named:
    """A reward model as a user names it (see ``find_checkpoint``)."""

    name: str
    revision: str | None = None
    base: Path | None = None
    truncate: Truncate | None = None
    """What is read of a text that is too long; None: as its card says, else such a text is refused."""


@final
class Features:
    """A frozen backbone, and the features that it made last: heads on it that score the same texts make them once."""

    def __init__(self, network: Embedder | Classifier) -> None:
        self.network = network
        self._made: tuple[list[tuple[Text, Text]], Array] | None = None

    def of(self, pairs: Sequence[tuple[Text, Text]], batch_size: int) -> Array:
        """Return the features of each (prompt, completion): [k, d]."""
        if self._made is None or self._made[0] != list(pairs):
            self._made = list(pairs), self.network.features(pairs, batch_size=batch_size)
        return self._made[1]


@final
@dataclass(frozen=True, eq=False)
class HeadReward:
    """A linear head on the features of a frozen backbone: an embedder's, or what a classifier's own head would see."""

    features: Features
    weights: Array
    bias: float
    provenance: Mapping[str, Any]

    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the reward of each (prompt, completion): [k]."""
        features = self.features.of(pairs, batch_size)
        if features.shape[1] != len(self.weights):
            raise InputError(
                f"a head must have {features.shape[1]} weights for its backbone, found {len(self.weights)}"
            )
        return features @ self.weights + self.bias

    def count_cut(self, pairs: Sequence[tuple[Text, Text]]) -> int:
        """Return how many of the pairs it does not read whole."""
        network = self.features.network
        return network.count_cut(joined(pairs)) if isinstance(network, Embedder) else network.count_cut(pairs)


def read_card(folder: str | Path) -> dict[str, Any]:
    """Return the card of a reward model's folder; empty where there is none (a model from elsewhere)."""
    path = Path(folder) / CARD
    if not path.is_file():
        return {}
    with boundary(f"{path} must be a card", InputError):
        card = dict(json.loads(path.read_text(encoding="utf-8")))
    if card.get("truncate") not in (None, "head", "tail"):
        raise InputError(f"{path}: truncate: must be head or tail, found {card['truncate']!a}")
    if not isinstance(card.get("eta") or 0.0, int | float):
        raise InputError(f"{path}: eta: must be a number, found {card['eta']!a}")
    return card


def is_identified(name: str, base: Path | None = None) -> bool:
    """Return whether a reward model's level means the same for every prompt: its card says that eta was > 0."""
    return float(read_card(model_folder(name, base)).get("eta") or 0.0) > 0.0


def save_head(folder: Path, weights: Array, bias: float) -> None:
    """Write a linear head."""
    save_file({"weight": np.ascontiguousarray(weights), "bias": np.array([bias])}, folder / HEAD)


def load_head(folder: Path) -> tuple[Array, float]:
    """Return the weights [d] and the bias of a linear head. Raises InputError when the file holds none."""
    with boundary(f"{folder / HEAD} must hold a weight and a bias", InputError):
        tensors = load_file(folder / HEAD)
        return finite(tensors["weight"], "weight").reshape(-1), float(finite(tensors["bias"], "bias").item())


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
    """Load one reward model from safetensors (see ``Networks.reward_model``)."""
    return Networks(device).reward_model(Named(name, revision, base))


@final
class Networks:
    """The networks that several rewards share: each backbone is found, hashed and loaded once, when it is first asked.

    A whole classifier shares nothing and is not kept here. Raises InputError when a model is not there, is no reward
    model, or its backbone is not the one that it was trained on.
    """

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._found: dict[tuple[str, str | None], Checkpoint] = {}
        self._networks: dict[tuple[str, ...], Any] = {}

    def reward_model(self, wanted: Named) -> Scorer:
        """Return a classifier with one logit, an adapter as peft writes it, or a head that ``train`` wrote."""
        folder = model_folder(wanted.name, wanted.base)
        if (folder / HEAD).is_file():
            return self._head(wanted, folder)
        if (folder / ADAPTER).is_file():
            return self._adapter(wanted, folder)
        checkpoint = replace(_origin(wanted, folder), name=wanted.name)
        truncate = wanted.truncate or read_card(folder).get("truncate")
        return load_classifier(checkpoint, device=self._device, truncate=truncate)

    def embedder(
        self, name: str, *, revision: str | None = None, base: Path | None = None, truncate: Truncate | None = None
    ) -> Embedder:
        """Return a sentence embedder."""
        checkpoint = self._checkpoint(name, revision, base)
        loaded: Embedder = self._kept(
            ("embedder", checkpoint.location), lambda: load_embedder(checkpoint, device=self._device)
        )
        return replace(loaded, truncate=truncate)

    def _checkpoint(self, name: str, revision: str | None, base: Path | None = None) -> Checkpoint:
        key = (str((base or Path()) / name), revision)
        if key not in self._found:
            self._found[key] = find_checkpoint(name, revision=revision, base=base)
        return self._found[key]

    def _kept(self, key: tuple[str, ...], load: Callable[[], Any]) -> Any:
        if key not in self._networks:
            self._networks[key] = load()
        return self._networks[key]

    def _head(self, wanted: Named, folder: Path) -> Scorer:
        card = read_card(folder)
        backbone = self._backbone(wanted.name, card)
        if card.get("method") not in ("embedding", "head"):
            raise InputError(f"hf: {wanted.name}: method: must be embedding or head in its card, found another")
        weights, bias = load_head(folder)
        origin = {**_origin(wanted, folder).provenance, "model": wanted.name, "backbone": dict(card["backbone"])}
        truncate = wanted.truncate or card.get("truncate")

        def features() -> Features:
            if card["method"] == "embedding":
                return Features(self.embedder(backbone.name, revision=backbone.revision, truncate=truncate))
            plain = self._kept(("frozen", backbone.location), lambda: load_backbone(backbone, device=self._device))
            return Features(replace(plain, truncate=truncate))

        key = ("features", card["method"], backbone.location, str(truncate))
        return HeadReward(self._kept(key, features), weights, bias, origin)

    def _backbone(self, name: str, card: Mapping[str, Any]) -> Checkpoint:
        """Return the backbone that a card names, after comparing its weights with those that were trained on."""
        known = card.get("backbone")
        if not isinstance(known, dict) or not isinstance(known.get("model"), str):
            raise InputError(f"hf: {name} must have a card, {CARD}, that names its backbone; found none")
        found = self._checkpoint(known["model"], known.get("revision"))
        if found.sha256 != known.get("sha256"):
            raise InputError(
                f"hf: {name} must be used with the backbone that it was trained on, {known['model']} of sha256 "
                f"{known.get('sha256')}; found one of sha256 {found.sha256}"
            )
        return found

    def _adapter(self, wanted: Named, folder: Path) -> Scorer:
        """Return a scorer of an adapter on its backbone, which all adapters of one backbone share."""
        origin = _origin(wanted, folder).provenance
        card, settings = read_card(folder), _adapter_settings(wanted.name, folder)
        backbone = self._backbone(wanted.name, card) if card else self._base(wanted, folder, settings)
        key = ("adapted", backbone.location)
        plain: Classifier = self._kept(key, lambda: load_backbone(backbone, device=self._device))
        weights = folder / ADAPTER_WEIGHTS
        with boundary(f"hf: {wanted.name} must hold {ADAPTER_WEIGHTS}", InputError), safe_open(weights, "pt") as file:
            saved = {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118 - no mapping
        if random := [name for name in plain.missing if name not in saved]:
            raise InputError(f"hf: {wanted.name} must hold all that its backbone lacks, its weights lack {random[0]}")
        name = f"member{len(getattr(plain.model, 'peft_config', ()))}"
        model = _with_adapter(plain.model, folder, name, wanted.name)
        self._networks[key] = replace(plain, model=model)
        own = (folder / "tokenizer_config.json").is_file()
        tokenizer = load_pretrained(AutoTokenizer, find_checkpoint(str(folder))) if own else plain.tokenizer
        known = {**origin, "model": wanted.name, "backbone": dict(backbone.provenance)}
        truncate = wanted.truncate or card.get("truncate")
        return replace(plain, model=model, tokenizer=tokenizer, provenance=known, adapter=name, truncate=truncate)

    def _base(self, wanted: Named, folder: Path, settings: PeftConfig) -> Checkpoint:
        """Return the backbone that an adapter names: from here, the configuration's folder, or its own."""
        name = settings.base_model_name_or_path
        if not name:
            raise InputError(f"hf: {wanted.name} must name its backbone, {ADAPTER} has no base_model_name_or_path")
        places = (Path(), wanted.base or Path(), folder)
        base = next((place for place in places if (place / name).exists()), None)
        return self._checkpoint(name, settings.revision, base)


def _adapter_settings(name: str, folder: Path) -> PeftConfig:
    with boundary(f"hf: {name} must be an adapter that peft reads", InputError):
        settings: PeftConfig = PeftConfig.from_pretrained(str(folder))
    if settings.task_type != "SEQ_CLS":
        raise InputError(
            f"hf: {name} must be an adapter of a reward model, task_type SEQ_CLS (the others hold no trained head), "
            f"found {settings.task_type}"
        )
    return settings


def _with_adapter(model: Any, folder: Path, name: str, wanted: str) -> Any:
    """Return a model, in evaluation mode, with one more adapter. Raises InputError when it does not fit."""
    with quiet_transformers(), boundary(f"hf: {wanted} must be an adapter that fits its backbone", InputError):
        warnings.filterwarnings("error", "Found missing adapter keys")
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, folder, adapter_name=name).eval()
        if lacking := model.load_adapter(str(folder), adapter_name=name).missing_keys:
            raise KeyError(f"it lacks {lacking[0]}")
        return model.eval()


def _origin(wanted: Named, folder: Path) -> Checkpoint:
    """Return where the weights that a user named are: a path is joined with the configuration's folder once, here."""
    if folder.is_dir():
        return find_checkpoint(str(folder))
    return find_checkpoint(wanted.name, revision=wanted.revision, base=wanted.base)
