"""Stopped training is what its steps do; H1 and H2 have the signs, limits and incentives that are claimed for them."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.noise import worst_loss
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.rules.stopped_training import CheckpointPayments, StoppedPayments, StoppedTraining


def _game(seed: int, outcomes: int = 6, prompts: int = 2) -> tuple[np.ndarray, list[rg.Report]]:
    rng = np.random.default_rng(seed)
    reference = rng.dirichlet(np.ones(outcomes), size=prompts)
    return reference, [rg.Report(rng.random((prompts, outcomes)), int(rng.integers(1, 4))) for _ in range(3)]


def _utility(
    training: StoppedTraining, payment: PaymentRule, truth: rg.Report, said: list[rg.Report], table: rg.Table
) -> float:
    settled = rg.Mechanism(training, payment).settle(said, table)
    return truth.size * float(settled.policy.values([table.read(truth.reward)])[0]) - float(settled.payments[0])


def test_checkpoints_are_what_mirror_descent_reaches_step_by_step() -> None:
    reference, reports = _game(0)
    strength, training = 0.4, StoppedTraining(7, rate=0.3)
    score = sum(report.size * np.asarray(report.reward) for report in reports)
    log_p = np.log(reference)
    learning_rate = training.rate / strength
    for _ in range(training.steps):
        gradient = score - strength * (log_p - np.log(reference))
        log_p = log_p + learning_rate * gradient  # of <p, s> - strength * KL, up to a constant per prompt
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    policy = rg.Mechanism(training, rg.NoPayments()).settle(reports, rg.Table(reference, rg.KL(strength))).policy
    np.testing.assert_allclose(policy.probabilities, np.exp(log_p), rtol=1e-12)


@pytest.mark.parametrize("regularizer", [rg.KL(0.4), rg.SquaredL2(0.4), rg.Hellinger(0.4)], ids=str)
def test_more_steps_leave_a_smaller_gap_and_enough_of_them_none(regularizer: object) -> None:
    reference, reports = _game(1)
    table = rg.Table(reference, regularizer)
    gaps = [
        rg.Mechanism(StoppedTraining(t), rg.NoPayments()).settle(reports, table).policy.gap
        for t in (0, 1, 3, 9, 27, 400)
    ]
    assert all(more >= fewer for more, fewer in zip(gaps, gaps[1:], strict=False))
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-20


@pytest.mark.parametrize("seed", range(4))
def test_both_heuristics_tend_to_the_affine_payments(seed: int) -> None:
    reference, reports = _game(seed)
    table = rg.Table(reference, rg.KL(0.5))
    affine = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, table).payments
    h2 = rg.Mechanism(StoppedTraining(400), StoppedPayments(400)).settle(reports, table).payments
    np.testing.assert_allclose(h2, affine, rtol=1e-9)
    h1 = rg.Mechanism(StoppedTraining(400), CheckpointPayments()).settle(reports, table).payments
    assert (h1 >= 0).all()
    assert (h1 <= affine + 1e-12).all()  # the best checkpoint is no better than the best policy
    assert h1.sum() < 0.999 * affine.sum()


def test_checkpoint_payments_are_never_negative_and_stopped_ones_can_be() -> None:
    signs = []
    for seed in range(30):
        reference, reports = _game(seed)
        table = rg.Table(reference, rg.KL(0.5))
        training = StoppedTraining(40)
        assert (rg.Mechanism(training, CheckpointPayments()).settle(reports, table).payments >= 0).all()
        signs.append(rg.Mechanism(training, StoppedPayments(2)).settle(reports, table).payments.min() < 0)
    assert any(signs)


def test_stopped_payments_leave_no_lie_more_than_the_gap_and_checkpoint_payments_do() -> None:
    """H2 keeps the certificate regret <= gap. H1 does not: here a lie gains more than the gap of the training."""
    beyond = []
    for seed in range(4):
        reference, reports = _game(seed, outcomes=4, prompts=1)
        table = rg.Table(reference, rg.KL(0.5))
        training = StoppedTraining(25, rate=0.3)
        gap = rg.Mechanism(training, rg.NoPayments()).settle(reports, table).policy.gap
        rng = np.random.default_rng(seed)
        lies = [
            rg.Report(row[None], reports[0].size)
            for row in [*np.eye(4), *rng.random((30, 4)), *(1.5 * rng.random((30, 4)))]
        ]
        for payment in (StoppedPayments(3), CheckpointPayments()):
            honest = _utility(training, payment, reports[0], reports, table)
            gain = max(_utility(training, payment, reports[0], [lie, *reports[1:]], table) for lie in lies) - honest
            if isinstance(payment, StoppedPayments):
                assert gain <= gap + 1e-12
            else:
                beyond.append(gain > gap + 1e-4)
    assert any(beyond)


def test_the_heuristics_pay_for_stopped_training_only() -> None:
    for payment in (CheckpointPayments(), StoppedPayments(3)):
        with pytest.raises(rg.CombinationError, match="pays for StoppedTraining, not SocialWelfare"):
            rg.Mechanism(rg.SocialWelfare(), payment)
    with pytest.raises(rg.InputError, match="steps must be >= 0"):
        StoppedTraining(-1)


@pytest.mark.parametrize("regularizer", [rg.KL, rg.SquaredL2, rg.JensenShannon])
def test_noise_loses_no_more_than_the_theorem_allows_and_nearly_that_when_the_strength_is_small(
    regularizer: type,
) -> None:
    rng = np.random.default_rng(3)
    reference, weights = np.full(4, 0.25), np.array([2.0, 1.0])
    ratios = []
    for strength in (1e-4, 0.1, 10.0):
        for error in (1e-3, 0.1):
            gap_free = np.array([[0.5, 0.5, 0.0, 0.0], [0.3, 0.3 - 3.99 * error, 0.0, 0.0]])
            for rewards in (gap_free, rng.random((2, 4))):
                loss, _ = worst_loss(regularizer(strength), reference, weights, rewards, 2.0, error)
                assert 0 <= loss <= 2 * 2.0 * error + 1e-12  # Thm 4.9 for group 0
                total, _ = worst_loss(regularizer(strength), reference, weights, rewards, 3.0, error)
                assert total <= 2 * 3.0 * error + 1e-12  # Lemma 4.8
                ratios.append(loss / (4 * error))
    assert max(ratios) > 0.95  # the bound is attained
    assert min(ratios) < 0.01


def test_the_loss_by_noise_is_the_gain_of_the_best_report() -> None:
    """A group whose truth is heard as r + d gains, by having r heard instead, exactly what the noise lost."""
    rng = np.random.default_rng(5)
    reference, rewards, error = rng.dirichlet(np.ones(4)), rng.random((2, 4)), 0.1
    table = rg.Table(reference, rg.KL(0.3))
    loss, noise = worst_loss(rg.KL(0.3), reference, np.array([3.0, 1.0]), rewards, 3.0, error)
    utilities = []
    for heard in (rewards[0], rewards[0] + noise):
        said = [rg.Report(heard, 3), rg.Report(rewards[1])]
        settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(said, table)
        utilities.append(3 * float(settled.policy.values([table.read(rewards[0])])[0]) - settled.payments[0])
    assert utilities[0] - utilities[1] == pytest.approx(loss, rel=1e-9)
