"""Every theorem of the paper (arXiv:2405.16276) that the package relies on, with its conditions, as a test.

Each test that a property holds has its negative control: the same check finds the fault where a condition is missing or
a payment is wrong. Profiles are drawn from a seed; what is checked is exact up to the stated rounding.
"""

from collections.abc import Iterator

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.payments import PaymentRule
from tests.agents import brute
from tests.mechanism.wrong import WithoutTheRegularizer
from tests.strategies import regularizer

SHAPED = ["kl", "reverse_kl", "js", "hellinger"]
"""Regularisers under which every policy is interior, as Thm 3.3 needs (its condition is a differentiable psi)."""
ALL = [*SHAPED, "l2", "chi2", "alpha:3", "alpha:0.5"]
ROUNDING = 1e-11
"""Utilities are differences of numbers up to about 10, each right to about 1e-15 (the dual solves to 1e-12)."""


def games(count: int, outcomes: int, domain: str, least: float = 0.0) -> Iterator[tuple]:
    """Reference, three groups' rewards in a domain (entries from ``least``, then normalised), sizes, strength."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        rewards = least + (1 - least) * rng.random((3, outcomes))
        rewards /= rewards.sum(axis=1, keepdims=True) if domain == "sum" else rewards.max(axis=1, keepdims=True)
        yield rng.dirichlet(np.ones(outcomes)), rewards, rng.integers(1, 5, 3), float(10 ** rng.uniform(-1, 1)), rng


def utility(
    payment: PaymentRule,
    space: object,
    truth: tuple[np.ndarray, int],
    said: tuple[np.ndarray, int],
    others: list[rg.Report],
    training: object = None,
) -> float:
    """Size * v(p) - payment of the first group at its truth, from the settlement of what is said."""
    mechanism = rg.Mechanism(training or rg.SocialWelfare(), payment)
    settlement = mechanism.settle([rg.Report(said[0], int(said[1])), *others], space)
    return float(truth[1] * settlement.policy.values([space.read(truth[0])])[0] - settlement.payments[0])


def moved(reward: np.ndarray, step: float, domain: str) -> np.ndarray:
    """The winning report of Thm 3.3: favourite raised (where sums are fixed), least favourite lowered."""
    out = reward.copy()
    out[reward.argmin()] -= step
    if domain == "sum":
        out[reward.argmax()] += step
    return out


# ---- Thm 3.3: without payments truth is dominated ------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", SHAPED)
def test_without_payments_the_paper_s_lie_always_gains(name: str, domain: str) -> None:
    """Conditions of the later version: min r > 0 and at least two different rewards."""
    for reference, rewards, sizes, strength, _ in games(15, 4, domain, least=0.05):
        strength = max(strength, 0.5)  # weaker, and the least favourite's probability, so the gain, can be below 1e-16
        space = rg.Table(reference, regularizer(name, strength), normalization=domain)
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        truth = (rewards[0], int(sizes[0]))
        lie = moved(rewards[0], 0.5 * rewards[0].min(), domain)
        gain = utility(rg.NoPayments(), space, truth, (lie, sizes[0]), others) - utility(
            rg.NoPayments(), space, truth, truth, others
        )
        assert gain > 0


def test_the_counterexample_to_the_theorem_as_printed() -> None:
    """min r = 0: two outcomes, r = (1, 0), sum 1, true size 1 and no other size to claim. No report gains anything."""
    space = rg.Table([0.4, 0.6], rg.KL(0.5), normalization="sum")
    group, other = rg.Group("one", [1.0, 0.0]), rg.Report([0.3, 0.7], 2)
    values = [
        utility(rg.NoPayments(), space, (np.array([1.0, 0.0]), 1), (row, 1), [other])
        for row in brute.simplex_grid(2, 200)
    ]
    assert int(np.argmax(values)) == 200  # the truth, and nothing else
    world = rg.World(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), space, (other,), 0, 1)
    said = rg.BestResponse()(group, world, np.random.default_rng(0))
    assert np.asarray(said.reward).tolist() == [1.0, 0.0]


def test_a_uniform_reward_has_nothing_to_gain() -> None:
    """The other condition: with equal rewards every policy is worth the same."""
    space = rg.Table([0.4, 0.6], rg.KL(0.5), normalization="sum")
    truth = (np.array([0.5, 0.5]), 1)
    values = [
        utility(rg.NoPayments(), space, truth, (row, 3), [rg.Report([0.3, 0.7], 2)])
        for row in brute.simplex_grid(2, 20)
    ]
    np.testing.assert_allclose(values, 0.5, atol=1e-15)


def test_under_l2_a_group_that_has_its_favourite_gains_nothing() -> None:
    """The projection is not differentiable at a vertex, so Thm 3.3 does not apply there."""
    space = rg.Table([0.3, 0.3, 0.4], rg.SquaredL2(0.05), normalization="sum")
    truth = (np.array([0.7, 0.2, 0.1]), 3)
    others = [rg.Report([0.2, 0.5, 0.3], 1)]
    honest = utility(rg.NoPayments(), space, truth, truth, others)
    assert honest == pytest.approx(3 * 0.7, abs=1e-15)
    assert (
        max(utility(rg.NoPayments(), space, truth, (row, 3), others) for row in brute.simplex_grid(3, 20))
        <= honest + ROUNDING
    )


# ---- Thm 4.2: affine-maximiser payments ----------------------------------------------------------------------------


def largest_gain(payment: PaymentRule, name: str, domain: str, training: object = None) -> float:
    """Over games, reports of a grid, sizes and random reports: the largest gain over the truth."""
    worst = -np.inf
    grid = brute.simplex_grid(3, 4) if domain == "sum" else brute.max_grid(3, 2)
    for reference, rewards, sizes, strength, _ in games(4, 3, domain):
        space = rg.Table(reference, regularizer(name, strength), normalization=domain)
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        truth = (rewards[0], int(sizes[0]))
        honest = utility(payment, space, truth, truth, others, training)
        near = [moved(rewards[0], share * rewards[0].min(), domain) for share in (0.01, 0.1, 1.0)]
        for row in [*grid, *near]:
            for size in (1, int(sizes[0]), 9):
                worst = max(worst, utility(payment, space, truth, (row, size), others, training) - honest)
    return worst


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", ALL)
def test_truth_is_dominant_under_affine_payments(name: str, domain: str) -> None:
    assert largest_gain(rg.AffinePayments(), name, domain) <= ROUNDING


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
def test_truth_is_dominant_under_the_general_affine_maximiser(name: str) -> None:
    training = rg.AffineWelfare([0.4, 1.0, 3.0], [0.5, 0.0, 0.2])
    assert largest_gain(rg.AffinePayments(), name, "sum", training) <= ROUNDING


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
@pytest.mark.parametrize("payment", [rg.NoPayments(), WithoutTheRegularizer()])
def test_the_same_check_catches_wrong_payments(name: str, payment: PaymentRule) -> None:
    assert largest_gain(payment, name, "sum") > 1e-3


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", ALL)
def test_a_truthful_group_never_loses(name: str, domain: str) -> None:
    """IR: rewards >= 0 (with negative ones it fails, see test_audit); utility is at least size * min r, too."""
    for reference, rewards, sizes, strength, _ in games(6, 4, domain):
        space = rg.Table(reference, regularizer(name, strength), normalization=domain)
        reports = [rg.Report(row, int(size)) for row, size in zip(rewards, sizes, strict=True)]
        for payment, least in ((rg.AffinePayments(), sizes * rewards.min(axis=1)), (rg.RevenueOptimal(), np.zeros(3))):
            if isinstance(payment, rg.RevenueOptimal) and domain == "max" and name not in ("kl", "l2"):
                continue  # tries every outcome; covered by sum
            settlement = rg.Mechanism(rg.SocialWelfare(), payment).settle(reports, space)
            assert (settlement.utilities >= least - ROUNDING).all()
            assert (settlement.payments >= 0).all()


def welfare(name: str, strength: float, reference: np.ndarray, policy: np.ndarray, score: np.ndarray) -> float:
    cost = ((policy - reference) ** 2).sum() if name == "l2" else (policy * np.log(policy / reference)).sum()
    return float(policy @ score - strength * cost)


@pytest.mark.parametrize("name", ["kl", "l2"])
def test_payments_and_utilities_are_differences_of_maxima(name: str) -> None:
    """pay_i = max ASW_-i - ASW_-i(p*) and u_i = max ASW - max ASW_-i, from policies of another solver."""
    for reference, rewards, sizes, strength, _ in games(20, 4, "sum"):
        space = rg.Table(reference, regularizer(name, strength), normalization="sum")
        reports = [rg.Report(row, int(size)) for row, size in zip(rewards, sizes, strict=True)]
        settlement = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, space)
        shares = sizes[:, None] * rewards
        whole = shares.sum(axis=0)
        trained = brute.POLICIES[name]
        policy = trained(whole[None], reference, strength)[0]
        for i in range(3):
            rest = whole - shares[i]
            alone = welfare(name, strength, reference, trained(rest[None], reference, strength)[0], rest)
            cost = alone - welfare(name, strength, reference, policy, rest)
            assert settlement.payments[i] == pytest.approx(cost, abs=1e-10)
            gain = welfare(name, strength, reference, policy, whole) - alone
            assert settlement.utilities[i] == pytest.approx(gain, abs=1e-10)


# ---- Prop. 3.7, Thm 4.5: payment equivalence -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
def test_payments_are_fixed_by_the_rule_up_to_a_constant(name: str) -> None:
    """Between two types every DSIC payment differs by an amount in an interval, and it closes as types refine.

    Along the segment from r to r' the interval is [sum of v(p_k; .) differences from below, from above] (the two DSIC
    inequalities between neighbours, summed); its width falls like 1 / steps and the affine payments stay inside.
    """
    widths = []
    for reference, rewards, sizes, strength, _ in games(3, 4, "sum"):
        space = rg.Table(reference, regularizer(name, strength + 0.5), normalization="sum")
        others = [rg.Report(rewards[1], int(sizes[1]))]
        mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
        for steps in (8, 16, 32):
            types = [rewards[0] + t * (rewards[2] - rewards[0]) for t in np.linspace(0, 1, steps + 1)]
            settled = [mechanism.settle([rg.Report(row), *others], space) for row in types]
            policies = np.array([s.policy.probabilities for s in settled])
            change = np.diff(policies, axis=0)
            low, high = (float((change * np.array(ends)).sum()) for ends in (types[:-1], types[1:]))
            assert low - ROUNDING <= settled[-1].payments[0] - settled[0].payments[0] <= high + ROUNDING
            wrong = rg.Mechanism(rg.SocialWelfare(), WithoutTheRegularizer())
            ends = [wrong.settle([rg.Report(row), *others], space).payments[0] for row in (types[0], types[-1])]
            widths.append((steps, high - low, not low <= ends[1] - ends[0] <= high))
    by_steps = {steps: np.array([width for s, width, _ in widths if s == steps]) for steps in (8, 16, 32)}
    np.testing.assert_array_less(by_steps[32], by_steps[8] / 3)
    assert any(outside for steps, _, outside in widths if steps == 32)  # the wrong payment leaves the interval


# ---- Cor. 4.6: revenue-optimal payments ----------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["sum", "max"])
@pytest.mark.parametrize("name", ["kl", "l2"])
def test_no_dsic_and_ir_payments_take_more_than_revenue_optimal_ones(name: str, domain: str) -> None:
    """DSIC payments are the affine ones plus h_i(others) (Thm 4.5). IR of every type asks h_i <= its truthful utility;
    revenue-optimal payments take exactly the least of these: no type is below 0, and the least one is (nearly) at 0.
    """
    grid = brute.simplex_grid(3, 24) if domain == "sum" else brute.max_grid(3, 6)
    for reference, rewards, sizes, strength, _ in games(2, 3, domain):
        space = rg.Table(reference, regularizer(name, strength), normalization=domain)
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        utilities = [utility(rg.RevenueOptimal(), space, (row, 1), (row, 1), others) for row in grid]
        assert min(utilities) >= -ROUNDING
        assert min(utilities) <= 0.02  # what a grid this coarse misses of the least type
        most = rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal()).settle([rg.Report(rewards[0], 2), *others], space)
        affine = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(
            [rg.Report(rewards[0], 2), *others], space
        )
        assert (most.payments >= affine.payments).all()


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
def test_any_non_negative_dsic_payment_is_at_least_the_affine_one(name: str) -> None:
    """A uniform type moves nothing, so its affine payment is 0 and h_i >= 0 is what non-negativity asks."""
    for reference, rewards, sizes, strength, rng in games(10, 4, "sum"):
        space = rg.Table(reference, regularizer(name, strength), normalization="sum")
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
        size = int(rng.integers(1, 50))
        assert mechanism.settle([rg.Report([0.25] * 4, size), *others], space).payments[0] == pytest.approx(
            0, abs=1e-25
        )


# ---- Prop. 4.4: continuity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_policies_payments_and_utilities_are_continuous_in_the_reports(name: str) -> None:
    """A change of the report by e moves all of them by at most a constant times e, however small e is."""
    for reference, rewards, sizes, strength, rng in games(5, 4, "sum"):
        space = rg.Table(reference, regularizer(name, strength))
        mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        direction = rng.normal(size=4)

        numbers = []
        for step in (0.0, 1e-2, 1e-4, 1e-6):
            settlement = mechanism.settle([rg.Report(rewards[0] + step * direction, int(sizes[0])), *others], space)
            parts = (settlement.policy.probabilities, settlement.payments, settlement.utilities)
            numbers.append(np.concatenate(parts))
        moves = np.array([np.abs(moved_by - numbers[0]).max() for moved_by in numbers[1:]])
        assert (np.diff(moves) <= 0).all()
        assert moves[1] <= 1e-4 * (moves[0] / 1e-2) * 20 + ROUNDING
        assert moves[2] <= 1e-6 * (moves[0] / 1e-2) * 20 + ROUNDING


# ---- Section 4.2: approximate valuations ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("error", [0.01, 0.2])
def test_welfare_lost_to_noisy_valuations_is_bounded(name: str, error: float) -> None:
    """Lemma 4.8: the policy trained on rewards off by at most e loses at most 2 e sum w of affine welfare.

    (As printed, its left side has psi of the true reports, which is trivial; it must be psi of the noisy ones.)
    """
    used = 0.0
    for reference, rewards, sizes, strength, rng in games(15, 4, "sum"):
        space = rg.Table(reference, regularizer(name, strength))
        noisy = rewards + error * rng.choice([-1.0, 1.0], rewards.shape)
        weights = sizes.astype(float)
        best = space.maximize(weights, [space.read(row) for row in rewards])
        trained = space.maximize(weights, [space.read(row) for row in noisy])
        score = weights @ rewards
        policy = trained.probabilities
        lost = best.welfare - (policy @ score - strength * trained.divergence)
        assert -ROUNDING <= lost <= 2 * error * weights.sum() + ROUNDING
        used = max(used, lost / (2 * error * weights.sum()))
    assert used > 1e-5  # the bound is about something


@pytest.mark.parametrize("name", ["kl", "l2", "js"])
@pytest.mark.parametrize("error", [0.01, 0.2])
def test_the_gain_of_a_lie_under_noisy_valuations_is_bounded(name: str, error: float) -> None:
    """Thm 4.9: sizes truthful, what the mechanism sees off by at most e: a lie gains at most 2 w_i e."""
    most = 0.0
    for reference, rewards, sizes, strength, rng in games(6, 3, "sum"):
        space = rg.Table(reference, regularizer(name, strength))
        others = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        truth = (rewards[0], int(sizes[0]))
        seen = (rewards[0] + error * rng.choice([-1.0, 1.0], 3), truth[1])
        honest = utility(rg.AffinePayments(), space, truth, seen, others)
        for row in [rewards[0], *brute.simplex_grid(3, 8)]:
            gain = utility(rg.AffinePayments(), space, truth, (row, truth[1]), others) - honest
            assert gain <= 2 * truth[1] * error + ROUNDING
            most = max(most, gain / (2 * truth[1] * error))
    assert most > 1e-4  # with noise there are lies that gain
