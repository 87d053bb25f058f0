"""What every study says, whatever is played: the population, the rules, the seed."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, TypeAlias, final

import numpy as np
from pydantic import ConfigDict, Discriminator, Field, PrivateAttr, Tag

from rlhf_game.errors import InputError, happened
from rlhf_game.files.build import make
from rlhf_game.files.parts import SomePayment, SomeRegularizer, SomeSpace, SomeTraining, hashes_of_parts, label, whose
from rlhf_game.files.schema import Nonnegative, Positive, Strict, parse_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.registry import find
from rlhf_game.simulations.batches import Rules, SettledBatch, batch_of
from rlhf_game.simulations.populations import (
    CorrelatedScenario,
    DuplicatesScenario,
    HeavyScenario,
    NicheScenario,
    PolarisedScenario,
    Population,
    PopulationSource,
    RandomScenario,
    Scenario,
)
from rlhf_game.simulations.recorded import RunScenario
from rlhf_game.simulations.strategies import StudyStrategy
from rlhf_game.simulations.trials import (
    FAILURES,
    Games,
    Measured,
    RowLayout,
    Trial,
    by_shape,
    draw,
    measure_all,
    table,
)

POPULATION_STREAM: Final = 0
NOISE_STREAM: Final = 1
STRATEGY_STREAMS: Final = 2
"""The first part of a game's seeds that a kind of study has for itself."""


@final
class OwnScenario(Scenario):
    """A scenario of someone's own, a subclass of ``Scenario``; its own fields stand beside ``kind``."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    def source(self, base: Path, normalization: Normalization) -> PopulationSource:
        """Return where its populations come from; raises InputError when its fields are wrong."""
        own = OwnSource(json.dumps(self.model_dump()), base, normalization)
        if own.count < 1:  # also: its fields are right
            raise InputError(f"scenario: must have at least one group, found {own.count}")
        return own


@final
@dataclass(frozen=True)
class OwnSource(PopulationSource):
    """The populations of a scenario of someone's own, which every process finds for itself. said: as JSON."""

    said: str
    base: Path
    normalization: Normalization

    @property
    def count(self) -> int:
        """How many groups every population has."""
        return _own_source(self.said, self.base, self.normalization).count

    def draw(self, rng: np.random.Generator, normalization: Normalization) -> Population:
        """Return a population whose rewards are in the declared domain."""
        return _own_source(self.said, self.base, self.normalization).draw(rng, normalization)


@lru_cache(maxsize=16)
def _own_source(said: str, base: Path, normalization: Normalization) -> PopulationSource:
    fields = json.loads(said)
    part: type[Scenario] = find("scenario", fields["kind"], base)
    return parse_model(part, fields, "scenario").source(base, normalization)


_KnownScenario: TypeAlias = Annotated[
    RandomScenario
    | PolarisedScenario
    | HeavyScenario
    | DuplicatesScenario
    | NicheScenario
    | CorrelatedScenario
    | RunScenario,
    Discriminator("kind"),
]
SomeScenario: TypeAlias = Annotated[
    Annotated[_KnownScenario, Tag("<known>")] | Annotated[OwnScenario, Tag("<own>")],
    Discriminator(whose("scenario")),
]


