"""Studies of markets: groups that repeat a game, learn, run out of money, come and go; a provider that adapts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Nonnegative, Positive, Strict
from rlhf_game.mechanism.arrays import Array
from rlhf_game.simulations.batches import Batch, Reports, SettledBatch
from rlhf_game.simulations.fields import STRATEGY_STREAMS, StudyFields, totals
from rlhf_game.simulations.learners import Learner, Mask, Pinned, RepeatedMarkets, SomeLearning
from rlhf_game.simulations.populations import Count, Share
from rlhf_game.simulations.strategies import PlainStrategy, StrategyContext, StudyStrategy, TruthfulStrategy
from rlhf_game.simulations.trials import Games, Measured, RowLayout, Trial

SCALARS: Final = (
    "welfare", "affine_welfare", "loss", "efficiency", "revenue", "divergence", "truthful", "claimed", "present",
    "broke", "chosen_strength", "coarse_regret", "trained", "surplus",
)  # fmt: skip
BY_GROUP: Final = ("value_i", "payment_i", "utility_i", "size_i", "claim_i", "coarse_regret_i")
ALWAYS: Final = ("always_i", "truth_gain_i", "lie_gain_i")
"""What saying the same in every round brings, where that is asked."""
SO_FAR: Final = ("coarse_regret", "truth_gain", "lie_gain")
"""Measures that are means over the rounds so far: their end is the last round."""
ROUNDING: Final = 1e-12


@final
class EntrySpec(Strict):
    """Groups come and go: one that gets less than elsewhere leaves, and may come back."""

    outside: Nonnegative
    """What a member gets elsewhere in a round, in units of reward."""
    memory: Share = 0.8
    """A group compares its average utility, in which the last round weighs 1 - memory."""
    chance: Share = 0.1
    """The probability of a group that is away to come back in a round."""
    first: Count | None = None
    """How many groups are there from the beginning; default: all."""


@final
class ProviderSpec(Strict):
    """The provider sets the strength anew, before a round's reports are read, by what it would have brought last."""

    objective: Literal["revenue", "welfare"]
    """Revenue, or social welfare as it is reported; the latter is largest at the least strength."""
    strengths: Annotated[list[Positive], Field(min_length=1, max_length=100)]
    """What it chooses from."""
    every: Annotated[int, Field(ge=1)] = 10
    """Rounds from one choice to the next."""


