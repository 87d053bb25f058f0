"""How groups of a simulation lie: the misreports of ``rlhf_game.agents``, on many games at once.

A strategy is told which groups of which games lie; all others say the truth. One that needs to know no other group is
``OneGroupStrategy``: learning groups choose among such.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Discriminator, Field, Tag

from rlhf_game.agents.best_response import BestResponse
from rlhf_game.agents.coalitions import Coalition
from rlhf_game.agents.misreports import Indifferent, Noisy, Polarize, RaiseAndLower, RewardMisreport
from rlhf_game.files.build import make
from rlhf_game.files.parts import whose
from rlhf_game.files.schema import Name, Positive, Strict, parse_model
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Domain
from rlhf_game.mechanism.regret import World
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.registry import find
from rlhf_game.simulations.batches import Batch, Reports
from rlhf_game.simulations.responses import best_responses, joint_responses

Liars: TypeAlias = NDArray[np.bool_]
"""Which groups of which games lie: [n, B]."""
Streams: TypeAlias = Callable[[int], np.random.Generator]
"""The stream of random numbers of the game at a position of the batch."""


@final
@dataclass(frozen=True, eq=False)
class StrategyContext:
    """All that a strategy may look at."""

    batch: Batch
    liars: Liars
    is_paid: bool
    streams: Streams
    payment: str = "affine"
    """The payment rule that is looked at."""


class StudyStrategy(Strict, ABC):
    """A way to lie."""

    kind: str
    name: Name | None = None
    """What it is called in results; default: its kind and fields."""

    @property
    def label(self) -> str:
        """What it is called in results."""
        if self.name is not None:
            return self.name
        fields = self.model_dump(exclude={"kind", "name"})
        return f"{self.kind}({', '.join(f'{key}={value!r}' for key, value in fields.items())})" if fields else self.kind

    @property
    def looks_at_payments(self) -> bool:
        """Whether what is said depends on the payment rule."""
        return False

    @property
    def is_joint(self) -> bool:
        """Whether its liars act together and share what they gain."""
        return False

    @property
    def is_truthful(self) -> bool:
        """Whether nobody lies."""
        return False

    @property
    def is_asked_alone(self) -> bool:
        """Whether it is asked about each game by itself, which takes its time."""
        return False

    def built(self, base: Path, name: str) -> Any:
        """Return what lies; raise InputError that starts with ``name`` when its fields are wrong."""
        return self

    def least_groups(self) -> int:
        """Return how many groups there must be."""
        return 1

    def liars(self, liars: Liars) -> Liars:
        """Return who lies when ``liars`` would."""
        return liars

    @abstractmethod
    def reports(self, occasion: StrategyContext) -> Reports:
        """Return what all groups say."""


class OneGroupStrategy(StudyStrategy, ABC):
    """A lie of one group that needs to know no other group."""

    def reward(self, truth: Array, domain: Domain, streams: Streams) -> Array:
        """Return what is said instead of the rewards ``truth`` [R, m]."""
        return truth

    def size(self, sizes: Array, limit: Array) -> Array:
        """Return what is said instead of the sizes [R], at most ``limit`` [R]."""
        return sizes

    @final
    def reports(self, occasion: StrategyContext) -> Reports:
        """Return the lies of the liars beside the truth of the others."""
        batch = occasion.batch
        _, games = np.nonzero(occasion.liars)
        rewards, sizes = batch.rewards.copy(), batch.sizes.copy()
        truth = rewards[occasion.liars]
        if len(truth):
            domain = batch.domain(truth)
            rewards[occasion.liars] = self.reward(truth, domain, lambda row: occasion.streams(int(games[row])))
            sizes[occasion.liars] = self.size(sizes[occasion.liars], batch.limit[games])
        return Reports(rewards, sizes, np.arange(len(rewards)))


@final
class TruthfulStrategy(OneGroupStrategy):
    """Say the truth."""

    kind: Literal["truthful"] = "truthful"

    @property
    def is_truthful(self) -> bool:
        """It is the truth."""
        return True


class Misreport(OneGroupStrategy, ABC):
    """A misreport of ``rlhf_game.agents.misreports``, without randomness."""

    @abstractmethod
    def misreport(self) -> RewardMisreport:
        """Return it."""

    @final
    def reward(self, truth: Array, domain: Domain, streams: Streams) -> Array:
        """Return the distorted rewards."""
        return self.misreport().distort(truth, domain, np.random.default_rng(0))


@final
class PolarizeStrategy(Misreport):
    """Sharpen towards the favourite outcomes: see Polarize."""

    kind: Literal["polarize"]
    temperature: Positive = 4.0
    """The power that rewards are raised to; 1 is the truth."""

    def misreport(self) -> RewardMisreport:
        """Return Polarize."""
        return Polarize(self.temperature)


@final
class RaiseAndLowerStrategy(Misreport):
    """The manipulation of Thm 3.3: see RaiseAndLower."""

    kind: Literal["raise_and_lower"]
    epsilon: Positive = 0.1
    """By how much, in units of reward."""

    def misreport(self) -> RewardMisreport:
        """Return RaiseAndLower."""
        return RaiseAndLower(self.epsilon)


@final
class IndifferentStrategy(Misreport):
    """Ask for nothing: see Indifferent."""

    kind: Literal["indifferent"]

    def misreport(self) -> RewardMisreport:
        """Return Indifferent."""
        return Indifferent()


@final
class NoisyStrategy(OneGroupStrategy):
    """The truth plus noise: see Noisy. Each liar of each game has numbers of its own."""

    kind: Literal["noisy"]
    scale: Positive = 0.1
    """The standard deviation, as a share of the reward's range."""

    def reward(self, truth: Array, domain: Domain, streams: Streams) -> Array:
        """Return noisy rewards."""
        lie = Noisy(self.scale)
        rows = [
            lie.distort(truth[row : row + 1], domain.rows(np.array([row])), streams(row)) for row in range(len(truth))
        ]
        return np.concatenate(rows)


