"""A settlement that is known through samples: of a policy as it was trained, of the reference, and of others.

The outcomes (texts) are too many to enumerate and the delivered policy p^ is not quite optimal. With the shares
g_i = mu_i w_i, the score s = sum_i g_i r_i and rewards in [0, 1], group i pays (1 / mu_i) [h_i - ASW_-i(p^)], where h_i
stands for max ASW_-i. What h_i is decides what the payments are worth: no report gains more than
(1 / mu_i) [max ASW - ASW(p^)] if h_i does not depend on group i's report (theory section 5), so each ``OthersWelfare``
says how much a report can move it.

Everything is bounded by capping the log ratio l = log(p / q) at +-cap, with cap >= sum_i g_i / strength + 1. This
changes nothing at the optimum and loses nothing (derived; tested):

    E_p[s - strength * clip(l, -cap, cap)] <= max ASW for every p, with equality at the optimum.

Proof. Clipping from below only raises the cost. Let pi = p(l > cap) and C its complement: what lies in C is at most
(1 - pi) (max ASW - strength log(1 - pi)) <= (1 - pi) max ASW + strength pi, and the rest at most pi (s_max - strength
cap) <= pi (s_min - strength) <= pi (max ASW - strength). The optimum has |l| <= (s_max - s_min) / strength <= cap.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, numbers
from rlhf_game.mechanism.sampled.betting import pooled_interval
from rlhf_game.mechanism.sampled.certificates import certified_payments, cumulant, max_welfare
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.sampled.sampled_payments import sampled_payments

UNIT = (0.0, 1.0)
"""What every reward of every outcome keeps to."""


@final
@dataclass(frozen=True, eq=False)
class PolicySamples:
    """Independent samples of one policy, N for each of B equally weighted prompts.

    rewards: every group's, in [0, 1], [n, B, N]. log_ratios: log of its own probability over the reference's: [B, N],
    in nats. is_reference: they are of the reference itself, whose log ratio is 0 of every response, drawn or not.
    """

    rewards: Array
    log_ratios: Array
    is_reference: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards", finite(self.rewards, "rewards"))
        object.__setattr__(self, "log_ratios", numbers(self.log_ratios, "log_ratios"))
        if self.rewards.ndim != 3 or self.rewards.shape[1:] != self.log_ratios.shape or self.rewards.shape[2] < 2:
            raise InputError(
                "must have rewards [groups, prompts, draws] and log ratios [prompts, draws], at least two "
                f"draws, got {list(self.rewards.shape)} and {list(self.log_ratios.shape)}",
                field="samples",
            )
        if not np.isfinite(self.log_ratios).all():
            raise InputError(
                "must have finite log ratios: the reference must not exclude what a policy says", field="samples"
            )
        if self.is_reference and self.log_ratios.any():
            raise InputError("must have log ratios of 0 where they are of the reference itself", field="samples")


@final
@dataclass(frozen=True, eq=False)
class SampledGame:
    """What the samples of all policies have in common; money and welfare are in units of reward.

    sizes, multipliers: w and mu, [n]. strength: lambda. level: of every interval on its own. cap: of log ratios, in
    nats; a declaration, like the strength. choices: among how many policies the delivered one was chosen by these same
    samples. Raises InputError when the cap is too low for the bounds to hold.
    """

    sizes: Array
    multipliers: Array
    strength: float
    level: float
    cap: float
    choices: int = 1

    def __post_init__(self) -> None:
        least = least_cap(self.shares, self.strength)
        if not self.cap >= least * (1 - 1e-12):
            raise InputError(
                f"must be at least {least:.6g}, the sum of weights and sizes over strength + 1", field="cap"
            )

    @property
    def shares(self) -> Array:
        """mu w: [n]."""
        return self.multipliers * self.sizes

    def at(self, parts: int = 1) -> float:
        """Return the level that each of so many statements about each choice needs for all of them to hold at once."""
        return 1 - (1 - self.level) / (parts * self.choices)

    def welfare(self, samples: PolicySamples, level: float) -> Estimate:
        """Return ASW of a policy: []."""
        return self._mean(self.shares, samples, level)

    def others_welfare(self, samples: PolicySamples, level: float) -> Estimate:
        """Return ASW_-i of a policy for each group: [n]."""
        return stacked([self._mean(shares, samples, level) for shares in self.without()])

    def without(self) -> list[Array]:
        """Return the shares with each group's taken out: n of [n]."""
        return [np.where(np.arange(len(self.sizes)) == i, 0.0, self.shares) for i in range(len(self.sizes))]

    def costs(self, samples: PolicySamples) -> Array:
        """Return the capped log ratios: [B, N]."""
        return np.clip(samples.log_ratios, -self.cap, self.cap)

    def reach(self, samples: PolicySamples) -> float:
        """Return what no capped log ratio of the policy exceeds, in nats."""
        return 0.0 if samples.is_reference else self.cap

    def tightness(self, gap: Estimate) -> float:
        """Return the bound on a gap over all that can be at stake, sum_i g_i."""
        return float(gap.high) / _sum(self.shares)

    def _mean(self, shares: Array, samples: PolicySamples, level: float) -> Estimate:
        worth = np.tensordot(shares, samples.rewards, 1) - self.strength * self.costs(samples)
        reach = self.strength * self.reach(samples)
        return pooled_interval(worth, (-reach, float(shares.sum()) + reach), level)


