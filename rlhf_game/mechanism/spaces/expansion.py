"""Best-first expansion of an autoregressive model's sequences, until the finished ones hold enough of its mass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, frozen
from rlhf_game.mechanism.spaces.segments import Indices

Prefix: TypeAlias = tuple[int, ...]

NextLogProbs: TypeAlias = Callable[[Sequence[Prefix]], Array]
"""From k prefixes of tokens to the log probabilities of the next token, [k, T]; -inf where a token cannot follow."""

ROW_TOLERANCE = 1e-3
"""How far log sum exp of a row may be from 0 (single precision) and still be renormalised."""


@final
@dataclass(frozen=True, eq=False)
class Expansion:
    """Finished sequences of a model, and how much of it they are."""

    sequences: tuple[Prefix, ...]
    """Distinct, likeliest first; each ends with an end token, or is cut after the largest number of tokens."""
    log_probs: Array
    """log q of each sequence under the model: [m]."""
    missing: float
    """The mass of all other sequences: exactly 0 when there are none."""
    tokens: int
    """The size of the vocabulary, T."""
    expanded: int
    """How many prefixes the model was asked about."""

    @property
    def conditional(self) -> Array:
        """The probability of each sequence given that it is one of them: [m]."""
        q = np.exp(self.log_probs - self.log_probs.max())
        return np.asarray(q / q.sum())

    def tree(self, probabilities: Array) -> "PrefixTree":
        """Return a distribution over these sequences, [m], token by token."""
        return PrefixTree(self.sequences, probabilities, self.tokens)


class Autoregressive(Protocol):
    """A distribution over sequences token by token: of a chain (``ChainPolicy``) or of a trie (``PrefixTree``)."""

    def is_complete(self, prefix: Sequence[int], /) -> bool:
        """Return whether ``prefix`` is a whole outcome."""
        ...

    def next_log_probs(self, prefix: Sequence[int], /) -> Array:
        """Return the log probabilities of the token after ``prefix``: [T]."""
        ...


def log_tokens(law: Autoregressive, sequence: Sequence[int]) -> Array:
    """Return log p of each token of a whole outcome after those before it; raise InputError when it is none."""
    if not law.is_complete(sequence):
        raise InputError(f"must be a whole outcome, got {list(sequence)}", field="sequence")
    return np.array([law.next_log_probs(sequence[:k])[token] for k, token in enumerate(sequence)])


@final
class PrefixTree:
    """A distribution over sequences, token by token: p(a | prefix) = p(prefix a ...) / p(prefix ...).

    sequences: m distinct ones, none the beginning of another. probabilities: [m]. tokens: the size of the vocabulary.
    """

    def __init__(self, sequences: Sequence[Prefix], probabilities: Array, tokens: int) -> None:
        self.tokens = tokens
        self._complete = frozenset(sequences)
        self._children: dict[Prefix, dict[int, float]] = {}
        for sequence, probability in zip(sequences, probabilities, strict=True):
            for k, token in enumerate(sequence):
                below = self._children.setdefault(sequence[:k], {})
                below[token] = below.get(token, 0.0) + float(probability)

    def is_complete(self, prefix: Sequence[int]) -> bool:
        """Return whether ``prefix`` is a whole outcome, after which nothing follows."""
        return tuple(prefix) in self._complete and tuple(prefix) not in self._children

    def next_log_probs(self, prefix: Sequence[int]) -> Array:
        """Return the log probabilities of the token after ``prefix``: [T]; raise InputError where none can follow."""
        below = self._children.get(tuple(prefix), {})
        masses = np.array(list(below.values()))
        if not masses.sum() > 0:
            raise InputError(f"must begin a sequence of positive probability, got {list(prefix)}", field="prefix")
        out = np.full(self.tokens, -np.inf)
        with np.errstate(divide="ignore"):
            out[list(below)] = np.log(masses) - np.log(masses.sum())
        return out

    def sample(self, count: int, rng: np.random.Generator) -> list[Prefix]:
        """Return ``count`` independent sequences, drawn token by token."""
        return [self._draw(rng) for _ in range(count)]

    def _draw(self, rng: np.random.Generator) -> Prefix:
        prefix: Prefix = ()
        while not self.is_complete(prefix):
            below = self._children[prefix]
            masses = np.cumsum(list(below.values()))
            at = int(np.searchsorted(masses, rng.random() * masses[-1], side="right"))
            prefix = (*prefix, list(below)[at])
        return prefix


@final
@dataclass(frozen=True, eq=False)
class _Pool:
    """Children of expanded prefixes: the likeliest ``capacity`` ones, and the mass of those that were let go."""

    log_mass: Array
    parent: Indices
    token: Indices
    let_go: float = 0.0

    @staticmethod
    def empty() -> "_Pool":
        none = np.zeros(0, dtype=np.intp)
        return _Pool(np.zeros(0), none, none)

    @property
    def mass(self) -> float:
        return _sum(self.log_mass)

    def with_children(self, log_mass: Array, parents: Indices, capacity: int) -> "_Pool":
        """Return the pool with the children [k, T] of k parents, -inf where there is none; likeliest first."""
        width = min(capacity, log_mass.shape[1])
        tokens = np.argpartition(-log_mass, width - 1, axis=1)[:, :width]
        kept = np.take_along_axis(log_mass, tokens, axis=1)
        let_go = self.let_go
        if width < log_mass.shape[1]:
            rest = log_mass.copy()
            np.put_along_axis(rest, tokens, -np.inf, axis=1)
            let_go += _sum(rest.ravel())
        everything = np.concatenate([self.log_mass, kept.ravel()])
        parent = np.concatenate([self.parent, np.repeat(parents, width)])
        token = np.concatenate([self.token, tokens.ravel()])
        order = np.lexsort((token, parent, -everything))
        order = order[np.isfinite(everything[order])]
        let_go += _sum(everything[order[capacity:]])
        order = order[:capacity]
        return _Pool(everything[order], parent[order], token[order], let_go)

    def split(self, count: int) -> tuple["_Pool", "_Pool"]:
        """Return the likeliest ``count`` children, and the rest (which remembers what was let go)."""
        first = _Pool(self.log_mass[:count], self.parent[:count], self.token[:count])
        return first, _Pool(self.log_mass[count:], self.parent[count:], self.token[count:], self.let_go)


def expand(
    next_log_probs: NextLogProbs,
    *,
    ends: Sequence[int],
    max_tokens: int,
    mass: float = 0.99,
    max_nodes: int = 10_000,
    batch: int = 64,
) -> Expansion:
    """Return the likeliest finished sequences with at least ``mass`` of the model, or what the budget allows.

    A sequence is finished when it ends with a token of ``ends`` or has ``max_tokens`` >= 1 tokens. In each round the
    likeliest prefixes are expanded (at most ``batch``), leaving out those that together with everything lost already
    weigh at most 1 - ``mass``: the goal can be reached without them. At most ``max_nodes`` prefixes are expanded and as
    many finished sequences kept. With mass 1 everything of positive probability is enumerated.

    The result depends on the model alone: reports enter later, so the set is no channel for a misreport.
    Raises InputError for a number out of range, or when the model's rows are not log probabilities.
    """
    _check(ends, max_tokens, mass, max_nodes, batch)
    prefixes: list[Prefix] = []
    tokens = 0
    none = np.zeros(1, dtype=np.intp)
    frontier, finished = _Pool(np.zeros(1), none - 1, none), _Pool.empty()
    while len(prefixes) < max_nodes and finished.mass < mass:
        wanted = _needed(frontier, finished, mass)
        chosen, frontier = frontier.split(min(wanted, batch, max_nodes - len(prefixes)))
        if not chosen.log_mass.size:
            break
        new = [_prefix(prefixes, parent, token) for parent, token in zip(chosen.parent, chosen.token, strict=True)]
        parents = np.arange(len(prefixes), len(prefixes) + len(new))
        prefixes += new
        log_next = _rows(next_log_probs(new), len(new), ends)
        tokens = log_next.shape[1]
        children = chosen.log_mass[:, None] + log_next
        is_last = np.array([len(prefix) + 1 == max_tokens for prefix in new])[:, None] | np.isin(
            np.arange(tokens), ends
        )
        finished = finished.with_children(np.where(is_last, children, -np.inf), parents, max_nodes)
        frontier = frontier.with_children(np.where(is_last, -np.inf, children), parents, max_nodes)
    kept, rest = finished.split(_count(finished.log_mass, mass))
    lost = frontier.mass + frontier.let_go + rest.mass + rest.let_go
    sequences = tuple(_prefix(prefixes, parent, token) for parent, token in zip(kept.parent, kept.token, strict=True))
    if not sequences:
        raise InputError(f"must be enough for one finished sequence, got {max_nodes}", field="max_nodes")
    return Expansion(sequences, frozen(kept.log_mass), min(lost, 1.0), tokens, len(prefixes))


def _needed(frontier: _Pool, finished: _Pool, mass: float) -> int:
    """Return how many of the likeliest prefixes cannot all be spared."""
    tails = np.cumsum(np.exp(frontier.log_mass[::-1]))[::-1]
    spare = 1.0 - mass - frontier.let_go - finished.let_go
    return int(np.count_nonzero(tails > max(spare, 0.0)))


def _count(log_mass: Array, mass: float) -> int:
    """Return how many of the likeliest sequences hold ``mass`` (all when they do not)."""
    reached = np.cumsum(np.exp(log_mass)) >= mass
    return int(np.argmax(reached)) + 1 if mass < 1 and reached.any() else len(log_mass)


def _prefix(prefixes: list[Prefix], parent: int, token: int) -> Prefix:
    return () if parent < 0 else (*prefixes[parent], int(token))


def _rows(log_probs: Array, count: int, ends: Sequence[int]) -> Array:
    """Return the model's rows, renormalised; raise InputError if they are not log probabilities."""
    rows = np.asarray(log_probs, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != count or max(ends, default=0) >= rows.shape[1]:
        raise InputError(
            f"must return {count} rows that hold the ends {list(ends)}, got {rows.shape}", field="next_log_probs"
        )
    top = rows.max(axis=1, keepdims=True)
    totals = top + np.log(np.exp(rows - top).sum(axis=1, keepdims=True))
    if not (np.abs(totals) <= ROW_TOLERANCE).all():
        raise InputError(
            f"must return rows whose probabilities sum to 1, got {np.exp(totals.max())}", field="next_log_probs"
        )
    return np.asarray(rows - totals)


def _sum(log_mass: Array) -> float:
    return float(np.exp(log_mass).sum())


def _check(ends: Sequence[int], max_tokens: int, mass: float, max_nodes: int, batch: int) -> None:
    for name, number in (("max_tokens", max_tokens), ("max_nodes", max_nodes), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"must be an integer >= 1, got {number!r}", field=name)
    if not 0 < mass <= 1:
        raise InputError(f"must be in (0, 1], got {mass!r}", field="mass")
    if min(ends, default=0) < 0:
        raise InputError(f"must be tokens, got {list(ends)}", field="ends")
