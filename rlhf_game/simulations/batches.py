"""Many games of one shape, settled at once by the mechanism: on a table of games, or on a space of someone's own.

A batch holds B games of n groups and m outcomes. What is reported are c reports, each owned by a group (a group under
two names owns two), so n and c may differ. A size of 0 is a group that stays away. Strengths may differ from game to
game: those of one strength are settled together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast, final

import numpy as np
from numpy.typing import NDArray

from rlhf_game.files.build import own_part, regularizer_of
from rlhf_game.mechanism.arrays import Array, leave_one_out_sums, read_only
from rlhf_game.mechanism.domains import Domain, declared
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.payments import AffinePayments, NoPayments, PaymentRule, RevenueOptimal
from rlhf_game.mechanism.regret import SIZES
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.optimum import Optimum
from rlhf_game.mechanism.reports import Group, Normalization, Profile
from rlhf_game.mechanism.several import one_model_payments
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import AffineWelfare, SocialWelfare, Trained, TrainingRule
from rlhf_game.simulations.populations import Population

PAYMENTS: Final = {"affine": AffinePayments(), "none": NoPayments(), "revenue": RevenueOptimal()}


@final
@dataclass(frozen=True)
class Rules:
    """What the provider declares: the divergence as a file names it, the domain of rewards, what is trained and paid.

    payments: the payment rules by what they are called in results. base: the folder that paths start from. space: what
    is trained, as a file names it; None for the table of each game's reference.
    """

    regularizer: Any
    normalization: Normalization
    training: TrainingRule = SocialWelfare()
    payments: Mapping[str, PaymentRule[Any]] = field(default_factory=lambda: PAYMENTS)
    base: Path = Path()
    space: Any = None
    fitted: dict[Any, TrainingRule] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What the training rule has learned, by strength and reference."""

    @property
    def is_fitted(self) -> bool:
        """Whether the training rule learns something of a game before it hears any report."""
        return type(self.training).fitted is not TrainingRule.fitted

    def is_known(self, payment: str) -> bool:
        """Return whether best responses under a payment rule are found by their gradient, in many games at once."""
        is_ours = self.payments[payment].own("moves") is not None
        return self.space is None and self.training.is_plain(1) and is_ours

    def at(self, strength: float) -> Regularizer:
        """Return the regulariser of that strength."""
        return regularizer_of(self.regularizer, strength, self.base, "study")

    def one(self, strength: float, reference: Array) -> PolicySpace[Any]:
        """Return what a game is settled on. reference: [m]."""
        if self.space is None:
            return Table(reference, self.at(strength), normalization=self.normalization)
        given = {"strength": strength, "normalization": self.normalization.value}
        return own_part(self.base, "study", "space", self.space, given)  # type: ignore[no-any-return]

    def many(self, strength: float, references: Array) -> PolicySpace[Any]:
        """Return what games are settled on, at once. references: [B, m]."""
        if self.space is None:
            return Table(references, self.at(strength), normalization=self.normalization, games=True)
        return self.one(strength, references[0]).many(len(references))


@final
@dataclass(frozen=True, eq=False)
class Reports:
    """What is said in B games: rewards [c, B, m], sizes [c, B] (0: stays away), and the owner of each report [c]."""

    rewards: Array
    sizes: Array
    owners: NDArray[np.intp]


