"""What an audit measures: the gain of a report that is not the truth, and the bracket that it leaves for the regret.

A gain is always signed, and the difference of two utilities that ``Mechanism.settle`` gives: whoever has the witness
can settle the game again and find the same number. A search only ever finds a lower bound on regret; the upper bound is
what the payment rule proves (theory section 5), where it does. A search that finds more than what is proved is an
error. Strategies live in ``rlhf_game.agents``.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism, Settlement, read_profile
from rlhf_game.mechanism.reports import Group, Profile, Report, check_size
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.tabular import Tabular

TOLERANCE: Final = 1e-9
"""A difference up to this share of the money that it is made of (values and payments) is rounding."""
ROUNDING: Final = 64 * 2.0**-53
"""A difference up to this share of everybody's size times largest reward is rounding, too: policies are made of it."""
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
            raise InputError(f"must be from 0 to {len(self.others)}, got {self.position}", field="position")
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

    def rounding(self, report: Report) -> float:
        """Return what rounding can do to a utility when the group says ``report``: it knows everybody's scale."""
        own = report.size * self.space.magnitude(self.space.read(report.reward))
        return ROUNDING * (own + self._scale)

    @functools.cached_property
    def _scale(self) -> float:
        magnitudes = [self.space.magnitude(reward) for reward in self._others.rewards]
        return float(self._others.sizes @ np.array(magnitudes)) if magnitudes else 0.0

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
class TriedReport:
    """One report that was tried, and what it gained over the truth (signed, in units of reward)."""

    strategy: str
    report: Report
    gain: float
    tolerance: float
    """A gain up to this is rounding."""


@final
@dataclass(frozen=True, eq=False)
class Regret(Tabular):
    """What one group can gain by lying, as a bracket: found <= regret <= bound."""

    group: str
    truthful_utility: float
    """size * v(p) - payment when the group says the truth."""
    trials: tuple[TriedReport, ...]
    """Every report that was tried, at least one; gains are signed."""
    bound: float | None
    """A proof that no report gains more (theory section 5); None where none is known."""
    tolerance: float
    """A truthful utility down to minus this is 0 up to rounding."""
    ir_bound: float | None = None
    """A proof that truth gives at least this, whatever the others report; None where none is known."""

    @property
    def best(self) -> TriedReport:
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

    def rows(self) -> list[dict[str, Any]]:
        """Return one row: the bracket, and the lie that gained most."""
        lie = self.best.strategy if self.is_refuted else None
        utility = {"truthful utility": self.truthful_utility}
        return [{"group": self.group, **utility, "found": self.found, "bound": self.bound, "best lie": lie}]


@final
class Regrets(list[Regret], Tabular):
    """What an audit returns: the regret of each group, in order."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each group."""
        return [row for regret in self for row in regret.rows()]


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
    truth = Report(group.reward, group.size)
    settlement = world.settle(truth)
    value, payment = world.money(group, settlement)
    truthful, tolerance = value - payment, TOLERANCE * (abs(value) + abs(payment)) + world.rounding(truth)

    def tried(strategy: str, report: Report) -> TriedReport | None:
        try:
            value, payment = world.money(group, world.settle(report))
            slack = tolerance + TOLERANCE * (abs(value) + abs(payment)) + world.rounding(report)
        except (InputError, RunError):
            return None
        return TriedReport(strategy, report, value - payment - truthful, slack)

    trials = tuple(trial for name, report in reports if (trial := tried(name, report)) is not None)
    trials = trials or (TriedReport("Truthful()", truth, 0.0, tolerance),)
    certificate, rational = _proofs(group, world, settlement, least_value)
    bound = certificate
    if exhaustive:
        largest = max(0.0, *(trial.gain for trial in trials))
        bound = largest if bound is None else min(bound, largest)
    return _check(Regret(group.name, truthful, trials, bound, tolerance, rational), certificate)


def _proofs(
    group: Group, world: World, settlement: Settlement, least: float | None
) -> tuple[float | None, float | None]:
    """Return what the payment rule proves of a group: the bound on its regret, and on its truthful utility.

    least: min over all policies of <p, r> at the group's reward, where that is known.
    """
    payment, at = settlement.mechanism.payment, world.position
    bounds, utilities = payment.own("regret_bounds"), payment.own("utility_bounds")
    worths = np.full(len(settlement.sizes), np.nan)
    worths[at] = np.nan if least is None else group.size * least
    regret = None if bounds is None else bounds(settlement.trained)
    utility = None if utilities is None else utilities(settlement.trained, worths)
    return _entry(regret, at), _entry(utility, at)


def _entry(proved: Array | None, at: int) -> float | None:
    return None if proved is None or np.isnan(proved[at]) else float(proved[at])


def _check(regret: Regret, certificate: float | None) -> Regret:
    """Return the bracket; raise RunError when the search has found more than is proved: one of the two is wrong."""
    if certificate is not None and regret.gain > certificate + regret.best.tolerance:
        raise RunError(
            f"{regret.group} gains {regret.gain:.6g} by {regret.best.strategy}, more than the {certificate:.6g} that "
            "is proved: the search or the proof is wrong, and neither can be relied on"
        )
    if regret.ir_bound is not None and regret.truthful_utility < regret.ir_bound - regret.tolerance:
        raise RunError(
            f"{regret.group} has {regret.truthful_utility:.6g} at the truth, less than the {regret.ir_bound:.6g} that "
            "is proved: the settlement or the proof is wrong, and neither can be relied on"
        )
    return regret
