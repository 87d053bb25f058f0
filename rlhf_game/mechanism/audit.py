"""What an audit measures: the gain of a report that is not the truth, and the bracket that it leaves for the regret.

A gain is always signed, and the difference of two utilities that ``Mechanism.settle`` gives: whoever has the witness
can settle the game again and find the same number. A search only ever finds a lower bound on regret; the upper bound is
the certificate of theory section 5, for payment rules that have one. Strategies live in ``rlhf_game.agents``.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.mechanism import Mechanism, Settlement, read_profile
from rlhf_game.mechanism.participation import ParticipationPayments
from rlhf_game.mechanism.payments import AffinePayments, NoPayments, RevenueOptimal, WithFee
from rlhf_game.mechanism.reports import Group, Profile, Report, check_size
from rlhf_game.mechanism.several import ModelPayments
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.training import AffineRule

TOLERANCE: Final = 1e-9
"""A difference up to this share of the money that it is made of (values and payments) is rounding."""
CERTIFIED: Final = (AffinePayments, RevenueOptimal)
"""Payments of the form h_i - ASW_-i(p) / mu_i, where h_i does not depend on the report of group i."""
SIZES: Final = 4
"""The default largest size that may be reported, in multiples of the largest size there is."""


@final
@dataclass(frozen=True, eq=False)
class World:
    """All that a strategy may look at: the rules, and what the others say.

    others: the reports of the other groups, in order. position: the place of the group's own report among all reports.
    size_limit: the largest size that may be reported; None means 4 times the largest size of the others.
    """

    mechanism: Mechanism
    space: PolicySpace[Any]
    others: tuple[Report, ...]
    position: int = 0
    size_limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.position <= len(self.others):
            raise InputError(f"position must be from 0 to {len(self.others)}, got {self.position}")
        if self.size_limit is None:
            limit = SIZES * max((report.size for report in self.others), default=1)
            object.__setattr__(self, "size_limit", limit)
        check_size(self.size_limit)

    @property
    def largest_size(self) -> int:
        """The largest size that may be reported."""
        assert self.size_limit is not None  # filled in above
        return self.size_limit

    def settle(self, report: Report) -> Settlement:
        """Return the settlement when the group says ``report``."""
        others, at = self._others, self.position
        rewards, sizes = list(others.rewards), others.sizes.tolist()
        rewards.insert(at, self.space.read(report.reward))
        sizes.insert(at, float(report.size))
        return self.mechanism.settle_profile(Profile(tuple(rewards), np.array(sizes)), self.space)

    def utility(self, group: Group, report: Report) -> float:
        """Return size * v(p) - payment of a group that says ``report``, at its true reward and size."""
        value, payment = self.money(group, self.settle(report))
        return value - payment

    def money(self, group: Group, settlement: Settlement) -> tuple[float, float]:
        """Return size * v(p), at the group's true reward and size, and its payment."""
        own = settlement.policy.model_of(self.position)
        value = own.values([self.space.read(group.reward)])[0]
        return float(group.size * value), float(settlement.payments[self.position])

    @functools.cached_property
    def _others(self) -> Profile[Any]:
        return read_profile(self.others, self.space) if self.others else Profile((), np.empty(0))


