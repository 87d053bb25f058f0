"""What a user gives wrongly in Python is said in one sentence that names the argument."""

from collections.abc import Callable

import pytest

from rlhf_game import KL, AffinePayments, Mechanism, NoPayments, Report, SocialWelfare, Table
from rlhf_game.errors import CombinationError, InputError

TABLE = Table([0.5, 0.5], KL(1.0))
MECHANISM = Mechanism(SocialWelfare(), AffinePayments())


MISTAKES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Mechanism(AffinePayments(), SocialWelfare()), CombinationError, "training must be"),
    (lambda: Mechanism(SocialWelfare, NoPayments()), CombinationError, "training must be"),
    (lambda: Mechanism(SocialWelfare(), NoPayments), CombinationError, "payment must be"),
    (lambda: Table([0.5, 0.5], 1), InputError, "regularizer must be"),
    (lambda: Table(0.5, KL(1.0)), InputError, "reference must be"),
    (lambda: MECHANISM.settle([], TABLE), InputError, "reports must be"),
    (lambda: MECHANISM.settle(Report([1, 0]), TABLE), InputError, "reports must be"),
    (lambda: MECHANISM.settle([[1, 0]], TABLE), InputError, "report 0 must be"),
    (lambda: MECHANISM.settle([Report([1, 0]), Report([1])], TABLE), InputError, "report 1: reward"),
    (lambda: KL(0), InputError, "strength must be"),
    (lambda: Report([1, 0], size=0), InputError, "size must be"),
]


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_mistakes_at_the_door(number: int) -> None:
    mistake, error, words = MISTAKES[number]
    with pytest.raises(error, match=words):
        mistake()