@final
class MarketStudy(StudyFields):
    """Groups that play the same game over rounds. A row: one market, one payment rule, one round.

    Under all payment rules a market has the same population and the same random numbers.
    """

    kind: Literal["market"]
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    """How often the same game is played."""
    menu: list[PlainStrategy] = []
    """What a group may say, beside the truth."""
    learning: SomeLearning
    """How groups learn what to say."""
    budget: Positive | None = None
    """What each group can pay over all rounds. Who cannot pay what a settlement asks is left out, for good."""
    entry: EntrySpec | None = None
    """Whether groups come and go; default: all stay."""
    provider: ProviderSpec | None = None
    """Whether it changes the strength; default: it stays."""
    reference: Literal["first", "last"] = "first"
    """Where the training of a round starts: at the population's reference, or at the policy of the round before."""
    training_cost: Nonnegative = 0.0
    """What a training costs the provider, in money."""
    reserve: Nonnegative | None = None
    """Nothing is trained in a round unless the reports say that it brings more than this (theory2 section 15)."""
    always: bool = False
    """Also play every market again with one group saying one item of the menu in every round, each and each in turn."""
    chunk: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """How many markets are worked on together; last digits may depend on it."""

    @property
    def series(self) -> int:
        """The rounds."""
        return self.rounds

    def choices(self) -> Sequence[StudyStrategy]:
        """Return the menu, the truth first."""
        lies = [strategy for strategy in self.menu if not strategy.is_truthful]
        return [TruthfulStrategy(), *lies]

    def check(self) -> None:
        """Raise InputError when fields do not go together."""
        super().check()
        unknown = self.unsearchable
        if unknown and not self.learning.has_mixtures:
            raise InputError(
                "learning.over: must be menu with a training rule, payments or a space of one's own, whose best "
                f"reports are not found by gradient; found reports with {unknown[0]}"
            )
        self._check_rounds(unknown)
        if self.entry is not None and self.entry.first is not None and hasattr(self.scenario, "groups"):
            groups = self.scenario.groups
            if self.entry.first > groups:
                raise InputError(
                    f"entry.first: must be at most the number of groups ({groups}), found {self.entry.first}"
                )

    def _check_rounds(self, unknown: Sequence[str]) -> None:
        """Raise InputError when rounds cannot follow each other so. unknown: what is not ours (see unsearchable)."""
        if self.reference == "last" and (unknown or not self.rules.at(1.0).is_entropic):
            raise InputError(
                "reference: must be first unless games are on tables, regularizer is kl, training social_welfare and "
                "payments are affine, none or revenue; found last"
            )
        if self.reserve is not None:
            if unknown or "revenue" in self.payments:
                raise InputError(
                    "reserve: must come with tables, training social_welfare and payments affine and none only, found "
                    f"{(unknown or ['revenue'])[0]}"
                )
            if not self.learning.has_mixtures:
                raise InputError("reserve: must come with learning over the menu, found over reports")
            if self.provider is not None and self.provider.objective != "revenue":
                raise InputError("reserve: must come with provider.objective revenue, found welfare")
        if self.always and len(self.choices()) < 2:
            raise InputError("always: must come with a menu of at least one lie, found none")

    def layout(self, groups: int, width: int) -> RowLayout:
        """Return the rows of a market: every round under every payment rule."""
        payments = [payment for payment in self.paid for _ in range(self.rounds)]
        keys: dict[str, Sequence[Any]] = {"payment": payments, "round": [*range(self.rounds)] * len(self.paid)}
        mixture = ("mixture_i",) if self.learning.has_mixtures else ()
        always = ALWAYS if self.always else ()
        return self.laid_out(keys, SCALARS, (*BY_GROUP, *mixture, *always), groups, width)

    def who(self, strategy: StudyStrategy) -> str | float:
        """Everybody chooses from the menu."""
        return "all"

    def measure(self, games: Games) -> Measured:
        """Play the rounds under every payment rule."""
        items = tuple(self._item(games, k, strategy) for k, strategy in enumerate(self.choices()))
        chances = np.stack([self._chances(trial, len(games.batch.sizes)) for trial in games.trials], axis=-1)
        histories = []
        for payment in self.paid:
            game = RepeatedMarkets(games.batch, items, self.rounds, payment, self.reserve)
            learner = self.learning.begin(game, chances[-1, 0])
            history = _Market(self, game, learner).play(chances)
            if self.always:
                for row, more in zip(history, self._always(game, history, chances), strict=True):
                    row |= more
            histories += history
        out = {name: np.stack([row[name] for row in histories], axis=1) for name in histories[0]}
        return {**out, **self.truth(games, len(histories))}

    def _always(
        self, game: RepeatedMarkets, history: Sequence[Mapping[str, Array]], chances: Array
    ) -> Iterator[dict[str, Array]]:
        """Yield for every round what each item, said in every round so far, brought on average a round.

        The others learn as they do, and what they and the policy become is what that leads to. ``truth_gain_i`` is the
        truth's mean beyond that of what the group did, ``lie_gain_i`` the best lie's beyond the truth's.
        """

        def mean_so_far(rows: Sequence[Mapping[str, Array]], group: int) -> Array:
            utility = np.stack([row["utility_i"][:, group] for row in rows])
            return np.asarray(utility.cumsum(axis=0) / np.arange(1, len(rows) + 1)[:, None])

        def pinned(group: int, item: int) -> Array:
            learner = Pinned(self.learning.begin(game, chances[-1, 0]), game, group, item)
            return mean_so_far(_Market(self, game, learner).play(chances), group)

        groups = range(len(game.batch.sizes))
        brought = np.stack([np.stack([pinned(i, k) for k in range(len(game.items))], axis=-1) for i in groups], axis=2)
        own = np.stack([mean_so_far(history, i) for i in groups], axis=2)
        for always, learned in zip(brought, own, strict=True):
            truth, lie = always[..., 0], always[..., 1:].max(axis=-1)
            yield {"always_i": always, "truth_gain_i": truth - learned, "lie_gain_i": lie - truth}

    def _chances(self, trial: Trial, groups: int) -> Array:
        """Return a market's random numbers: [rounds + 1, 2, n], of which the last are for the beginning."""
        return trial.stream(STRATEGY_STREAMS).random((self.rounds + 1, 2, groups))

    def _item(self, games: Games, number: int, strategy: StudyStrategy) -> Reports:
        streams = [trial.stream(STRATEGY_STREAMS + 1 + number) for trial in games.trials]
        everyone = np.ones(games.batch.sizes.shape, dtype=bool)
        return strategy.reports(StrategyContext(games.batch, everyone, False, lambda game: streams[game]))


@final
@dataclass(frozen=True, eq=False)
class _Ledger:
    """Who is there, and who has what: [n, B]."""

    present: Mask
    broke: Mask
    spent: Array
    remembered: Array
    """The average utility of a member."""


