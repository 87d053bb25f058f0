"""Groups that repeat a game and learn what to say: multiplicative weights, bandits, best responses in turn.

Everything is B markets at once. A learner is told what all said and what each group got, and says what they say next.
Payoffs are per member, as a share of the group's largest reward, so that a rate means the same in every market.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Discriminator, Field

from rlhf_game.files.schema import Positive, Strict
from rlhf_game.mechanism.arrays import Array, leave_one_out_sums
from rlhf_game.simulations.batches import Batch, Reports, SettledBatch, with_reserve
from rlhf_game.simulations.populations import Share
from rlhf_game.simulations.responses import best_responses

SAME: Final = 1e-6
"""A report this close to the truth, as a share of the largest reward, is the truth."""

Mask: TypeAlias = NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False)
class RepeatedMarkets:
    """B markets: the truth, what each item of the menu says (item 0: the truth), the rounds, the payment rule."""

    batch: Batch
    items: tuple[Reports, ...]
    rounds: int
    payment: str
    reserve: float | None = None
    """Nothing is trained that does not bring more than this; None where something is trained in any case."""

    @property
    def is_paid(self) -> bool:
        """Whether money flows."""
        return not self.batch.rules.payments[self.payment].is_free

    def settle(self, batch: Batch, said: Reports) -> SettledBatch:
        """Return what comes out of what is said, under the reserve where there is one.

        batch: the markets as they are now (their strength may change).
        """
        settled = batch.settle(said, [self.payment])[self.payment]
        if self.reserve is None:
            return settled
        return with_reserve(batch, said, settled, self.reserve, is_paid=self.is_paid)

    def payoffs(self, batch: Batch, said: Reports, movers: Sequence[int]) -> Array:
        """Return what each item would have paid each mover while all others said what they said: [movers, B, K]."""
        who = list(movers)
        if batch.rules.is_known(self.payment):
            found = self._against_the_rest(batch, said, who)
        else:
            found = np.array([[self._instead(batch, said, i, item) for i in who] for item in self.items])
        return np.moveaxis(found / self.batch.stakes[who], 0, -1)

    def _against_the_rest(self, batch: Batch, said: Reports, movers: list[int]) -> Array:
        """Return what each item brings each mover under a rule that is known: [K, movers, B].

        What it charges a group depends on the others by the sum of what they add to the score alone, so that each item
        of each mover is a game of two groups: all others as one, and the mover. They are settled together.
        """
        rest = leave_one_out_sums(batch.score_parts(said))[movers]
        table = (len(self.items), *rest.shape)

        def beside(others: Array | float, own: Array, shape: tuple[int, ...] = table[:3]) -> Array:
            return np.stack([np.broadcast_to(one, shape).reshape(-1, *shape[3:]) for one in (others, own)])

        games = batch.rows(np.broadcast_to(np.arange(table[2]), table[:3]).ravel())
        truth = replace(
            games,
            rewards=beside(rest, batch.rewards[movers], table),
            sizes=beside(1.0, batch.sizes[movers]),
            noise=None if batch.noise is None else beside(0.0, batch.noise[movers], table),
        )
        rewards, sizes = (
            np.stack([getattr(item, name)[movers] for item in self.items]) for name in ("rewards", "sizes")
        )
        heard = Reports(beside(rest, rewards, table), beside(1.0, sizes), np.arange(2))
        return np.asarray(self.settle(truth, heard).utilities[1].reshape(table[:3]))

    def _instead(self, batch: Batch, said: Reports, mover: int, item: Reports) -> Array:
        """Return what one mover gets by an item when everything is settled anew: [B]."""
        rewards, sizes = said.rewards.copy(), said.sizes.copy()
        rewards[mover], sizes[mover] = item.rewards[mover], item.sizes[mover]
        return np.asarray(self.settle(batch, Reports(rewards, sizes, said.owners)).utilities[mover])


class Learner(ABC):
    """What all groups of B markets have learned so far."""

    @abstractmethod
    def reports(self, round_: int, chances: Array) -> Reports:
        """Return what is said in a round. chances: uniform random numbers, [n, B]."""

    @abstractmethod
    def truthful(self) -> Array:
        """Return each group's probability of saying the truth in this round: [n, B]."""

    @abstractmethod
    def mixture(self) -> Array | None:
        """Return each group's probabilities over the menu in this round: [n, B, K]; None where it says other things."""

    @abstractmethod
    def learn(self, round_: int, batch: Batch, said: Reports, utilities: Array, payoffs: Array, present: Mask) -> None:
        """Learn from a round. utilities and present: [n, B]; groups that are away learn nothing.

        payoffs: what each item would have paid, as shares of the stakes: [n, B, K].
        """


