r"""Several models: which groups share one, and whether any is trained at all (theory2 section 15).

For a score s let Omega*(s) be the best affine welfare that one model reaches, q the reference. The provider chooses

    W = max( <q, s>,  max over partitions of the groups into 1 <= k <= K parts of sum_parts Omega*(s_part) - c k ):

no model at all, everybody at q, costs nothing. This is an affine maximiser over a fixed range, so the payments of
Clarke, [W_-i - (W - mu_i w_i v_i)] / mu_i, make truth dominant for every group, and as a group can be added to what is
best without it, no truthful group loses where rewards are non-negative (Roberts 1979; derived here, and checked by
60,000 lies in tests/mechanism/test_several.py). What it costs to train is not what groups pay: there may be a deficit.

The best partition is found by a programme over subsets, best_k(M) = max over parts P of M that hold its first group of
Omega*(s_P) - c + best_(k-1)(M \ P): K 3^n steps, exact, for up to MOST groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineRule, Trained, TrainingRule

MOST: Final = 12
"""Groups; each further one takes three times as long."""
Parts = tuple[tuple[int, ...], ...]
"""The groups that share each model, in order of their first ones."""


@final
@dataclass(frozen=True, eq=False)
class SeveralModels(TrainingRule):
    """At most ``at_most`` models, each of which costs ``cost`` to train (in units of affine welfare, >= 0).

    rule: the affine maximiser by which each model is trained for its groups; it has no boost. has_none: whether no
    model at all is among the choices; without it a model is always trained, and a group may pay more than it gets.
    """

    rule: AffineRule
    at_most: int
    cost: float
    has_none: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.at_most, int) and self.at_most >= 1):
            raise InputError(f"must be an integer >= 1, got {self.at_most!r}", field="at_most")
        if not 0 <= self.cost < np.inf:
            raise InputError(f"must be a number >= 0, got {self.cost!r}", field="cost")
        if self.rule.boosts():
            raise CombinationError("several models must come without a boost, got a rule with one")

    def among(self, groups: int, who: Sequence[int | None]) -> "SeveralModels":
        """Return the rule with the affine maximiser for these names."""
        return replace(self, rule=self.rule.among(groups, who))

    def train(self, profile: Profile[V], space: PolicySpace[V]) -> "Models[V]":
        """Return the models; raises InputError when there are too many groups."""
        count = len(profile.rewards)
        if count > MOST:
            raise InputError(f"must be at most {MOST} where several models are considered, got {count}", field="groups")
        shares = self.rule.multipliers(count) * profile.sizes
        reach = ReachableValues.of(self, shares, profile.rewards, space)
        parts = reach.best_parts((1 << count) - 1)
        trained = [
            space.maximize(np.where(_bits(parts_mask([part]), count), shares, 0.0), profile.rewards) for part in parts
        ]
        return Models(space, parts, tuple(trained), reach, shares, profile.rewards)


@final
@dataclass(frozen=True, eq=False)
class ReachableValues:
    """What every set of groups can reach. Sets are numbers: bit i says whether group i is in it."""

    rule: SeveralModels
    alone: Array
    """Omega* of one model for each set: [2^n]."""
    untrained: Array
    """<q, s> of each set: [2^n]."""
    best: Array
    """The most that 0 .. K models bring for each set, costs paid: [K + 1, 2^n]; -inf for 0 models of some groups."""

    @staticmethod
    def of(rule: SeveralModels, shares: Array, rewards: Sequence[Any], space: PolicySpace[Any]) -> "ReachableValues":
        """Return what the sets of these groups reach; 2^n trainings."""
        count = len(shares)
        masks = np.arange(1 << count)
        inside = (masks[:, None] >> np.arange(count) & 1).astype(np.float64)
        reference = space.maximize(np.zeros(count), rewards).values(rewards)
        alone = np.array([space.maximize(row * shares, rewards).welfare if row.any() else 0.0 for row in inside])
        return ReachableValues(
            rule, alone, inside @ (shares * reference), partition_values(alone - rule.cost, rule.at_most, count)
        )

    def value(self, groups: int) -> float:
        """Return W of a set: 0 of nobody."""
        if groups == 0:
            return 0.0
        trained = float(self.best[1:, groups].max())
        return max(float(self.untrained[groups]), trained) if self.rule.has_none else trained

    def best_parts(self, groups: int) -> Parts:
        """Return the parts that reach W; none where nothing is trained (also on a tie), else as few as can be."""
        value = self.value(groups)
        if self.rule.has_none and self.untrained[groups] >= value:
            return ()
        models = int(np.argmax(self.best[1:, groups] >= value)) + 1
        found = []
        while groups:
            parts = _parts_of(groups)
            reached = self.alone[parts] - self.rule.cost + self.best[models - 1, groups ^ parts]
            part = int(parts[np.argmax(reached)])
            found.append(tuple(i for i in range(part.bit_length()) if part >> i & 1))
            groups, models = groups ^ part, models - 1
        return tuple(found)


def partition_values(single: Array, at_most: int, count: int) -> Array:
    """Return the most that partitions into 0 .. at_most parts bring, for each set of ``count`` groups.

    single: what each set brings as one part, [2^n] or, for several games at once, [2^n, B]. The result has one axis
    more in front: [at_most + 1, 2^n, ...]; -inf where a set cannot have so many parts.
    """
    best = np.full((at_most + 1, *single.shape), -np.inf)
    best[0, 0] = 0.0
    for groups in range(1, 1 << count):
        parts = _parts_of(groups)
        best[1:, groups] = (single[parts] + best[:-1, groups ^ parts]).max(axis=1)
    return best


def _parts_of(groups: int) -> NDArray[np.int64]:
    """Return every subset of a set that holds its first member."""
    first = groups & -groups
    subsets = np.zeros(1, dtype=np.int64)
    rest = groups ^ first
    while rest:
        bit = rest & -rest
        subsets = np.concatenate([subsets, subsets | bit])
        rest ^= bit
    return subsets | first


def _bits(mask: int, count: int) -> NDArray[np.bool_]:
    return np.array([mask >> i & 1 for i in range(count)], dtype=bool)


def parts_mask(parts: Sequence[Sequence[int]]) -> int:
    """Return the set of all groups of some parts."""
    return sum(1 << i for part in parts for i in part)


@final
class Models(Policy[V]):
    """The models that were trained, and which of them serves which group; the reference serves all where there is none.

    welfare: W. divergence: the sum over models. gap: 0.
    """

    def __init__(
        self,
        space: PolicySpace[V],
        parts: Parts,
        trained: Sequence[Policy[V]],
        reach: ReachableValues,
        shares: Array,
        rewards: Sequence[V],
    ) -> None:
        self._space = space
        self.parts = parts
        self.trained = tuple(trained)
        self.reach = reach
        self._shares = shares
        self._rewards = rewards
        self.welfare = reach.value((1 << len(shares)) - 1)
        self.divergence = float(sum(policy.divergence for policy in trained))
        self.gap = 0.0

    @cached_property
    def reference(self) -> Policy[V]:
        """The policy that no group has moved."""
        return self._space.maximize(np.zeros(len(self._shares)), self._rewards)

    @property
    def cost(self) -> float:
        """What it cost to train them."""
        return float(self.reach.rule.cost * len(self.parts))

    @property
    def probabilities(self) -> Any:
        """Those of the only model, or of the reference where there is none; raises CombinationError of several."""
        if len(self.trained) > 1:
            raise CombinationError("several models have no probabilities in common")
        policy: Any = self.model_of(0)
        return policy.probabilities

    def model_of(self, group: int) -> Policy[V]:
        """Return the policy that serves a group."""
        for part, policy in zip(self.parts, self.trained, strict=True):
            if group in part:
                return policy
        return self.reference

    def values(self, rewards: Sequence[V]) -> Array:
        """Return <p_i, r_i> of each group's own model, [n]; raises CombinationError unless there is one per group."""
        if len(rewards) != len(self._shares):
            raise CombinationError("the values of several models need one reward per group, in the order of the groups")
        return np.array([self.model_of(i).values([reward])[0] for i, reward in enumerate(rewards)])

    def externalities(self, weights: Array, rewards: Sequence[V]) -> Array:
        """Return W_-i - (W - weights_i <p_i, r_i>) of each group, [n], >= 0, at the reports it was trained on.

        A sum of three parts that are not negative: what the others could do better by other models than by these
        without the group; what the group costs the others of its own model; what is trained for it alone.
        """
        everyone = (1 << len(self._shares)) - 1
        out = np.empty(len(rewards))
        for i, reward in enumerate(rewards):
            kept = [part for part in self.parts if i not in part]
            (own,) = [part for part in self.parts if i in part] or [()]
            left = float(sum(self.reach.alone[parts_mask([part])] - self.reach.rule.cost for part in kept))
            inside = 0.0
            rest = parts_mask([own]) ^ (1 << i) if own else 0
            if rest:
                left += float(self.reach.alone[rest]) - self.reach.rule.cost
            if own:
                inside = float(self.model_of(i).externalities(weights[i : i + 1], [reward])[0])
                inside += 0.0 if rest else self.reach.rule.cost
            else:
                left = float(self.reach.untrained[everyone ^ (1 << i)])
            out[i] = max(0.0, self.reach.value(everyone ^ (1 << i)) - left) + inside
        return out