@final
class ResizeStrategy(OneGroupStrategy):
    """Claim more members, or fewer: see Resize."""

    kind: Literal["resize"]
    factor: Positive = 2.0
    """The size that is claimed over the true one."""

    def size(self, sizes: Array, limit: Array) -> Array:
        """Return the claimed sizes."""
        return np.clip(np.round(np.minimum(self.factor * sizes, limit)), 1.0, None)


@final
class AbsentStrategy(OneGroupStrategy):
    """Stay away: nothing is gained, nothing is paid. What the others then pay shows whether revenue is monotone."""

    kind: Literal["absent"]

    def size(self, sizes: Array, limit: Array) -> Array:
        """Return zeros."""
        return np.zeros_like(sizes)


@final
class BestResponseStrategy(StudyStrategy):
    """The best report found by gradient while the others say the truth: a lower bound on what there is to gain."""

    kind: Literal["best_response"]
    starts: Annotated[int, Field(ge=2, le=1000)] = 6
    """Of the search."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Of each start."""

    @property
    def looks_at_payments(self) -> bool:
        """It is the best under the rule."""
        return True

    def reports(self, occasion: StrategyContext) -> Reports:
        """Return the responses of the liars, all to the truth of the others; one by one where no gradient is known."""
        batch = occasion.batch
        if not batch.rules.is_known(occasion.payment):
            return _one_by_one(BestResponse(self.starts), occasion)
        rewards, sizes = batch.rewards.copy(), batch.sizes.copy()
        for i, liars in enumerate(occasion.liars):
            games = np.flatnonzero(liars)
            if len(games):
                found = best_responses(
                    batch.rows(games), i, is_paid=occasion.is_paid, starts=self.starts, steps=self.steps
                )
                rewards[i, games], sizes[i, games] = found
        return Reports(rewards, sizes, np.arange(len(rewards)))


