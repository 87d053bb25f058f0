"""Responses drawn from a language model, and their exact probabilities.

Draw j of prompt i is fixed by (seed, i, j): each sequence has its own random stream and is read off the model's
cumulative distribution with one uniform number per token. Guaranteed: the same batches on the same machine and the
same number of threads give the same bytes. In other batches the same numbers are used, so a token differs only where
the change of floating-point rounding in the logits carries the cumulative probability across its uniform number.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import LongTensor, Tensor
from transformers import DynamicCache

from rlhf_game.errors import InputError, RunError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.models import LanguageModel

COMPACT_AT = 0.875
"""Share of unfinished sequences at which the finished ones are taken out of the batch."""
ASKED = 4
"""Tokens after which it is asked again which responses are to go on."""


@final
@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; the defaults draw from the model's own distribution."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    """Keep only the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest tokens that hold this much probability; 1 keeps all."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if not self.temperature > 0:
            raise InputError(f"temperature must be > 0, got {self.temperature}")
        if self.top_k < 0:
            raise InputError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}")


@final
@dataclass(frozen=True)
class Sample:
    """One drawn response."""

    text: str
    token_ids: tuple[int, ...]
    """With the token that ended it, if one did."""
    log_probability: float
    """Of the token ids under the distribution that they were drawn from, in nats."""
    is_finished: bool
    """Whether it ended by itself, not at max_new_tokens."""


Draw = tuple[int, int]
"""Prompt index i, and j for the prompt's j-th response."""


def plan_batches(lengths: Sequence[int], per_prompt: int, batch_size: int) -> list[tuple[Draw, ...]]:
    """Return all draws in batches of at most ``batch_size`` sequences, prompts of like length together.

    lengths: tokens of each prompt, [B].
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    draws = [(i, j) for i in order for j in range(per_prompt)]
    return [tuple(draws[start : start + batch_size]) for start in range(0, len(draws), batch_size)]


def sample(
    language_model: LanguageModel,
    prompts: Sequence[Text],
    per_prompt: int,
    *,
    seed: int,
    sampling: Sampling | None = None,
    system: str | None = None,
    batch_size: int = 64,
) -> list[list[Sample]]:
    """Return ``per_prompt`` responses to each prompt, [B][per_prompt]."""
    encoded = language_model.encode_prompts(prompts, system)
    found: dict[Draw, Sample] = {}
    for batch in plan_batches([len(ids) for ids in encoded], per_prompt, batch_size):
        drawn = sample_batch(language_model, encoded, batch, seed=seed, sampling=sampling or Sampling())
        found.update(zip(batch, drawn, strict=True))
    return [[found[i, j] for j in range(per_prompt)] for i in range(len(prompts))]


@torch.inference_mode()
def sample_batch(
    language_model: LanguageModel,
    encoded: Sequence[Sequence[int]],
    batch: Sequence[Draw],
    *,
    seed: int,
    sampling: Sampling,
    streams: Sequence[tuple[int, ...]] | None = None,
    goes_on: Callable[[Sequence[int], Sequence[str]], NDArray[np.bool_]] | None = None,
) -> list[Sample]:
    """Return one response per draw of the batch. encoded: token ids of every prompt, [B].

    Each prompt is read once, whatever the number of its responses, and finished responses leave the batch. streams:
    what fixes each draw's random numbers besides the seed; the draw (i, j) itself unless they are given. goes_on: asked
    every few tokens, of the places in the batch that are open and their texts so far; those of which it says no are
    cut there.
    """
    check_length(language_model, encoded, sampling.max_new_tokens)
    prompts = sorted({i for i, _ in batch})
    uniforms = np.stack([_uniforms(seed, stream, sampling.max_new_tokens) for stream in streams or batch])
    device = language_model.model.device
    stepper = _Stepper.start(language_model, [encoded[i] for i in prompts])
    stepper.select(torch.tensor([prompts.index(i) for i, _ in batch], device=device))
    rows = np.arange(len(batch))  # which draw each row of the stepper is
    tokens: list[list[int]] = [[] for _ in batch]
    log_probabilities = np.zeros(len(batch))
    is_open, is_cut = np.ones(len(batch), dtype=bool), np.zeros(len(batch), dtype=bool)
    for step in range(sampling.max_new_tokens):
        chosen, log_chosen = choose(stepper.logits, torch.from_numpy(uniforms[rows, step]).to(device), sampling)
        picked, gained = chosen.tolist(), log_chosen.tolist()
        for row, draw in enumerate(rows):
            if is_open[draw]:
                tokens[draw].append(picked[row])
                log_probabilities[draw] += gained[row]
                is_open[draw] = picked[row] not in language_model.end_ids
        if step + 1 == sampling.max_new_tokens or not is_open.any():
            break
        if goes_on is not None and (step + 1) % ASKED == 0:
            asked = np.flatnonzero(is_open)
            begun = [language_model.decode(tokens[k]) for k in asked]
            was_cut = asked[~goes_on(asked.tolist(), begun)]
            is_open[was_cut], is_cut[was_cut] = False, True
            if not is_open.any():
                break
        if is_open[rows].mean() <= COMPACT_AT:
            kept = torch.from_numpy(np.flatnonzero(is_open[rows])).to(device)
            stepper.select(kept)
            rows, chosen = rows[is_open[rows]], chosen[kept]
        stepper.advance(chosen)
    return [
        Sample(
            language_model.decode(tokens[k]),
            tuple(tokens[k]),
            float(log_probabilities[k]),
            not bool(is_open[k] or is_cut[k]),
        )
        for k in range(len(batch))
    ]


@torch.inference_mode()
def next_token_shares(language_model: LanguageModel, encoded: Sequence[Sequence[int]], tokens: Sequence[int]) -> Array:
    """Return how the next token's probability is shared among ``tokens``: [B, k], rows sum to 1.

    encoded: token ids of every prompt, [B].
    """
    check_length(language_model, encoded, 1)
    logits = _Stepper.start(language_model, encoded).logits[:, list(tokens)]
    return logits.double().softmax(dim=-1).cpu().numpy()


def check_length(language_model: LanguageModel, encoded: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise InputError when a prompt and its response do not fit the model's context."""
    room = getattr(language_model.model.config, "max_position_embeddings", None)
    if room is None:
        return
    for i, ids in enumerate(encoded):
        if len(ids) + max_new_tokens > room:
            raise InputError(
                f"prompts[{i}] must leave room for max_new_tokens = {max_new_tokens} in the model's {room} tokens, "
                f"it takes {len(ids)}"
            )


