r"""Exactly over all token sequences of a finite automaton: |T|^K outcomes in O(S |T| + K E).

The reference is an automaton with S states over tokens T: q(a | s) and a next state for each pair, or the end; every
sequence ends after at most K tokens (the horizon). A reward is r(s, a), earned at every step and added up. Outcomes are
the complete sequences; q and r of a sequence are the product and the sum along it. Under KL the optimum is an automaton
again, with other probabilities (theory section 7); with t the state after token a in state s,

    V_k(s) = log sum_a q(a|s) exp(score(s,a)/strength + V_{k+1}(t))
    p_k(a|s) = q(a|s) exp(score(s,a)/strength + V_{k+1}(t) - V_k(s))

Neither q nor the score depends on the step k, so the tokens that lead from s to the same t are summed once: they make
one *edge*, and given the edge the token's distribution is the same at every step. One pass over the S |T| pairs, then
the recursion over K runs on the E <= min(S |T|, S (S + 1)) edges.

A reward is additive, so v_i = <visits, r_i> with the expected number of visits of each pair. A payment is the cumulant
of the group's share along the sequence: tokens merge into edges; edges and what follows them (independent given the
next state, so that means and cumulants add) merge into states, by the law in segments.py. Removing the whole score
gives back q, so D(p || q) is the cumulant of the whole score. Everything is a sum of non-negative terms.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import BLOCK, Array, finite, frozen
from rlhf_game.mechanism.domains import Coordinates
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.reports import NORMALIZATION_TOLERANCE, Normalization
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace, PolicyView
from rlhf_game.mechanism.spaces.chain_rows import ChainCoordinates
from rlhf_game.mechanism.spaces.expansion import log_tokens
from rlhf_game.mechanism.spaces.segments import Indices, Segments

END: Final = -1
"""The next state of a token that ends the sequence."""


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """The pairs (state, token) sorted by edge, the edges sorted by state."""

    pairs: Indices
    """Positions in a flattened [S, T] array, sorted by edge: [N]."""
    tokens: Segments
    """The N pairs cut into E edges."""
    edges: Segments
    """The E edges cut into S states."""
    target: Indices
    """The next state of each edge, S for the end: [E]."""

    @staticmethod
    def of(next_state: NDArray[np.int64], present: NDArray[np.bool_]) -> "Graph":
        """Return the graph of the pairs that are present (at least one in each state)."""
        states = len(next_state)
        target = np.where(next_state == END, states, next_state)
        key = (np.arange(states)[:, None] * (states + 1) + target).ravel()
        pairs = np.flatnonzero(present)
        key = key[pairs]
        small = key.astype(np.uint16) if states * (states + 1) <= 2**16 else key  # sorted by radix, not by merging
        order = np.argsort(small, kind="stable")
        key = key[order]
        tokens = Segments.of(key)
        source, target = np.divmod(key[tokens.starts], states + 1)
        return Graph(pairs[order], tokens, Segments.of(source), target)


@final
class Chain(PolicySpace[Array]):
    """The policies over an automaton's token sequences, with the exact KL optimum.

    next_state: [S, T] integers, END (-1) where the sequence ends after that token.
    reference: [S, T] token probabilities; rows within 1e-6 of sum 1 are renormalised; zero stays zero.
    regularizer: KL(strength); no other divergence has an automaton as its optimum.
    initial: the first state. horizon: K >= 1, the largest number of tokens.
    normalization: the declared domain of a reward over *all* sequences of the automaton, those of probability zero
    included (each checked by its own recursion): none, sum or max.

    Rewards are [S, T], in the unit of the strength. In the space's coordinates a reward is [N]: one number for each
    pair of positive probability, in the graph's order. Raises InputError, or CombinationError for another divergence.
    """

    def __init__(
        self,
        next_state: ArrayLike,
        reference: ArrayLike,
        regularizer: Regularizer,
        *,
        horizon: int,
        initial: int = 0,
        normalization: Normalization | str = Normalization.NONE,
    ) -> None:
        """Check the automaton and sort its pairs by edge."""
        if not getattr(regularizer, "is_entropic", False):
            raise CombinationError(f"an automaton is exact under KL only, not under {type(regularizer).__name__}")
        self.regularizer = regularizer
        self.strength = regularizer.strength
        self.normalization = Normalization.parse(normalization)
        q = _read_reference(reference)
        self.shape: tuple[int, int] = (q.shape[0], q.shape[1])
        self.next_state = _read_next_state(next_state, self.shape)
        self.initial = _read_integer(initial, "initial", 0, self.shape[0] - 1)
        self.horizon = _read_integer(horizon, "horizon", 1, None)
        self.graph = Graph.of(self.next_state, q > 0)
        self.log_reference = frozen(np.log(q.ravel()[self.graph.pairs]))

    @functools.cached_property
    def _all(self) -> Graph:
        return Graph.of(self.next_state, np.ones(self.shape, dtype=bool))

    def views(self, policy: Any, rewards: Sequence[Any]) -> list[PolicyView]:
        """Return the first token, which is drawn in the initial state."""
        at, tables = self.initial, np.stack([self._table(reward, "reward") for reward in rewards])
        q = np.zeros(self.shape)
        q.ravel()[self.graph.pairs] = np.exp(self.log_reference)
        name, first = f"First token, state {at}", np.asarray(policy.probabilities)[0]
        return [PolicyView(name, False, "token", 1.0, q[at], first[at], tables[:, at])]

    def coordinates(self, reward: Any) -> Coordinates:
        """Return one row, of the pairs (state, token)."""
        return ChainCoordinates(self)

    def read(self, reward: Any) -> Array:
        """Return the reward of each pair of positive probability: [N]; raise InputError unless it is in the domain."""
        table = self._table(reward, "reward")
        if self.normalization is not Normalization.NONE:
            self._check(table)
        return self._of_pairs(table)

    def read_boost(self, boost: Any) -> Array:
        """Return the boost of each pair of positive probability: [N]."""
        return self._of_pairs(self._table(boost, "boosts"))

    def _of_pairs(self, table: Array) -> Array:
        out: Array = table.ravel().take(self.graph.pairs)
        out.flags.writeable = False
        return out

    def maximize(self, weights: Array, rewards: Sequence[Array]) -> "ChainPolicy":
        """Return the Gibbs policy of sum_i weights_i r_i, in one pass over the pairs and one over the steps."""
        return ChainPolicy(self, weights, rewards)

    def magnitude(self, reward: Array) -> float:
        """Return the largest entry's size at every step."""
        return self.horizon * float(np.abs(reward).max())

    def anchor(self, reward: Array) -> float:
        """Return the reward of the first pair of the initial state, which scores are counted from.

        Earned at every step, it is only told from 0 by the lengths of sequences: kept apart, it costs no digit however
        large it is.
        """
        return float(reward[self.graph.tokens.starts[self.graph.edges.starts[self.initial]]])

    def total(self, reward: ArrayLike) -> float:
        """Return the sum of a reward [S, T] over all sequences of the automaton (inf when no float holds it).

        ``reward / chain.total(reward)`` has sum 1 where all its entries are >= 0 or the sum is not 0.
        """
        table = self._table(reward, "reward").ravel()[self._all.pairs]
        with np.errstate(over="ignore"):
            gain, loss = (float(np.exp(self._log_total(np.maximum(part, 0.0)))) for part in (table, -table))
        return gain - loss if math.isfinite(gain) else math.inf

    def extremes(self, reward: ArrayLike) -> tuple[float, float]:
        """Return the least and the largest reward of any sequence of the automaton, for a reward [S, T]."""
        table = self._table(reward, "reward").ravel()[self._all.pairs]
        return -self._largest(-table), self._largest(table)

    def _table(self, reward: Any, what: str) -> Array:
        if callable(reward):
            raise InputError(f"must be [states][tokens] = {list(self.shape)} numbers, got a function", field=what)
        table = finite(reward, what)
        if table.shape != self.shape:
            raise InputError(
                f"must be [states][tokens] = {list(self.shape)} like the reference, got {list(table.shape)}", field=what
            )
        return table

    def _check(self, table: Array) -> None:
        name = self.normalization.value
        low, high = self.extremes(table)
        if low < -1e-12 * max(1.0, float(np.abs(table).max()) * self.horizon):
            raise InputError(
                f"must be >= 0 on every sequence under normalization {name}, got {low} on one", field="reward"
            )
        found = high if self.normalization is Normalization.MAX else self.total(table)
        if not abs(found - 1.0) <= NORMALIZATION_TOLERANCE:
            raise InputError(
                f"must have {name} 1 over all sequences under normalization {name}, got {name} {found}", field="reward"
            )

    def _largest(self, table: Array) -> float:
        graph = self._all
        best = graph.tokens.max(table)
        following = np.zeros(self.shape[0] + 1)
        for _ in range(self.horizon):
            following[:-1] = graph.edges.max(best + following[graph.target])
        return float(following[self.initial])

    def _log_total(self, table: Array) -> float:
        """Return the log of a reward's sum over all sequences, for a reward >= 0."""
        graph = self._all
        log_count = np.log(graph.tokens.lengths)
        with np.errstate(divide="ignore"):
            log_sum = np.log(graph.tokens.sum(table))
        sequences = np.zeros(self.shape[0] + 1)
        totals = np.full(self.shape[0] + 1, -np.inf)
        for _ in range(self.horizon):
            after = np.logaddexp(log_count + totals[graph.target], log_sum + sequences[graph.target])
            totals[:-1] = graph.edges.log_sum(after)
            sequences[:-1] = graph.edges.log_sum(log_count + sequences[graph.target])
        return float(totals[self.initial])