def one_model_payments(paid: Array, brings: Array, without: Array, cost: float) -> Array:
    """Return what groups pay where one model is trained if that brings more than ``cost``, and none otherwise.

    paid: affine payments for the model. brings: max ASW(s) - <q, s>, what training brings at all; without: the same
    for s_-i. In units of reward, of any one shape (brings may be wider). It is W_-i - (W - w_i v_i) above for K = 1:
    with the model, what the others lack to be worth the cost without the group is added; without it, a group pays for
    the training that it prevented.
    """
    with_model = paid + np.maximum(cost - without, 0.0)
    return np.where(brings > cost, with_model, np.maximum(without - cost, 0.0))


@final
@dataclass(frozen=True)
class ModelPayments(PaymentRule[SeveralModels]):
    """Each group pays what it costs the others, the choice of models included; truth is a dominant strategy."""

    def charge(self, optimum: Trained[SeveralModels]) -> Array:
        """Return the externalities of the groups, each in its own unit of money."""
        multipliers = optimum.rule.rule.multipliers(len(optimum.rewards))
        return optimum.policy.externalities(multipliers * optimum.sizes, optimum.rewards) / multipliers

    def regret_bounds(self, optimum: Trained[SeveralModels]) -> Array | None:
        """Return the gap: the choice among models is exact."""
        gap = optimum.policy.gap
        return None if gap is None else np.full(len(optimum.sizes), float(gap))

    def utility_bounds(self, optimum: Trained[SeveralModels], least: Array) -> Array | None:
        """Return the least values less the gap."""
        bounds = self.regret_bounds(optimum)
        return None if bounds is None else least - bounds
