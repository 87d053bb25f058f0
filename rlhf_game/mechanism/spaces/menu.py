"""A finite menu of policies: checkpoints, interpolants, system prompts.

The trained policy is the entry with the largest sum_i w_i V[i, k] - strength * D[k], and a payment the difference of
two maxima over the same menu (theory section 3). Exact, DSIC and IR as long as the menu does not depend on the reports.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen, leave_one_out_sums, positive
from rlhf_game.mechanism.domains import Coordinates, Domain, Sheets, declared
from rlhf_game.mechanism.regularizers.optimum import simplex_thresholds
from rlhf_game.mechanism.reports import Normalization, Reward
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace


@final
class Menu(PolicySpace[Array]):
    """K policies on offer.

    divergence: D of each entry, [K], or K for zeros. strength: lambda > 0, in units of reward. outcomes: names of the
    entries, which callable rewards are called on. normalization: the declared domain of valuations. games: rewards are
    [B, K], of B games that are settled together; sizes and weights are then [n, B], and what was one number is [B].
    """

    def __init__(
        self,
        divergence: ArrayLike,
        strength: float = 1.0,
        *,
        outcomes: Sequence[Any] | None = None,
        normalization: Normalization | str = Normalization.NONE,
        games: bool = False,
    ) -> None:
        self.games = games
        self.divergence = frozen(finite(divergence, "divergence"))
        if self.divergence.ndim != 1 or self.divergence.size == 0:
            raise InputError("must be one number per menu entry, at least one", field="divergence")
        if (self.divergence < 0).any():
            raise InputError(f"must be >= 0, got {self.divergence.min()}", field="divergence")
        self.strength = positive(strength, "strength")
        self.normalization = Normalization.parse(normalization)
        self.outcomes = None if outcomes is None else tuple(outcomes)
        if self.outcomes is not None and len(self.outcomes) != len(self.divergence):
            raise InputError(f"must be {len(self.divergence)} names, got {len(self.outcomes)}", field="outcomes")

    def many(self, count: int) -> "Menu":
        """Return the same menu for as many games."""
        return Menu(self.divergence, self.strength, normalization=self.normalization, games=True)

    def softmax(self) -> tuple[Array, float]:
        """Return the cost of each entry, and 0: the best entry is taken."""
        return -self.strength * self.divergence, 0.0

    def coordinates(self, reward: Any) -> "MenuCoordinates":
        """Return one row, of the entries."""
        return MenuCoordinates(self)

    def read(self, reward: Reward | ArrayLike) -> Array:
        """Return the valuation of each entry, [K]; raise InputError on a wrong shape or domain."""
        values = self.read_boost(reward)
        self.normalization.check(np.atleast_2d(values))
        return values

    def read_boost(self, boost: Any) -> Array:
        """Return a boost of each entry: [K]."""
        values = finite(self._call(boost) if callable(boost) else boost, "reward")
        if values.shape[-1:] != self.divergence.shape or values.ndim != 1 + self.games:
            raise InputError(
                f"must be {len(self.divergence)} numbers, one per menu entry, got {values.shape}", field="reward"
            )
        return frozen(values)

    def _call(self, reward: Callable[[Sequence[Any]], ArrayLike]) -> ArrayLike:
        if self.outcomes is None:
            raise InputError("a reward that is a function needs the outcomes: Menu(..., outcomes=[...])")
        return reward(self.outcomes)

    def magnitude(self, reward: Array) -> float:
        """Return the largest entry's size."""
        return float(np.abs(reward).max())

    def least_gain(self, weights: Array, rewards: Sequence[Array], multiplier: float) -> Any:
        """Return the infimum over valuations v of the domain of max ASW(s + multiplier v) - max ASW(s), >= 0.

        With sum 1, v fills the objective from below to a level (water-filling); with max 1 it is the lowest entry's.
        Raises CombinationError when the domain is not declared.
        """
        self.normalization.must_be_declared()
        objective = np.atleast_2d(self.maximize(weights, rewards).objective) / multiplier
        depth = objective.max(axis=1, keepdims=True) - objective
        deepest = depth.max(axis=1)
        if self.normalization is Normalization.MAX:
            gains = multiplier * np.maximum(0.0, 1.0 - deepest)
        else:
            deep = depth > deepest[:, None] - 1
            gains = multiplier * np.maximum(0.0, -simplex_thresholds(depth[deep], np.nonzero(deep)[0], len(depth)))
        return gains if self.games else float(gains[0])

    def maximize(self, weights: Array, rewards: Sequence[Array]) -> "MenuPolicy":
        """Return the best entry; ties go to the first."""
        return MenuPolicy(self, np.asarray(weights, dtype=np.float64), tuple(rewards))


