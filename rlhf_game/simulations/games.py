"""Studies of games that are played once: what each strategy gains over the truth, under each payment rule."""

from collections.abc import Sequence
from itertools import product
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.audit import TOLERANCE
from rlhf_game.simulations.batches import Settled
from rlhf_game.simulations.fields import STRATEGY_STREAMS, StudyFields
from rlhf_game.simulations.populations import Share
from rlhf_game.simulations.strategies import Liars, Occasion, SomeStrategy, Strategy, TruthfulStrategy
from rlhf_game.simulations.trials import Games, Layout, Measured

SCALARS: Final = ("welfare", "affine_welfare", "loss", "revenue", "divergence", "regret")
LISTS: Final = ("payments", "utilities", "gains")


@final
class GamesStudy(StudyFields):
    """Every game on its own. A row: one game, one strategy, one payment rule; the truth is a strategy too.

    liars: who uses the strategy while all others say the truth. ``each``: every group in turn, alone (a row then holds
    of every group what it gets by its own lie, and the means of the rest over these lies); ``first``: only the first
    group; ``all``: all at once; a number: every group with that probability.
    """

    kind: Literal["games"] = "games"
    strategies: Annotated[list[SomeStrategy], Field(min_length=1)]
    liars: Literal["each", "first", "all"] | Share = "each"
    chunk: Annotated[int, Field(ge=1, le=1_000_000)] = 2_000
    """How many games are worked on together; last digits may depend on it."""

    SCALARS: ClassVar[tuple[str, ...]] = SCALARS

    def choices(self) -> Sequence[Strategy]:
        """Return the strategies, the truth first."""
        lies = [strategy for strategy in self.strategies if not isinstance(strategy, TruthfulStrategy)]
        return [TruthfulStrategy(), *lies]

    def layout(self) -> Layout:
        """Return the rows of a game: every strategy under every payment rule."""
        cells = list(product([strategy.label for strategy in self.choices()], self.payments))
        keys: dict[str, Sequence[str]] = {
            "strategy": [label for label, _ in cells],
            "payment": [payment for _, payment in cells],
        }
        return Layout(keys, SCALARS, LISTS)

    def measure(self, games: Games) -> Measured:
        """Play every strategy."""
        found: list[dict[str, Array]] = []
        truthful: dict[str, Settled] = {}
        for number, strategy in enumerate(self.choices()):
            liars = self._liars(games, strategy)
            settled = self._settled(games, strategy, number, liars)
            truthful = truthful or settled
            found += [
                _measured(settled[payment], truthful[payment], liars, is_joint=strategy.is_joint)
                for payment in self.payments
            ]
        return {name: np.stack([one[name] for one in found], axis=1) for name in (*SCALARS, *LISTS)}

    def _liars(self, games: Games, strategy: Strategy) -> Liars:
        """Return who lies in each game: [n, B]; with ``each`` everybody, in turn."""
        shape = games.batch.sizes.shape
        liars = np.ones(shape, dtype=bool)
        if isinstance(strategy, TruthfulStrategy):
            return np.zeros(shape, dtype=bool)
        if self.liars == "first":
            liars[1:] = False
        elif isinstance(self.liars, float):
            drawn = [trial.stream(STRATEGY_STREAMS).random(shape[0]) for trial in games.trials]
            liars = np.stack(drawn, axis=1) < self.liars
        return strategy.liars(liars)

    def _settled(self, games: Games, strategy: Strategy, number: int, liars: Liars) -> dict[str, Settled]:
        streams: dict[int, np.random.Generator] = {}

        def stream(game: int) -> np.random.Generator:
            if game not in streams:
                streams[game] = games.trials[game].stream(STRATEGY_STREAMS + 1 + number)
            return streams[game]

        is_each = self.liars == "each" and not isinstance(strategy, TruthfulStrategy) and not strategy.is_joint
        groups, count = liars.shape
        batch, who, game_of = games.batch, liars, np.arange(count)
        if is_each:
            game_of = np.tile(game_of, groups)
            batch, who = batch.rows(game_of), np.repeat(np.eye(groups, dtype=bool), count, axis=1)
        out: dict[str, Settled] = {}
        ways = [[payment] for payment in self.payments] if strategy.looks_at_payments else [list(self.payments)]
        for payments in ways:
            occasion = Occasion(batch, who, payments != ["none"], lambda row: stream(int(game_of[row])))
            out |= batch.settle(strategy.reports(occasion), payments)
        return {payment: _in_turn(settled) for payment, settled in out.items()} if is_each else out


def _in_turn(settled: Settled) -> Settled:
    """Return of every group what it got by its own lie, and means over the lies of the rest, from [n, n * B]."""
    groups = len(settled.worth)

    def own(amounts: Array) -> Array:
        return np.asarray(np.einsum("iib->ib", amounts.reshape(groups, groups, -1)))

    def mean(amounts: Array) -> Array:
        return np.asarray(amounts.reshape(groups, -1).mean(axis=0))

    return Settled(
        own(settled.worth),
        own(settled.payments),
        mean(settled.divergence),
        mean(settled.affine_welfare),
        mean(settled.loss),
        mean(settled.welfare),
        mean(settled.revenue),
    )


def _measured(settled: Settled, truthful: Settled, liars: Liars, *, is_joint: bool) -> dict[str, Array]:
    """Return the columns of one strategy and payment rule: [B], and [B, n] of the groups."""
    gains = settled.utilities - truthful.utilities
    own = np.where(liars, gains, 0.0)
    money = np.where(liars, sum(np.abs(one.worth) + np.abs(one.payments) for one in (settled, truthful)), 0.0)
    if is_joint:
        own, money = own.sum(axis=0, keepdims=True), money.sum(axis=0, keepdims=True)
    return {
        "welfare": settled.welfare,
        "affine_welfare": settled.affine_welfare,
        "loss": settled.loss,
        "revenue": settled.revenue,
        "divergence": settled.divergence,
        "regret": np.where(own > TOLERANCE * money, own, 0.0).max(axis=0),
        "payments": settled.payments.T,
        "utilities": settled.utilities.T,
        "gains": gains.T,
    }
