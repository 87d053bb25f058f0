"""Networks that score texts: sentence embedders, and sequence classifiers with one logit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, answered
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.checkpoints import find_checkpoint
from rlhf_game.training_backends.models import load_pretrained, loaded_provenance, pick_device
from rlhf_game.training_backends.templates import render

LONGEST = 256
"""Tokens of a text that an embedder reads (what MiniLM was trained with)."""


@final
@dataclass(frozen=True, eq=False)
class Embedder:
    """A transformer whose mean-pooled, normalised last layer is a text's embedding."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, str | None]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, batch_size: int = 32) -> Array:
        """Return unit vectors, [k, d]."""
        rows: dict[int, Array] = {}
        for batch in batches(texts, batch_size):
            encoded = self.tokenizer(
                [texts[k] for k in batch], padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
            ).to(self.model.device)
            hidden = self.model(**encoded).last_hidden_state.double()
            kept = encoded["attention_mask"].unsqueeze(-1).double()
            pooled = (hidden * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1.0)
            unit = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
            rows.update(zip(batch, unit, strict=True))
        return np.stack([rows[k] for k in range(len(texts))])


def load_embedder(
    name: str, *, revision: str | None = None, base: Path | None = None, device: str = "auto"
) -> Embedder:
    """Load a sentence embedder (see ``find_checkpoint`` for names). Raises InputError when there is none."""
    checkpoint = find_checkpoint(name, revision=revision, base=base)
    model = load_pretrained(AutoModel, checkpoint, dtype="float32").to(pick_device(device)).eval()
    return Embedder(model, load_pretrained(AutoTokenizer, checkpoint), loaded_provenance(checkpoint, model))


@final
@dataclass(frozen=True, eq=False)
class Classifier:
    """A sequence-classification model with one logit."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    provenance: Mapping[str, Any]
    adapter: str | None = None
    """Which of the adapters on a shared backbone this is."""

    def encode(self, prompt: Text, completion: Text) -> list[int]:
        """Return the ids of a pair: through the chat template, else as two texts with a separator, else joined."""
        tokenizer: Any = self.tokenizer
        if tokenizer.chat_template is not None:
            text = render(tokenizer, answered(prompt, completion), is_open=False)
            return list(tokenizer(text, add_special_tokens=False).input_ids)
        if tokenizer.sep_token is not None:
            return list(tokenizer(str(prompt), str(completion)).input_ids)
        return list(tokenizer(f"{prompt}{completion}").input_ids)

    @torch.inference_mode()
    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the logit of each (prompt, completion): [k]."""
        if self.adapter is not None:
            shared: Any = self.model  # a PeftModel, which transformers' types do not know
            shared.set_adapter(self.adapter, inference_mode=True)
        scores = np.zeros(len(pairs))
        for rows, ids, mask in self._padded(pairs, batch_size):
            scores[rows] = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].double().cpu().numpy()
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
            for rows, ids, mask in self._padded(pairs, batch_size):
                seen.clear()
                self.model(input_ids=ids, attention_mask=mask)
                hidden = seen[0]
                if hidden.ndim == 3:  # a decoder scores every position, and takes the last that is no padding
                    places = torch.arange(ids.shape[1], device=ids.device)
                    last = (places * (ids != self.model.config.pad_token_id)).argmax(dim=1)
                    hidden = hidden[torch.arange(len(rows), device=ids.device), last]
                for k, row in zip(rows, hidden.double().cpu().numpy(), strict=True):
                    table[k] = row
        finally:
            hook.remove()
        return np.stack(table)

    def _padded(
        self, pairs: Sequence[tuple[Text, Text]], batch_size: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Yield batches of pairs of like length: their places, ids and mask."""
        encoded = [self.encode(prompt, completion) for prompt, completion in pairs]
        room = getattr(self.model.config, "max_position_embeddings", None)
        for batch in batches(encoded, batch_size):
            width = max(1, *(len(encoded[k]) for k in batch))
            if room is not None and width > room:
                raise InputError(f"a prompt and its response must fit the reward model's {room} tokens, got {width}")
            ids = torch.full((len(batch), width), int(self.model.config.pad_token_id))
            mask = torch.zeros_like(ids)
            for row, k in enumerate(batch):
                ids[row, : len(encoded[k])] = torch.tensor(encoded[k], dtype=torch.long)
                mask[row, : len(encoded[k])] = 1
            yield batch, ids.to(self.model.device), mask.to(self.model.device)


def load_classifier(
    name: str, *, revision: str | None = None, base: Path | None = None, device: str = "auto", dtype: str = "float32"
) -> Classifier:
    """Load a reward model: sequence classification with one logit, its head among the saved weights.

    Raises InputError when there is no such model, it has several logits, or it is a language model without a head.
    """
    checkpoint = find_checkpoint(name, revision=revision, base=base)
    model, report = load_pretrained(AutoModelForSequenceClassification, checkpoint, dtype=dtype, with_report=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])[0]
        raise InputError(f"hf: {name} must be a trained reward model, its weights lack {missing}")
    if model.config.num_labels != 1:
        raise InputError(f"hf: {name} must have one logit, it has {model.config.num_labels}")
    tokenizer = load_pretrained(AutoTokenizer, checkpoint)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    return Classifier(model.to(pick_device(device)).eval(), tokenizer, loaded_provenance(checkpoint, model))


def load_backbone(
    name: str, *, revision: str | None = None, base: Path | None = None, device: str = "auto", seed: int = 0
) -> Classifier:
    """Load any language model or encoder as a reward model whose head, one logit, is new and random by ``seed``.

    Raises InputError when there is no such model.
    """
    checkpoint = find_checkpoint(name, revision=revision, base=base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = load_pretrained(AutoModelForSequenceClassification, checkpoint, dtype="float32", labels=1)
    tokenizer = load_pretrained(AutoTokenizer, checkpoint)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return Classifier(model.to(pick_device(device)).eval(), tokenizer, loaded_provenance(checkpoint, model))


def head_of(model: PreTrainedModel) -> torch.nn.Linear:
    """Return the linear layer that makes the logit. Raises InputError when the head is more than that."""
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Linear):
            return head
    raise InputError(
        f"backbone: must have a head of one linear layer, {type(model).__name__} has none; use method embedding or full"
    )


def batches(items: Sequence[Any], batch_size: int) -> Iterator[list[int]]:
    """Yield the positions of the items in batches, items of like length together."""
    order = sorted(range(len(items)), key=lambda k: len(items[k]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