class Learning(Strict, ABC):
    """How groups learn."""

    kind: str

    @property
    def has_mixtures(self) -> bool:
        """Whether groups choose from the menu, and nothing else."""
        return True

    @abstractmethod
    def begin(self, game: RepeatedMarkets, chances: Array) -> Learner:
        """Return learners that have heard nothing. chances: uniform random numbers, [n, B]."""


@final
class MultiplicativeWeights(Learning):
    """No regret with full information: every item's weight grows by exp(rate * what it would have paid)."""

    kind: Literal["multiplicative_weights"]
    rate: Positive | None = None
    """Default sqrt(8 log(items) / rounds), which bounds the regret by sqrt(rounds log(items) / 2) for payoffs of 0 to 1
    (Cesa-Bianchi and Lugosi 2006, Theorem 2.2)."""

    def begin(self, game: RepeatedMarkets, chances: Array) -> Learner:
        """Return equal weights."""
        rate = self.rate or np.sqrt(8 * np.log(max(2, len(game.items))) / game.rounds)
        return _Weighted(game, float(rate), exploration=0.0, is_bandit=False)


@final
class Bandit(Learning):
    """No regret when only the own payoff is seen: EXP3 (Auer, Cesa-Bianchi, Freund and Schapire 2002).

    Payoffs are clipped to [-1, 1] and mapped to [0, 1].
    """

    kind: Literal["bandit"]
    rate: Positive | None = None
    """Default exploration / items, as in EXP3."""
    exploration: Share = 0.1
    """The share of rounds in which an item is drawn evenly."""

    def begin(self, game: RepeatedMarkets, chances: Array) -> Learner:
        """Return equal weights."""
        rate = self.rate or max(self.exploration, 1e-3) / len(game.items)
        return _Weighted(game, float(rate), exploration=self.exploration, is_bandit=True)


@final
class BestResponses(Learning):
    """One group a round, in turn, changes to what is best against what the others said last."""

    kind: Literal["best_response"]
    over: Literal["menu", "reports"] = "menu"
    """``menu``: the best item (ties: the first, so the truth); ``reports``: the best report found by gradient over the
    whole domain and all sizes."""
    start: Literal["truthful", "random"] = "random"
    """All say the truth, or a random item each."""
    starts: Annotated[int, Field(ge=2, le=1000)] = 4
    """Of the search over reports."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 30
    """Of each start."""

    @property
    def has_mixtures(self) -> bool:
        """Only over the menu."""
        return self.over == "menu"

    def begin(self, game: RepeatedMarkets, chances: Array) -> Learner:
        """Return the first reports."""
        items = np.zeros(chances.shape, dtype=np.intp)
        if self.start == "random":
            items = np.minimum((chances * len(game.items)).astype(np.intp), len(game.items) - 1)
        return _Responding(game, self, items)


SomeLearning: TypeAlias = Annotated[MultiplicativeWeights | Bandit | BestResponses, Discriminator("kind")]


def picked(items: Sequence[Reports], choice: NDArray[np.intp]) -> Reports:
    """Return what is said when each group says the item that it chose, [n, B]."""
    rewards, sizes = items[0].rewards.copy(), items[0].sizes.copy()
    for k, item in enumerate(items):
        chosen = choice == k
        rewards[chosen], sizes[chosen] = item.rewards[chosen], item.sizes[chosen]
    return Reports(rewards, sizes, items[0].owners)


@final
class Pinned(Learner):
    """Learners of whom one group says the same item in every round, whatever it hears."""

    def __init__(self, learner: Learner, game: RepeatedMarkets, group: int, item: int) -> None:
        self._learner = learner
        self._said = game.items[item]
        self._group = group
        self._is_truth = float(item == 0)
        self._mixture = np.eye(len(game.items))[item]

    def reports(self, round_: int, chances: Array) -> Reports:
        """Return what the others say, beside the item."""
        said = self._learner.reports(round_, chances)
        said.rewards[self._group], said.sizes[self._group] = (
            self._said.rewards[self._group],
            self._said.sizes[self._group],
        )
        return said

    def truthful(self) -> Array:
        """Return the others' probabilities, and whether the item is the truth."""
        out = self._learner.truthful().copy()
        out[self._group] = self._is_truth
        return out

    def mixture(self) -> Array | None:
        """Return the others' probabilities, and the item for certain."""
        found = self._learner.mixture()
        if found is None:
            return None
        out = found.copy()
        out[self._group] = self._mixture
        return out

    def learn(self, round_: int, batch: Batch, said: Reports, utilities: Array, payoffs: Array, present: Mask) -> None:
        """Let the others learn."""
        self._learner.learn(round_, batch, said, utilities, payoffs, present)


