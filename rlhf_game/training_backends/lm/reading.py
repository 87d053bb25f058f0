"""How a network reads texts: every tensor that its tokenizer makes, whole or cut as declared, and never padded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_game.errors import InputError, boundary

Truncate: TypeAlias = Literal["head", "tail"]
"""What is read of a text that is too long: its first tokens or its last ("head-only", "tail-only", Sun et al. 2019)."""
Tokens: TypeAlias = dict[str, list[int]]
"""One text as its tokenizer made it: ``input_ids``, ``attention_mask`` and whatever else, a number for each token."""


def tokens_of(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    room: int | None,
    truncate: Truncate | None = None,
    has_specials: bool = False,
) -> tuple[Tokens, bool]:
    """Return a text's tokens, or a pair's, and whether they are only a part of it.

    room: how many tokens the network reads; has_specials: the text holds its special tokens already, from a template.
    Raises InputError when there is no token, or there are too many and ``truncate`` does not say which are read.
    """
    whole = dict(tokenizer(*texts, add_special_tokens=not has_specials, verbose=False))
    size = len(whole["input_ids"])
    if size == 0:
        raise InputError("a text must have at least one token, found none")
    if room is None or size <= room:
        return whole, False
    if truncate is None:
        raise InputError(
            f"a text must fit the {room} tokens that the model reads, found {size}; declare truncate: head or tail to "
            "have the first or the last of them read"
        )
    tokenizer.truncation_side = "right" if truncate == "head" else "left"
    cut = tokenizer(*texts, add_special_tokens=not has_specials, truncation=True, max_length=room)
    return dict(cut), True


def room_of(model: PreTrainedModel) -> int | None:
    """Return how many tokens a model reads, None where its configuration does not say.

    A table of positions that has a row for padding counts from behind that row, as RoBERTa's does.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - first
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if longest is None else int(longest)


def batches(texts: Sequence[Tokens], size: int, device: torch.device) -> Iterator[tuple[list[int], Any]]:
    """Yield the places of texts of one length, and their tensors: nothing is padded, so nothing depends on a batch."""
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]["input_ids"]))
    start = 0
    while start < len(order):
        first = texts[order[start]]
        rows = [k for k in order[start : start + size] if len(texts[k]["input_ids"]) == len(first["input_ids"])]
        yield rows, {name: torch.tensor([texts[k][name] for k in rows], device=device) for name in first}
        start += len(rows)


@contextmanager
def last_by_length(model: Any) -> Iterator[None]:
    """Let a decoder without a pad id take the last token by length in batches, as transformers does for one text.

    Where the configuration has a pad id nothing is done: the last token that is another one is taken, as there.
    """
    settings = model.config.get_text_config()
    if getattr(settings, "pad_token_id", None) is not None:
        yield
        return
    settings.pad_token_id = -1  # the id of no token
    try:
        yield
    finally:
        settings.pad_token_id = None


def forward(model: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return what the model makes of the tensors. Raises RunError where transformers cannot."""
    with boundary(f"the model {model.config.name_or_path} cannot read what its tokenizer makes"):
        return model(**tensors)