def least_cap(shares: Array, strength: float) -> float:
    """Return the lowest cap, in nats, with which no policy's capped welfare is above max ASW."""
    return float(shares.sum()) / strength + 1


class OthersWelfare(ABC):
    """Where h_i, which stands for max ASW_-i, comes from."""

    @abstractmethod
    def money(self, game: SampledGame, delivered: PolicySamples) -> tuple[Estimate, Estimate]:
        """Return payments (h - ASW_-i) / mu and gains (ASW - h) / mu: [n] both."""

    def slack(self, game: SampledGame) -> Array | None:
        """Return how far a group's own report can move its h at most: [n]; None where nothing bounds that."""
        return np.zeros(len(game.sizes))


class ByEstimate(OthersWelfare, ABC):
    """h_i is a number that is estimated, whatever policy is delivered; no report of the group moves it."""

    @abstractmethod
    def estimate(self, game: SampledGame, level: float) -> Estimate:
        """Return h: [n]."""

    def money(self, game: SampledGame, delivered: PolicySamples) -> tuple[Estimate, Estimate]:
        """Return payments and gains by the estimate."""
        return _money(game, delivered, self.estimate(game, game.at(2)))


@final
@dataclass(frozen=True, eq=False)
class ByFormula(OthersWelfare):
    """One training, all payments: h_i = ASW(p^) + strength log E_p^[exp(-g_i r_i / strength)], exact at the optimum.

    At any other policy it can be too high or too low, and depends on group i's report; so it is kept inside an interval
    for max ASW_-i from samples of the reference, on which that report has no influence.
    """

    reference: PolicySamples

    def money(self, game: SampledGame, delivered: PolicySamples) -> tuple[Estimate, Estimate]:
        """Return payments by the formula, and -strength log E[exp(-g r / strength)], both with their certified ends.

        Where the formula was moved into its bracket, the ends are stretched to the number that is charged.
        """
        level = game.at()
        held, (formula, ends) = game.others_welfare(delivered, level).value, self.payments(delivered, game, level)
        bracket = best_welfare(game, self.reference, game.level)
        value = (np.clip(held + formula, bracket.low, bracket.high) - held) / game.multipliers
        low, high = ends.low / game.multipliers, ends.high / game.multipliers
        payments = Estimate(value, np.minimum(low, value), np.maximum(high, value), game.level)
        rows = []
        for share, reward in zip(game.shares, delivered.rewards, strict=True):
            top = float(share) / game.strength
            rows.append(cumulant(top * reward, (0.0, top), level).scaled(-game.strength))
        gains = stacked(rows).scaled(1 / game.multipliers)
        used = game.sizes * delivered.rewards.mean(axis=(1, 2)) - value
        return payments, Estimate(used, np.minimum(gains.low, used), np.maximum(gains.high, used), game.level)

    def payments(self, delivered: PolicySamples, game: SampledGame, level: float) -> tuple[Array, Estimate]:
        """Return g_i E[r_i] + strength log E[exp(-g_i r_i / strength)] as the best numbers, and its certified ends."""
        found = sampled_payments(delivered.rewards, game.shares, game.strength)
        return found.payments.value, certified_payments(
            delivered.rewards, game.shares, game.strength, UNIT, level=level
        )

    def slack(self, game: SampledGame) -> Array | None:
        """Return the width of the interval: [n]."""
        return best_welfare(game, self.reference, game.level).width


