"""Certificates from samples are valid at their level when the truth is known, and as tight as they say."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.certificates import (
    certified_gap,
    certified_gap_of_samples,
    certified_payments,
    delivered_welfare,
    max_welfare,
    mean_interval,
)

LEVEL = 0.95
REPETITIONS = 2000
MISSES = 130
"""Of 2000 at a level of 95 %: 100 are expected, and more than 130 have a probability of 0.1 %."""


class _Game:
    """Eight outcomes, three groups, KL; the delivered policy is the optimum for a part of the score."""

    def __init__(self, strength: float, part: float) -> None:
        rng = np.random.default_rng(3)
        self.strength = strength
        self.reference = rng.dirichlet(np.ones(8))
        self.rewards, self.sizes = rng.random((3, 8)), np.array([1.0, 2.0, 1.0])
        self.score = self.sizes @ self.rewards
        self.policy = self._gibbs(part)
        self.best = self._gibbs(1.0)
        with np.errstate(divide="ignore"):
            self.log_ratio = np.log(self.policy / self.reference)
        self.bounds = (0.0, 4.0)  # what is known: rewards in [0, 1], four members
        self.ratio_bounds = (-4.0 * part / strength, 4.0 * part / strength)
        self.welfare = float(self.policy @ (self.score - strength * self.log_ratio))
        self.max_welfare = strength * float(np.log(self.reference @ np.exp(self.score / strength)))
        self.gap = strength * float(self.policy @ np.log(self.policy / self.best))

    def _gibbs(self, part: float) -> np.ndarray:
        p = self.reference * np.exp(part * self.score / self.strength)
        return np.asarray(p / p.sum())


@pytest.mark.parametrize("chance", [0.5, 0.02, 0.001])
@pytest.mark.parametrize("count", [20, 400])
def test_the_mean_is_inside_at_least_as_often_as_stated(chance: float, count: int) -> None:
    """Rare events are the hard case: a normal interval misses them far more often (the negative control)."""
    rng = np.random.default_rng(int(1e4 * chance) + count)
    normal = 0
    missed = 0
    for _ in range(REPETITIONS):
        x = (rng.random(count) < chance).astype(float)
        missed += not mean_interval(x, (0.0, 1.0), LEVEL).contains(chance)
        normal += abs(x.mean() - chance) > 1.96 * x.std(ddof=1) / np.sqrt(count)
    assert missed <= MISSES
    if chance * count < 10:
        assert normal > MISSES


def test_the_empirical_bernstein_bound_takes_over_where_the_variance_is_small() -> None:
    rng = np.random.default_rng(0)
    still, noisy = 0.5 + 0.01 * rng.random(2000), rng.integers(0, 2, 2000).astype(float)
    assert mean_interval(still, (0, 1), LEVEL).width < 0.3 * mean_interval(noisy, (0, 1), LEVEL).width
    hoeffding = np.sqrt(np.log(4 / 0.05) / 4000)
    assert mean_interval(noisy, (0, 1), LEVEL).width == pytest.approx(2 * hoeffding)


@pytest.mark.parametrize(("strength", "part", "count"), [(2.0, 0.6, 300), (1.0, 0.8, 2000), (2.0, 1.0, 100)])
def test_the_certificate_bounds_the_gap_at_its_level(strength: float, part: float, count: int) -> None:
    game = _Game(strength, part)
    rng = np.random.default_rng(17)
    missed = np.zeros(4, dtype=int)
    for _ in range(REPETITIONS):
        said, heard = rng.choice(8, count, p=game.reference), rng.choice(8, count, p=game.policy)
        best = max_welfare(game.score[said], strength, game.bounds, level=LEVEL)
        own = (game.score[heard], game.log_ratio[heard], strength, game.bounds, game.ratio_bounds)
        held = delivered_welfare(*own, level=LEVEL)
        gap = certified_gap(game.score[said], *own, level=LEVEL)
        alone = certified_gap_of_samples(*own, level=LEVEL)
        truths = (game.max_welfare, game.welfare, game.gap, game.gap)
        missed += [
            not e.contains(truth, slack=1e-12) for e, truth in zip((best, held, gap, alone), truths, strict=True)
        ]
    assert (missed <= MISSES).all(), missed
    assert gap.high < 4.0  # the bounds alone would say 4: the samples say something


def test_an_invalid_certificate_would_be_caught() -> None:
    """The negative control: with the plug-in numbers in place of the ends, the same test fails."""
    game = _Game(2.0, 0.6)
    rng = np.random.default_rng(17)
    missed = 0
    for _ in range(REPETITIONS):
        said, heard = rng.choice(8, 300, p=game.reference), rng.choice(8, 300, p=game.policy)
        own = (game.score[heard], game.log_ratio[heard], 2.0, game.bounds, game.ratio_bounds)
        missed += float(certified_gap(game.score[said], *own).value) < game.gap
    assert missed > MISSES


def test_the_certificate_of_the_policys_own_samples_closes_like_one_over_n_at_the_optimum() -> None:
    game = _Game(2.0, 1.0)
    rng = np.random.default_rng(2)
    ends = []
    for count in (1_000, 10_000, 100_000):
        heard = rng.choice(8, count, p=game.policy)
        own = (game.score[heard], game.log_ratio[heard], 2.0, game.bounds, game.ratio_bounds)
        ends.append(float(certified_gap_of_samples(*own).high))
    assert ends[1] < ends[0] / 6
    assert ends[2] < ends[1] / 6
    both = certified_gap(game.score[rng.choice(8, 100_000, p=game.reference)], *own)
    assert ends[2] < both.high


@pytest.mark.parametrize("strength", [0.4, 2.0])
def test_certified_payments_hold_even_where_the_samples_mislead(strength: float) -> None:
    game = _Game(strength, 1.0)
    table = rg.Table(game.reference, rg.KL(strength))
    reports = [rg.Report(row, int(w)) for row, w in zip(game.rewards, game.sizes, strict=True)]
    truth = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, table).payments
    rng = np.random.default_rng(5)
    missed = np.zeros(3, dtype=int)
    for _ in range(REPETITIONS):
        heard = rng.choice(8, 200, p=game.policy)
        payments = certified_payments(game.rewards[:, heard], game.sizes, strength, (0.0, 1.0), level=LEVEL)
        missed += (payments.low > truth) | (truth > payments.high)
    assert (missed <= MISSES).all()


def test_prompts_share_the_level_and_are_averaged_by_weight() -> None:
    game = _Game(2.0, 0.6)
    rng = np.random.default_rng(8)
    scores = game.score[rng.choice(8, (2, 500), p=game.reference)]
    weighted = max_welfare(scores, 2.0, game.bounds, prompt_weights=[3, 1])
    each = [max_welfare(row, 2.0, game.bounds, level=0.975) for row in scores]
    assert weighted.high == pytest.approx(0.75 * each[0].high + 0.25 * each[1].high, rel=1e-12)
    assert weighted.level == 0.95


def test_certificates_refuse_what_they_cannot_bound() -> None:
    with pytest.raises(rg.InputError, match="samples must be within"):
        mean_interval([0.5, 1.5], (0, 1), LEVEL)
    with pytest.raises(rg.InputError, match="at least two"):
        mean_interval([0.5], (0, 1), LEVEL)
    with pytest.raises(rg.InputError, match="level must be between 0 and 1"):
        max_welfare([0.5, 0.6], 1.0, (0, 1), level=1.0)
    with pytest.raises(rg.InputError, match="bounds must be two finite numbers"):
        delivered_welfare([0.5, 0.6], [0.0, 0.1], 1.0, (0, 1), (-np.inf, 0.0))


def test_the_reach_without_variance_is_that_of_the_theorem_by_hand() -> None:
    """Maurer and Pontil: 7 log(2 / d) / (3 (N - 1)) with d = 0.05 / 4: two sides, and half of each for this bound."""
    still = mean_interval(np.full(1001, 0.5), (0.0, 1.0), 0.95)
    assert still.high - still.value == pytest.approx(7 * np.log(2 * 4 / 0.05) / 3000)
    assert still.value - still.low == pytest.approx(still.high - still.value)


def test_the_certificate_is_the_upper_end_of_one_interval_minus_the_lower_end_of_the_other() -> None:
    game = _Game(1.0, 0.8)
    rng = np.random.default_rng(9)
    said, heard = rng.choice(8, 3000, p=game.reference), rng.choice(8, 3000, p=game.policy)
    own = (game.score[heard], game.log_ratio[heard], 1.0, game.bounds, game.ratio_bounds)
    best, held = max_welfare(game.score[said], 1.0, game.bounds), delivered_welfare(*own)
    gap = certified_gap(game.score[said], *own)
    assert gap.high == pytest.approx(float(best.high - held.low), rel=1e-12)
    assert gap.low == 0.0
