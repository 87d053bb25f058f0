r"""Who takes part is part of the choice: a rule that is truthful, where nobody loses, and that false names cannot beat.

Over all sets S of groups and all policies p the provider maximises

    W(S) = max_p <p, sum_{i in S} mu_i w_i r_i + b> - strength * D(p || q)  -  c |S|,

with a cost c for every name that takes part, in units of affine welfare. Groups outside S get nothing and pay
nothing. Clarke's payments for this affine maximiser over a fixed range are, for i in the chosen set S*,

    mu_i pay_i = max_{S without i} W(S) - [W(S*) - mu_i w_i v_i(p)]
               = externality_i(S*) + c + [max_{S without i} W(S) - W(S* without i)],

a sum of terms that are not negative (derived). So truth is dominant, and u_i mu_i = W(S*) - max_{S without i} W(S) >=
0.

False names: let one owner's names have contributions a_1 and a_2 (weight times size times reward) to W, let C be what
both together are worth over the best without them, A and B what each is worth alone. Two names that both take part
gain at most C - c - max(c, A) - max(c, B) <= min(g_1, g_2) - 2 c over one name, where g_j is mu times the size of a
name and rewards lie in [0, 1]: nothing, where c >= mu W / 4 and W is the most members of one owner (integers: mu
floor(W / 2) / 2). Tests: tests/mechanism/test_participation.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineRule, Trained, TrainingRule

MOST: Final = 12
"""Groups; each further one doubles the number of sets."""


@final
@dataclass(frozen=True, eq=False)
class Participation(TrainingRule):
    """The best set of groups, and the affine maximiser ``rule`` for it. cost: c >= 0, in units of affine welfare."""

    rule: AffineRule
    cost: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.cost) and self.cost >= 0):
            raise InputError(f"must be a finite number >= 0, got {self.cost!r}", field="participation_cost")

    def among(self, groups: int, who: Sequence[int | None]) -> "Participation":
        """Return the rule with the affine maximiser for these names."""
        return replace(self, rule=self.rule.among(groups, who))

    def train(self, profile: Profile[V], space: PolicySpace[V]) -> "Participants[V]":
        """Return the policy for the best set, of equally good ones the smallest; raise InputError above MOST groups."""
        count = len(profile.sizes)
        if count > MOST:
            raise InputError(f"must be at most {MOST} where it is chosen who takes part, got {count}", field="groups")
        boosts = [space.read_boost(boost) for boost in self.rule.boosts()]
        score = self.rule.score(profile.sizes, len(boosts))
        rewards = [*profile.rewards, *boosts]
        sets = sorted(range(1 << count), key=int.bit_count)

        def policy_of(members: int) -> Policy[V]:
            inside = np.array([members >> i & 1 for i in range(count)], dtype=np.float64)
            return space.maximize(score * np.append(inside, np.ones(len(boosts))), rewards)

        worth = np.empty(1 << count)
        for members in sets:
            worth[members] = policy_of(members).welfare - self.cost * members.bit_count()
        best = max(sets, key=lambda members: worth[members])
        return Participants(policy_of(best), tuple(bool(best >> i & 1) for i in range(count)), worth)


@final
class Participants(Policy[V]):
    """The policy that serves the groups that take part; the others get nothing.

    welfare: W of the chosen set, the costs of names paid. divergence and gap: those of the policy.
    """

    def __init__(self, policy: Policy[V], takes_part: tuple[bool, ...], worth: Array) -> None:
        self.policy = policy
        self.takes_part = takes_part
        """Of each group: n."""
        self.worth = worth
        """W of every set, by the number whose bit i says whether group i is in it: [2^n]."""
        self.welfare = float(worth[self._members])
        self.divergence = policy.divergence
        self.gap = policy.gap

    @property
    def _members(self) -> int:
        return sum(1 << i for i, inside in enumerate(self.takes_part) if inside)

    @property
    def probabilities(self) -> Any:
        """Those of the policy."""
        policy: Any = self.policy
        return policy.probabilities

    def values(self, rewards: Sequence[V]) -> Array:
        """Return <p, r_i> of each group that takes part and 0 of the others: [n], from one reward for each group.

        Raises CombinationError for another number of rewards.
        """
        if len(rewards) != len(self.takes_part):
            raise CombinationError("values where not all take part need one reward for each group, in order")
        return np.asarray(self.policy.values(rewards) * np.array(self.takes_part))

    def model_of(self, group: int) -> Policy[V]:
        """Return the policy, or for a group that does not take part one that is worth nothing."""
        return self.policy if self.takes_part[group] else Excluded()

    def externalities(self, weights: Array, rewards: Sequence[V]) -> Array:
        """Return those of the policy, to the groups that take part: [k]."""
        return self.policy.externalities(weights, rewards)

    def displaced(self, group: int) -> float:
        """Return max over sets without a member group of W, less W of the chosen set without it: >= 0."""
        sets = np.arange(len(self.worth))
        without = float(self.worth[sets >> group & 1 == 0].max())
        return without - float(self.worth[self._members ^ (1 << group)])


@final
class Excluded(Policy[Any]):
    """What a group gets that does not take part: nothing."""

    welfare = 0.0
    divergence = 0.0
    gap = 0.0

    def values(self, rewards: Sequence[Any]) -> Array:
        """Return zeros: [k]."""
        return np.zeros(len(rewards))

    def externalities(self, weights: Array, rewards: Sequence[Any]) -> Array:
        """Return zeros: [k]."""
        return np.zeros(len(rewards))


@final
@dataclass(frozen=True)
class ParticipationPayments(PaymentRule[Participation]):
    """Clarke's payments for the choice of who takes part (the module's formula); nothing for those who do not."""

    def charge(self, optimum: Trained[Participation]) -> Array:
        """Return what each group owes, in its own unit of money: [n]."""
        chosen: Any = optimum.policy
        rule = optimum.rule
        weights = rule.rule.multipliers(len(optimum.rewards))
        externalities = chosen.externalities(weights * optimum.sizes, optimum.rewards)
        due = [
            externalities[i] + rule.cost + chosen.displaced(i) if inside else 0.0
            for i, inside in enumerate(chosen.takes_part)
        ]
        return np.array(due) / weights

    def regret_bounds(self, optimum: Trained[Participation]) -> Array | None:
        """Return the gap of the policy: the choice among sets is exact."""
        gap = optimum.policy.gap
        return None if gap is None else np.full(len(optimum.sizes), float(gap))

    def utility_bounds(self, optimum: Trained[Participation], least: Array) -> Array | None:
        """Return 0 less the gap: who would lose is left out."""
        bounds = self.regret_bounds(optimum)
        return None if bounds is None else -bounds