def _uniforms(seed: int, stream: tuple[int, ...], count: int) -> Array:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream)).random(count)


def choose(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the token of each row where the cumulative probability passes its uniform, and its log-probability.

    logits: [k, T]; uniforms: [k] in [0, 1), float64. The cumulative sum runs in float64. Raises RunError where logits
    are no numbers.
    """
    scaled = filter_logits(logits.float() / sampling.temperature, sampling)
    shifted = scaled - scaled.amax(dim=-1, keepdim=True)
    cumulative = shifted.exp().cumsum(dim=-1, dtype=torch.float64)
    total = _known(cumulative[:, -1:])
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, target, right=True)
    return chosen[:, 0], (shifted.gather(-1, chosen).double() - total.log())[:, 0]


def filter_logits(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the logits [k, T] with those outside top_k and top_p at minus infinity."""
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, where = logits.sort(dim=-1, descending=True, stable=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        before[:, 0] = 0.0
        is_outside = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, where, before >= sampling.top_p)
        logits = logits.masked_fill(is_outside, -torch.inf)
    return logits


@final
class _Stepper:
    """A batch of sequences, their key-value cache, and the logits [k, T] of each one's next token."""

    def __init__(self, language_model: LanguageModel, cache: DynamicCache, mask: Tensor, logits: Tensor) -> None:
        self._model = language_model.model
        self._cache = cache
        self._mask = mask
        self.logits = logits

    @classmethod
    def start(cls, language_model: LanguageModel, encoded: Sequence[Sequence[int]]) -> "_Stepper":
        """Read the prompts, padded on the left."""
        model, cache = language_model.model, DynamicCache(config=language_model.model.config)
        width = max(map(len, encoded))
        ids = torch.zeros(len(encoded), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(encoded):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(model.device), mask.to(model.device)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        stepper = cls(language_model, cache, mask, torch.empty(0))
        stepper._forward(ids, positions)
        return stepper

    def select(self, rows: Tensor) -> None:
        """Keep these rows (a row may be named several times)."""
        self._cache.reorder_cache(cast(LongTensor, rows))
        self._mask, self.logits = self._mask[rows], self.logits[rows]

    def advance(self, tokens: Tensor) -> None:
        """Append one token to each sequence. tokens: [k]."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._forward(tokens[:, None], self._mask.sum(dim=-1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        accepted = inspect.signature(self._model.forward).parameters
        places = {"position_ids": positions} if "position_ids" in accepted else {}
        last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        out = self._model(
            input_ids=ids, attention_mask=self._mask, past_key_values=self._cache, use_cache=True, **places, **last
        )
        self.logits = out.logits[:, -1]


@torch.inference_mode()
def log_probabilities(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    sampling: Sampling | None = None,
    batch_size: int = 16,
) -> Array:
    """Return log q(response | prompt) in nats of each pair of token ids: [k].

    sampling: the temperature and cut-offs of the distribution (default: the model's). See log_probabilities_under.
    """
    how = [sampling or Sampling()]
    (found,) = log_probabilities_under(language_model, prompts, responses, how, batch_size=batch_size)
    return np.asarray(found)


def log_probabilities_under(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    batch_size: int = 16,
) -> Array:
    """Return log q(response | prompt) in nats of each pair of token ids under each way of drawing: [samplings, k].

    A response counts up to and with its first end token; what follows is ignored. One without an end token is the
    probability of that beginning. Responses to the same prompt go through the model together, and how a batch's
    prompts begin is read once.
    """
    cut = [_until_end(response, language_model.end_ids) for response in responses]
    asked = [tuple(prompt) for prompt in prompts]
    shortest: dict[tuple[int, ...], int] = {}
    for prompt, response in zip(asked, cut, strict=True):
        total = len(prompt) + len(response)
        shortest[prompt] = min(total, shortest.get(prompt, total))
    order = sorted(range(len(cut)), key=lambda k: (shortest[asked[k]], asked[k], len(cut[k])))
    found = np.zeros((len(samplings), len(cut)))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores = _score(language_model, [prompts[k] for k in rows], [cut[k] for k in rows], samplings)
        found[:, rows] = np.transpose([tokens.sum(dim=-1).tolist() for tokens in scores])
    return found


def is_whole(response: Sequence[int], end_ids: Sequence[int], longest: int) -> bool:
    """Return whether token ids are an outcome: they end with their only end token, or are cut after ``longest``."""
    ends = [k for k, token in enumerate(response, start=1) if token in end_ids]
    return 0 < len(response) <= longest and (ends == [len(response)] or (not ends and len(response) == longest))


@torch.inference_mode()
def token_log_probabilities(
    language_model: LanguageModel, prompt: Sequence[int], response: Sequence[int], *, sampling: Sampling | None = None
) -> Array:
    """Return log q(token | prompt, tokens before it) in nats of each token of a response: [tokens].

    Raises InputError when the response is no whole one: it goes on after its end, is longer than sampling lets it be,
    or is neither ended nor cut there.
    """
    how = sampling or Sampling()
    if not is_whole(response, language_model.end_ids, how.max_new_tokens):
        raise InputError(
            f"must be a whole outcome, ended or of {how.max_new_tokens} tokens, got {list(response)}", field="sequence"
        )
    (tokens,) = _score(language_model, [prompt], [list(response)], [how])
    return np.asarray(tokens[0].cpu().numpy())


@torch.inference_mode()
def next_log_probabilities(
    language_model: LanguageModel, encoded: Sequence[Sequence[int]], tokens: Sequence[int], *, batch_size: int = 16
) -> Array:
    """Return log q(token | ids) in nats of each of the ``tokens``, [t], after each of the sequences: [k, t]."""
    check_length(language_model, encoded, 1)
    order = sorted(range(len(encoded)), key=lambda k: len(encoded[k]))
    found = np.zeros((len(encoded), len(tokens)))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        logits = _Stepper.start(language_model, [encoded[k] for k in rows]).logits
        found[rows] = logits.double().log_softmax(dim=-1)[:, list(tokens)].cpu().numpy()
    return found


def _until_end(response: Sequence[int], end_ids: tuple[int, ...]) -> list[int]:
    ended = next((t + 1 for t, token in enumerate(response) if token in end_ids), len(response))
    return list(response[:ended])


def _score(
    language_model: LanguageModel,
    prompts: list[Sequence[int]],
    responses: list[list[int]],
    samplings: Sequence[Sampling],
) -> list[Tensor]:
    """Return log p of each token of the responses of a batch, tempered and cut as in each sampling: [samplings, t].

    The batch is padded on the right.
    """
    model, cache = language_model.model, DynamicCache(config=language_model.model.config)
    begun = commonprefix([list(prompt[:-1]) for prompt in prompts])
    if begun:
        model(input_ids=torch.tensor([begun], device=model.device), past_key_values=cache, use_cache=True)
        cache.reorder_cache(cast(LongTensor, torch.zeros(len(prompts), dtype=torch.long, device=model.device)))
    width = max(len(a) + len(b) for a, b in zip(prompts, responses, strict=True))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        both = [*prompt, *response]
        ids[row, : len(both)] = torch.tensor(both)
        mask[row, : len(both)] = 1
    ids, mask = ids[:, len(begun) :].to(model.device), mask.to(model.device)
    logits = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).logits
    found = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        first = len(prompt) - 1 - len(begun)
        steps = logits[row, first : first + len(response)].float()
        said = torch.tensor(response, dtype=torch.long, device=steps.device)[:, None]
        tempered = (filter_logits(steps / how.temperature, how) for how in samplings)
        under = [one.double().log_softmax(dim=-1).gather(-1, said)[:, 0] for one in tempered]
        found.append(_known(torch.stack(under)))
    return found


def _known(values: Tensor) -> Tensor:
    """Return what was computed from logits; raise RunError where it is no number, since they are none."""
    if bool(values.isnan().any()):
        raise RunError("the language model gives no probabilities: its logits are no numbers (are its weights?)")
    return values
