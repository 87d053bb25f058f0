"""Networks that score texts: sentence embedders, and sequence classifiers with one logit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf_game.errors import InputError, boundary
from rlhf_game.files.conversations import Text, answered
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.checkpoints import Checkpoint, find_checkpoint
from rlhf_game.training_backends.lm.models import load_pretrained, loaded_provenance, pick_device
from rlhf_game.training_backends.lm.reading import (
    Tokens,
    Truncate,
    batches,
    forward,
    last_by_length,
    room_of,
    tokens_of,
)
from rlhf_game.training_backends.lm.templates import render


@final
@dataclass(frozen=True, eq=False)
class Embedder:
    """A transformer whose mean-pooled, normalised last layer is a text's embedding."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, str | None]
    room: int | None
    """Tokens of a text that it reads: as in its training where its folder says, else as many as it has places for."""
    truncate: Truncate | None = None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, batch_size: int = 32) -> Array:
        """Return unit vectors, [k, d]. Raises InputError on a text that is too long unless it may be cut."""
        rows: list[Array] = [np.empty(0)] * len(texts)
        for places, tensors in batches([self._read(text)[0] for text in texts], batch_size, self.model.device):
            pooled = forward(self.model, tensors).last_hidden_state.double().mean(dim=1)
            unit = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
            for k, row in zip(places, unit, strict=True):
                rows[k] = row
        return np.stack(rows)

    def features(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 32) -> Array:
        """Return the embeddings of prompts and completions joined by an empty line, [k, d]."""
        return self.embed(joined(pairs), batch_size=batch_size)

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts it does not read whole."""
        return sum(self._read(text)[1] for text in texts)

    def _read(self, text: str) -> tuple[Tokens, bool]:
        return tokens_of(self.tokenizer, [text], room=self.room, truncate=self.truncate)


def joined(pairs: Sequence[tuple[Text, Text]]) -> list[str]:
    """Return prompts and completions as the texts that an embedder reads."""
    return [f"{prompt}\n\n{completion}" for prompt, completion in pairs]


def load_embedder(
    name: str | Checkpoint,
    *,
    revision: str | None = None,
    base: Path | None = None,
    device: str = "auto",
    truncate: Truncate | None = None,
) -> Embedder:
    """Load a sentence embedder (see ``find_checkpoint`` for names). Raises InputError when there is none."""
    checkpoint = _found(name, revision, base)
    model = load_pretrained(AutoModel, checkpoint, dtype="float32").to(pick_device(device)).eval()
    tokenizer = load_pretrained(AutoTokenizer, checkpoint)
    rooms = [room for room in (room_of(model), _room_in_training(checkpoint)) if room is not None]
    return Embedder(model, tokenizer, loaded_provenance(checkpoint, model), min(rooms, default=None), truncate)


def _room_in_training(checkpoint: Checkpoint) -> int | None:
    """Return the length that sentence-transformers wrote beside an embedder's weights, if it did."""
    path = Path(checkpoint.location) / "sentence_bert_config.json"
    if not path.is_file():
        return None
    with boundary(f"{path} must be sentence-transformers' settings", InputError):
        longest = json.loads(path.read_text(encoding="utf-8")).get("max_seq_length")
        return None if longest is None else int(longest)