@final
class CoalitionStrategy(StudyStrategy):
    """The first groups choose their reports together, by gradient; they may pay each other, so their sum counts."""

    kind: Literal["coalition"]
    members: Annotated[int, Field(ge=2, le=100)] = 2
    """How many groups, from the first."""
    starts: Annotated[int, Field(ge=2, le=1000)] = 9
    """Of the search."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 40
    """Of each start."""

    @property
    def looks_at_payments(self) -> bool:
        """It is the best under the rule."""
        return True

    @property
    def is_joint(self) -> bool:
        """They may pay each other."""
        return True

    def least_groups(self) -> int:
        """Return the members."""
        return self.members

    def liars(self, liars: Liars) -> Liars:
        """Return the members, in every game."""
        out = np.zeros_like(liars)
        out[: self.members] = True
        return out

    def reports(self, occasion: StrategyContext) -> Reports:
        """Return the joint reports of the members beside the truth of the others."""
        batch = occasion.batch
        rewards, sizes = batch.rewards.copy(), batch.sizes.copy()
        members = list(range(self.members))
        if not batch.rules.is_known(occasion.payment):
            search = Coalition(tuple(members), self.starts)
            for game in range(len(batch.strength)):
                space, mechanism, groups = batch.game(game, occasion.payment)
                limit, rng = int(batch.limit[game]), occasion.streams(game)
                for i, said in zip(members, search.deviate(mechanism, groups, space, limit, rng).reports, strict=True):
                    rewards[i, game], sizes[i, game] = _row(space, said), said.size
            return Reports(rewards, sizes, np.arange(len(rewards)))
        found = joint_responses(batch, members, is_paid=occasion.is_paid, starts=self.starts, steps=self.steps)
        rewards[members], sizes[members] = found
        return Reports(rewards, sizes, np.arange(len(rewards)))


@final
class FalseNamesStrategy(StudyStrategy):
    """Appear under several names, each with the true reward and a part of ``factor`` times the true size.

    The parts are integers, as equal as can be, that sum to that size, rounded: three members are two and one. A name
    that would have none is not used. Affine payments charge each name for its own move only (theory section 8).
    """

    kind: Literal["false_names"]
    names: Annotated[int, Field(ge=2, le=100)] = 2
    """How many, the true one included."""
    factor: Positive = 1.0
    """The size that all names claim together, over the true one."""

    def reports(self, occasion: StrategyContext) -> Reports:
        """Return the reports of all names: the true ones first, then the further names of every group."""
        batch, liars = occasion.batch, occasion.liars
        total = np.clip(np.round(np.minimum(self.factor * batch.sizes, self.names * batch.limit)), 1.0, None)
        each, more = np.divmod(total, self.names)
        parts = [np.where(liars, each + (name < more), batch.sizes * (name == 0)) for name in range(self.names)]
        return Reports(
            np.concatenate([batch.rewards] * self.names),
            np.concatenate(parts),
            np.tile(np.arange(len(batch.rewards)), self.names),
        )


@final
class OwnStrategy(StudyStrategy):
    """A strategy of someone's own: a class with ``__call__(group, world, rng)`` as an audit takes, or one of these.

    Its own fields stand beside ``kind``. It lies game by game, about the reward and the size of one group, while all
    others say the truth.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def looks_at_payments(self) -> bool:
        """It may."""
        return True

    @property
    def is_asked_alone(self) -> bool:
        """An audit's strategy is."""
        return True

    def built(self, base: Path, name: str) -> Any:
        """Return the strategy itself; raise InputError that starts with ``name`` when it or its fields are wrong."""
        part = find("strategy", self.kind, base)
        said = self.model_dump(exclude_none=True)
        if issubclass(part, StudyStrategy):
            return parse_model(part, said, name)
        return make("strategy", {key: value for key, value in said.items() if key != "name"}, base, name)

    def reports(self, occasion: StrategyContext) -> Reports:
        """Return the lies of the liars beside the truth of the others."""
        lie = self.built(occasion.batch.rules.base, "strategies")
        return lie.reports(occasion) if isinstance(lie, StudyStrategy) else _one_by_one(lie, occasion)


def _one_by_one(lie: Any, occasion: StrategyContext) -> Reports:
    """Return what liars say by a strategy of an audit, game by game, while all others say the truth."""
    batch = occasion.batch
    rewards, sizes = batch.rewards.copy(), batch.sizes.copy()
    for i, game in np.argwhere(occasion.liars).tolist():
        space, mechanism, groups = batch.game(game, occasion.payment)
        others = tuple(Report(one.reward, one.size) for j, one in enumerate(groups) if j != i)
        said = lie(groups[i], World(mechanism, space, others, i, int(batch.limit[game])), occasion.streams(game))
        rewards[i, game], sizes[i, game] = _row(space, said), said.size
    return Reports(rewards, sizes, np.arange(len(rewards)))


def _row(space: PolicySpace[Any], said: Report | Group) -> Array:
    """Return a reported reward as a row, [m]; raise InputError where the space refuses it."""
    space.read(said.reward)
    sheets = space.coordinates(said.reward).sheets(said.reward)
    return np.asarray(sheets[0][0])


_Plain: TypeAlias = (
    TruthfulStrategy
    | PolarizeStrategy
    | RaiseAndLowerStrategy
    | IndifferentStrategy
    | NoisyStrategy
    | ResizeStrategy
    | AbsentStrategy
)
PlainStrategy: TypeAlias = Annotated[
    Annotated[Annotated[_Plain, Discriminator("kind")], Tag("<known>")] | Annotated[OwnStrategy, Tag("<own>")],
    Discriminator(whose("strategy")),
]
SomeStrategy: TypeAlias = Annotated[
    Annotated[
        Annotated[_Plain | BestResponseStrategy | CoalitionStrategy | FalseNamesStrategy, Discriminator("kind")],
        Tag("<known>"),
    ]
    | Annotated[OwnStrategy, Tag("<own>")],
    Discriminator(whose("strategy")),
]
