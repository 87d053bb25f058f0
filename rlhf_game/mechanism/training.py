"""Training rules psi: what the provider trains when it has heard the reports, and what came of it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Self, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen
from rlhf_game.mechanism.reports import Profile, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace


class TrainingRule(ABC):
    """psi: reports -> policy."""

    @abstractmethod
    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the policy that this rule trains on the profile."""

    def settle(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return what ``train`` does, where values and affine payments are asked for at once."""
        return self.train(profile, space)

    @property
    def is_affine(self) -> bool:
        """Whether what it trains is what an affine maximiser does, and not what a subclass put in its place."""
        return type(self).train is AffineRule.train

    def multipliers(self, groups: int) -> Array:
        """Return mu of the affine welfare that its policies are judged by, [groups]: ones, unless it has weights."""
        return np.ones(groups)

    def boosts(self) -> Sequence[Any]:
        """Return the provider's own rewards in that welfare (none or one), not yet read by a space."""
        return ()

    def among(self, groups: int, who: Sequence[int | None]) -> Self:
        """Return the rule for other names than its ``groups``: each is one of these groups, or (None) a stranger."""
        return self

    def many(self, count: int) -> "TrainingRule":
        """Return the rule for as many games that are settled together on ``PolicySpace.many``."""
        return self

    def is_plain(self, groups: int) -> bool:
        """Return whether it maximises social welfare itself, with weights 1 for so many groups and without a boost."""
        return False

    def fitted(self, space: PolicySpace[Any]) -> "TrainingRule":
        """Return the rule with what it finds out about a space before any report is heard: itself, unless it learns.

        A rule that is fitted already must give the same when it is fitted to the space again.
        """
        return self

    @property
    def fitted_class(self) -> "type[TrainingRule]":
        """The class of what ``fitted`` returns, which payment rules pay for: its own, unless it learns."""
        return type(self)


Rule = TypeVar("Rule", bound=TrainingRule, covariant=True)
"""The training rules that something is for."""


class AffineRule(TrainingRule, ABC):
    """argmax_p sum_i mu_i w_i <p, r_i> + <b, p> - strength * D(p || q): an affine maximiser (Roberts 1979).

    A subclass may say other ``multipliers`` (mu > 0, [groups]) and ``boosts``; neither may depend on a report.
    """

    @final
    def train(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the maximiser over the space."""
        return space.maximize(*self._parts(profile, space))

    @final
    def settle(self, profile: Profile[V], space: PolicySpace[V]) -> Policy[V]:
        """Return the maximiser, with the values and externalities of the reports where the space finds them along."""
        return space.settle(*self._parts(profile, space))

    def _parts(self, profile: Profile[V], space: PolicySpace[V]) -> tuple[Array, Sequence[V]]:
        boosts = [space.read_boost(boost) for boost in self.boosts()]
        return self.score(profile.sizes, len(boosts)), [*profile.held, *boosts]

    @final
    def is_plain(self, groups: int) -> bool:
        """Return whether all multipliers are 1 and there is no boost."""
        return not self.boosts() and bool((self.multipliers(groups) == 1).all())

    @final
    def score(self, sizes: Array, boosts: int) -> Array:
        """Return what each reward counts in the score: mu_i w_i of each group, then 1 for each boost."""
        shares = (self.multipliers(len(sizes)) * sizes.T).T
        return np.concatenate([shares, np.ones((boosts, *sizes.shape[1:]))])


@final
@dataclass(frozen=True)
class SocialWelfare(AffineRule):
    """Maximise sum_i w_i v_i(p) - strength * D(p || q) (Def. 4.1 of arXiv:2405.16276)."""


@final
@dataclass(frozen=True, eq=False)
class AffineWelfare(AffineRule):
    """The general affine maximiser: group weights mu [n], in the order of the reports, and a boost b of outcomes.

    weights: mu_i > 0, no unit; None means 1 for every group.
    boost: in units of reward, shaped like a reward; None means 0.
    """

    weights: ArrayLike | None = None
    boost: Any = None

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        weights = frozen(finite(self.weights, "weights"))
        if weights.ndim != 1 or (weights <= 0).any():
            raise InputError(f"must be one number > 0 per group, got {weights.tolist()}", field="weights")
        object.__setattr__(self, "weights", weights)

    def multipliers(self, groups: int) -> Array:
        """Return mu; raise InputError if there is not one per group."""
        if self.weights is None:
            return np.ones(groups)
        weights = np.asarray(self.weights)
        if weights.shape != (groups,):
            raise InputError(f"must be one per group ({groups}), got {weights.size}", field="weights")
        return weights

    def among(self, groups: int, who: Sequence[int | None]) -> "AffineWelfare":
        """Return the rule with its group's weight for each name, and 1 for a stranger."""
        if self.weights is None:
            return self
        weights = np.append(self.multipliers(groups), 1.0)
        return AffineWelfare(weights[[groups if group is None else group for group in who]], self.boost)

    def many(self, count: int) -> "AffineWelfare":
        """Return the rule with its boost in every game."""
        return self if self.boost is None else AffineWelfare(self.weights, [self.boost] * count)

    def boosts(self) -> Sequence[Any]:
        """Return the boost, if there is one."""
        return () if self.boost is None else (self.boost,)


@final
@dataclass(frozen=True, eq=False)
class Trained(Generic[Rule]):
    """The policy that a rule trained, with the reports and the space: all that a payment rule may look at.

    Arrays are per group, [n]; of B games that are settled together they are [B, n]. Under an affine maximiser the
    policy is the optimum for the score sum_i shares_i r_i + b.
    """

    rule: Rule
    profile: Profile[Any]
    space: PolicySpace[Any]
    policy: Policy[Any]

    @property
    def rewards(self) -> tuple[Any, ...]:
        """The reported rewards, as the space reads them: n."""
        return self.profile.rewards

    @property
    def sizes(self) -> Array:
        """w_i, as reported: [n]."""
        return self.profile.sizes.T

    @cached_property
    def weights(self) -> Array:
        """mu_i: [n]."""
        return self.rule.multipliers(len(self.profile.held))

    @property
    def shares(self) -> Array:
        """mu_i w_i, what each group's reward counts in the score: [n]."""
        return np.asarray(self.weights * self.sizes)

    @property
    def is_affine(self) -> bool:
        """Whether the policy is what an affine maximiser trains, and not what a subclass put in its place."""
        return self.rule.is_affine

    def values(self) -> Array:
        """Return v_i(p) of one member, at the reported reward: [n]."""
        return self.policy.values(self.profile.held).T

    def externalities(self: "Trained[AffineRule]") -> Array:
        """Return max ASW_-i - ASW_-i(p) >= 0 of each group, in units of reward, not yet divided by weights: [n]."""
        return self.policy.externalities(self.shares.T, self.profile.held).T

    def least_gains(self: "Trained[AffineRule]") -> Array:
        """Return the infimum over rewards r of the domain of max ASW(s_-i + mu_i r) - max ASW(s_-i): [n].

        Raises CombinationError when the space has no declared domain.
        """
        boosts = [self.space.read_boost(boost) for boost in self.rule.boosts()]
        parts, shares = [*self.rewards, *boosts], self.rule.score(self.profile.sizes, len(boosts))
        gains = []
        for i, weight in enumerate(self.weights):
            score = shares.copy()
            score[i] = 0.0
            gains.append(self.space.least_gain(score, parts, float(weight)))
        return np.stack(gains, axis=-1)
