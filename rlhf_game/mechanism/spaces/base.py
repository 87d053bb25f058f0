"""What can be trained (PolicySpace) and what was trained (Policy).

Let Omega*(s) = max_p <p, s> - strength * D(p || q) be the best affine welfare that a space reaches for a score
s = sum_i weights_i r_i. It is convex in s and its gradient is the trained policy, so a group's payment is the Bregman
divergence Omega*(s - w r) - Omega*(s) + <p, w r> >= 0 (theory section 3), here called its externality.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import ArrayCoordinates, Coordinates
from rlhf_game.mechanism.reports import Normalization, Profile, V


@final
class PolicyView(NamedTuple):
    """What can be shown of a policy for one prompt, outcome by outcome."""

    name: str
    """What is shown; of a table's only prompt nothing."""
    is_prompt: bool
    """Whether it is a prompt, whose text may stand in place of the name."""
    outcome: str
    """What its outcomes are called: outcome, entry, token."""
    weight: float
    """Of the prompt, all together 1."""
    reference: Array
    """q: [m]; zeros where there is none."""
    policy: Array
    """p: [m]."""
    rewards: Array
    """Of each group: [n, m]."""


class Policy(ABC, Generic[V]):
    """A trained policy p, which remembers the score s = sum_i weights_i r_i that it was trained on.

    A policy of one's own says ``welfare``, ``divergence`` and ``values``. What else is asked of it is then done by
    training again, if it also keeps its ``space`` and the ``weights`` and ``rewards`` that it was trained on; such
    numbers are differences, with the rounding of a difference.
    """

    space: Any
    weights: Array
    rewards: Sequence[V]
    welfare: Any
    """<p, s> - strength * D(p || q), in units of reward: a number, of a table of games [B]."""
    divergence: Any
    """D(p || q), without the strength."""
    gap: Any = None
    """A certified bound on max ASW(s) - ASW(p): 0 when exact, the epsilon of epsilon-DSIC otherwise (section 5); None
    where there is no proof."""
    parts: Any = None
    """The groups that share each model, where it was also chosen which models are trained; else None."""
    takes_part: Any = None
    """Of each group whether it does, [n], where it was also chosen who takes part; else None."""

    @abstractmethod
    def values(self, rewards: Sequence[V]) -> Array:
        """Return <p, r> for each of k rewards: [k]."""

    def model_of(self, group: int) -> "Policy[V]":
        """Return the policy that serves a group, by its position: this one serves all, unless there are several."""
        return self

    def externalities(self, weights: Array, rewards: Sequence[V]) -> Array:
        """Return max ASW(s - w r) - ASW(s - w r)(p) for each of k pairs: [k], >= 0.

        weights: [k], w r is the part of the score that is taken away. Defined where the policy is optimal.
        """
        values, out = self.values(rewards), []
        for weight, reward, value in zip(weights, rewards, values, strict=True):
            own = [k for k, mine in enumerate(self.rewards) if mine is reward and self.weights[k] == weight]
            score, parts = np.append(self.weights, -weight), [*self.rewards, reward]
            if own:  # a pair of the score is left out of the sum, so that only weights >= 0 are trained on
                score, parts = np.delete(self.weights, own[0]), [r for k, r in enumerate(self.rewards) if k != own[0]]
            out.append(self.space.maximize(score, parts).welfare - (self.welfare - weight * value))
        return np.asarray(np.maximum(np.array(out), 0.0))

    def prices(self, weights: Array, rewards: Sequence[V]) -> list[Array]:
        """Return weight (r(y) - <p, r>) + externality for every outcome y of every prompt: B arrays [k, m_b].

        Raises CombinationError where that is no price of a response (see ``mechanism.prices``).
        """
        raise CombinationError(
            f"prices of responses are known under KL over a table of outcomes, not for {type(self).__name__}"
        )

    def log_tokens(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return log p of each token of a whole outcome of a prompt after those before it: [tokens].

        Raises CombinationError where outcomes are no sequences, InputError when the sequence is not a whole outcome.
        """
        raise CombinationError(
            f"prices of tokens are known under KL where outcomes are sequences of tokens, not for {type(self).__name__}"
        )

    def certified(self, settlement: Any) -> Any:
        """Return a settlement of this policy as intervals for all it stands for; None where its numbers are exact."""
        return None

    def pieces(self) -> Iterable[Array]:
        """Yield the probabilities in order, in pieces [k] that stay small wherever that is possible."""
        whole: Any = self
        return [np.ravel(whole.probabilities)]


class PolicySpace(ABC, Generic[V]):
    """A reference, the cost of leaving it, and a way to the maximum: the convex function s -> max ASW(s).

    Two methods and the values of the policy are all that is needed; what else is asked of a space has a general answer
    here, done numerically, or names what is missing.
    """

    normalization: Normalization = Normalization.NONE
    """The declared domain of rewards."""
    strength: float = 1.0
    """What D(p || q) is multiplied by, in units of reward."""

    @property
    def running(self) -> "PolicySpace[Any]":
        """The space of the mechanism that runs: this one, unless it stands for more outcomes than it trains on."""
        return self

    @property
    def enumeration(self) -> Any:
        """The table of all outcomes, whose rewards are this space's own; raises CombinationError where there is none.

        What needs enumerated outcomes (fair welfares, the median of policies, stopped training) asks for it.
        """
        raise CombinationError(f"enumerated outcomes need a Table, not {type(self).__name__}")

    @property
    def sampled(self) -> Any:
        """The space whose policies are known through draws; raises CombinationError where they are known otherwise."""
        raise CombinationError(f"payments from draws need a Finetuned space, not {type(self).__name__}")

    def many(self, count: int) -> "PolicySpace[Any]":
        """Return the space of as many games on this one: here one after the other, together where a space can.

        Its rewards have one axis more, the games', and the sizes of its reports are [n, count].
        """
        return InTurn(self, count)

    def each(self, train: "Callable[[Profile[V], PolicySpace[V]], Policy[V]]", profile: Profile[V]) -> "Policy[V]":
        """Return what ``train`` makes of the reports; of games in turn, what it makes of each."""
        return train(profile, self)

    def softmax(self) -> tuple[Array, float]:
        """Return base and T >= 0, where the policy is exp((s + base) / T) / Z for a score s; of T = 0 the argmax.

        base: m numbers, shaped like a reward. Raises CombinationError where policies are others.
        """
        raise CombinationError(
            f"learned mechanisms need a Menu, or a Table with one prompt and KL, not this {type(self).__name__}"
        )

    def views(self, policy: Any, rewards: Sequence[Any]) -> list[PolicyView]:
        """Return what can be shown of a policy beside the groups' rewards, as they were given: here all, as a menu."""
        rows = np.stack([np.asarray(reward) for reward in rewards])
        found = getattr(policy, "probabilities", None)
        if found is None or rows.ndim != 2:  # policies that are not shaped like rewards
            return []
        return [PolicyView("The menu", False, "entry", 1.0, np.zeros(rows.shape[1]), np.asarray(found), rows)]

    def coordinates(self, reward: Any) -> Coordinates:
        """Return how rewards like this one are rows of numbers; raise CombinationError where they are not."""
        return ArrayCoordinates.of(self, reward)

    @abstractmethod
    def read(self, reward: Any) -> V:
        """Return a reward in this space's coordinates; raise InputError if it does not fit or is outside the domain."""

    def view(self, reward: Any) -> tuple[V, Callable[[], None] | None]:
        """Return what ``read`` does, possibly without a copy of what somebody may change: then with a check.

        The check raises InputError where the reward has been changed in place since. None: it cannot have been.
        """
        return self.read(reward), None

    def read_boost(self, boost: Any) -> V:
        """Return what the provider itself adds to the score, in this space's coordinates; it has no domain to be in."""
        return self.read(boost)

    @abstractmethod
    def maximize(self, weights: Array, rewards: Sequence[V]) -> Policy[V]:
        """Return argmax_p <p, sum_i weights_i r_i> - strength * D(p || q)."""

    def settle(self, weights: Array, rewards: Sequence[V]) -> Policy[V]:
        """Return what ``maximize`` does; a space that can finds values and externalities in the same reading."""
        return self.maximize(weights, rewards)

    def shortfall(self, policy: Policy[V], weights: Array, rewards: Sequence[V]) -> Any:
        """Return how much less a policy reaches than max ASW(s), >= 0: here a difference, with its rounding."""
        reached = (weights * policy.values(rewards)).sum(axis=0) - self.strength * policy.divergence
        return np.maximum(self.maximize(weights, rewards).welfare - reached, 0.0)

    def magnitude(self, reward: V) -> float:
        """Return at least the largest |<p, r>| of any policy, in units of reward; 0 where it is not known."""
        return 0.0

    def least_gain(self, weights: Array, rewards: Sequence[V], multiplier: float) -> Any:
        """Return the infimum over rewards r of the domain of max ASW(s + multiplier r) - max ASW(s), >= 0.

        Raises CombinationError where no domain is declared.
        """
        raise CombinationError(f"a least gain needs a space with a declared domain, not {type(self).__name__}")


@final
class InTurn(PolicySpace[tuple[V, ...]]):
    """As many games on one space, settled one after the other. A reward is what the space reads of each game."""

    def __init__(self, space: PolicySpace[V], count: int) -> None:
        self.space, self.count = space, count
        self.normalization, self.strength = space.normalization, space.strength

    def read(self, reward: Any) -> tuple[V, ...]:
        """Return the rewards of all games."""
        return self._each(self.space.read, reward)

    def read_boost(self, boost: Any) -> tuple[V, ...]:
        """Return the boosts of all games."""
        return self._each(self.space.read_boost, boost)

    def _each(self, read: Callable[[Any], V], given: Any) -> tuple[V, ...]:
        each = list(given) if isinstance(given, Iterable) else [given]
        if len(each) != self.count:
            raise InputError(f"must be those of {self.count} games, got {len(each)}", field="reward")
        return tuple(map(read, each))

    def maximize(self, weights: Array, rewards: Sequence[tuple[V, ...]]) -> "PoliciesInTurn[V]":
        """Return the policy of each game. weights: [k, count]."""
        return self._trained(self.space.maximize, weights, rewards)

    def settle(self, weights: Array, rewards: Sequence[tuple[V, ...]]) -> "PoliciesInTurn[V]":
        """Return the policy of each game, with what it finds along. weights: [k, count]."""
        return self._trained(self.space.settle, weights, rewards)

    def _trained(
        self, train: Callable[[Array, Sequence[V]], Policy[V]], weights: Array, rewards: Sequence[tuple[V, ...]]
    ) -> "PoliciesInTurn[V]":
        return PoliciesInTurn(tuple(train(weights[:, b], [one[b] for one in rewards]) for b in range(self.count)))

    def each(
        self, train: Callable[[Profile[Any], PolicySpace[Any]], Policy[Any]], profile: Profile[Any]
    ) -> "PoliciesInTurn[Any]":
        """Return what ``train`` makes of the reports of each game."""
        return self._trained(
            lambda sizes, rewards: train(Profile(tuple(rewards), sizes), self.space), profile.sizes, profile.rewards
        )

    def magnitude(self, reward: tuple[V, ...]) -> float:
        """Return the largest of all games."""
        return max(map(self.space.magnitude, reward))

    def least_gain(self, weights: Array, rewards: Sequence[tuple[V, ...]], multiplier: float) -> Array:
        """Return the least gain of each game: [count]."""
        games = ((weights[:, b], [one[b] for one in rewards]) for b in range(self.count))
        return np.array([self.space.least_gain(*game, multiplier) for game in games])


@final
class PoliciesInTurn(Policy[tuple[V, ...]]):
    """The policies of games that were settled one after the other: what is one number of each is [B] here."""

    def __init__(self, policies: tuple[Policy[V], ...]) -> None:
        self.policies = policies
        self.welfare = np.array([policy.welfare for policy in policies])
        self.divergence = np.array([policy.divergence for policy in policies])
        gaps = [policy.gap for policy in policies]
        self.gap = None if any(gap is None for gap in gaps) else np.array(gaps)

    def values(self, rewards: Sequence[tuple[V, ...]]) -> Array:
        """Return <p, r> for each of k rewards in each game: [k, B]."""
        games = [policy.values([one[b] for one in rewards]) for b, policy in enumerate(self.policies)]
        return np.stack(games, axis=-1)

    def externalities(self, weights: Array, rewards: Sequence[tuple[V, ...]]) -> Array:
        """Return those of k pairs in each game: [k, B]. weights: [k, B]."""
        games = [
            policy.externalities(weights[:, b], [one[b] for one in rewards]) for b, policy in enumerate(self.policies)
        ]
        return np.stack(games, axis=-1)
