"""A language model as next-token log probabilities for a trie, and generation from a chain's or a trie's policy."""

import copy
import inspect
from collections.abc import Sequence
from typing import cast, final

import numpy as np
import torch
from torch import FloatTensor, LongTensor, Tensor
from transformers import DynamicCache, LogitsProcessor

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.spaces.expansion import Autoregressive, Expansion, Prefix, expand
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.lm.sampling import check_length


@final
class NextTokens:
    """log q(next token | prompt, prefix) of a language model at temperature 1, for many prefixes at a time.

    The prompt is read once; its keys and values are shared by all prefixes. Prefixes of one length go through the model
    together, so nothing is padded. The softmax runs in float64; the logits have the precision of the model.
    """

    def __init__(self, language_model: LanguageModel, prompt: Sequence[int], *, batch_size: int = 64) -> None:
        """Read the prompt's token ids."""
        self._model = language_model.model
        self._batch_size = batch_size
        accepted = inspect.signature(self._model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._cache = DynamicCache(config=self._model.config)
        self._first = self._forward([tuple(prompt)], self._cache)

    def __call__(self, prefixes: Sequence[Prefix]) -> Array:
        """Return the log probabilities of the next token: [k, T]."""
        out = np.empty((len(prefixes), self._first.shape[1]))
        for length in sorted({len(prefix) for prefix in prefixes}):
            rows = [i for i, prefix in enumerate(prefixes) if len(prefix) == length]
            for start in range(0, len(rows), self._batch_size):
                part = rows[start : start + self._batch_size]
                out[part] = self._after([prefixes[i] for i in part]) if length else self._first
        return out

    def _after(self, prefixes: Sequence[Prefix]) -> Array:
        cache = copy.deepcopy(self._cache)
        cache.reorder_cache(cast(LongTensor, torch.zeros(len(prefixes), dtype=torch.long, device=self._model.device)))
        return self._forward(prefixes, cache)

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Prefix], cache: DynamicCache) -> Array:
        ids = torch.tensor(rows, device=self._model.device)
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, **self._last)
        return np.asarray(out.logits[:, -1].double().log_softmax(dim=-1).cpu().numpy(), dtype=np.float64)


def expand_prompt(
    language_model: LanguageModel,
    prompt: Text,
    *,
    max_tokens: int,
    mass: float = 0.99,
    max_nodes: int = 10_000,
    system: str | None = None,
    batch_size: int = 64,
) -> Expansion:
    """Return the likeliest responses to a prompt, as sequences of token ids (see ``expand``)."""
    encoded = language_model.encode_prompt(prompt, system)
    check_length(language_model, [encoded], max_tokens)
    return expand(
        NextTokens(language_model, encoded, batch_size=batch_size),
        ends=language_model.end_ids,
        max_tokens=max_tokens,
        mass=mass,
        max_nodes=max_nodes,
        batch=batch_size,
    )


@final
class PolicyLogits(LogitsProcessor):
    """Makes ``generate`` draw from a policy instead of the model: ``generate(..., logits_processor=[this])``.

    prompt_length: token ids before the response, the same for the whole batch (pad on the left). end: the token id that
    follows a complete outcome; the model must stop at it. token_ids: the id in the model's vocabulary of each of the
    policy's tokens, default their own numbers. Draw with do_sample=True, temperature 1, top_k=0 and top_p=1.
    Raises InputError when the policy has more tokens than the model.
    """

    def __init__(
        self, policy: Autoregressive, prompt_length: int, *, end: int, token_ids: Sequence[int] | None = None
    ) -> None:
        self._policy = policy
        self._prompt_length = prompt_length
        self._end = end
        self._token_ids = None if token_ids is None else list(token_ids)
        self._places = None if token_ids is None else {id_: place for place, id_ in enumerate(token_ids)}

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Return the policy's log probabilities in place of the model's scores: [k, vocabulary]."""
        out = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(cast(Tensor, input_ids)[:, self._prompt_length :].tolist()):
            prefix = self._beginning(ids)
            if prefix is None:
                out[row, self._end] = 0.0
                continue
            log_p = self._policy.next_log_probs(prefix)
            places = list(range(len(log_p))) if self._token_ids is None else self._token_ids
            if max(places) >= out.shape[1]:
                raise InputError(f"the policy must use the model's {out.shape[1]} tokens, got token {max(places)}")
            out[row, places] = torch.from_numpy(log_p).to(out)
        return cast(FloatTensor, out)

    def _beginning(self, ids: list[int]) -> Prefix | None:
        """Return the outcome so far, or None when it is complete (what follows is the end and padding)."""
        prefix: Prefix = ()
        for id_ in ids:
            if self._policy.is_complete(prefix):
                return None
            prefix = (*prefix, id_ if self._places is None else self._places[id_])
        return None if self._policy.is_complete(prefix) else prefix
