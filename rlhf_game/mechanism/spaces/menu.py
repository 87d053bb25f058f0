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
from rlhf_game.mechanism.regularizers.base import simplex_thresholds
from rlhf_game.mechanism.reports import Normalization, Reward
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace


@final
class Menu(PolicySpace[Array]):
    """K policies on offer.

    divergence: D of each entry, [K], or K for zeros. strength: lambda > 0, in units of reward. outcomes: names of the
    entries, which callable rewards are called on. normalization: the declared domain of valuations.
    """

    def __init__(
        self,
        divergence: ArrayLike,
        strength: float = 1.0,
        *,
        outcomes: Sequence[Any] | None = None,
        normalization: Normalization | str = Normalization.NONE,
    ) -> None:
        self.divergence = frozen(finite(divergence, "divergence"))
        if self.divergence.ndim != 1 or self.divergence.size == 0:
            raise InputError("divergence must be one number per menu entry, at least one")
        if (self.divergence < 0).any():
            raise InputError(f"divergence must be >= 0, got {self.divergence.min()}")
        self.strength = positive(strength, "strength")
        self.normalization = Normalization.parse(normalization)
        self.outcomes = None if outcomes is None else tuple(outcomes)
        if self.outcomes is not None and len(self.outcomes) != len(self.divergence):
            raise InputError(f"outcomes must be {len(self.divergence)} names, got {len(self.outcomes)}")

    def coordinates(self, reward: Any) -> "MenuCoordinates":
        """Return one row, of the entries."""
        return MenuCoordinates(self)

    def read(self, reward: Reward | ArrayLike) -> Array:
        """Return the valuation of each entry, [K]; raise InputError on a wrong shape or domain."""
        values = self.read_boost(reward)
        self.normalization.check(values[None])
        return values

    def read_boost(self, boost: Any) -> Array:
        """Return a boost of each entry: [K]."""
        values = finite(self._call(boost) if callable(boost) else boost, "reward")
        if values.shape != self.divergence.shape:
            raise InputError(f"reward must be {len(self.divergence)} numbers, one per menu entry, got {values.shape}")
        return frozen(values)

    def _call(self, reward: Callable[[Sequence[Any]], ArrayLike]) -> ArrayLike:
        if self.outcomes is None:
            raise InputError("a reward that is a function needs the outcomes: Menu(..., outcomes=[...])")
        return reward(self.outcomes)

    def magnitude(self, reward: Array) -> float:
        """Return the largest entry's size."""
        return float(np.abs(reward).max())

    def least_gain(self, weights: Array, rewards: Sequence[Array], multiplier: float) -> float:
        """Return the infimum over valuations v of the domain of max ASW(s + multiplier v) - max ASW(s), >= 0.

        With sum 1, v fills the objective from below to a level (water-filling); with max 1 it is the lowest entry's.
        Raises CombinationError when the domain is not declared.
        """
        self.normalization.must_be_declared()
        depth = self.maximize(weights, rewards).objective / multiplier
        depth = depth.max() - depth
        if self.normalization is Normalization.MAX:
            return multiplier * max(0.0, 1.0 - float(depth.max()))
        deep = depth > depth.max() - 1
        level = simplex_thresholds(depth[deep], np.zeros(deep.sum(), dtype=np.intp), 1)[0]
        return multiplier * max(0.0, -float(level))

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
        terms = [*(weight * reward for weight, reward in zip(weights, rewards, strict=True))]
        columns = zip(*(term.tolist() for term in (*terms, -space.strength * space.divergence)), strict=True)
        self.objective: Array = np.array([fsum(column) for column in columns])
        """Rounded once, so that ties do not depend on the order of the groups: [K]."""
        self.chosen = int(np.argmax(self.objective))
        self.welfare = float(self.objective[self.chosen])
        self.divergence = float(space.divergence[self.chosen])
        self.gap = 0.0

    @property
    def probabilities(self) -> Array:
        """One-hot: [K]."""
        out = np.zeros(len(self.objective))
        out[self.chosen] = 1.0
        return out

    def values(self, rewards: Sequence[Array]) -> Array:
        """Return the valuation of the chosen entry: [k]."""
        return np.array([reward[self.chosen] for reward in rewards])

    def externalities(self, weights: Array, rewards: Sequence[Array]) -> Array:
        """Return max over the menu of the objective without a pair, minus its value at the chosen entry: [k].

        Both are taken relative to the chosen entry before anything is summed, and a pair that the entry was chosen for
        is left out of the sum of the others.
        """
        held = self.chosen
        own = self.weights[:, None] * np.stack([r - r[held] for r in self.rewards]) if self.rewards else None
        cost = -self.space.strength * (self.space.divergence - self.divergence)
        out = []
        others = None if own is None else leave_one_out_sums(own)
        for weight, reward in zip(np.asarray(weights, dtype=np.float64), rewards, strict=True):
            where = [i for i, mine in enumerate(self.rewards) if mine is reward and self.weights[i] == weight]
            if where and others is not None:
                rest = others[where[0]]
            else:
                rest = (0.0 if own is None else own.sum(axis=0)) - weight * (reward - reward[held])
            out.append(float((rest + cost).max()))
        return np.array(out)


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