@final
@dataclass(frozen=True, eq=False)
class ByReference(ByEstimate):
    """h_i = max ASW_-i over the samples of the reference: strength log mean exp(s_-i / strength).

    It is too low on average (a group pays less than max ASW_-i asks for), and nothing that group i says can move it.
    """

    reference: PolicySamples

    def estimate(self, game: SampledGame, level: float) -> Estimate:
        """Return the maximum over the samples; its ends are those of max ASW_-i itself: [n]."""
        return best_welfare(game, self.reference, level)


@final
@dataclass(frozen=True, eq=False)
class ByTrainings(ByEstimate):
    """h_i = ASW_-i of a policy that was trained without group i, fully or (H2) for fewer steps."""

    without: Sequence[PolicySamples]

    def estimate(self, game: SampledGame, level: float) -> Estimate:
        """Return ASW_-i of each group's own leave-one-out policy: [n]."""
        each = [game.others_welfare(samples, level)[i] for i, samples in enumerate(self.without)]
        return stacked(each)


@final
@dataclass(frozen=True, eq=False)
class ByMenu(ByEstimate):
    """h_i = the best ASW_-i over policies that depend on the group's own report: checkpoints (H1) or soups."""

    entries: Sequence[PolicySamples]

    def estimate(self, game: SampledGame, level: float) -> Estimate:
        """Return the largest of the entries: [n]."""
        each = 1 - (1 - level) / len(self.entries)
        found = [game.others_welfare(samples, each) for samples in self.entries]
        value, low, high = (np.max([getattr(one, end) for one in found], axis=0) for end in ("value", "low", "high"))
        return Estimate(value, low, high, level)

    def slack(self, game: SampledGame) -> Array | None:
        """Return None: the group's report moves the menu."""
        return None


@final
@dataclass(frozen=True, eq=False)
class Certificate:
    """What is proved about a delivered policy, with probability ``level`` over the draws.

    gap: max ASW - ASW(p^), []. regret_bounds: what no misreport of a group gains more than, in its own money, [n]; None
    where the payments allow no bound. affine_payments: (1 / mu_i) [max ASW_-i - ASW_-i(p^)], what exact leave-one-out
    trainings would charge for this policy, [n]. tightness: the bound on the gap over sum_i g_i, which is all that can
    be at stake: 0 proves truth, 1 or more says nothing.
    """

    level: float
    gap: Estimate
    regret_bounds: Array | None
    affine_payments: Estimate
    tightness: float


@final
@dataclass(frozen=True, eq=False)
class SampledSettlement:
    """A settlement as intervals; utilities are sizes * values - payments in their best numbers.

    values, payments, utilities: [n]. social_welfare, divergence (capped KL, in nats), affine_social_welfare: [].
    """

    values: Estimate
    payments: Estimate
    utilities: Estimate
    social_welfare: Estimate
    divergence: Estimate
    affine_social_welfare: Estimate
    certificate: Certificate


def settle_samples(
    game: SampledGame, delivered: PolicySamples, reference: PolicySamples, others: OthersWelfare | None
) -> SampledSettlement:
    """Return the settlement of a delivered policy. others: None charges nothing.

    reference: samples drawn from q before any report was read.
    """
    level = game.at()
    values = pooled_interval(delivered.rewards, UNIT, level)
    if others is None:
        zeros = np.zeros(len(game.sizes))
        payments, gains = Estimate(zeros, zeros, zeros), values.scaled(game.sizes)
    else:
        payments, gains = others.money(game, delivered)
    utilities = game.sizes * values.value - payments.value
    social = pooled_interval(_scores(game.sizes, delivered), (0.0, _sum(game.sizes)), level)
    divergence = _divergence(game, delivered)
    welfare = game.welfare(delivered, level)
    affine = float(game.shares @ values.value) - game.strength * float(divergence.value)
    return SampledSettlement(
        values=_at_level(values, game.level),
        payments=payments,
        utilities=Estimate(utilities, gains.low, gains.high, game.level if others else values.level),
        social_welfare=_at_level(social, game.level),
        divergence=divergence,
        affine_social_welfare=_inside(affine, welfare, game.level),
        certificate=certify(game, delivered, reference, others),
    )


def certify(
    game: SampledGame, delivered: PolicySamples, reference: PolicySamples, others: OthersWelfare | None
) -> Certificate:
    """Return what holds for the delivered policy whatever a group says, see ``Certificate``."""
    level, gap = game.at(2), welfare_gap(game, delivered, reference)
    slack = None if others is None else others.slack(game)
    stake = np.minimum(gap.high, largest_gains(game, delivered, reference))
    bracket = best_welfare(game, reference, level) + game.others_welfare(delivered, level).scaled(-1.0)
    return Certificate(
        level=game.level,
        gap=gap,
        regret_bounds=None if slack is None else (stake + slack) / game.multipliers,
        affine_payments=_at_level(bracket.scaled(1 / game.multipliers), game.level),
        tightness=game.tightness(gap),
    )