@final
class _Market:
    """B markets under one payment rule."""

    def __init__(self, study: MarketStudy, game: RepeatedMarkets, learner: Learner) -> None:
        self._study = study
        self._learner = learner
        self._game = game
        self._batch = game.batch
        shape = game.batch.sizes.shape
        present = np.ones(shape, dtype=bool)
        if study.entry is not None and study.entry.first is not None:
            present[study.entry.first :] = False
        outside = 0.0 if study.entry is None else study.entry.outside
        nothing = np.zeros(shape)
        self._ledger = _Ledger(present, np.zeros(shape, dtype=bool), nothing, nothing + outside)
        self._missed = np.zeros((*shape, len(game.items)))
        """What each item alone, in every round so far, would have brought beyond what the group got: [n, B, K]."""

    def play(self, chances: Array) -> list[dict[str, Array]]:
        """Return the columns of every round, [B] and [B, n]. chances: [rounds + 1, 2, n, B]."""
        history = []
        said: Reports | None = None
        for round_ in range(self._study.rounds):
            if said is not None:
                self._batch = self._adapted(round_, said)
            truthful, mixture = self._learner.truthful(), self._learner.mixture()
            meant = self._learner.reports(round_, chances[round_, 0])
            said, settled = self._settled(meant)
            payoffs = self._game.payoffs(self._batch, said, range(len(said.sizes)))
            row = {**self._row(settled, said, truthful), **self._regret(round_, settled, payoffs)}
            history.append(row if mixture is None else {**row, "mixture_i": np.moveaxis(mixture, 0, 1)})
            present = self._ledger.present
            self._learner.learn(round_, self._batch, said, settled.utilities, payoffs, present)
            if self._study.reference == "last":
                self._batch = self._batch.after(said, settled.trained)
            self._ledger = self._after(settled, chances[round_, 1])
        return history

    def _regret(self, round_: int, settled: SettledBatch, payoffs: Array) -> dict[str, Array]:
        """Return the coarse correlated regret so far: what one and the same item would have gained a round, on average.

        The largest over items, not below 0, of each group while it is there; and the largest over groups. Where it goes
        to 0 for all, what is played becomes a coarse correlated equilibrium of the menu (Moulin and Vial 1978).
        """
        would = payoffs * self._game.batch.stakes[..., None]
        self._missed += np.where(self._ledger.present[..., None], would - settled.utilities[..., None], 0.0)
        regret = np.maximum(self._missed.max(axis=2) / (round_ + 1), 0.0)
        return {"coarse_regret": regret.max(axis=0), "coarse_regret_i": regret.T}

    def _settled(self, meant: Reports) -> tuple[Reports, SettledBatch]:
        """Settle; whoever cannot pay is left out, and the rest is settled anew, until all can pay."""
        while True:
            said = Reports(meant.rewards, np.where(self._ledger.present, meant.sizes, 0.0), meant.owners)
            settled = self._game.settle(self._batch, said)
            if self._study.budget is None:
                return said, settled
            short = self._ledger.spent + settled.payments > self._study.budget * (1 + ROUNDING)
            short &= self._ledger.present
            if not short.any():
                return said, settled
            old = self._ledger
            self._ledger = _Ledger(old.present & ~short, old.broke | short, old.spent, old.remembered)

    def _after(self, settled: SettledBatch, chances: Array) -> _Ledger:
        """Return the ledger after a round: payments, moods, who leaves and who comes back."""
        old, entry = self._ledger, self._study.entry
        spent = old.spent + settled.payments
        if entry is None:
            return _Ledger(old.present, old.broke, spent, old.remembered)
        each = settled.utilities / self._batch.sizes
        remembered = np.where(old.present, entry.memory * old.remembered + (1 - entry.memory) * each, entry.outside)
        stays = old.present & (remembered >= entry.outside)
        comes = ~old.present & ~old.broke & (chances < entry.chance)
        return _Ledger(stays | comes, old.broke, spent, remembered)

    def _adapted(self, round_: int, said: Reports) -> Batch:
        """Return the markets with the strength that would have been best for the provider in the last round."""
        provider = self._study.provider
        if provider is None or round_ % provider.every:
            return self._batch
        brought = []
        for strength in provider.strengths:
            batch = self._batch.with_strength(np.full(len(self._batch.strength), strength))
            if provider.objective == "welfare":
                brought.append(batch.reported_welfare(said))
            else:
                brought.append(self._game.settle(batch, said).revenue)
        return self._batch.with_strength(np.array(provider.strengths)[np.argmax(brought, axis=0)])

    def _row(self, settled: SettledBatch, said: Reports, truthful: Array) -> dict[str, Array]:
        present = self._ledger.present
        count = np.maximum(present.sum(axis=0), 1)
        return {
            **totals(settled),
            "truthful": (truthful * present).sum(axis=0) / count,
            "claimed": (said.sizes / self._batch.sizes).sum(axis=0) / count,
            "present": present.sum(axis=0).astype(np.float64),
            "broke": self._ledger.broke.sum(axis=0).astype(np.float64),
            "chosen_strength": self._batch.strength,
            "trained": settled.trained,
            "surplus": settled.revenue - self._study.training_cost * settled.trained,
            "value_i": (settled.worth / self._batch.sizes).T,
            "payment_i": settled.payments.T,
            "utility_i": settled.utilities.T,
            "size_i": self._batch.sizes.T,
            "claim_i": said.sizes.T,
        }
