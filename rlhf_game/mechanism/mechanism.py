"""A training rule and a payment rule, checked to fit, and the receipt that they produce."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array, finite, numbers, read_only
from rlhf_game.mechanism.payments import AffinePayments, PaymentRule
from rlhf_game.mechanism.prices import prices_of, token_prices
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.reports import Group, Normalization, Profile, Report, V
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import AffineWelfare, SocialWelfare, Trained, TrainingRule
from rlhf_game.tabular import Tabular


@final
@dataclass(frozen=True, eq=False)
class Settlement(Tabular):
    """The receipt. All money and welfare in units of reward; arrays are per group, in the order of the reports.

    Of a table of B games, arrays are [B, n] and what is one number is one for each game, [B].
    """

    policy: Policy[Any]
    sizes: Array
    """w_i: [n]."""
    values: Array
    """v_i(p) of one member, at the reported reward: [n]."""
    payments: Array
    """What each group owes: [n]."""
    mechanism: "Mechanism"
    trained: Trained[Any]
    """The policy with the rule, the reports and the space that it comes from."""
    reports: "tuple[Report | Group, ...]" = ()
    """What the groups said (a Group: its truth), where it was settled from reports."""

    @property
    def space(self) -> PolicySpace[Any]:
        """What was settled on."""
        return self.trained.space

    @property
    def utilities(self) -> Array:
        """w_i v_i(p) - payment_i, at the reported reward and size: [n]."""
        return self.sizes * self.values - self.payments

    @property
    def social_welfare(self) -> Any:
        """sum_i w_i v_i(p)."""
        return np.vecdot(self.sizes, self.values)

    @property
    def affine_social_welfare(self) -> Any:
        """The maximised objective: sum_i mu_i w_i v_i(p) + <b, p> - strength * D(p || q)."""
        return self.policy.welfare

    @property
    def revenue(self) -> Any:
        """sum_i payment_i."""
        return self.payments.sum(axis=-1)

    def prices(self, outcomes: Sequence[Any], prompt: int = 0) -> Array:
        """Return what some responses to a prompt cost every group, [n, k], by label or, without labels, by place.

        Their mean under the policy is the bill of the prompt (see ``mechanism.prices``). Raises CombinationError where
        no prices are known, InputError that names what is no outcome.
        """
        return prices_of(self.trained, outcomes, prompt)

    def token_prices(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return what every token of a response costs every group, [n, tokens]; their sum is the response's price."""
        return token_prices(self.trained, sequence, prompt)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each group (of a table of games, for each group of each game)."""
        names = [one.name if isinstance(one, Group) else f"group {i}" for i, one in enumerate(self.reports)]
        return _rows(names, self.sizes, self.values, self.payments, self.utilities)


@final
@dataclass(frozen=True)
class Mechanism:
    """The pair (psi, payments); raises CombinationError when the payment rule does not pay for the training rule."""

    training: TrainingRule
    payment: PaymentRule[Any]

    def __post_init__(self) -> None:
        if not isinstance(self.training, TrainingRule):
            raise CombinationError(
                f"must be a training rule such as SocialWelfare(), got {self.training!r}", field="training"
            )
        if not isinstance(self.payment, PaymentRule):
            raise CombinationError(
                f"must be a payment rule such as AffinePayments(), got {self.payment!r}", field="payment"
            )
        if not issubclass(self.training.fitted_class, self.payment.pays_for):
            wanted = " or ".join(rule.__name__ for rule in self.payment.pays_for)
            raise CombinationError(
                f"{type(self.payment).__name__} pays for {wanted}, not {type(self.training).__name__}"
            )

    def fitted(self, space: PolicySpace[Any]) -> "Mechanism":
        """Return the mechanism with what its training rule finds out about a space before any report is heard."""
        training = self.training.fitted(space)
        return self if training is self.training else Mechanism(training, self.payment)

    def settle(
        self, reports: Sequence[Report | Group] | Mapping[str, Report | Group], space: PolicySpace[V]
    ) -> Settlement:
        """Train on the reports and charge for them. A group stands for its true report; a mapping is read in its order.

        Raises InputError when there is no report, a report does not fit the space, or float64 cannot hold the result.
        """
        said = tuple(reports.values()) if isinstance(reports, Mapping) else reports
        fitted = self.fitted(space)
        profile = read_profile(said, space, at_once=fitted.moves == "affine")
        return fitted.settle_profile(profile, space, tuple(said))

    def settle_profile(
        self, profile: Profile[V], space: PolicySpace[V], reports: tuple[Report | Group, ...] = ()
    ) -> Settlement:
        """Train and charge for reports that the space has read already; ``reports``: as they were before."""
        fitted = self.fitted(space)
        rule = fitted.training
        with np.errstate(all="ignore"):  # what comes out of an overflow is not finite, and refused
            train = rule.settle if rule.is_affine and not self.payment.is_free else rule.train
            return fitted.charge(Trained(rule, profile, space, train(profile, space)), reports)

    def charge(self, trained: Trained[Any], reports: tuple[Report | Group, ...] = ()) -> Settlement:
        """Charge for what the training rule has trained."""
        values = trained.values()
        payments = self.payment.charge(trained)
        if not (isinstance(payments, np.ndarray) and payments.dtype == np.float64):
            payments = numbers(payments, f"{type(self.payment).__name__}.charge")
        if payments.shape != values.shape:
            raise CombinationError(
                f"{type(self.payment).__name__}.charge must return one number per group, {list(values.shape)}, "
                f"got {list(payments.shape)}"
            )
        if not np.isfinite(values.sum() + payments.sum() + trained.policy.welfare).all():
            raise InputError("must have results that float64 can hold, got some that overflow it", field="reports")
        return Settlement(trained.policy, trained.sizes, values, payments, self, trained, reports)

    @property
    def moves(self) -> str | None:
        """How a report moves what its group earns (see PaymentRule), where an affine maximiser is trained."""
        return self.payment.own("moves") if self.training.is_affine else None


def read_profile(reports: Sequence[Report | Group], space: PolicySpace[V], *, at_once: bool = False) -> Profile[V]:
    """Return the reports in the space's coordinates; the message of an InputError names the report's position.

    at_once: whether values and payments follow before anybody can change an array, so that no copy is needed.
    """
    if not isinstance(reports, Sequence) or not reports:
        raise InputError(f"must be a list of at least one report, got {reports!r}", field="reports")
    rewards, checks = [], []
    for i, report in enumerate(reports):
        if not isinstance(report, Report | Group):
            raise InputError(f"report {i} must be a Report, such as Report([1, 0, 0], size=2), got {report!r}")
        try:
            reward, check = space.view(report.reward) if at_once else (space.read(report.reward), None)
        except InputError as error:
            raise InputError(f"report {i}: {error}") from error
        rewards.append(reward)
        checks += [] if check is None else [check]

    def unchanged() -> None:
        for check in checks:
            check()

    sizes = np.array([report.size for report in reports], dtype=np.float64)
    return Profile(tuple(rewards), sizes, unchanged if checks else None)


def settle_games(mechanism: Mechanism, rewards: Array, sizes: Array, space: PolicySpace[Any]) -> Settlement:
    """Settle B games at once on a space of games (``PolicySpace.many``): the same numbers as one by one.

    rewards: [B, n, m]. sizes: [n] or [B, n].
    """
    said = tuple(map(space.read, read_only(rewards.swapaxes(0, 1).copy())))
    return mechanism.settle_profile(Profile(said, np.broadcast_to(sizes, rewards.shape[:2]).T), space)


@final
@dataclass(frozen=True, eq=False)
class Settlements(Tabular):
    """What came of B games: policy [B, m]; sizes, payments, values of one member and utilities [B, n]; the rest [B]."""

    policy: Array
    sizes: Array
    payments: Array
    values: Array
    utilities: Array
    welfare: Array
    """Social welfare, sum_i w_i v_i(p)."""
    affine_welfare: Array
    """The maximised objective, less the regulariser."""
    divergence: Array

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each group of each game."""
        return _rows([], self.sizes, self.values, self.payments, self.utilities)


