"""Other rules that people use or propose, beside ours: each as a mechanism that can be settled and audited.

All are for one prompt with a table of outcomes, KL and a strength; a group's bid is its size times its reward. Who
gains by what lie is what ``audit`` finds (``compare``); welfare and revenue are those of the truth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import numpy as np

from rlhf_game.agents.audit import audit
from rlhf_game.agents.best_response import BestResponse
from rlhf_game.agents.foreign import foreign
from rlhf_game.agents.misreports import Indifferent, Polarize, Resize
from rlhf_game.errors import CombinationError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.payments import AffinePayments, NoPayments
from rlhf_game.mechanism.regret import Regret, Strategy
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import SocialWelfare

CANDIDATES: Final = 64
"""Candidates of the MOSAIC rule."""
Money = tuple[Array, Array]


def _optimum(reference: Array, strength: float, score: Array) -> Array:
    with np.errstate(divide="ignore"):
        logs = np.log(reference) + score / strength
    logs -= logs.max()
    return np.asarray(np.exp(logs) / np.exp(logs).sum())


def _divergence(p: Array, q: Array) -> float:
    there = p > 0
    return float(np.sum(p[there] * np.log(p[there] / q[there])))


def pay_as_bid(reference: Array, strength: float, rewards: Array, sizes: Array) -> Money:
    """Train for social welfare; each group pays what it says that the policy is worth to it."""
    p = _optimum(reference, strength, sizes @ rewards)
    return p, sizes * (rewards @ p)


def proportional_cost_sharing(reference: Array, strength: float, rewards: Array, sizes: Array) -> Money:
    """Train for social welfare; the cost, strength * KL, is shared in proportion to what the policy is worth."""
    p = _optimum(reference, strength, sizes @ rewards)
    worth = sizes * (rewards @ p)
    return p, strength * _divergence(p, reference) * worth / max(float(worth.sum()), 1e-300)


def second_price(reference: Array, strength: float, rewards: Array, sizes: Array) -> Money:
    """Serve the favourite response of the group that bids most for its favourite; it pays the second highest bid."""
    bids = sizes * np.where(reference > 0, rewards, -np.inf).max(axis=1)
    winner = int(bids.argmax())
    p = np.eye(len(reference))[np.where(reference > 0, rewards[winner], -np.inf).argmax()]
    others = np.delete(bids, winner)
    return p, np.eye(len(sizes))[winner] * (others.max() if len(others) else 0.0)


def token_auction(reference: Array, strength: float, rewards: Array, sizes: Array) -> Money:
    """The token auction of Duetting et al. (arXiv:2310.10826) for one token: linear aggregation, the second-price rule.

    Each group brings the distribution p_i that it would train alone for one member, and bids its size b_i, money for
    a token that it prefers. The policy is sum b_i p_i / sum b = x_i p_i + (1 - x_i) q_i with x_i = b_i / sum b and q_i
    the mixture of the others. Drawn stably, the token changes at most once while b_i rises, from one of q_i to one that
    p_i holds more of; the group then pays the bid at which it changes, else nothing. What it pays on average is

        (1/2) |p_i - q_i|_1 (b_i x_i(b_i) - integral_0^b_i x_i)         (derived; test_the_token_auction_...)

    There are no valuations in that model: at other tastes than it assumes, and with p_i reported, it is not truthful.
    """
    own = np.stack([_optimum(reference, strength, reward) for reward in rewards])
    total = sizes.sum()
    rest = total - sizes
    with np.errstate(divide="ignore", invalid="ignore"):
        critical = np.where(rest > 0, rest * np.log(total / np.where(rest > 0, rest, 1.0)) - sizes * rest / total, 0.0)
    others = (sizes @ own - sizes[:, None] * own) / np.where(rest > 0, rest, 1.0)[:, None]
    return np.asarray(sizes @ own / total), critical * np.abs(own - others).sum(axis=1) / 2


def mosaic(
    reference: Array, strength: float, rewards: Array, sizes: Array, seed: int = 0, candidates: int | None = CANDIDATES
) -> Money:
    """The rule of MOSAIC (arXiv:2405.05905): candidates drawn from the reference, weighted; leave-one-out payments.

    So many responses are drawn before anybody reports and keep their multiplicity; on them it is the affine rule.
    candidates: None where the reference is already that of candidates, weighted.
    """
    drawn = reference
    if candidates is not None:
        drawn = np.random.default_rng(seed).multinomial(candidates, reference) / candidates
    score = sizes @ rewards
    p = _optimum(drawn, strength, score)
    without = [_optimum(drawn, strength, score - w * r) for w, r in zip(sizes, rewards, strict=True)]
    return p, np.array([strength * _divergence(p, one) for one in without])


RULES: Final[Mapping[str, Callable[[Array, float, Array, Array], Money]]] = {
    "pay as bid": pay_as_bid,
    "proportional cost sharing": proportional_cost_sharing,
    "second price on the favourite": second_price,
    "token auction": token_auction,
    "MOSAIC": mosaic,
}


@final
@dataclass(frozen=True, eq=False)
class Baseline:
    """One rule on one game: what it brings at the truth, and what lies gain."""

    name: str
    social_welfare: float
    affine_welfare: float
    """Social welfare minus strength * KL(p || q)."""
    revenue: float
    regrets: tuple[Regret, ...]
    """Of each group, with the witness."""

    @property
    def worst(self) -> Regret:
        """The group that gains most by lying."""
        return max(self.regrets, key=lambda regret: regret.found)

    @property
    def least_utility(self) -> float:
        """The least truthful utility; below 0 a group would rather stay away."""
        return min(regret.truthful_utility for regret in self.regrets)


def compare(
    groups: Sequence[Group], space: Table, *, size_limit: int, starts: int = 4, rng: np.random.Generator | None = None
) -> list[Baseline]:
    """Return ours (affine payments), no payments and every other rule on one game, each audited.

    space: a table for one prompt with KL, else CombinationError is raised. A search finds lower bounds; only ours comes
    with a proof.
    """
    if not (space.layout.is_flat and space.regularizer.is_entropic):
        raise CombinationError("the baselines are defined on a table for one prompt with KL, got another space")
    reference = space.reference[0][0]
    strength = space.regularizer.strength
    rules = {"affine payments (ours)": Mechanism(SocialWelfare(), AffinePayments())}
    rules["no payments"] = Mechanism(SocialWelfare(), NoPayments())
    rules |= {name: foreign(partial(rule, reference, strength), name) for name, rule in RULES.items()}
    stream = np.random.default_rng(0) if rng is None else rng
    lies: list[Strategy] = [Polarize(4.0), Indifferent(), Resize(2.0), Resize(0.5), BestResponse(starts)]
    out = []
    for (name, mechanism), own in zip(rules.items(), stream.spawn(len(rules)), strict=True):
        settled = mechanism.settle([Report(group.reward, group.size) for group in groups], space)
        regrets = audit(mechanism, groups, space, lies, rng=own, size_limit=size_limit)
        affine = settled.social_welfare - strength * settled.policy.divergence
        out.append(Baseline(name, settled.social_welfare, affine, settled.revenue, tuple(regrets)))
    return out
