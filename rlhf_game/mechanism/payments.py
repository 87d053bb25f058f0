"""Payment rules: what each group owes for the policy that was trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Generic, Literal, TypeVar, Union, final, get_args, get_origin

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.training import AffineRule, Rule, Trained, TrainingRule


class PaymentRule(ABC, Generic[Rule]):
    """Payments for the training rules of its type argument: ``class Mine(PaymentRule[AffineRule])``.

    ``PaymentRule[NashWelfare | EqualSay]`` pays for both; without an argument it pays for every training rule.
    """

    pays_for: ClassVar[tuple[type[TrainingRule], ...]] = (TrainingRule,)
    """The training rules that it can charge for, as its type argument says."""
    moves: ClassVar[Literal["affine", "free"] | None] = None
    """How a report moves what its group earns, up to what no report of the group can change: as affine payments do, as
    without any, or (None) in another way."""

    def __init_subclass__(cls) -> None:
        """Read the training rules off the type argument."""
        super().__init_subclass__()
        for base in vars(cls).get("__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, PaymentRule):
                cls.pays_for = _rules(get_args(base)[0], cls)

    @abstractmethod
    def charge(self, optimum: Trained[Rule]) -> Array:
        """Return what each group owes, in units of reward: [n]; of B games at once [B, n]."""

    def regret_bounds(self, optimum: Trained[Rule]) -> Array | None:
        """Return what no report of a group gains more than, in its own money, as a proof: [n]; None without one.

        A proof speaks for the exact type that defines it: for a subclass, which may charge otherwise, it is not asked.
        """
        return None

    def utility_bounds(self, optimum: Trained[Rule], least: Array) -> Array | None:
        """Return what a truthful group has at least, whatever the others say, as a proof: [n]; None without one.

        least: w_i min_p v_i(p), [n]; NaN where it is not known. Asked as ``regret_bounds`` is.
        """
        return None

    @property
    @final
    def is_free(self) -> bool:
        """Whether what a group pays, if anything, is nothing that its report can change."""
        return bool(self.own("moves") == "free")

    @final
    def own(self, name: str) -> Any:
        """Return an attribute that its exact type defines: None where only a class above it has one."""
        return getattr(self, name) if name in vars(type(self)) else None


def _rules(argument: Any, of: type) -> tuple[type[TrainingRule], ...]:
    """Return the training rules that a type argument names."""
    if isinstance(argument, TypeVar):
        argument = argument.__bound__ or TrainingRule
    named = get_args(argument) if get_origin(argument) in (Union, UnionType) else (argument,)
    for one in named:
        if not (isinstance(one, type) and issubclass(one, TrainingRule)):
            raise CombinationError(
                f"must name training rules: PaymentRule[AffineRule], found {one!r}", field=of.__name__
            )
    return named


@final
@dataclass(frozen=True)
class NoPayments(PaymentRule[TrainingRule]):
    """Nobody pays; truth is then dominated under most training rules (Thm 3.3)."""

    moves: ClassVar[Literal["affine", "free"] | None] = "free"

    def charge(self, optimum: Trained[TrainingRule]) -> Array:
        """Return zeros."""
        return np.zeros(optimum.sizes.shape)

    def utility_bounds(self, optimum: Trained[TrainingRule], least: Array) -> Array | None:
        """Return the least values."""
        return least


@final
@dataclass(frozen=True)
class AffinePayments(PaymentRule[AffineRule]):
    """Weighted VCG payments: each group pays what it costs the others and the provider (Thm 4.2).

    pay_i = (1 / mu_i) [max ASW_-i - ASW_-i(p*)] >= 0; truth is a dominant strategy and utility at truth is >= 0 when
    all rewards are non-negative.
    """

    moves: ClassVar[Literal["affine", "free"] | None] = "affine"

    def charge(self, optimum: Trained[AffineRule]) -> Array:
        """Return the externalities of the groups, in each group's own unit of money."""
        return optimum.externalities() / optimum.weights

    def regret_bounds(self, optimum: Trained[AffineRule]) -> Array | None:
        """Return the training gap / mu (theory section 5).

        Whatever group i reports, its utility is [ASW(p) - h_-i] / mu_i <= [max ASW - h_-i] / mu_i, with ASW at its
        truth; the truth gets at least max ASW - gap. It holds where the payment is h_i - ASW_-i(p) / mu_i and h_i does
        not depend on the report (for a policy that is not optimal: if its ``externalities`` are what Policy defines).
        """
        return _gap_bounds(optimum)

    def utility_bounds(self, optimum: Trained[AffineRule], least: Array) -> Array | None:
        """Return the least values less the gap (derived).

        The utility is at least [max ASW - gap - max ASW_-i] / mu, and adding mu w r to a score raises its maximum by
        mu w min r or more.
        """
        bounds = _gap_bounds(optimum)
        return None if bounds is None else least - bounds


@final
@dataclass(frozen=True)
class RevenueOptimal(PaymentRule[AffineRule]):
    """The largest payments that keep truth dominant and utilities >= 0 (Cor. 4.6, corrected in theory section 4).

    pay_i = affine payment + inf over types (r', w') of the domain of the truthful utility. The infimum is at w' = 1.
    """

    moves: ClassVar[Literal["affine", "free"] | None] = "affine"

    def charge(self, optimum: Trained[AffineRule]) -> Array:
        """Return affine payments plus the utility of the least favoured type.

        Raises CombinationError when the space has no declared domain.
        """
        return (optimum.externalities() + optimum.least_gains()) / optimum.weights

    def regret_bounds(self, optimum: Trained[AffineRule]) -> Array | None:
        """Return the training gap / mu: what is added does not depend on the group's report."""
        return _gap_bounds(optimum)

    def utility_bounds(self, optimum: Trained[AffineRule], least: Array) -> Array | None:
        """Return 0 less the gap, by the definition of what is added."""
        bounds = _gap_bounds(optimum)
        return None if bounds is None else -bounds


@final
@dataclass(frozen=True)
class WithFee(PaymentRule[TrainingRule]):
    """Another rule's payments and a flat fee for every name that is used, in units of money (see ``mechanism.fees``).

    The fee depends on no report, so that whatever rule makes truthful stays so, given that a group takes part.
    """

    rule: PaymentRule[Any]
    fee: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.fee) and self.fee >= 0):
            raise InputError(f"must be a finite number >= 0, got {self.fee!r}", field="fee")
        object.__setattr__(self, "pays_for", self.rule.pays_for)

    @property
    def moves(self) -> Literal["affine", "free"] | None:  # type: ignore[override]
        """As the other rule's payments do."""
        return self.rule.own("moves")  # type: ignore[no-any-return]

    def charge(self, optimum: Trained[Any]) -> Array:
        """Return the rule's payments plus the fee."""
        return self.rule.charge(optimum) + self.fee

    def regret_bounds(self, optimum: Trained[Any]) -> Array | None:
        """Return what the other rule proves."""
        proof = self.rule.own("regret_bounds")
        return None if proof is None else proof(optimum)

    def utility_bounds(self, optimum: Trained[Any], least: Array) -> Array | None:
        """Return what the other rule proves, less the fee."""
        proof = self.rule.own("utility_bounds")
        found = None if proof is None else proof(optimum, least)
        return None if found is None else found - self.fee


def _gap_bounds(optimum: Trained[AffineRule]) -> Array | None:
    """Return the training gap / mu, [n]; None for another policy than an affine maximiser's, or an unknown gap."""
    gap = optimum.policy.gap
    return np.asarray(gap / optimum.weights) if optimum.is_affine and gap is not None else None
