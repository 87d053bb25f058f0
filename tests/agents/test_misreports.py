"""Simple lies: hand-computed values, the declared domain, batches equal to one at a time, and what is refused."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.misreports import (
    Blend,
    Indifferent,
    Noisy,
    Polarize,
    RaiseAndLower,
    Resize,
    RewardMisreport,
    Scale,
    Truthful,
)
from rlhf_game.mechanism.domains import FixedSum, MaxOne

MECHANISM = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
RNG = np.random.default_rng(0)
SUM = FixedSum(np.zeros(1), np.ones(1))
LIES: list[RewardMisreport] = [Polarize(4), Polarize(0.5), RaiseAndLower(0.05), Indifferent(), Noisy(0.2)]


def world(normalization: str = "sum", others: tuple[rg.Report, ...] = (), limit: int = 10) -> rg.World:
    return rg.World(MECHANISM, rg.Table([0.2, 0.3, 0.5], rg.KL(1), normalization=normalization), others, 0, limit)


@pytest.mark.parametrize(
    ("lie", "truth", "said"),
    [
        (Polarize(2), [0.2, 0.3, 0.5], [4 / 38, 9 / 38, 25 / 38]),
        (Polarize(1), [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        (Polarize(1e6), [0.2, 0.3, 0.5], [0, 0, 1]),
        (Polarize(3), [0, 0, 1], [0, 0, 1]),
        (RaiseAndLower(0.05), [0.2, 0.3, 0.5], [0.15, 0.3, 0.55]),
        (RaiseAndLower(0.5), [0.2, 0.3, 0.5], [0, 0.3, 0.7]),
        (RaiseAndLower(0.5), [0, 0.4, 0.6], [0, 0.4, 0.6]),
        (RaiseAndLower(0.5), [1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]),
        (Indifferent(), [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_hand_computed_lies(lie: RewardMisreport, truth: list[float], said: list[float]) -> None:
    np.testing.assert_allclose(lie.distort(np.array([truth]), SUM, RNG), [said], atol=1e-15)


def test_with_maximum_one_the_least_favourite_is_lowered() -> None:
    said = RaiseAndLower(0.1).distort(np.array([[0.3, 1.0, 0.5]]), MaxOne(np.zeros(1)), RNG)
    np.testing.assert_allclose(said, [[0.2, 1.0, 0.5]], atol=1e-15)


@pytest.mark.parametrize("normalization", ["none", "sum", "max"])
@pytest.mark.parametrize("lie", [*LIES, Blend(0.5, 0), Blend(-0.7, 0), Resize(3), Resize(0.01), Truthful()], ids=repr)
def test_every_lie_stays_in_the_domain(lie: rg.BestResponse, normalization: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        rewards = rng.random((2, 3))
        rewards /= {"none": 1, "sum": rewards.sum(axis=1, keepdims=True), "max": rewards.max(axis=1, keepdims=True)}[
            normalization
        ]
        here = world(normalization, (rg.Report(rewards[1]),))
        report = lie(rg.Group("one", rewards[0], 4), here, rng)
        here.space.read(report.reward)
        assert 1 <= report.size <= 10
        assert np.min(report.reward) >= 0
        if normalization == "none":
            assert np.sum(report.reward) == pytest.approx(rewards[0].sum())


@pytest.mark.parametrize("lie", LIES[:-1], ids=repr)
def test_a_batch_is_one_array_operation(lie: RewardMisreport) -> None:
    truths = np.random.default_rng(2).dirichlet(np.ones(4), (7, 5))
    domain = FixedSum(np.zeros(5), np.ones(5))
    batch = lie.distort(truths, domain, RNG)
    for games, said in zip(truths, batch, strict=True):
        np.testing.assert_array_equal(lie.distort(games, domain, RNG), said)


def test_lies_about_the_size() -> None:
    group = rg.Group("one", [0.2, 0.3, 0.5], 4)
    sizes = {factor: Resize(factor)(group, world(), RNG).size for factor in (0.01, 0.5, 1, 2, 100)}
    assert sizes == {0.01: 1, 0.5: 2, 1: 4, 2: 8, 100: 10}


def test_scale_is_a_size_where_no_domain_is_declared() -> None:
    group, other = rg.Group("one", [0.2, 0.3, 0.5], 2), rg.Report([1, 0, 0])
    free = world("none", (other,))
    scaled = free.settle(Scale(3)(group, free, RNG))
    resized = free.settle(Resize(3)(group, free, RNG))
    np.testing.assert_allclose(scaled.payments, resized.payments, rtol=1e-12)
    with pytest.raises(rg.CombinationError, match="normalization sum"):
        Scale(3)(group, world("sum", (other,)), RNG)


def test_blending_with_a_report_on_another_scale() -> None:
    group, other = rg.Group("one", [0.2, 0.3, 0.5]), rg.Report([10, 0, 10])
    said = Blend(1.0, 0)(group, world("none", (other,)), RNG).reward
    np.testing.assert_allclose(said, [0.5, 0, 0.5], atol=1e-12)
    with pytest.raises(rg.InputError, match="other must be one of the 0 other groups"):
        Blend(1.0, 0)(group, world(), RNG)


@pytest.mark.parametrize("make", [Polarize, RaiseAndLower, Noisy, Scale, Resize])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_must_be_positive(make: type, value: float) -> None:
    with pytest.raises(rg.InputError, match="must be a finite number > 0"):
        make(value)


def test_every_strategy_says_what_it_uses() -> None:
    for strategy in (*LIES, Blend(), Resize(), Scale(), Truthful(), rg.BestResponse()):
        assert strategy.uses


def test_noise_is_reproducible_and_of_the_stated_scale() -> None:
    truth = np.tile([[0.25, 0.25, 0.2, 0.3]], (1, 1))
    wide = rg.Table(np.full(4, 0.25), rg.KL(1)).coordinates(truth).domains((truth,))[0]
    lie = Noisy(0.1)
    again = [lie.distort(truth, wide, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*again)
    moved = np.concatenate([lie.distort(truth, wide, RNG) - truth for _ in range(4000)])
    # noise of 0.1 * range = 0.01 per entry, minus its mean (the sum is kept): deviation 0.01 sqrt(3 / 4)
    assert moved.std() == pytest.approx(0.01 * np.sqrt(0.75), rel=0.05)  # 16,000 numbers
