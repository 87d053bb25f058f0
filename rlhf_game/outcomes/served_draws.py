"""Draws that a server generates: an OpenAI-compatible one (vLLM) that serves a model which is here as well.

It is asked with token ids and says token ids and their log probabilities; these are computed anew by the model that is
here, and must agree: a server of other weights draws from another policy. So does one that draws otherwise than it is
asked to, whatever it says of its tokens: its draws then speak for another law.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.chat.chat_specs import KeyName, Retries, WebAddress, Workers
from rlhf_game.chat.transport import Address, in_parallel
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.documents import shown
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.mechanism.sampled.evidence import other_law
from rlhf_game.outcomes.log_probabilities import is_near, slack

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sample, Sampling

UNTOUCHED: Final = {"min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What a request says so that a server does not take it from the model's own generation settings, as vLLM does."""


@final
class ServerSpec(Strict):
    """A server with /completions under ``url``, such as http://127.0.0.1:8000/v1."""

    url: WebAddress
    """Where /completions is."""
    name: Name
    """What it calls the model."""
    key_env: KeyName | None = None
    """The environment variable that holds the key."""
    timeout: Positive = 600.0
    """Seconds until a request is given up."""
    retries: Retries = 4
    """How often a request that failed is sent again."""
    workers: Workers = 32
    """Draws that are asked for at the same time."""


def other_samplings(sampling: "Sampling") -> "dict[str, Sampling]":
    """Return how draws may have been made instead, by what it is called; 50 is what transformers keeps by default."""
    heats = [sampling.temperature * factor for factor in (0.5, 0.8, 1.25)]
    found = {f"draws at temperature {heat:g}": replace(sampling, temperature=heat) for heat in heats}
    if not sampling.top_k and sampling.top_p == 1:
        found |= {
            "draws with top_k 50": replace(sampling, top_k=50),
            "draws with top_p 0.9": replace(sampling, top_p=0.9),
        }
    return found


@final
@dataclass(frozen=True)
class _Answer:
    ids: list[int]
    log_probability: float
    """Of these tokens, in nats, as the server says it."""
    is_cut: bool
    stopped_at: Any
    """What the server says that it stopped at, beside the end of a text."""


def drawn_batch(
    server: ServerSpec | None,
    model: "LanguageModel",
    encoded: Sequence[Sequence[int]],
    batch: Sequence[tuple[int, int]],
    *,
    seed: int,
    sampling: "Sampling",
    streams: Sequence[tuple[int, ...]] | None = None,
    goes_on: Callable[[Sequence[int], Sequence[str]], NDArray[np.bool_]] | None = None,
) -> "list[Sample]":
    """Return one response per draw of the batch, as ``sample_batch`` does, with the model's own log probabilities.

    The server generates them where there is one; its texts are then all whole. Raises RunError where it fails or says
    no token ids, InputError where it serves another model or draws otherwise.
    """
    from rlhf_game.training_backends.lm.sampling import (
        Sample,
        check_length,
        log_probabilities,
        log_probabilities_under,
        sample_batch,
    )

    if server is None:
        return sample_batch(model, encoded, batch, seed=seed, sampling=sampling, streams=streams, goes_on=goes_on)
    check_length(model, encoded, sampling.max_new_tokens)
    ask = partial(_asked, server, model, encoded, seed, sampling)
    answers = dict(in_parallel(ask, list(zip(batch, streams or batch, strict=True)), server.workers))
    said = [answers[k] for k in range(len(batch))]
    ids = [_ended(one, model) for one in said]
    prompts = [encoded[b] for b, _ in batch]
    others = other_samplings(sampling)
    own, *under = log_probabilities_under(model, prompts, ids, [sampling, *others.values()])
    begun, kept = own.copy(), [k for k, one in enumerate(said) if len(one.ids) < len(ids[k])]
    if kept:  # the server says nothing of the end
        asked, without = [prompts[k] for k in kept], [said[k].ids for k in kept]
        begun[kept] = log_probabilities(model, asked, without, sampling=sampling)
    for one, score in zip(said, begun.tolist(), strict=True):
        if not is_near(one.log_probability, score):
            hint = "" if sampling.temperature == 1 else " (of vLLM: started with --logprobs-mode processed_logprobs)"
            raise InputError(
                f"outcomes: {server.url} must serve the model that is here, and say log probabilities at the "
                f"temperature that is asked for{hint}: {score:.6g} nats, found {one.log_probability:.6g}"
            )
    draws = [(b, tuple(tokens)) for (b, _), tokens in zip(batch, ids, strict=True)]
    found = other_law(draws, own + slack(own), dict(zip(others, under, strict=True)))
    if found is not None:
        raise InputError(
            f"outcomes: {server.url} must draw from the model that is here as it is asked to, by a seed for each draw, "
            f"found {found}"
        )
    return [
        Sample(model.decode(tokens), tuple(tokens), score, tokens[-1] in model.end_ids)
        for tokens, score in zip(ids, own.tolist(), strict=True)
    ]