def _rows(names: Sequence[str], sizes: Array, values: Array, payments: Array, utilities: Array) -> list[dict[str, Any]]:
    """Return the rows of [n] numbers, or with the number of the game of [B, n] numbers. names: of groups, or none."""
    groups = payments.shape[-1]
    called = names or [f"group {i}" for i in range(groups)]
    members = np.broadcast_to(sizes, payments.shape).ravel().astype(int).tolist()
    money = zip(members, values.ravel().tolist(), payments.ravel().tolist(), utilities.ravel().tolist(), strict=True)
    return [
        {
            **({"game": k // groups} if payments.ndim > 1 else {}),
            "group": called[k % groups],
            **dict(zip(("size", "value", "payment", "utility"), row, strict=True)),
        }
        for k, row in enumerate(money)
    ]


def settle_many(
    rewards: ArrayLike,
    sizes: ArrayLike,
    reference: ArrayLike,
    regularizer: Regularizer,
    *,
    weights: ArrayLike | None = None,
    payment: PaymentRule[Any] | None = None,
    normalization: Normalization | str = Normalization.NONE,
) -> Settlements:
    """Settle B games of n groups over m outcomes at once: the same numbers as ``Mechanism.settle`` one by one.

    rewards: [B, n, m]. sizes: [n] or [B, n], integers >= 1. reference: [m] or [B, m]. weights: mu, [n], default 1.
    payment: default AffinePayments. normalization: the declared domain. Raises InputError on wrong shapes or numbers.
    """
    said = finite(rewards, "rewards")
    if said.ndim != 3 or said.size == 0:
        raise InputError(f"must be [games][groups][outcomes], got shape {list(said.shape)}", field="rewards")
    count, groups, outcomes = said.shape
    members, q = finite(sizes, "sizes"), finite(reference, "reference")
    if members.shape not in ((groups,), (count, groups)):
        raise InputError(f"must be [{groups}] or [{count}][{groups}], got shape {list(members.shape)}", field="sizes")
    wrong = (members < 1) | (members != np.floor(members))
    if wrong.any():
        raise InputError(f"must be integers >= 1, got {members[wrong][0]}", field="sizes")
    if q.shape not in ((outcomes,), (count, outcomes)):
        raise InputError(f"must be [{outcomes}] or [{count}][{outcomes}], got shape {list(q.shape)}", field="reference")
    space = Table(np.broadcast_to(q, (count, outcomes)), regularizer, normalization=normalization, games=True)
    training = SocialWelfare() if weights is None else AffineWelfare(weights)
    mechanism = Mechanism(training, AffinePayments() if payment is None else payment)
    settled = settle_games(mechanism, said, members, space)
    policy: Any = settled.policy
    return Settlements(
        policy.probabilities,
        settled.sizes,
        settled.payments,
        settled.values,
        settled.utilities,
        settled.social_welfare,
        settled.affine_social_welfare,
        policy.divergence,
    )
