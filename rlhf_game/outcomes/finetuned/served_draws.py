"""Draws that a server generates: an OpenAI-compatible one (vLLM) that serves a model which is here as well.

It is asked with token ids and says token ids and their log probabilities; these are computed anew by the model that is
here, and must agree: a server of other weights draws from another policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from rlhf_game.chat.chat_specs import KeyName, WebAddress
from rlhf_game.chat.transport import Address, in_parallel
from rlhf_game.errors import InputError, RunError
from rlhf_game.files.documents import shown
from rlhf_game.files.schema import Name, Positive, Strict

if TYPE_CHECKING:
    from rlhf_game.training_backends.lm.models import LanguageModel
    from rlhf_game.training_backends.lm.sampling import Sampling

NEAR: Final = 0.1
"""Nats by which a log probability may differ from the one that the model here gives, beside FAR of it: half precision
and other kernels move it so far, another policy farther."""
FAR: Final = 0.01


@final
class ServerSpec(Strict):
    """A server with /completions under ``url``, such as http://127.0.0.1:8000/v1."""

    url: WebAddress
    name: Name
    """What it calls the model."""
    key_env: KeyName | None = None
    timeout: Positive = 600.0
    retries: int = 4
    workers: int = 32
    """Draws that are asked for at the same time."""


def is_near(said: float, computed: float) -> bool:
    """Return whether two log probabilities of a response, in nats, may be of one model."""
    return abs(said - computed) <= NEAR + FAR * abs(computed)


def served_draws(
    server: ServerSpec,
    model: "LanguageModel",
    encoded: Sequence[Sequence[int]],
    batch: Sequence[tuple[int, int]],
    seed: int,
    sampling: "Sampling",
) -> list[dict[str, Any]]:
    """Return one response per draw of the batch, as ``sample_batch`` has them, with the model's own log probabilities.

    encoded: token ids of every prompt, [B]. Raises RunError where the server fails or says no token ids, InputError
    where it serves another model.
    """
    from rlhf_game.training_backends.lm.sampling import Sample, log_probabilities

    address = Address(f"{server.url.rstrip('/')}/completions", server.key_env, server.timeout, server.retries)
    ask = partial(_asked, server, address, encoded, seed, sampling, model.end_ids)
    answers = dict(in_parallel(ask, list(batch), server.workers))
    said = [answers[k] for k in range(len(batch))]
    ids = [_ended(one, model) for one in said]
    own = log_probabilities(model, [encoded[b] for b, _ in batch], ids, sampling=sampling)
    found = []
    for one, tokens, score in zip(said, ids, own.tolist(), strict=True):
        if len(tokens) == len(one["ids"]) and not is_near(one["log_probability"], score):
            raise InputError(
                f"outcomes.servers: {server.url} must serve the model that is here, which gives a draw {score:.6g} "
                f"nats, found {one['log_probability']:.6g}"
            )
        is_finished = tokens[-1] in model.end_ids
        found.append(asdict(Sample(model.decode(tokens), tuple(tokens), score, is_finished)))
    return found


def _asked(
    server: ServerSpec,
    address: Address,
    encoded: Sequence[Sequence[int]],
    seed: int,
    sampling: "Sampling",
    ends: Sequence[int],
    draw: tuple[int, int],
) -> dict[str, Any]:
    """Return the token ids of one draw and their log probability, as the server says them."""
    own = int(np.random.SeedSequence(seed, spawn_key=draw).generate_state(1)[0]) % 2**31
    document = {
        "model": server.name, "prompt": list(encoded[draw[0]]), "max_tokens": sampling.max_new_tokens, "n": 1,
        "temperature": sampling.temperature, "top_p": 1.0, "seed": own, "logprobs": 1, "stop_token_ids": list(ends),
        "return_tokens_as_token_ids": True,
    }  # fmt: skip
    who = f"the server {server.url}"
    answer, _ = address.post(document, who)
    try:
        choice = answer["choices"][0]
        tokens, logs = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        ids = [int(token.removeprefix("token_id:")) for token in tokens]
        return {"ids": ids, "log_probability": float(sum(logs)), "is_cut": choice["finish_reason"] == "length"}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{who} must answer choices[0].logprobs with tokens as token_id:N and token_logprobs (as vLLM does, asked "
            f"with return_tokens_as_token_ids), found {shown(str(answer), 80)}"
        ) from error


def _ended(one: Mapping[str, Any], model: "LanguageModel") -> list[int]:
    """Return the tokens of a draw up to and with its end, which some servers keep to themselves."""
    ids = list(one["ids"])
    ended = next((k + 1 for k, token in enumerate(ids) if token in model.end_ids), None)
    if ended is not None:
        return ids[:ended]
    return ids if one["is_cut"] or model.end_id is None else [*ids, model.end_id]