@final
@dataclass(frozen=True, eq=False)
class SettledBatch:
    """What came out of B games, at the true rewards; money in units of reward."""

    worth: Array
    """size * value of each group that takes part, 0 of the others: [n, B]."""
    payments: Array
    """[n, B]."""
    divergence: Array
    """[B]."""
    affine_welfare: Array
    """sum of worth - strength * D: [B]."""
    loss: Array
    """The best affine welfare for the groups that take part minus affine_welfare, >= 0: [B]."""
    welfare: Array
    """Social welfare, the sum of worth: [B]."""
    revenue: Array
    """The sum of payments: [B]."""
    trained: Array
    """1 where a policy was trained, 0 where that was not worth the reserve: [B]."""

    @property
    def utilities(self) -> Array:
        """worth - payments: [n, B]."""
        return self.worth - self.payments


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """The truth of B games. rewards: [n, B, m]; sizes: [n, B]; reference: [B, m]; strength: [B].

    noise: what the mechanism adds to what it hears of each group, [n, B, m] (theory section 5), or None. tilt: under
    KL, training starts from q exp(tilt) / Z instead of the reference q, [B, m] (no unit): as if tilt times the strength
    were in the score already, so that no probability is rounded to 0 on the way.
    """

    rules: Rules
    rewards: Array
    sizes: Array
    reference: Array
    strength: Array
    noise: Array | None = None
    tilt: Array | None = None

    @property
    def limit(self) -> Array:
        """The largest size that may be said in each game: [B]."""
        return np.asarray(SIZES * self.sizes.max(axis=0))

    @cached_property
    def stakes(self) -> Array:
        """What each group has at stake: [n, B], all above 0.

        Its size times its largest reward; times that of the game where a group wants nothing, 1 where nobody does.
        """
        largest = np.abs(self.rewards).max(axis=2)
        of_all = largest.max(axis=0)
        return np.asarray(self.sizes * np.where(largest > 0, largest, np.where(of_all > 0, of_all, 1.0)))

    @cached_property
    def unit(self) -> Regularizer:
        """The regulariser of strength 1."""
        return self.rules.at(1.0)

    @cached_property
    def truth(self) -> Reports:
        """What all say when all say the truth."""
        return Reports(self.rewards, self.sizes, np.arange(len(self.rewards)))

    @cached_property
    def carried(self) -> Array:
        """The tilt, 0 where there is none: [B, m]."""
        return np.zeros_like(self.reference) if self.tilt is None else self.tilt

    @cached_property
    def start(self) -> Optimum:
        """The policy that training starts from, for a strength of 1."""
        return self.unit.maximize(np.ones(1), [self.carried], self.reference)

    def score_parts(self, reports: Reports) -> Array:
        """Return what each report adds to the score, with its noise: [c, B, m]."""
        said = reports.rewards if self.noise is None else reports.rewards + self.noise[reports.owners]
        return np.asarray(reports.sizes[..., None] * said)

    def after(self, reports: Reports, trained: Array) -> "Batch":
        """Return the same games, starting from what was trained on these reports, where anything was: [B]."""
        moved = trained[:, None] * self.score_parts(reports).sum(axis=0) / self.strength[:, None]
        tilt = self.carried + moved
        return replace(self, tilt=tilt - tilt.max(axis=1, keepdims=True))

    def domain(self, rewards: Array) -> Domain:
        """Return what groups with these true rewards [R, m] may say."""
        return declared(self.rules.normalization, rewards)

    def game(self, b: int, payment: str) -> tuple[PolicySpace[Any], Mechanism, list[Group]]:
        """Return one game as an audit takes it: its space, its rules under one payment rule, the true groups."""
        pairs = enumerate(zip(self.rewards[:, b], self.sizes[:, b], strict=True))
        groups = [Group(f"group_{i}", reward, int(size)) for i, (reward, size) in pairs]
        return self._one(b), Mechanism(self._rule(b), self.rules.payments[payment]), groups

    def rows(self, which: Any) -> "Batch":
        """Return some of the games, with repetitions."""
        noise = None if self.noise is None else self.noise[:, which]
        tilt = None if self.tilt is None else self.tilt[which]
        tables = (self.rewards[:, which], self.sizes[:, which], self.reference[which], self.strength[which])
        return Batch(self.rules, *tables, noise, tilt)

    def with_strength(self, strength: Array) -> "Batch":
        """Return the same games at other strengths [B]."""
        return replace(self, strength=strength)

    def settle(self, reports: Reports, payments: Sequence[str]) -> dict[str, SettledBatch]:
        """Return what comes out under each payment rule; the policy is the same under all."""
        found = [(rows, self._settled(rows, trained, reports, payments)) for rows, trained in self._trained(reports)]
        return {rule: _joined([(rows, settled[rule]) for rows, settled in found]) for rule in payments}

    def reported_welfare(self, reports: Reports) -> Array:
        """Return sum_i w_i v_i(p) as it is reported: [B]."""
        out = np.empty(len(self.strength))
        for rows, trained in self._trained(reports):
            out[rows] = np.vecdot(trained.sizes, trained.values())
        return out

    def _trained(self, reports: Reports) -> Iterator[tuple[NDArray[np.intp], Trained[TrainingRule]]]:
        """Yield the games of each strength, and what is trained on what is heard there."""
        said = reports.rewards if self.noise is None else reports.rewards + self.noise[reports.owners]
        for rows in self._alike():
            space = self.rules.many(float(self.strength[rows[0]]), self.reference[rows])
            heard = tuple(map(space.read_boost, read_only(said[:, rows])))  # not read: noise may leave the domain
            profile = Profile(heard, reports.sizes[:, rows])
            rule = self._rule(int(rows[0])).many(len(rows))
            if self.tilt is not None:
                rule = AffineWelfare(boost=space.strength * self.tilt[rows])
            yield rows, Trained(rule, profile, space, rule.train(profile, space))

    def _alike(self) -> Iterator[NDArray[np.intp]]:
        """Yield the games that are settled together: of one strength, and of one reference where rules are fitted."""
        known = self.strength[:, None]
        if self.rules.is_fitted:
            known = np.hstack([known, self.reference])
        _, which = np.unique(known, axis=0, return_inverse=True)
        yield from (np.flatnonzero(which == one) for one in range(which.max() + 1))

    def _one(self, b: int) -> PolicySpace[Any]:
        """Return what one game is settled on."""
        return self.rules.one(float(self.strength[b]), self.reference[b])

    def _rule(self, b: int) -> TrainingRule:
        """Return the training rule of a game, and of all that are like it: what it learns of them it learns once."""
        training, known = self.rules.training, self.rules.fitted
        if not self.rules.is_fitted:
            return training
        key = (float(self.strength[b]), self.reference[b].tobytes())
        if key not in known:
            known[key] = training.fitted(self._one(b))
        return known[key]

    def _settled(
        self, rows: NDArray[np.intp], trained: Trained[TrainingRule], reports: Reports, payments: Sequence[str]
    ) -> dict[str, SettledBatch]:
        """Return what comes out of some games, of one strength; who stays away gets and owes nothing."""
        space, policy = trained.space, cast(Any, trained.policy)
        groups, takes_part = len(self.rewards), reports.sizes[:, rows] > 0
        sizes = (by_owner(reports.sizes[:, rows], reports.owners, groups) > 0) * self.sizes[:, rows]
        truth = [*map(space.read_boost, read_only(self.rewards[:, rows]))]
        worth = sizes * policy.values(truth)
        welfare = worth.sum(axis=0)
        divergence, weights = policy.divergence, sizes
        if self.tilt is not None:
            divergence = self.rows(rows).start.shortfall(policy.probabilities)
            truth.append(space.read_boost(space.strength * self.tilt[rows]))
            weights = np.vstack([sizes, np.ones(len(rows))])
        affine_welfare = welfare - space.strength * divergence
        loss = space.shortfall(policy, weights, truth)
        trained_ones = np.ones(len(rows))
        out = {}
        for name in payments:
            mechanism = Mechanism(trained.rule, self.rules.payments[name])
            charged = mechanism.charge(trained).payments.T * takes_part
            paid = by_owner(charged, reports.owners, groups)
            revenue = paid.sum(axis=0)
            out[name] = SettledBatch(worth, paid, divergence, affine_welfare, loss, welfare, revenue, trained_ones)
        return out