@final
@dataclass(frozen=True, eq=False)
class Classifier:
    """A sequence-classification model with one logit, which transformers would give the same text on its own."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, Any]
    room: int | None
    """Tokens of a prompt and its completion that it has places for."""
    truncate: Truncate | None = None
    adapter: str | None = None
    """Which of the adapters on a shared backbone this is."""
    missing: tuple[str, ...] = ()
    """Parameters that the weights lack, and that are new and random."""

    def encode(self, prompt: Text, completion: Text) -> Tokens:
        """Return a pair's tokens: through the chat template, else as two texts with a separator, else joined.

        Raises InputError on a pair that is too long unless it may be cut.
        """
        return self._read(prompt, completion)[0]

    def count_cut(self, pairs: Sequence[tuple[Text, Text]]) -> int:
        """Return how many of the pairs it does not read whole."""
        return sum(self._read(prompt, completion)[1] for prompt, completion in pairs)

    def _read(self, prompt: Text, completion: Text) -> tuple[Tokens, bool]:
        tokenizer: Any = self.tokenizer
        texts = [f"{prompt}{completion}"] if tokenizer.sep_token is None else [str(prompt), str(completion)]
        has_template = tokenizer.chat_template is not None
        if has_template:
            texts = [render(tokenizer, answered(prompt, completion), is_open=False)]
        return tokens_of(tokenizer, texts, room=self.room, truncate=self.truncate, has_specials=has_template)

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the logit of each (prompt, completion): [k]."""
        scores = np.zeros(len(pairs))
        with self._active():
            for rows, tensors in self._batches(pairs, batch_size):
                scores[rows] = forward(self.model, tensors).logits[:, 0].double().cpu().numpy()
        return scores

    @torch.inference_mode()
    def features(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return what the head sees of each (prompt, completion): [k, d]; the logit is a linear function of it.

        Raises InputError when the model's head is not one linear layer.
        """
        seen: list[torch.Tensor] = []
        hook = head_of(self.model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        table: list[Array] = [np.empty(0)] * len(pairs)
        try:
            with self._active():
                for rows, tensors in self._batches(pairs, batch_size):
                    seen.clear()
                    forward(self.model, tensors)
                    for k, row in zip(rows, self._pooled(seen[0], tensors["input_ids"]), strict=True):
                        table[k] = row
        finally:
            hook.remove()
        return np.stack(table)

    def _pooled(self, hidden: torch.Tensor, ids: torch.Tensor) -> Array:
        """Return the rows that make the logits; a decoder's head sees every position, and the last one counts."""
        if hidden.ndim == 3:
            places = torch.arange(ids.shape[1], device=ids.device)
            last = (places * (ids != self.model.config.get_text_config().pad_token_id)).argmax(dim=1)
            hidden = hidden[torch.arange(len(ids), device=ids.device), last]
        pooled: Array = hidden.double().cpu().numpy()
        return pooled

    def _batches(self, pairs: Sequence[tuple[Text, Text]], batch_size: int) -> Iterator[tuple[list[int], Any]]:
        return batches([self.encode(*pair) for pair in pairs], batch_size, self.model.device)

    @contextmanager
    def _active(self) -> Iterator[None]:
        """Choose this one among the adapters, and let its last token be the one that the configuration says."""
        if self.adapter is not None:
            shared: Any = self.model  # a PeftModel, which transformers' types do not know
            shared.set_adapter(self.adapter, inference_mode=True)
        with last_by_length(self.model):
            yield


def load_classifier(
    name: str | Checkpoint,
    *,
    revision: str | None = None,
    base: Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    truncate: Truncate | None = None,
) -> Classifier:
    """Load a reward model: sequence classification with one logit, its head among the saved weights.

    Raises InputError when there is no such model, it has several logits, or it is a language model without a head.
    """
    checkpoint = _found(name, revision, base)
    classifier = _load(checkpoint, device, dtype)
    if classifier.missing:
        raise InputError(
            f"hf: {checkpoint.name} must be a trained reward model, its weights lack {classifier.missing[0]}"
        )
    if classifier.model.config.num_labels != 1:
        raise InputError(f"hf: {checkpoint.name} must have one logit, it has {classifier.model.config.num_labels}")
    return replace(classifier, truncate=truncate)


def load_backbone(
    name: str | Checkpoint,
    *,
    revision: str | None = None,
    base: Path | None = None,
    device: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
) -> Classifier:
    """Load any language model or encoder as a reward model with one logit; what it lacks is new and random by ``seed``.

    Raises InputError when there is no such model.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _load(_found(name, revision, base), device, dtype, labels=1)


def _found(name: str | Checkpoint, revision: str | None, base: Path | None) -> Checkpoint:
    return name if isinstance(name, Checkpoint) else find_checkpoint(name, revision=revision, base=base)


def _load(checkpoint: Checkpoint, device: str, dtype: str, labels: int | None = None) -> Classifier:
    """Return the model with its configuration as it was saved: the tokenizer's pad token decides nothing."""
    model, report = load_pretrained(
        AutoModelForSequenceClassification, checkpoint, dtype=dtype, with_report=True, labels=labels
    )
    return Classifier(
        model.to(pick_device(device)).eval(),
        load_pretrained(AutoTokenizer, checkpoint),
        loaded_provenance(checkpoint, model),
        room_of(model),
        missing=tuple(sorted(report["missing_keys"])),
    )


def head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """Return the linear layer that makes the logit. Raises InputError when the head is more than that."""
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Linear):
            return head
    raise InputError(
        f"backbone: must have a head of one linear layer, {type(model).__name__} has none; use method embedding or full"
    )