@final
class _Weighted(Learner):
    """Probabilities over the menu from weights that payoffs multiply."""

    def __init__(self, game: RepeatedMarkets, rate: float, *, exploration: float, is_bandit: bool) -> None:
        self._game = game
        self._rate = rate
        self._exploration = exploration
        self._is_bandit = is_bandit
        self._log_weights = np.zeros((*game.batch.sizes.shape, len(game.items)))
        self._choice = np.zeros(game.batch.sizes.shape, dtype=np.intp)

    def _probabilities(self) -> Array:
        weights = np.exp(self._log_weights - self._log_weights.max(axis=2, keepdims=True))
        softmax = weights / weights.sum(axis=2, keepdims=True)
        return np.asarray((1 - self._exploration) * softmax + self._exploration / softmax.shape[2])

    def reports(self, round_: int, chances: Array) -> Reports:
        reached = self._probabilities().cumsum(axis=2)
        self._choice = np.minimum((chances[..., None] >= reached).sum(axis=2), reached.shape[2] - 1)
        return picked(self._game.items, self._choice)

    def truthful(self) -> Array:
        return self._probabilities()[..., 0]

    def mixture(self) -> Array:
        return self._probabilities()

    def learn(self, round_: int, batch: Batch, said: Reports, utilities: Array, payoffs: Array, present: Mask) -> None:
        if not self._is_bandit:
            self._log_weights += self._rate * payoffs * present[..., None]
            return
        seen = (np.clip(utilities / self._game.batch.stakes, -1, 1) + 1) / 2
        at = self._choice[..., None]
        likely = np.take_along_axis(self._probabilities(), at, axis=2)
        raised = np.take_along_axis(self._log_weights, at, axis=2)
        raised += self._rate * (seen * present)[..., None] / likely
        np.put_along_axis(self._log_weights, at, raised, axis=2)


@final
class _Responding(Learner):
    """Reports that are replaced by best responses, one group a round."""

    def __init__(self, game: RepeatedMarkets, how: BestResponses, items: NDArray[np.intp]) -> None:
        self._game = game
        self._how = how
        self._items = items
        self._said = picked(game.items, items)

    def reports(self, round_: int, chances: Array) -> Reports:
        return Reports(self._said.rewards.copy(), self._said.sizes.copy(), self._said.owners)

    def truthful(self) -> Array:
        truth = self._game.batch
        far = np.abs(self._said.rewards - truth.rewards).max(axis=2)
        is_same = (far <= SAME * np.abs(truth.rewards).max(axis=2)) & (self._said.sizes == truth.sizes)
        return np.asarray(is_same.astype(np.float64))

    def mixture(self) -> Array | None:
        return np.eye(len(self._game.items))[self._items] if self._how.has_mixtures else None

    def learn(self, round_: int, batch: Batch, said: Reports, utilities: Array, payoffs: Array, present: Mask) -> None:
        mover = round_ % len(said.sizes)
        moved = present[mover]
        if self._how.over == "menu":
            choice = payoffs[mover].argmax(axis=1)
            best = picked(self._game.items, np.broadcast_to(choice, said.sizes.shape))
            rewards, sizes = best.rewards[mover], best.sizes[mover]
            self._items[mover, moved] = choice[moved]
        else:
            rewards, sizes = best_responses(
                batch, mover, is_paid=self._game.is_paid, starts=self._how.starts, steps=self._how.steps, said=said
            )
        self._said.rewards[mover, moved] = rewards[moved]
        self._said.sizes[mover, moved] = sizes[moved]
