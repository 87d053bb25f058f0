"""The contract of training and payment rules, run on every one of them with what it goes with."""

from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.participation import Participation, ParticipationPayments
from rlhf_game.mechanism.payments import WithFee
from rlhf_game.mechanism.rules.learned import LearnedWelfare
from rlhf_game.mechanism.rules.social_choice import MaximalLottery, NashFeedback, RandomDictatorship
from rlhf_game.mechanism.rules.stopped_training import CheckpointPayments, StoppedPayments, StoppedTraining
from rlhf_game.mechanism.rules.welfare_rules import AlphaFair, Egalitarian, EqualSay, NashWelfare, PolicyMedian
from rlhf_game.mechanism.several import ModelPayments, SeveralModels

FREE = rg.NoPayments()
AFFINE = rg.AffinePayments()
PAIRS: list[tuple[Any, Any]] = [
    (rg.SocialWelfare(), AFFINE),
    (rg.SocialWelfare(), rg.RevenueOptimal()),
    (rg.SocialWelfare(), WithFee(AFFINE, 0.1)),
    (rg.AffineWelfare([2.0, 2.0, 2.0], [0.1, 0.0, 0.3, 0.0]), AFFINE),
    (LearnedWelfare([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]]), AFFINE),
    (Participation(rg.SocialWelfare(), 0.01), ParticipationPayments()),
    (SeveralModels(rg.SocialWelfare(), 2, 0.01), ModelPayments()),
    (StoppedTraining(6), CheckpointPayments()),
    (StoppedTraining(6), StoppedPayments(3)),
    *((rule, FREE) for rule in (NashWelfare(), AlphaFair(0.5), Egalitarian(), EqualSay(), PolicyMedian())),
    *((rule, FREE) for rule in (RandomDictatorship(), MaximalLottery(), NashFeedback())),
]
SYMMETRIC = [pair for pair in PAIRS if not isinstance(pair[0], LearnedWelfare)]  # it knows who is who
SPACE = rg.Table([0.4, 0.3, 0.2, 0.1], rg.KL(0.5), normalization="sum")


def game(seed: int) -> list[rg.Report]:
    rng = np.random.default_rng(seed)
    return [rg.Report(rng.dirichlet(np.ones(4)), int(size)) for size in rng.integers(1, 5, 3)]


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}"[:60])
def mechanism(request: pytest.FixtureRequest) -> rg.Mechanism:
    return rg.Mechanism(*request.param)


def test_a_settlement_has_a_number_for_each_group(mechanism: rg.Mechanism) -> None:
    settled = mechanism.settle(game(0), SPACE)
    assert settled.values.shape == settled.payments.shape == settled.utilities.shape == (3,)
    assert np.isfinite([*settled.values, *settled.payments, settled.policy.welfare]).all()
    assert ((settled.values >= -1e-12) & (settled.values <= 1 + 1e-12)).all()
    assert settled.trained.rule is settled.mechanism.training
    assert type(settled.trained.rule) is mechanism.training.fitted_class


def test_the_same_reports_give_the_same_bits(mechanism: rg.Mechanism) -> None:
    first, second = (mechanism.settle(game(1), SPACE) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.payments, second.payments)


@pytest.mark.parametrize("pair", SYMMETRIC, ids=lambda pair: f"{pair[0]}-{pair[1]}"[:60])
def test_who_comes_first_makes_no_difference(pair: tuple[Any, Any]) -> None:
    mechanism, reports, order = rg.Mechanism(*pair), game(2), [2, 0, 1]
    before, after = (mechanism.settle(said, SPACE) for said in (reports, [reports[i] for i in order]))
    np.testing.assert_allclose(after.values, before.values[order], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(after.payments, before.payments[order], rtol=1e-6, atol=1e-9)


def test_what_is_proved_holds(mechanism: rg.Mechanism) -> None:
    """An audit with a few lies raises RunError where one gains more than the rule proves."""
    groups = [rg.Group(f"g{i}", report.reward, report.size) for i, report in enumerate(game(3))]
    lies = [rg.Polarize(4.0), rg.Resize(2.0), rg.Resize(0.5)]
    for regret in rg.audit(mechanism, groups, SPACE, lies):
        is_paid = not isinstance(mechanism.payment, rg.NoPayments | CheckpointPayments | StoppedPayments)
        assert (regret.bound is not None) == is_paid
