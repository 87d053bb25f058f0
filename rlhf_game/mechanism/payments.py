"""Payment rules: what each group owes for the policy that was trained."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, Union, final, get_args, get_origin

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


def _rules(argument: Any, of: type) -> tuple[type[TrainingRule], ...]:
    """Return the training rules that a type argument names."""
    if isinstance(argument, TypeVar):
        argument = argument.__bound__ or TrainingRule
    named = get_args(argument) if get_origin(argument) in (Union, UnionType) else (argument,)
    for one in named:
        if not (isinstance(one, type) and issubclass(one, TrainingRule)):
            raise CombinationError(f"{of.__name__} must name training rules: PaymentRule[AffineRule], found {one!r}")
    return named


@final
@dataclass(frozen=True)
class NoPayments(PaymentRule[TrainingRule]):
    """Nobody pays; truth is then dominated under most training rules (Thm 3.3)."""

    def charge(self, optimum: Trained[TrainingRule]) -> Array:
        """Return zeros."""
        return np.zeros(optimum.sizes.shape)


@final
@dataclass(frozen=True)
class AffinePayments(PaymentRule[AffineRule]):
    """Weighted VCG payments: each group pays what it costs the others and the provider (Thm 4.2).

    pay_i = (1 / mu_i) [max ASW_-i - ASW_-i(p*)] >= 0; truth is a dominant strategy and utility at truth is >= 0 when
    all rewards are non-negative.
    """

    def charge(self, optimum: Trained[AffineRule]) -> Array:
        """Return the externalities of the groups, in each group's own unit of money."""
        return optimum.externalities() / optimum.weights


@final
@dataclass(frozen=True)
class RevenueOptimal(PaymentRule[AffineRule]):
    """The largest payments that keep truth dominant and utilities >= 0 (Cor. 4.6, corrected in theory section 4).

    pay_i = affine payment + inf over types (r', w') of the domain of the truthful utility. The infimum is at w' = 1.
    """

    def charge(self, optimum: Trained[AffineRule]) -> Array:
        """Return affine payments plus the utility of the least favoured type.

        Raises CombinationError when the space has no declared domain.
        """
        return (optimum.externalities() + optimum.least_gains()) / optimum.weights


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
            raise InputError(f"fee must be a finite number >= 0, got {self.fee!r}")
        object.__setattr__(self, "pays_for", self.rule.pays_for)

    def charge(self, optimum: Trained[Any]) -> Array:
        """Return the rule's payments plus the fee."""
        return self.rule.charge(optimum) + self.fee
