"""Studies of games that are played once: what each strategy gains over the truth, under each payment rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, Final, Literal, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regret import TOLERANCE
from rlhf_game.simulations.batches import SettledBatch, by_owner
from rlhf_game.simulations.fields import STRATEGY_STREAMS, StudyFields, totals
from rlhf_game.simulations.populations import Share
from rlhf_game.simulations.strategies import (
    Liars,
    SomeStrategy,
    StrategyContext,
    StudyStrategy,
    TruthfulStrategy,
)
from rlhf_game.simulations.trials import Games, Measured, RowLayout

TOGETHER: Final = 60_000
"""Rewards (of all groups) that are worked on together, where more than 200 games have no more."""
SCALARS: Final = (
    "welfare", "affine_welfare", "loss", "efficiency", "revenue", "divergence", "gain", "regret", "liars",
    "victims_loss",
)  # fmt: skip
BY_GROUP: Final = ("value_i", "payment_i", "utility_i", "gain_i", "size_i", "claim_i", "lies_i")


@final
class GamesStudy(StudyFields):
    """Every game on its own. A row: one game, one strategy, one payment rule; the truth is a strategy too."""

    kind: Literal["games"] = "games"
    strategies: Annotated[list[SomeStrategy], Field(min_length=1)]
    """Ways to lie; the truth is always one."""
    liars: Literal["each", "first", "all"] | Share = "each"
    """Who uses the strategy while all others say the truth. ``each``: every group in turn, alone (a row then holds of
    every group what it gets by its own lie, and means over these lies of what is no group's own); ``first``: only the
    first group; ``all``: all at once; a number: every group with that probability."""
    chunk: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """How many games are worked on together; last digits may depend on it. Default: by what a game costs."""

    @property
    def together(self) -> int:
        """A quarter of the games, from 200 to TOGETHER rewards; 50 where lies are searched for, 4 one by one."""
        if self.chunk is not None:
            return self.chunk
        searches = [one for one in self.strategies if one.looks_at_payments]
        rules = self.rules
        is_slow = any(one.is_asked_alone for one in searches) or not all(map(rules.is_known, self.paid))
        if searches:
            return 4 if is_slow else 50
        return max(200, min(self.games // 4, TOGETHER // self.scenario.entries))

    def choices(self) -> Sequence[StudyStrategy]:
        """Return the strategies, the truth first."""
        lies = [strategy for strategy in self.strategies if not strategy.is_truthful]
        return [TruthfulStrategy(), *lies]

    def layout(self, groups: int, width: int) -> RowLayout:
        """Return the rows of a game: every strategy that so many groups can play, under every payment rule."""
        cells = list(product([strategy.label for strategy in self.playable(groups)], self.paid))
        keys: dict[str, Sequence[str]] = {
            "strategy": [label for label, _ in cells],
            "payment": [payment for _, payment in cells],
        }
        return self.laid_out(keys, SCALARS, BY_GROUP, groups, width)

    def who(self, strategy: StudyStrategy) -> str | float:
        """Return who lies by a strategy: nobody, the members of a coalition, or what ``liars`` says."""
        if strategy.is_truthful:
            return "nobody"
        return "members" if strategy.is_joint else self.liars

    def measure(self, games: Games) -> Measured:
        """Play every strategy."""
        found: list[dict[str, Array]] = []
        truthful: dict[str, _Played] = {}
        for number, strategy in enumerate(self.choices()):
            if strategy.least_groups() > len(games.batch.sizes):
                continue
            played = self._played(games, strategy, number)
            truthful = truthful or played
            found += [
                _measured(played[payment], truthful[payment].settled, is_joint=strategy.is_joint)
                for payment in self.paid
            ]
        out = {name: np.stack([one[name] for one in found], axis=1) for name in found[0]}
        return {**out, **self.truth(games, len(found))}

    def _liars(self, games: Games, strategy: StudyStrategy) -> Liars:
        """Return who lies in each game: [n, B]; with ``each`` everybody, in turn."""
        shape = games.batch.sizes.shape
        liars = np.ones(shape, dtype=bool)
        if strategy.is_truthful:
            return np.zeros(shape, dtype=bool)
        if self.liars == "first":
            liars[1:] = False
        elif isinstance(self.liars, float):
            drawn = [trial.stream(STRATEGY_STREAMS).random(shape[0]) for trial in games.trials]
            liars = np.stack(drawn, axis=1) < self.liars
        return strategy.liars(liars)

    def _played(self, games: Games, strategy: StudyStrategy, number: int) -> dict[str, "_Played"]:
        """Return what a strategy brings under every payment rule, in B games, or in n B where each group lies alone.

        A strategy that looks at payments is asked once for each rule, any other once for all. number: of the strategy.
        """
        streams: dict[int, np.random.Generator] = {}

        def stream(game: int) -> np.random.Generator:
            if game not in streams:
                streams[game] = games.trials[game].stream(STRATEGY_STREAMS + 1 + number)
            return streams[game]

        batch, liars = games.batch, self._liars(games, strategy)
        groups, count = liars.shape
        turns, game_of = 1, np.arange(count)
        if self.who(strategy) == "each":
            turns, game_of = groups, np.tile(game_of, groups)
            batch, liars = batch.rows(game_of), np.repeat(np.eye(groups, dtype=bool), count, axis=1)
        out: dict[str, _Played] = {}
        ways = [[payment] for payment in self.paid] if strategy.looks_at_payments else [list(self.paid)]
        for payments in ways:
            occasion = StrategyContext(
                batch, liars, payments != ["none"], lambda row: stream(int(game_of[row])), payments[0]
            )
            reports = strategy.reports(occasion)
            claims = by_owner(reports.sizes, reports.owners, groups)
            for payment, settled in batch.settle(reports, payments).items():
                out[payment] = _Played(settled, batch.sizes, claims, liars, turns)
        return out


@final
@dataclass(frozen=True, eq=False)
class _Played:
    """T turns of B games: sizes, claims and liars are [n, T * B], one turn after the other."""

    settled: SettledBatch
    sizes: Array
    claims: Array
    liars: Liars
    turns: int


def _measured(played: _Played, truthful: SettledBatch, *, is_joint: bool) -> dict[str, Array]:
    """Return the columns of one strategy and payment rule: [B], and [B, n] of the groups.

    What a group gains is the change of its utility, and 0 where that is rounding. ``gain`` is what the liars gain, the
    mean over them, or the sum over a coalition, which shares it.
    """
    settled, liars, turns = played.settled, played.liars, played.turns
    before = np.tile(truthful.utilities, turns)
    money = np.abs(settled.worth) + np.abs(settled.payments)
    money = money + np.tile(np.abs(truthful.worth) + np.abs(truthful.payments), turns)
    gains = _without_rounding(settled.utilities - before, money)
    count = liars.sum(axis=0)
    if is_joint:
        own = _without_rounding(((settled.utilities - before) * liars).sum(axis=0), (money * liars).sum(axis=0))
        gain, best = own, own
    else:
        gain = np.where(count > 0, (gains * liars).sum(axis=0) / np.maximum(count, 1), np.nan)
        best = np.where(liars, gains, 0.0).max(axis=0)
    if settled is truthful:
        gain = np.zeros_like(best)

    def turn(amounts: Array) -> Array:
        return amounts.reshape(turns, -1)

    def own_turn(amounts: NDArray[Any]) -> NDArray[Any]:
        of_turns = amounts.reshape(len(liars), turns, -1)
        return (of_turns[:, 0] if turns == 1 else np.einsum("iib->ib", of_turns)).T

    means = {
        **totals(settled),
        "gain": gain,
        "liars": count.astype(np.float64),
        "victims_loss": -np.where(liars, 0.0, gains).sum(axis=0) + 0.0,
    }
    each: dict[str, NDArray[Any]] = {
        "value_i": settled.worth / played.sizes,
        "payment_i": settled.payments,
        "utility_i": settled.utilities,
        "gain_i": gains,
        "size_i": played.sizes,
        "claim_i": played.claims,
        "lies_i": liars,
    }
    out = {name: turn(amounts).mean(axis=0) for name, amounts in means.items()}
    out["regret"] = turn(np.maximum(best, 0.0)).max(axis=0)
    return {**out, **{name: own_turn(amounts) for name, amounts in each.items()}}


def _without_rounding(gains: Array, money: Array) -> Array:
    """Return gains, 0 for those that are only rounding of the money that they are the difference of."""
    return np.where(np.abs(gains) > TOLERANCE * money, gains, 0.0)
