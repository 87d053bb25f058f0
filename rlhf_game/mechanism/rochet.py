"""Which training rules can be made truthful at all, and by which payments, on a finite set of types.

With the other reports fixed, let l(r', r) = v(psi(r); r) - v(psi(r'); r) be what a group of type r loses in value by
reporting r'. Truth is best under payments iff pay(r) - pay(r') <= l(r', r) for all pairs, so payments exist iff the
complete digraph with an edge r' -> r of length l(r', r) has no negative cycle (Rochet 1987). Then the shortest
distances from any type are payments, and pay(a) - pay(b) lies in [-d(a, b), d(b, a)] for every truthful payment rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.reports import Profile, Report, V
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.training import TrainingRule

TOLERANCE = 1e-12
"""How much each truth constraint may be missed, relative to the largest value of any type."""


@final
@dataclass(frozen=True, eq=False)
class Implementability:
    """The digraph of lies of one group over T types, the others' reports fixed.

    losses: l(r', r), the value that a group of type r loses by reporting r' instead: [r', r], diagonal 0.
    tolerance: how much a constraint may be missed, in units of value; negative cycles within it do not count.
    """

    losses: Array
    tolerance: float

    def __post_init__(self) -> None:
        losses = finite(self.losses, "losses")
        if losses.ndim != 2 or losses.shape[0] != losses.shape[1] or losses.size == 0 or (np.diag(losses) != 0).any():
            raise InputError(f"must be a square with a diagonal of zeros, got shape {losses.shape}", field="losses")
        object.__setattr__(self, "losses", frozen(losses))

    @property
    def is_implementable(self) -> bool:
        """Whether some payments make truth a best report for every type, within the tolerance."""
        return self.distances is not None

    @cached_property
    def distances(self) -> Array | None:
        """The shortest distances d(a, b): [a, b]; None when a cycle is negative."""
        from scipy.sparse import csgraph

        # An explicit null value: a loss of 0 is an edge, and the diagonal is none.
        edges = self.losses + self.tolerance
        np.fill_diagonal(edges, np.nan)
        graph = csgraph.csgraph_from_dense(edges, null_value=np.nan)
        try:
            out: Array = csgraph.floyd_warshall(graph)
        except csgraph.NegativeCycleError:
            return None
        return frozen(out)

    @cached_property
    def cycle(self) -> tuple[int, ...]:
        """Types r_0, r_1, ..., r_k = r_0 whose losses sum to less than zero; empty when there are none.

        Each type of the cycle would rather report its predecessor than any payments could outweigh for all of them.
        """
        if self.is_implementable:
            return ()
        edges = self.losses + self.tolerance
        count = len(edges)
        reached = np.zeros(count)
        before = np.full(count, -1)
        everyone = np.arange(count)
        for _ in range(count):  # Bellman-Ford from a root with edges of length 0 to all
            through = reached[:, None] + edges
            best = through.argmin(axis=0)
            shorter = through[best, everyone] < reached
            before[shorter] = best[shorter]
            reached = np.minimum(reached, through[best, everyone])
        at = int(np.flatnonzero(shorter)[0])
        for _ in range(count):  # into the cycle
            at = int(before[at])
        backwards = [at]
        while len(backwards) == 1 or backwards[-1] != at:
            backwards.append(int(before[backwards[-1]]))
        return tuple(reversed(backwards))

    @property
    def cycle_length(self) -> float:
        """The sum of the losses along ``cycle``: negative, or 0 when there is no cycle."""
        return float(sum(self.losses[a, b] for a, b in zip(self.cycle[:-1], self.cycle[1:], strict=True)))

    def payments(self, root: int) -> Array:
        """Return truthful payments with pay(root) = 0, the largest there are: [T], in units of value.

        Raises InputError when there are none.
        """
        out: Array = self._required()[root].copy()
        return out

    def difference(self, first: int, second: int) -> Estimate:
        """Return the interval of pay(first) - pay(second) over all truthful payment rules; raise InputError if none."""
        distances = self._required()
        low, high = -distances[first, second], distances[second, first]
        return Estimate(np.asarray((low + high) / 2), np.asarray(min(low, high)), np.asarray(high))

    def _required(self) -> Array:
        if self.distances is None:
            raise InputError(
                f"no payments make this rule truthful: the losses along the cycle of types {list(self.cycle)} "
                f"sum to {self.cycle_length:.3g} < 0"
            )
        return self.distances


def implementability(
    training: TrainingRule,
    space: PolicySpace[V],
    types: Sequence[Report],
    others: Sequence[Report],
    tolerance: float = TOLERANCE,
) -> Implementability:
    """Return the digraph of lies of a group that may be any of ``types`` beside ``others``.

    tolerance: relative to the largest value of any type. A type's value is size times reward, size included in what it
    may lie about. Raises InputError when a report does not fit the space.
    """
    said = read_profile(types, space)
    rest = read_profile(others, space) if others else Profile((), np.empty(0))
    values = np.empty((len(types), len(types)))
    for k, (reward, size) in enumerate(zip(said.rewards, said.sizes, strict=True)):
        profile = Profile((reward, *rest.rewards), np.append(size, rest.sizes))
        values[k] = said.sizes * training.train(profile, space).values(said.rewards)
    scale = max(1e-300, float(np.abs(values).max()))
    return Implementability(np.diag(values) - values, tolerance * scale)


def equivalence(
    training: TrainingRule, space: PolicySpace[V], ends: tuple[Report, Report], others: Sequence[Report], types: int
) -> Estimate:
    """Return the interval of pay(first) - pay(second) when ``types`` types stand evenly between the two ends.

    Its width goes to 0 as the types get denser: payment equivalence (Prop. 3.7, Thm 4.5). The ends' rewards must be
    tables and their sizes equal. Raises InputError otherwise, or if the rule is not implementable on these types.
    """
    first, second = ends
    if callable(first.reward) or callable(second.reward) or first.size != second.size:
        raise InputError("the two ends must have rewards that are tables, and the same size")
    a, b = finite(first.reward, "reward"), finite(second.reward, "reward")
    between = [Report((1 - share) * a + share * b, first.size) for share in np.linspace(0, 1, types)]
    return implementability(training, space, between, others).difference(0, types - 1)