@final
class ChainPolicy(Policy[Array]):
    """The optimal automaton, step-wise; probabilities are made step by step when asked for."""

    def __init__(self, space: Chain, weights: Array, rewards: Sequence[Array]) -> None:
        """Solve for the score sum_i weights_i r_i, rewards [N] in units of reward."""
        strength = space.regularizer.strength
        self.space: Chain = space
        self.gap = 0.0
        anchors = [space.anchor(reward) for reward in rewards]
        constant = float(weights @ np.array(anchors))
        score = np.zeros(len(space.log_reference))
        for start in range(0, len(score), BLOCK):
            part = score[start : start + BLOCK]
            for weight, reward, anchor in zip(weights, rewards, anchors, strict=True):
                part += weight * (reward[start : start + BLOCK] - anchor)
        log_weights = score / strength
        log_weights += space.log_reference
        self._log_tokens, self._edge_weights = space.graph.tokens.log_softmax(log_weights)
        self._following = self._backward(constant / strength)
        self.visits = self._forward()
        """Expected number of times that each pair is taken: [N]."""
        self.divergence = float(self._cumulants([(1 / strength, score, 0.0, constant / strength)])[0])
        self.welfare = float(weights @ self.values(rewards)) - strength * self.divergence

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return <visits, r>, the expected reward of a sequence, for k rewards: [k]."""
        return np.array([self.visits @ reward for reward in rewards])

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return strength * KL(p || p without w r), for k pairs: [k]."""
        strength, shares = self.space.regularizer.strength, []
        for weight, reward in zip(weights, rewards, strict=True):
            anchor = self.space.anchor(reward)
            shares.append((weight / strength, reward, anchor, weight / strength * anchor))
        return strength * self._cumulants(shares)

    @property
    def probabilities(self) -> Array:
        """p_k(a | s): [K, S, T] (a new array each time; see ``step`` for one step at a time)."""
        return np.stack([self.step(k) for k in range(self.space.horizon)])

    def pieces(self) -> Iterable[Array]:
        """Yield p step by step."""
        return (self.step(k).ravel() for k in range(self.space.horizon))

    def step(self, k: int) -> Array:
        """Return p_k(a | s), the next-token probabilities after k tokens: [S, T]."""
        out = np.zeros(self.space.shape)
        out.ravel()[self.space.graph.pairs] = np.exp(self._log_pairs(k))
        return out

    def next_log_probs(self, prefix: Sequence[int]) -> Array:
        """Return the log probabilities of the token after ``prefix``: [T]; raise InputError after a whole outcome."""
        state = self._state_after(prefix)
        if state == END:
            raise InputError(f"must be unfinished, got a complete sequence of {len(prefix)} tokens", field="prefix")
        return self._log_row(len(prefix), state)

    def is_complete(self, prefix: Sequence[int]) -> bool:
        """Return whether ``prefix`` is a whole outcome."""
        return self._state_after(prefix) == END

    def log_tokens(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return log p of each token of a whole outcome; raise InputError when it is none."""
        return log_tokens(self, sequence)

    def log_probability(self, sequence: Sequence[int]) -> float:
        """Return log p of a sequence or of a prefix (the sum of its next-token log probabilities)."""
        return float(sum(self.next_log_probs(sequence[:k])[token] for k, token in enumerate(sequence)))

    def sample(self, count: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """Return ``count`` independent sequences drawn from the policy."""
        drawn = np.full((count, self.space.horizon), END, dtype=np.int64)
        state = np.full(count, self.space.initial)
        for k in range(self.space.horizon):
            for here in np.unique(state[state != END]):
                rows = np.flatnonzero(state == here)
                cumulative = np.cumsum(np.exp(self._log_row(k, int(here))))
                drawn[rows, k] = np.searchsorted(cumulative, rng.random(len(rows)) * cumulative[-1], side="right")
            going = state != END
            state[going] = self.space.next_state[state[going], drawn[going, k]]
        return [tuple(row[row != END].tolist()) for row in drawn]

    def _state_after(self, prefix: Sequence[int]) -> int:
        state = self.space.initial
        for token in prefix:
            if state == END or not 0 <= token < self.space.shape[1]:
                raise InputError(f"must be tokens of the automaton, got {list(prefix)}", field="prefix")
            state = int(self.space.next_state[state, token])
        if len(prefix) > self.space.horizon:
            raise InputError(f"must have at most {self.space.horizon} tokens, got {len(prefix)}", field="prefix")
        return END if len(prefix) == self.space.horizon else state

    def _log_row(self, k: int, state: int) -> Array:
        graph = self.space.graph
        log_edges = self._log_edges(k)
        first, last = np.append(graph.edges.starts, graph.edges.size)[state : state + 2]
        starts = np.append(graph.tokens.starts, graph.tokens.size)[first : last + 1]
        here = slice(int(starts[0]), int(starts[-1]))
        out = np.full(self.space.shape[1], -np.inf)
        out[graph.pairs[here] % self.space.shape[1]] = self._log_tokens[here] + np.repeat(
            log_edges[first:last], np.diff(starts)
        )
        return out

    def _log_pairs(self, k: int) -> Array:
        return self._log_tokens + self.space.graph.tokens.spread(self._log_edges(k))

    def _backward(self, constant: float) -> Array:
        """Return V_{k+1}, what follows step k, for k = 0..K-1, the end last: [K, S + 1].

        It is kept relative to the initial state's, and the constant of each step apart (the end has fewer of them), so
        that long sequences with large scores lose no digit.
        """
        space = self.space
        following = np.zeros((space.horizon, space.shape[0] + 1))
        for k in reversed(range(1, space.horizon)):
            totals = space.graph.edges.log_sum(self._edge_weights + following[k][space.graph.target])
            following[k - 1] = np.append(totals, following[k, -1] - constant) - totals[space.initial]
        return following

    def _log_edges(self, steps: slice | int) -> Array:
        """Return the log probabilities of the edges, given their state, at one step [E] or at several [steps, E]."""
        graph = self.space.graph
        return graph.edges.log_softmax(self._edge_weights + self._following[steps][..., graph.target])[0]

    def _by_step(self, *, backward: bool) -> Iterator[Array]:
        """Yield the log probabilities of the edges, [E], step after step; several steps are worked on at a time."""
        horizon, size = self.space.horizon, max(1, BLOCK // len(self._edge_weights))
        starts = range(0, horizon, size)
        for start in reversed(starts) if backward else starts:
            block = self._log_edges(slice(start, start + size))
            yield from block[::-1] if backward else block

    def _forward(self) -> Array:
        graph, states = self.space.graph, self.space.shape[0]
        here: Array = np.zeros(states)
        here[self.space.initial] = 1.0
        flow = np.zeros(len(graph.target))
        for log_edges in self._by_step(backward=False):
            moved = graph.edges.spread(here) * np.exp(log_edges)
            flow += moved
            here = np.bincount(graph.target, weights=moved, minlength=states + 1)[:states].astype(np.float64)
        visits = np.exp(self._log_tokens)
        visits *= graph.tokens.spread(flow)
        return visits

    def _cumulants(self, shares: Sequence[tuple[float, Array, float, float]]) -> Array:
        """Return the cumulant of each share along a sequence drawn from p: [k], all in one sweep.

        shares: weight (reward - anchor) of each pair, and a constant of each step; weights are w / strength.
        """
        graph, states = self.space.graph, self.space.shape[0]
        edge_means, edge_cumulants = np.empty((2, len(shares), len(graph.target)))
        for piece, entries, edges in graph.tokens.pieces(BLOCK // max(1, len(shares))):
            part = np.empty((len(shares), piece.size))
            for out, (weight, reward, anchor, _) in zip(part, shares, strict=True):
                np.subtract(reward[entries], anchor, out=out)
                out *= weight
            edge_means[:, edges], edge_cumulants[:, edges] = piece.merge(self._log_tokens[entries], part)
        constants = np.array([share[3] for share in shares])
        means = np.zeros((len(shares), states + 1))
        cumulants = np.zeros_like(means)
        for log_edges in self._by_step(backward=True):
            following = edge_means + means[:, graph.target], edge_cumulants + cumulants[:, graph.target]
            means[:, :-1], cumulants[:, :-1] = graph.edges.merge(log_edges, *following)
            means[:, -1] -= constants
            means -= means[:, self.space.initial, None].copy()
        return cumulants[:, self.space.initial]


def _read_reference(reference: ArrayLike) -> Array:
    q = finite(reference, "reference")
    if q.ndim != 2 or q.size == 0:
        raise InputError(f"must be [states][tokens] on an automaton, got shape {list(q.shape)}", field="reference")
    if (q < 0).any():
        state, token = (int(i) for i in np.argwhere(q < 0)[0])
        raise InputError(f"must be >= 0, got {q[state, token]} at state {state}, token {token}", field="reference")
    totals = q.sum(axis=1)
    wrong = np.abs(totals - 1.0) > NORMALIZATION_TOLERANCE
    if wrong.any():
        state = int(np.argmax(wrong))
        raise InputError(f"must sum to 1 in each state, got {totals[state]} in state {state}", field="reference")
    return np.asarray(q / totals[:, None])


def _read_next_state(next_state: ArrayLike, shape: tuple[int, int]) -> NDArray[np.int64]:
    numbers = finite(next_state, "next_state")
    if numbers.shape != shape:
        raise InputError(f"must be [states][tokens] = {list(shape)}, got {list(numbers.shape)}", field="next_state")
    out = numbers.astype(np.int64)
    wrong = (out != numbers) | (out < END) | (out >= shape[0])
    if wrong.any():
        state, token = (int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"must be integers from -1 (the end) to {shape[0] - 1}, "
            f"got {numbers[state, token]} at state {state}, token {token}",
            field="next_state",
        )
    out.flags.writeable = False
    return out


def _read_integer(value: Any, what: str, low: int, high: int | None) -> int:
    inside = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not inside or value < low or (high is not None and value > high):
        rule = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
        raise InputError(f"must be {rule}, got {value!r}", field=what)
    return int(value)
