"""Best responses in many games at once, by projected gradient ascent: lower bounds on what there is to gain."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.agents.ascent import ascend
from rlhf_game.agents.misreports import Polarize
from rlhf_game.agents.payoffs import Payoff
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Domain
from rlhf_game.mechanism.spaces.table import TableSolver
from rlhf_game.simulations.batches import Batch, Reports

TIE: Final = 1e-9
"""A report must be better than the truth by this share of the group's stake to be said instead of it."""


def best_responses(
    batch: Batch, group: int, *, is_paid: bool, starts: int, steps: int, said: Reports | None = None
) -> tuple[Array, Array]:
    """Return what one group says in every game: rewards [B, m] and sizes [B].

    said: what all say; default: the truth. The truth is said unless something better is found, against what the
    mechanism hears of the others: where it hears noise, that of this game. Sizes tried are 1, the true one and the
    limit; rewards start at the truth, sharpened truth, and all on one of the group's favourites or of its least
    favourites.
    """
    rewards, sizes = _search(batch, [group], said or batch.truth, is_paid, starts, steps)
    return rewards[0], sizes[0]


def joint_responses(
    batch: Batch, members: Sequence[int], *, is_paid: bool, starts: int, steps: int
) -> tuple[Array, Array]:
    """Return what a coalition says in every game while the others say the truth: rewards [C, B, m], sizes [C, B].

    starts: so many joint starts, the members' own starts crossed: one may sharpen while another one gives way.
    """
    return _search(batch, members, batch.truth, is_paid, starts, steps)


def _search(
    batch: Batch, members: Sequence[int], said: Reports, is_paid: bool, starts: int, steps: int
) -> tuple[Array, Array]:
    """Return the rewards and sizes of ``members`` that earn them most by gradient ascent: [k, B, m] and [k, B].

    Started from several rewards at each size; the truth stays unless another report is better by more than rounding.
    """
    scale = batch.strength[:, None]
    chosen = list(members)
    noise = np.zeros_like(batch.rewards) if batch.noise is None else batch.noise
    heard = batch.score_parts(said)
    others = heard[[i for i in range(len(heard)) if i not in chosen]].sum(axis=0) / scale + batch.carried
    truths, own, error = batch.rewards[chosen], batch.sizes[chosen], noise[chosen]
    domains = [batch.domain(truth) for truth in truths]
    stake = (own[..., None] * truths).sum(axis=0)
    payoff = Payoff(TableSolver(batch.unit, batch.reference), others, stake / scale, np.ones(len(chosen)), is_paid)
    joint = domains[0].together(domains[1:])
    domain = NoisyDomain(joint.low, joint, error)
    begun = [_starts(truth, one, starts) for truth, one in zip(truths, domains, strict=True)]
    best_rewards, best_sizes = truths.copy(), own.copy()
    best = payoff.at((own / batch.strength)[..., None] * (truths + error))[0]
    best = best + TIE * np.abs(stake / scale).max(axis=1)
    for sizes in _sizes(own, batch.limit):
        for rewards in _crossed(begun, starts):
            value, reached = ascend(payoff, domain, sizes / batch.strength, np.stack(rewards) + error, steps)
            better = value > best
            best = np.where(better, value, best)
            said_now = reached if batch.noise is None else joint.project(reached - error)
            best_rewards[:, better] = said_now[:, better]
            best_sizes[:, better] = sizes[:, better]
    return best_rewards, best_sizes


def _crossed(begun: Sequence[Sequence[Array]], count: int) -> list[tuple[Array, ...]]:
    """Return joint starts: those of a single group; of several, the pairs of two starts, taken in turn by members."""
    if len(begun) == 1:
        return [(start,) for start in begun[0]]
    pairs = sorted(product(range(len(begun[0])), repeat=2), key=lambda pair: (max(pair), pair[0] != pair[1], pair))
    return [tuple(starts[pair[member % 2]] for member, starts in enumerate(begun)) for pair in pairs[:count]]


@final
@dataclass(frozen=True, eq=False)
class NoisyDomain(Domain):
    """What the mechanism may hear of C groups' reports in a domain, when it hears them with an error, [C, B, m]."""

    low: Array
    domain: Domain
    error: Array

    def project(self, rewards: Array) -> Array:
        """Return what is heard of the nearest report."""
        return self.domain.project(rewards - self.error) + self.error

    def shaped(self, weights: Array) -> Array:
        """Return what is heard of these rewards."""
        return self.domain.shaped(weights) + self.error

    def rows(self, which: NDArray[np.intp]) -> "NoisyDomain":
        """Return the domain of some rows."""
        return NoisyDomain(self.low[..., which], self.domain.rows(which), self.error[..., which, :])

    def together(self, others: Sequence[Domain]) -> "NoisyDomain":
        """Return the domain of several groups."""
        heard = [self, *(other for other in others if isinstance(other, NoisyDomain))]
        first, *more = [one.domain for one in heard]
        return NoisyDomain(
            np.stack([one.low for one in heard]), first.together(more), np.stack([one.error for one in heard])
        )


def _starts(truth: Array, domain: Domain, count: int) -> list[Array]:
    """Return ``count`` rewards to start from in every game, each [B, m], without randomness."""
    sharp = Polarize(4.0).distort(truth, domain, np.random.default_rng(0))
    order = np.argsort(-truth, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1, kind="stable")
    last = truth.shape[-1] - 1
    places = [place for near in range(last + 1) for place in dict.fromkeys((near, last - near))]
    tops = [domain.shaped((rank == place).astype(np.float64)) for place in dict.fromkeys(places)]
    return [truth, sharp, *tops][:count]


def _sizes(own: Array, limit: Array) -> list[Array]:
    """Return joint sizes to try, each [C, B]: the limit or the true one for each member, and 1 for a single one."""
    bounded = np.minimum(own, limit)
    if len(own) == 1:
        return [bounded, np.broadcast_to(limit, own.shape), np.ones_like(own)]
    choices = list(product((False, True), repeat=len(own)))
    return [np.where(np.array(choice)[:, None], limit, bounded) for choice in choices]