def with_reserve(
    batch: Batch, reports: Reports, settled: SettledBatch, reserve: float, *, is_paid: bool
) -> SettledBatch:
    """Return what comes out where nothing is trained unless that brings more than ``reserve`` by the reports.

    Where nothing is, everybody is at the policy that training would have started from (see one_model_payments).
    """
    heard = by_owner(batch.score_parts(reports), reports.owners, len(batch.rewards)) / batch.strength[:, None]
    start, total = batch.start.probabilities(), heard.sum(axis=0)

    def brings(score: Array) -> Array:
        best = batch.unit.maximize(np.ones(2), [batch.carried, score], batch.reference)
        return np.asarray(batch.strength * best.shortfall(start))

    reached = brings(total)
    is_trained = reached > reserve
    without = np.stack([brings(others) for others in leave_one_out_sums(heard)])
    paid = one_model_payments(settled.payments, reached, without, reserve) if is_paid else settled.payments
    there = batch.sizes * (by_owner(reports.sizes, reports.owners, len(batch.rewards)) > 0)
    worth = np.where(is_trained, settled.worth, there * np.vecdot(start, batch.rewards))
    welfare, divergence = worth.sum(axis=0), np.where(is_trained, settled.divergence, 0.0)
    missed = brings((there[..., None] * batch.rewards).sum(axis=0) / batch.strength[:, None])
    loss = np.where(is_trained, settled.loss, missed)
    affine = np.where(is_trained, settled.affine_welfare, welfare)
    return SettledBatch(worth, paid, divergence, affine, loss, welfare, paid.sum(axis=0), is_trained.astype(np.float64))


def _joined(parts: Sequence[tuple[NDArray[np.intp], SettledBatch]]) -> SettledBatch:
    """Return what came out of all games, from parts of them."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return SettledBatch(
        *(
            np.concatenate([getattr(settled, one.name) for _, settled in parts], axis=-1)[..., order]
            for one in fields(SettledBatch)
        )
    )


def batch_of(
    rules: Rules, populations: Sequence[Population], strength: float, noise: Sequence[Array] | None = None
) -> Batch:
    """Return the batch of populations of one shape."""
    return Batch(
        rules,
        np.stack([one.rewards for one in populations], axis=1),
        np.stack([one.sizes for one in populations], axis=1),
        np.stack([one.reference for one in populations]),
        np.full(len(populations), strength),
        None if noise is None else np.stack(noise, axis=1),
    )


def by_owner(amounts: Array, owners: NDArray[np.intp], groups: int) -> Array:
    """Return the sums of what belongs to each group: [n, B] of [c, B]."""
    if len(owners) == groups and (owners == np.arange(groups)).all():
        return amounts
    out = np.zeros((groups, *amounts.shape[1:]))
    np.add.at(out, owners, amounts)
    return out
