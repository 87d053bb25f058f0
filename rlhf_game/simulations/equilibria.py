"""Studies of equilibria: groups answer each other with best reports until nobody gains by another one.

A profile counts as an epsilon-equilibrium when no group was found to gain more than epsilon of its stake (its size
times its largest reward) by another report; how much it could gain at most is a proof. The price of anarchy and of
stability are the best affine welfare there is over that of the worst and of the best equilibrium found; plain welfare
has a price of its own, and where an equilibrium's welfare is not above 0 there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Nonnegative
from rlhf_game.mechanism.arrays import Array
from rlhf_game.simulations.batches import Batch, Reports, SettledBatch
from rlhf_game.simulations.fields import STRATEGY_STREAMS, StudyFields
from rlhf_game.simulations.responses import best_responses
from rlhf_game.simulations.strategies import StudyStrategy, TruthfulStrategy
from rlhf_game.simulations.trials import Games, Measured, RowLayout

SCALARS: Final = (
    "equilibria", "epsilon", "epsilon_bound", "rounds", "affine_welfare", "affine_welfare_best", "optimum",
    "price_of_anarchy", "price_of_stability", "welfare", "welfare_optimum", "welfare_price_of_anarchy", "revenue",
    "claimed",
)  # fmt: skip
BY_GROUP: Final = ("value_i", "payment_i", "utility_i", "size_i", "claim_i")


@final
class EquilibriumStudy(StudyFields):
    """Best responses in turn, from several beginnings. A row: one game under one payment rule.

    ``equilibria`` says how many beginnings ended in an epsilon-equilibrium; what else is in the row is of the worst of
    these (of affine welfare) unless it says otherwise, and empty where there is none.
    """

    kind: Literal["equilibrium"]
    beginnings: Annotated[int, Field(ge=1, le=100)] = 3
    """The first is the truth, the others are random reports."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 12
    """In each, every group answers once."""
    epsilon: Nonnegative = 1e-3
    """Of a group's stake: a gain up to this does not count."""
    starts: Annotated[int, Field(ge=2, le=1000)] = 6
    """Of the search for a best report."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Of each start."""
    chunk: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """How many games are worked on together; last digits may depend on it."""

    OPTIONAL: ClassVar[tuple[str, ...]] = (*SCALARS[1:], *BY_GROUP)

    def choices(self) -> Sequence[StudyStrategy]:
        """Return the truth: what groups say otherwise is found."""
        return [TruthfulStrategy()]

    def check(self) -> None:
        """Raise InputError when fields do not go together."""
        super().check()
        if self.unsearchable:
            raise InputError(
                "payments: must be affine, none or revenue, with training social_welfare on tables, where best reports "
                f"are found by gradient; found {self.unsearchable[0]}"
            )

    def layout(self, groups: int, width: int) -> RowLayout:
        """Return the rows of a game: one under every payment rule."""
        return self.laid_out({"payment": list(self.paid)}, SCALARS, BY_GROUP, groups, width)

    def who(self, strategy: StudyStrategy) -> str | float:
        """Everybody answers."""
        return "all"

    def measure(self, games: Games) -> Measured:
        """Let the groups answer each other under every payment rule."""
        found = [self._measured(games, payment) for payment in self.paid]
        out = {name: np.stack([one[name] for one in found], axis=1) for name in found[0]}
        return {**out, **self.truth(games, len(found))}

    def _measured(self, games: Games, payment: str) -> dict[str, Array]:
        """Return the measures of a payment rule, [B]: of the worst equilibrium found in each game, and the best."""
        ends = [self._end(games.batch, self._begun(games, k), payment) for k in range(self.beginnings)]
        is_there = np.stack([end.epsilon <= self.epsilon for end in ends])
        welfare = np.stack([end.settled.affine_welfare for end in ends])
        worst = np.where(is_there, welfare, np.inf).argmin(axis=0)
        games_at = np.arange(welfare.shape[1])

        def of_worst(amounts: Sequence[Array]) -> Array:
            picked = np.moveaxis(np.stack(amounts), -1, 1)[worst, games_at]
            return np.where(is_there.any(axis=0).reshape(-1, *[1] * (picked.ndim - 1)), picked, np.nan)

        batch = games.batch
        affine, plain = of_worst([e.settled.affine_welfare for e in ends]), of_worst([e.settled.welfare for e in ends])
        best = np.where(is_there, welfare, -np.inf).max(axis=0)
        best = np.where(np.isfinite(best), best, np.nan)
        optimum = ends[0].settled.affine_welfare + ends[0].settled.loss
        score = (batch.sizes[..., None] * batch.rewards).sum(axis=0)
        most = np.where(batch.reference > 0, score, -np.inf).max(axis=1)
        none = np.where(is_there.any(axis=0), 0.0, np.nan)
        return {
            "equilibria": is_there.sum(axis=0).astype(np.float64),
            "epsilon": of_worst([e.epsilon for e in ends]),
            "epsilon_bound": of_worst([e.bound for e in ends]),
            "rounds": of_worst([e.rounds for e in ends]),
            "affine_welfare": affine,
            "affine_welfare_best": best,
            "optimum": optimum + none,
            "price_of_anarchy": _price(optimum, affine),
            "price_of_stability": _price(optimum, best),
            "welfare": plain,
            "welfare_optimum": most + none,
            "welfare_price_of_anarchy": _price(most, plain),
            "revenue": of_worst([e.settled.revenue for e in ends]),
            "claimed": of_worst([(e.said.sizes / batch.sizes).mean(axis=0) for e in ends]),
            "value_i": of_worst([e.settled.worth / batch.sizes for e in ends]),
            "payment_i": of_worst([e.settled.payments for e in ends]),
            "utility_i": of_worst([e.settled.utilities for e in ends]),
            "size_i": of_worst([batch.sizes for _ in ends]),
            "claim_i": of_worst([e.said.sizes for e in ends]),
        }

    def _begun(self, games: Games, number: int) -> Reports:
        """Return what all say at first: the truth, or random reports and sizes."""
        batch = games.batch
        if number == 0:
            return batch.truth
        rewards, sizes = batch.rewards.copy(), batch.sizes.copy()
        for b, trial in enumerate(games.trials):
            rng = trial.stream(STRATEGY_STREAMS + number)
            domain = batch.domain(batch.rewards[:, b])
            rewards[:, b] = domain.draw(rng, 1, batch.rewards.shape[2])[0]
            sizes[:, b] = rng.integers(1, int(batch.limit[b]), size=len(sizes), endpoint=True)
        return Reports(rewards, sizes, batch.truth.owners)

    def _end(self, batch: Batch, said: Reports, payment: str) -> "_End":
        """Return where groups end that answer in turn with the best report found, until nobody gains epsilon / 2.

        count: rounds in which somebody moved, [B]. epsilon: the largest gain left, as a share of what is at stake.
        """
        count = np.zeros(len(batch.strength))
        for _ in range(self.rounds):
            is_moving = np.zeros(len(batch.strength), dtype=bool)
            for mover in range(len(batch.sizes)):
                other, gain = self._answer(batch, said, mover, payment)
                moves = gain > self.epsilon / 2 * batch.stakes[mover]
                rewards = np.where(moves[:, None], other.rewards, said.rewards)
                said = Reports(rewards, np.where(moves, other.sizes, said.sizes), said.owners)
                is_moving |= moves
            count += is_moving
            if not is_moving.any():
                break
        settled = batch.settle(said, [payment])[payment]
        gains = np.stack([self._answer(batch, said, mover, payment)[1] for mover in range(len(batch.sizes))])
        bound = self._bound(batch, said, settled, payment)
        epsilon = (np.maximum(gains, 0.0) / batch.stakes).max(axis=0)
        return _End(said, settled, epsilon, np.maximum(epsilon, (bound / batch.stakes).max(axis=0)), count)

    def _answer(self, batch: Batch, said: Reports, mover: int, payment: str) -> tuple[Reports, Array]:
        """Return what all say when one group answers with its best report found, and what that gains it: [B]."""
        is_paid = not batch.rules.payments[payment].is_free
        found = best_responses(batch, mover, is_paid=is_paid, starts=self.starts, steps=self.steps, said=said)
        rewards, sizes = said.rewards.copy(), said.sizes.copy()
        rewards[mover], sizes[mover] = found
        other = Reports(rewards, sizes, said.owners)
        before, after = (batch.settle(one, [payment])[payment].utilities[mover] for one in (said, other))
        return other, after - before

    def _bound(self, batch: Batch, said: Reports, settled: SettledBatch, payment: str) -> Array:
        """Return what no report of a group can gain more than: [n, B].

        With payments the truth is a best report whatever the others say, so this is what the truth gains. Otherwise,
        and where noise is heard, nobody gets more than its favourite outcome for nothing.
        """
        if batch.rules.payments[payment].is_free or batch.noise is not None:
            return np.asarray(batch.sizes * batch.rewards.max(axis=2) - settled.utilities)
        gains = []
        for mover in range(len(batch.sizes)):
            rewards, sizes = said.rewards.copy(), said.sizes.copy()
            rewards[mover], sizes[mover] = batch.rewards[mover], batch.sizes[mover]
            honest = batch.settle(Reports(rewards, sizes, said.owners), [payment])[payment]
            gains.append(honest.utilities[mover] - settled.utilities[mover])
        return np.asarray(np.maximum(np.stack(gains), 0.0))


@final
@dataclass(frozen=True, eq=False)
class _End:
    """Where one beginning led: epsilon and its bound as shares of a stake, [B]."""

    said: Reports
    settled: SettledBatch
    epsilon: Array
    bound: Array
    rounds: Array


def _price(optimum: Array, reached: Array) -> Array:
    """Return optimum / reached; NaN where that is no ratio."""
    return np.where(reached > 0, optimum / np.where(reached > 0, reached, 1.0), np.nan)