@final
class MenuPolicy(Policy[Array]):
    """One entry of the menu."""

    def __init__(self, space: Menu, weights: Array, rewards: tuple[Array, ...]) -> None:
        self.space = space
        self.weights = weights
        self.rewards = rewards
        cost = -space.strength * space.divergence
        shape = rewards[0].shape if rewards else cost.shape
        terms = [*map(_times, weights, rewards), np.broadcast_to(cost, shape)]
        columns = zip(*(term.ravel().tolist() for term in terms), strict=True)
        self.objective: Array = np.array([fsum(column) for column in columns]).reshape(shape)
        """Rounded once, so that ties do not depend on the order of the groups: [K], of games [B, K]."""
        chosen = np.argmax(self.objective, axis=-1)
        self.chosen: Any = chosen if space.games else int(chosen)
        self.welfare = self._chosen_of(self.objective)
        self.divergence = space.divergence[self.chosen] if space.games else float(space.divergence[self.chosen])
        self.gap = 0.0

    def _chosen_of(self, values: Array) -> Any:
        """Return the chosen entry's of values [K], of games [B, K]."""
        if not self.space.games:
            return float(values[self.chosen])
        return np.take_along_axis(values, self.chosen[:, None], axis=1)[:, 0]

    @property
    def probabilities(self) -> Array:
        """One-hot: [K]; of games [B, K]."""
        return np.asarray(np.eye(len(self.space.divergence))[self.chosen])

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return the valuation of the chosen entry: [k]."""
        return np.array([self._chosen_of(reward) for reward in rewards])

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return max over the menu of the objective without a pair, minus its value at the chosen entry: [k].

        Both are taken relative to the chosen entry before anything is summed, and a pair that the entry was chosen for
        is left out of the sum of the others.
        """
        own = np.zeros((len(self.rewards), *self.objective.shape))
        for i, (weight, reward) in enumerate(zip(self.weights, self.rewards, strict=True)):
            own[i] = _times(weight, self._over(reward))
        cost = self._over(-self.space.strength * np.broadcast_to(self.space.divergence, self.objective.shape))
        out = []
        others = leave_one_out_sums(own) if len(own) else own
        for weight, reward in zip(np.asarray(weights, dtype=np.float64), rewards, strict=True):
            pairs = enumerate(zip(self.weights, self.rewards, strict=True))
            where = [i for i, (mine, one) in pairs if one is reward and np.array_equal(mine, weight)]
            rest = others[where[0]] if where else own.sum(axis=0) - _times(weight, self._over(reward))
            out.append((rest + cost).max(axis=-1))
        return np.array(out)

    def _over(self, values: Array) -> Array:
        """Return how much each entry has more than the chosen one."""
        return np.asarray((values.T - self._chosen_of(values)).T)


def _times(weight: Any, reward: Array) -> Array:
    """Return a reward [K], or one of each game [B, K], times its weight, or that of each game [B]."""
    return np.asarray((weight * reward.T).T)


@final
@dataclass(frozen=True, eq=False)
class MenuCoordinates(Coordinates):
    """One row: the valuation of each entry."""

    space: Menu
    entries: ClassVar[bool] = True

    def sheets(self, reward: Any) -> Sheets:
        """Return what the menu reads."""
        return (self.space.read_boost(reward)[None],)

    def reward(self, sheets: Sheets) -> Any:
        """Return a list of valuations."""
        return sheets[0][0]

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the declared domain."""
        return (declared(self.space.normalization, truth[0]),)

    def prompt_weights(self) -> Sheets:
        """Return one."""
        return (np.ones(1),)

    def solver(self, sheet: int) -> None:
        """Return None: a policy does not move, it jumps."""
        return

    def least_value(self, reward: Any) -> float:
        """Return the least entry."""
        return float(self.sheets(reward)[0].min())