def welfare_gap(game: SampledGame, delivered: PolicySamples, reference: PolicySamples) -> Estimate:
    """Return max ASW - ASW(p^): []."""
    level = game.at(2)
    best = max_welfare(_scores(game.shares, reference), game.strength, (0.0, _sum(game.shares)), level=level)
    held = game.welfare(delivered, level)
    low, high = np.maximum(best.low - held.high, 0.0), np.maximum(best.high - held.low, 0.0)
    return _inside(_gap(game, delivered), Estimate(low, low, high, game.level), game.level)


def largest_gains(game: SampledGame, delivered: PolicySamples, reference: PolicySamples) -> Array:
    """Return g_i (1 - v_i) + max ASW_-i - ASW_-i(p^), at most: [n].

    It is above the gap, as max ASW <= g_i + max ASW_-i, but its draws may say less of the one than of the other.
    """
    level = game.at(4)
    values = pooled_interval(delivered.rewards, UNIT, level)
    rest = best_welfare(game, reference, level).high - game.others_welfare(delivered, level).low
    return np.asarray(game.shares * (1 - values.low) + rest)


def best_welfare(game: SampledGame, reference: PolicySamples, level: float) -> Estimate:
    """Return max ASW_-i of all policies, for each group, from samples of the reference: [n]."""
    rows = []
    for shares in game.without():
        rows.append(max_welfare(_scores(shares, reference), game.strength, (0.0, _sum(shares)), level=level))
    return stacked(rows)


def stacked(estimates: Sequence[Estimate]) -> Estimate:
    """Return estimates of one number each, of one level, as one: [n]."""
    value, low, high = (np.array([getattr(one, end) for one in estimates]) for end in ("value", "low", "high"))
    return Estimate(value, low, high, min(one.level for one in estimates))


def _money(game: SampledGame, delivered: PolicySamples, best: Estimate) -> tuple[Estimate, Estimate]:
    """Return payments and gains where h is ``best``: each side of a difference at half the misses."""
    level = game.at(2)
    held, all_held = game.others_welfare(delivered, level), game.welfare(delivered, level)
    owed = (best + held.scaled(-1.0)).scaled(1 / game.multipliers)
    gains = (best.scaled(-1.0) + _repeated(all_held, len(game.sizes))).scaled(1 / game.multipliers)
    return _at_level(owed, game.level), _at_level(gains, game.level)


def jensen_gap(exponents: Array, strength: float) -> float:
    """Return strength (log E[exp x] - E[x]) of each prompt's samples, the mean over prompts, >= 0: [] of [B, N]."""
    centred = exponents - exponents.mean(axis=1, keepdims=True)
    return strength * float((np.logaddexp.reduce(centred, axis=1) - np.log(centred.shape[1])).mean())


def _gap(game: SampledGame, delivered: PolicySamples) -> float:
    """Return max ASW - ASW(p^) from samples of p^ alone: of x = s / strength - l, E_p^[exp x] is the optimum's Z."""
    return jensen_gap(_scores(game.shares, delivered) / game.strength - game.costs(delivered), game.strength)


def _divergence(game: SampledGame, delivered: PolicySamples) -> Estimate:
    """Return D(p^ || q) with log ratios that are capped: at least 0, whatever the draws say."""
    reach = game.reach(delivered)
    found = pooled_interval(game.costs(delivered), (-reach, reach), game.at())
    value, low, high = (np.maximum(end, 0.0) for end in (found.value, found.low, found.high))
    return Estimate(value, low, high, game.level)


def _scores(shares: Array, samples: PolicySamples) -> Array:
    return np.tensordot(shares, samples.rewards, 1)


def _sum(shares: Array) -> float:
    return float(shares.sum())


def _inside(value: float, known: Estimate, level: float) -> Estimate:
    """Return a number that is in its interval."""
    return Estimate(np.clip(value, known.low, known.high), known.low, known.high, level)


def _repeated(estimate: Estimate, count: int) -> Estimate:
    value, low, high = (np.repeat(end, count) for end in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, estimate.level)


def _at_level(estimate: Estimate, level: float) -> Estimate:
    """Return the estimate with the level that holds for it in a settlement, where others had their share of it."""
    return Estimate(estimate.value, estimate.low, estimate.high, level)