def _asked(
    server: ServerSpec,
    model: "LanguageModel",
    encoded: Sequence[Sequence[int]],
    seed: int,
    sampling: "Sampling",
    draw: tuple[tuple[int, int], tuple[int, ...]],
) -> _Answer:
    """Return what the server says of one draw. draw: prompt and number, and what fixes its random numbers."""
    from rlhf_game.training_backends.lm.sampling import is_whole

    (prompt, _), stream = draw
    own = int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1)[0]) % 2**31
    document = {
        "model": server.name, "prompt": list(encoded[prompt]), "max_tokens": sampling.max_new_tokens, "n": 1,
        "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or -1, "seed": own,
        "logprobs": 1, "stop_token_ids": list(model.end_ids), "return_tokens_as_token_ids": True, **UNTOUCHED,
    }  # fmt: skip
    who = f"the server {server.url}"
    address = Address(f"{server.url.rstrip('/')}/completions", server.key_env, server.timeout, server.retries)
    answer, _ = address.post(document, who)
    found = _read(answer, model.vocabulary)
    if found is None:
        raise RunError(
            f"{who} must answer choices[0] with finish_reason stop or length and logprobs with tokens as token_id:N "
            f"and as many token_logprobs, at most 0 (as vLLM does, asked with return_tokens_as_token_ids), found "
            f"{shown(str(answer), 80)}"
        )
    if found.stopped_at is not None and found.stopped_at not in model.end_ids:
        raise RunError(f"{who} must stop where the model here ends, found stop_reason {shown(str(found.stopped_at))}")
    if not is_whole(_ended(found, model), model.end_ids, sampling.max_new_tokens):
        raise RunError(
            f"{who} must answer a whole response, ended or cut after {sampling.max_new_tokens} tokens, found "
            f"{len(found.ids)} tokens that {'were cut' if found.is_cut else 'stopped'}"
        )
    return found


def _read(answer: Any, vocabulary: int) -> _Answer | None:
    """Return what a completion says; None where it is none, or no token of the model has a log probability of it."""
    try:
        choice = answer["choices"][0]
        logs = [float(one) for one in choice["logprobs"]["token_logprobs"]]
        ids = [int(token.removeprefix("token_id:")) for token in choice["logprobs"]["tokens"]]
        found = _Answer(
            ids, math.fsum(logs), {"stop": False, "length": True}[choice["finish_reason"]], choice.get("stop_reason")
        )
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    is_read = len(ids) == len(logs) and all(0 <= token < vocabulary for token in ids)
    return found if is_read and all(-math.inf < one <= 0 for one in logs) else None


def _ended(one: _Answer, model: "LanguageModel") -> list[int]:
    """Return the tokens of a draw up to and with its end, which some servers keep to themselves."""
    ended = next((k + 1 for k, token in enumerate(one.ids) if token in model.end_ids), None)
    if ended is not None:
        return one.ids[:ended]
    return one.ids if one.is_cut or model.end_id is None else [*one.ids, model.end_id]