class StudyFields(Strict, ABC):
    """The specification of one point of a study. Strength and rewards share a unit, so does money."""

    _base: Path = PrivateAttr(default_factory=Path)
    kind: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of everything that is random."""
    games: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Replications: how many games."""
    scenario: SomeScenario
    """Who plays: what groups want, and how large they are."""
    space: SomeSpace = None
    """What is trained, a space of one's own with rewards [m]; default a table with the reference of each game."""
    regularizer: SomeRegularizer = "kl"
    """What measures how far the policy is from the reference; a space of one's own measures it itself."""
    strength: Positive
    """lambda, the price of leaving the reference, in units of reward; goes to a space's own field of this name."""
    normalization: Literal["none", "sum", "max"] = "sum"
    """The declared domain of rewards: sum or max 1."""
    training: SomeTraining = "social_welfare"
    """The training rule."""
    payments: Annotated[list[SomePayment], Field(min_length=1)] = ["affine", "none"]
    """The payment rules that are compared."""
    noise: Nonnegative = 0.0
    """The mechanism hears every reward with an error that is uniform on [-noise, noise] (theory section 5)."""
    keep: Literal["rewards"] | None = None
    """``rewards``: every row of the table also holds the true rewards of its game, and its reference on a table."""
    chunk: int | None

    @property
    def series(self) -> int:
        """How many rounds follow each other under each payment rule; 0 where a game is played once."""
        return 0

    OPTIONAL: ClassVar[tuple[str, ...]] = ("gain", "efficiency")
    """Columns with no value in some games (an empty cell): nobody lies, or there is no welfare to share."""

    @property
    def together(self) -> int:
        """How many games are worked on together."""
        assert self.chunk is not None  # a kind of study without a default says it otherwise
        return self.chunk

    @abstractmethod
    def choices(self) -> Sequence[StudyStrategy]:
        """Return the strategies that there are, the truth first."""

    @abstractmethod
    def layout(self, groups: int, width: int) -> RowLayout:
        """Return what the rows of every game of so many groups are. width: the most groups of any point."""

    @abstractmethod
    def who(self, strategy: StudyStrategy) -> str | float:
        """Return who uses a strategy while all others say the truth, in a word or as each group's probability."""

    @abstractmethod
    def measure(self, games: Games) -> Measured:
        """Play games of one shape."""

    @final
    def beside(self, base: Path) -> Self:
        """Return the specification with the folder that paths of code start from."""
        self._base = base
        return self

    @property
    def paid(self) -> list[str]:
        """The payment rules, as results call them."""
        return [label("payment", payment) for payment in self.payments]

    @property
    def rules(self) -> Rules:
        """What the provider declares; raises InputError when a part is wrong or does not go with another."""
        training = make("training", self.training, self._base, "study")
        charges = {
            name: make("payment", payment, self._base, "study")
            for name, payment in zip(self.paid, self.payments, strict=True)
        }
        return Rules(self.regularizer, Normalization(self.normalization), training, charges, self._base, self.space)

    @property
    def unsearchable(self) -> list[str]:
        """What keeps best reports from being found by gradient, as messages name it."""
        if self.space is not None:
            return ["a space"]
        return [payment for payment in self.paid if not self.rules.is_known(payment)]

    def code(self) -> dict[str, str]:
        """Return the digests of the parts that did not come with this package (see hashes_of_parts)."""
        own = [("scenario", self.scenario.kind), *(("strategy", one.kind) for one in self.choices())]
        named = [("regularizer", self.regularizer), ("training", self.training)]
        named += [] if self.space is None else [("space", self.space)]
        return hashes_of_parts([*named, *(("payment", payment) for payment in self.payments), *own], self._base)

    def check(self) -> None:
        """Raise InputError (``field: must be ...``) when fields do not go together, or a part is wrong."""
        rules = self.rules
        rules.at(self.strength)
        if self.space is not None and self.regularizer != "kl":
            found = label("regularizer", self.regularizer)
            raise InputError(f"regularizer: must be left out with a space, which has its own, found {found}")
        for payment in rules.payments.values():
            Mechanism(rules.training, payment)
        for k, strategy in enumerate(self.choices()):
            strategy.built(self._base, f"strategies[{k}]")
        if self.normalization == "none" and "revenue" in self.payments:
            raise InputError("payments: revenue must come with normalization sum or max, found none")
        if len(set(self.paid)) < len(self.paid):
            raise InputError(f"payments: must name each rule once, found {', '.join(self.paid)}")
        labels = [strategy.label for strategy in self.choices()]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise InputError(f"strategies: must differ in kind, fields or name, found {twice[0]} twice")

    @final
    def check_space(self, source: PopulationSource) -> None:
        """Raise InputError where a space of someone's own does not settle the first game under each payment rule."""
        if self.space is None:
            return
        for games in self.games_of(source, [Trial(self.seed, 0, 0)])[0]:
            for payment in self.paid:
                space, mechanism, groups = games.batch.game(0, payment)
                try:
                    mechanism.settle(groups, space)
                except FAILURES as error:
                    wanted = f"must settle games of the scenario under payment {payment}"
                    raise InputError(f"space: {wanted}, found {happened(error)}") from None

    @final
    def playable(self, groups: int) -> list[StudyStrategy]:
        """Return the strategies that so many groups can play."""
        return [strategy for strategy in self.choices() if strategy.least_groups() <= groups]

    @final
    def laid_out(
        self,
        keys: Mapping[str, Sequence[Any]],
        scalars: Sequence[str],
        by_group: Sequence[str],
        groups: int,
        width: int,
    ) -> RowLayout:
        """Return a layout of these columns, and of the game itself where it is kept."""
        reference = ("reference",) if self.keep and self.space is None else ()
        rewards = ("reward_i",) if self.keep else ()
        return RowLayout(keys, (*scalars, *reference), (*by_group, *rewards), groups, width)

    @final
    def truth(self, games: Games, rows: int) -> Measured:
        """Return the columns of the game itself, where it is kept: [B, K, m] and [B, K, n, m]."""
        if not self.keep:
            return {}
        batch = games.batch
        rewards = np.moveaxis(batch.rewards, 0, 1)[:, None]
        return {
            "reference": np.repeat(batch.reference[:, None], rows, axis=1),
            "reward_i": np.repeat(rewards, rows, axis=1),
        }

    @final
    def games_of(self, source: PopulationSource, trials: Sequence[Trial]) -> tuple[list[Games], dict[Trial, str]]:
        """Return games as they are before anybody says anything, together where they are of one shape.

        Those whose population cannot be drawn are left out, with what they die of.
        """
        drawn, errors = draw(trials, lambda trial: self._population(source, trial))
        return [self._games(drawn, group) for group in by_shape(drawn)], errors

    @final
    def play(
        self, source: PopulationSource, layout: RowLayout, trials: Sequence[Trial], values: Mapping[str, Any]
    ) -> Any:
        """Return the rows of some games as a pyarrow table: a pure function of its arguments and this specification."""
        games, errors = self.games_of(source, trials)
        done, failed = measure_all(games, self.measure, self.OPTIONAL)
        return table(layout, trials, done, errors | failed, values)

    def _games(self, drawn: Mapping[Trial, Population], trials: Sequence[Trial]) -> Games:
        populations = [drawn[trial] for trial in trials]
        noise = None
        if self.noise > 0:
            size = populations[0].rewards.shape
            noise = [trial.stream(NOISE_STREAM).uniform(-self.noise, self.noise, size) for trial in trials]
        return Games(tuple(trials), batch_of(self.rules, populations, self.strength, noise))

    def _population(self, source: PopulationSource, trial: Trial) -> Population:
        population = source.draw(trial.stream(POPULATION_STREAM), Normalization(self.normalization))
        if len(population.sizes) != source.count:
            raise InputError(f"scenario: must have {source.count} groups in every game, found {len(population.sizes)}")
        return population


def totals(settled: SettledBatch) -> dict[str, Array]:
    """Return the columns that are no group's own: [B] each.

    efficiency: affine welfare as a share of the best there is for the groups that take part; NaN where that is <= 0.
    """
    best = settled.affine_welfare + settled.loss
    return {
        "welfare": settled.welfare,
        "affine_welfare": settled.affine_welfare,
        "loss": settled.loss,
        "efficiency": np.where(best > 0, settled.affine_welfare / np.where(best > 0, best, 1.0), np.nan),
        "revenue": settled.revenue,
        "divergence": settled.divergence,
    }
