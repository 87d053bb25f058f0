"""What every study says, whatever is played: the population, the rules, the seed."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import Discriminator, Field

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Nonnegative, Positive, RegularizerName, Strict
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.batches import Rules, batch_of
from rlhf_game.simulations.populations import (
    CorrelatedScenario,
    DuplicatesScenario,
    HeavyScenario,
    NicheScenario,
    PolarisedScenario,
    Population,
    RandomScenario,
    Source,
)
from rlhf_game.simulations.recorded import RunScenario
from rlhf_game.simulations.strategies import Strategy
from rlhf_game.simulations.trials import Games, Layout, Measured, Trial, by_shape, draw, measure_all, table

POPULATION_STREAM: Final = 0
NOISE_STREAM: Final = 1
STRATEGY_STREAMS: Final = 2
"""The first part of a game's seeds that a kind of study has for itself."""

SomeScenario: TypeAlias = Annotated[
    RandomScenario
    | PolarisedScenario
    | HeavyScenario
    | DuplicatesScenario
    | NicheScenario
    | CorrelatedScenario
    | RunScenario,
    Discriminator("kind"),
]


class StudyFields(Strict, ABC):
    """The specification of one point of a study. Strength and rewards share a unit, so does money."""

    kind: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    games: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Replications: how many games."""
    scenario: SomeScenario
    regularizer: RegularizerName = "kl"
    strength: Positive
    normalization: Literal["none", "sum", "max"] = "sum"
    payments: Annotated[list[Literal["affine", "none", "revenue"]], Field(min_length=1)] = ["affine", "none"]
    noise: Nonnegative = 0.0
    """The mechanism hears every reward with an error that is uniform on [-noise, noise] (theory section 5)."""
    chunk: int

    SCALARS: ClassVar[tuple[str, ...]]
    """The columns that hold one number."""

    @abstractmethod
    def choices(self) -> Sequence[Strategy]:
        """Return the strategies that there are, the truth first."""

    @abstractmethod
    def layout(self) -> Layout:
        """Return what the rows of every game are."""

    @abstractmethod
    def measure(self, games: Games) -> Measured:
        """Play games of one shape."""

    @property
    def rules(self) -> Rules:
        """What the provider declares."""
        return Rules(self.regularizer, Normalization(self.normalization))

    def check(self) -> None:
        """Raise InputError (``field: must be ...``) when fields do not go together."""
        if self.normalization == "none" and "revenue" in self.payments:
            raise InputError("payments: revenue must come with normalization sum or max, found none")
        if len(set(self.payments)) < len(self.payments):
            raise InputError(f"payments: must name each rule once, found {', '.join(self.payments)}")
        labels = [strategy.label for strategy in self.choices()]
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise InputError(f"strategies: must differ in kind, fields or name, found {twice[0]} twice")

    def play(self, source: Source, point: int, games: range, values: dict[str, Any]) -> Any:
        """Return the rows of some games as a pyarrow table: a pure function of its arguments and this specification."""
        layout = self.layout()
        trials = [Trial(self.seed, point, game) for game in games]
        least = max(strategy.least_groups() for strategy in self.choices())
        drawn, errors = draw(trials, lambda trial: self._population(source, trial, least))

        def games_of(group: Sequence[Trial]) -> Games:
            populations = [drawn[trial] for trial in group]
            noise = None
            if self.noise > 0:
                size = populations[0].rewards.shape
                noise = [trial.stream(NOISE_STREAM).uniform(-self.noise, self.noise, size) for trial in group]
            return Games(tuple(group), batch_of(self.rules, populations, self.strength, noise))

        done, failed = measure_all(by_shape(drawn), games_of, self.measure)
        return table(layout, trials, done, errors | failed, values)

    def _population(self, source: Source, trial: Trial, least: int) -> Population:
        population = source.draw(trial.stream(POPULATION_STREAM), Normalization(self.normalization))
        if len(population.sizes) < least:
            raise InputError(f"a strategy needs {least} groups, found {len(population.sizes)}")
        return population
