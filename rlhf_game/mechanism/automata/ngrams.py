"""n-gram references, estimated from samples of a language model or from a text."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.automata.machines import Reference
from rlhf_game.mechanism.spaces.chain import END

Context = tuple[int, ...]


def ngram(
    samples: Sequence[Sequence[int]],
    tokens: int,
    order: int,
    *,
    smoothing: float = 1.0,
    ends: Sequence[int] = (),
) -> Reference:
    """Return the n-gram model of ``order`` >= 1 (each token depends on the order - 1 before it).

    samples: sequences of tokens 0..tokens - 1, each with its end token if it ended. ends: the tokens that end a
    sequence. smoothing: alpha >= 0, in tokens. With context c, its count n(c) and its tail c' without the first token,

        p(a | c) = (n(c, a) + alpha p(a | c')) / (n(c) + alpha)
        p(a | nothing) = (n(a) + alpha / tokens) / (n + alpha)

    (the hierarchical Dirichlet of MacKay and Peto 1995 with one alpha; 0 is maximum likelihood). States are the
    contexts that occur, the empty one first: where sequences start; after a context that never occurred the model goes
    on from the longest tail of it that did. Raises InputError for tokens out of range.
    """
    if order < 1 or tokens < 1:
        raise InputError(f"order and tokens must be >= 1, got {order} and {tokens}")
    if not smoothing >= 0:
        raise InputError(f"must be >= 0, got {smoothing}", field="smoothing")
    counts: dict[Context, Counter[int]] = {(): Counter()}
    for i, sample in enumerate(samples):
        for k, token in enumerate(sample):
            if not 0 <= token < tokens:
                raise InputError(f"must be a token from 0 to {tokens - 1}, got {token}", field=f"samples[{i}][{k}]")
            for length in range(min(order - 1, k) + 1):
                counts.setdefault(tuple(sample[k - length : k]), Counter())[token] += 1
    if not counts[()] and smoothing == 0:
        raise InputError("must hold at least one token without smoothing, got none", field="samples")
    contexts = sorted(counts, key=len)
    places = {context: s for s, context in enumerate(contexts)}
    probabilities = np.empty((len(contexts), tokens))
    next_state = np.empty((len(contexts), tokens), dtype=np.int64)
    for s, context in enumerate(contexts):
        below = probabilities[places[context[1:]]] if context else np.full(tokens, 1 / tokens)
        probabilities[s] = _row(counts[context], below, smoothing)
        next_state[s] = _followers(context, tokens, order, places)
    next_state[:, list(ends)] = END
    return Reference(next_state, probabilities)


def characters(texts: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """Return an alphabet of single characters with an empty token for the end last, and the texts in it."""
    alphabet = [*sorted(set("".join(texts))), ""]
    places = {character: i for i, character in enumerate(alphabet)}
    return alphabet, [[*(places[character] for character in text), len(alphabet) - 1] for text in texts]


def _row(counts: Counter[int], below: Array, smoothing: float) -> Array:
    row = smoothing * below
    for token, count in counts.items():
        row[token] += count
    return np.asarray(row / row.sum())


def _followers(context: Context, tokens: int, order: int, places: dict[Context, int]) -> np.ndarray:
    """Return the state after each token: the longest tail of the context and the token that occurs, [T]."""
    out = np.zeros(tokens, dtype=np.int64)
    keep = max(order - 1, 0)
    for length in range(1, keep + 1):  # longer tails overwrite shorter ones
        tail = context[len(context) - (length - 1) :] if length > 1 else ()
        if len(tail) == length - 1:
            for token in range(tokens):
                place = places.get((*tail, token))
                if place is not None:
                    out[token] = place
    return out