class Strategy(Protocol):
    """A way to report; it says in its docstring what it needs to know."""

    def __call__(self, group: Group, world: World, rng: np.random.Generator, /) -> Report:
        """Return what the group says."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """One report that was tried, and what it gained over the truth (signed, in units of reward)."""

    strategy: str
    report: Report
    gain: float
    tolerance: float
    """A gain up to this is rounding."""


@final
@dataclass(frozen=True, eq=False)
class Regret:
    """What one group can gain by lying, as a bracket: found <= regret <= bound."""

    group: str
    truthful_utility: float
    """size * v(p) - payment when the group says the truth."""
    trials: tuple[Trial, ...]
    """Every report that was tried, at least one; gains are signed."""
    bound: float | None
    """A proof that no report gains more (theory section 5); None where none is known."""
    tolerance: float
    """A truthful utility down to minus this is 0 up to rounding."""
    ir_bound: float | None = None
    """A proof that truth gives at least this, whatever the others report; None where none is known."""

    @property
    def best(self) -> Trial:
        """The trial with the largest gain."""
        return max(self.trials, key=lambda trial: trial.gain)

    @property
    def gain(self) -> float:
        """The largest gain of any trial, signed."""
        return self.best.gain

    @property
    def report(self) -> Report:
        """The witness: the report that gained most."""
        return self.best.report

    @property
    def found(self) -> float:
        """The lower bound on regret: the largest gain, 0 when it is only rounding."""
        return self.gain if self.gain > self.best.tolerance else 0.0

    @property
    def ir_margin(self) -> float:
        """What the truthful group has over staying away, which gives 0."""
        return self.truthful_utility

    @property
    def is_refuted(self) -> bool:
        """Whether a lie gains, so that truth is not dominant."""
        return self.found > 0

    @property
    def is_proved(self) -> bool:
        """Whether the bound says that no lie gains; that nothing was found never does."""
        return self.bound is not None and self.bound <= self.tolerance

    @property
    def is_rational(self) -> bool:
        """Whether the truthful group does not lose, beyond rounding."""
        return self.truthful_utility >= -self.tolerance


def measure(
    group: Group,
    world: World,
    reports: Sequence[tuple[str, Report]],
    *,
    exhaustive: bool = False,
    least_value: float | None = None,
) -> Regret:
    """Return the bracket that the named reports leave; each is settled.

    A report that the space refuses, that the rule cannot be trained on, or whose numbers float64 cannot hold, is no way
    to gain and is left out.
    exhaustive: the reports are all that the group may say, so the largest gain is the regret, and also its bound.
    least_value: min over all policies of <p, r> at the group's reward, where that is known: it bounds utilities.
    """
    settlement = world.settle(Report(group.reward, group.size))
    value, payment = world.money(group, settlement)
    truthful, tolerance = value - payment, TOLERANCE * (abs(value) + abs(payment))

    def tried(strategy: str, report: Report) -> Trial | None:
        try:
            value, payment = world.money(group, world.settle(report))
        except (InputError, RunError):
            return None
        gain = value - payment - truthful
        slack = tolerance + TOLERANCE * (abs(value) + abs(payment))
        return Trial(strategy, report, gain, slack) if np.isfinite(gain) else None

    trials = tuple(trial for name, report in reports if (trial := tried(name, report)) is not None)
    trials = trials or (Trial("Truthful()", Report(group.reward, group.size), 0.0, tolerance),)
    slack = _certificate(world, settlement)
    bound = slack
    if exhaustive:
        largest = max(0.0, *(trial.gain for trial in trials))
        bound = largest if bound is None else min(bound, largest)
    rational = _rationality(group, world, slack, least_value)
    return Regret(group.name, truthful, trials, bound, tolerance, rational)


def _certificate(world: World, settlement: Settlement) -> float | None:
    """Return the certificate of theory section 5, in the group's own money: the training gap / mu.

    Whatever group i reports, its utility is [ASW(p) - h_-i] / mu_i <= [max ASW - h_-i] / mu_i, with ASW at its truth;
    the truth gets at least max ASW - gap. It holds where the payment is h_i - ASW_-i(p) / mu_i, as in CERTIFIED (for a
    policy that is not optimal: if its ``externalities`` are what Policy defines), and for a choice among models, which
    is exact.
    """
    mechanism = world.mechanism
    payment = mechanism.payment.rule if isinstance(mechanism.payment, WithFee) else mechanism.payment
    if isinstance(payment, ModelPayments | ParticipationPayments):
        return float(settlement.policy.gap)  # the choice among sets and policies is exact
    if not isinstance(payment, CERTIFIED) or not isinstance(mechanism.training, AffineRule):
        return None
    multipliers = mechanism.training.multipliers(len(world.others) + 1)
    return float(settlement.policy.gap / multipliers[world.position])


def _rationality(group: Group, world: World, slack: float | None, least_value: float | None) -> float | None:
    """Return a lower bound on the truthful utility that holds whatever the others report.

    Without payments, size * least value. With affine payments the same less the gap (derived): the utility is at least
    [max ASW - gap - max ASW_-i] / mu, and adding mu w r to a score raises its maximum by mu w min r or more. Revenue-
    optimal payments leave 0 or more by their definition.
    """
    payment = world.mechanism.payment
    if isinstance(payment, WithFee):
        without = dataclasses.replace(world, mechanism=Mechanism(world.mechanism.training, payment.rule))
        found = _rationality(group, without, slack, least_value)
        return None if found is None else found - payment.fee
    if isinstance(payment, ParticipationPayments):
        return None if slack is None else -slack
    if isinstance(payment, RevenueOptimal):
        return None if slack is None else -slack
    if least_value is None:
        return None
    if isinstance(payment, NoPayments):
        return group.size * least_value
    return None if slack is None else group.size * least_value - slack
