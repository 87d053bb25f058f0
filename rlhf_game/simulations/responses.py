"""Best responses in many games at once, by projected gradient ascent: lower bounds on what there is to gain."""

from collections.abc import Sequence
from itertools import product
from typing import Final

import numpy as np

from rlhf_game.agents.ascent import ascend
from rlhf_game.agents.domains import Domain, together
from rlhf_game.agents.misreports import Polarize
from rlhf_game.agents.payoffs import TablePayoff
from rlhf_game.mechanism.arrays import Array, leave_one_out_sums
from rlhf_game.simulations.batches import Batch

TIE: Final = 1e-9
"""A report must be better than the truth by this share of the group's stake to be said instead of it."""


def best_responses(
    batch: Batch, group: int, *, is_paid: bool, starts: int, steps: int, others: Array | None = None
) -> tuple[Array, Array]:
    """Return what one group says in every game: rewards [B, m] and sizes [B].

    others: the score of what all other groups say, [B, m]; default: their truth. The truth is said unless something
    better is found. Sizes tried are 1, the true one and the limit; rewards start at the truth, sharpened truth, and all
    on one of the group's favourites or of its least favourites.
    """
    score = leave_one_out_sums(batch.sizes[..., None] * batch.rewards)[group] if others is None else others
    rewards, sizes = _search(batch, [group], score, is_paid, starts, steps)
    return rewards[0], sizes[0]


def joint_responses(
    batch: Batch, members: Sequence[int], *, is_paid: bool, starts: int, steps: int
) -> tuple[Array, Array]:
    """Return what a coalition says in every game while the others say the truth: rewards [C, B, m], sizes [C, B]."""
    outside = [i for i in range(len(batch.rewards)) if i not in members]
    score = (batch.sizes[outside, :, None] * batch.rewards[outside]).sum(axis=0)
    return _search(batch, members, score, is_paid, starts, steps)


def _search(
    batch: Batch, members: Sequence[int], others: Array, is_paid: bool, starts: int, steps: int
) -> tuple[Array, Array]:
    scale = batch.strength[:, None]
    truths, own = batch.rewards[list(members)], batch.sizes[list(members)]
    domains = [batch.domain(truth) for truth in truths]
    stake = (own[..., None] * truths).sum(axis=0)
    payoff = TablePayoff(batch.unit, batch.reference, others / scale, stake / scale, np.ones(len(members)), is_paid)
    domain = domains[0] if len(members) == 1 else together(domains)
    begun = [_starts(truth, one, starts) for truth, one in zip(truths, domains, strict=True)]
    best_rewards, best_sizes = truths.copy(), own.copy()
    best = payoff.at((own / batch.strength)[..., None] * truths)[0]
    best = best + TIE * np.abs(stake / scale).max(axis=1)
    for sizes in _sizes(own, batch.limit):
        for rewards in zip(*begun, strict=True):
            value, reached = ascend(payoff, domain, sizes / batch.strength, np.stack(rewards), steps)
            better = value > best
            best = np.where(better, value, best)
            best_rewards[:, better] = reached[:, better]
            best_sizes[:, better] = sizes[:, better]
    return best_rewards, best_sizes


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
