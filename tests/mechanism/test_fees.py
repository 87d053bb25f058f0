"""The fee that stops false names: the lemma, the constant, what is sharp, what searches find, and where it ends."""

from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from rlhf_game import KL, AffinePayments, AffineWelfare, Mechanism, Menu, Report, SquaredL2, Table
from rlhf_game.errors import InputError
from rlhf_game.mechanism.fees import false_name_fee, general_false_name_fee, log_cosh_ratio

Array = NDArray[np.float64]
STRENGTH = 0.5


def bills(
    q: Array, others: list[tuple[Array, int]], names: list[tuple[Array, int]], mu: float = 1.0
) -> tuple[Any, float]:
    """The policy, and what the names pay together."""
    rule = AffineWelfare([1.0] * len(others) + [mu] * len(names))
    reports = [Report(reward, size) for reward, size in [*others, *names]]
    out = Mechanism(rule, AffinePayments()).settle(reports, Table(q, KL(STRENGTH)))
    return out.policy.probabilities, float(out.payments[len(others) :].sum())


def test_the_constants_of_the_theory() -> None:
    """Theory section 16: strength .5; W = 3, 4 with weight 1, and W = 3 with weight .5."""
    assert false_name_fee(0.5, 3, integer=False) == pytest.approx(0.855440, abs=5e-7)
    assert false_name_fee(0.5, 3) == pytest.approx(0.735326, abs=5e-7)
    assert false_name_fee(0.5, 4) == pytest.approx(1.325003, abs=5e-7)
    assert false_name_fee(0.5, 3, weight=0.5, integer=False) == pytest.approx(0.516532, abs=5e-7)
    assert false_name_fee(0.5, 1) == 0.0  # one member cannot be two
    assert general_false_name_fee(3, width=2.0) == 3.0


@pytest.mark.parametrize("a", [1e-9, 1e-3, 0.5, 3.0, 19.9, 20.1, 700.0, 1e5])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_the_ratio_of_cosines_keeps_its_digits(a: float, share: float) -> None:
    b = a * share
    with mpmath.workdps(60):
        exact = mpmath.log(mpmath.cosh(mpmath.mpf(a)) / mpmath.cosh(mpmath.mpf(b)))
        assert log_cosh_ratio(a, b) == pytest.approx(float(exact), rel=1e-12)


def test_the_lemma_on_random_variables() -> None:
    """E[uv] <= K E[u] E[v] over two- and three-valued variables, with equality reached at the proof's own point."""
    rng = np.random.default_rng(16)
    worst = 0.0
    for _ in range(4000):
        a, b = rng.uniform(0, 6, 2)
        low = np.exp([-a, -b])
        p = rng.dirichlet(np.full(4, 0.4))
        u = np.where(rng.random(4) < 0.5, 1.0, rng.uniform(low[0], 1, 4) ** rng.integers(1, 2))
        v = np.where(rng.random(4) < 0.5, 1.0, rng.uniform(low[1], 1, 4))
        if rng.random() < 0.5:
            u, v = np.where(u < 1, low[0], 1.0), np.where(v < 1, low[1], 1.0)
        constant = (np.cosh((a + b) / 4) / np.cosh((a - b) / 4)) ** 2
        ratio = (p @ (u * v)) / (p @ u) / (p @ v)
        assert ratio <= constant * (1 + 1e-12)
        worst = max(worst, ratio / constant)
    assert worst > 0.9
    big, small = np.exp(-1.0), np.exp(-3.0)
    t = np.sqrt(big * small)
    p = np.array([t, big * small]) / (t + big * small)  # mass on (1, 1) and on (A, B), up to what the proof leaves free
    x, y = (t + big) / (1 + t), (t + small) / (1 + t)
    assert (t + big * small) / (1 + t) / x / y == pytest.approx((np.cosh(1.0) / np.cosh(0.5)) ** 2, rel=1e-12)


def test_the_constant_is_the_least_one() -> None:
    """Two halves of r in {0, 1} gain F - f exactly where the policy without them has odds exp(-mu W / (2 strength))."""
    width = 4
    odds = np.exp(-width / (2 * STRENGTH))
    q = np.array([1.0, odds]) / (1 + odds)  # outcome 1 is the one that the owner wants
    reward = np.array([0.0, 1.0])
    same, one = bills(q, [], [(reward, width)])
    again, two = bills(q, [], [(reward, width // 2)] * 2)
    np.testing.assert_allclose(again, same, rtol=1e-12)
    assert one - two == pytest.approx(false_name_fee(STRENGTH, width), rel=1e-9)


def profiles(rng: np.random.Generator, count: int) -> Any:
    """Random references, others, and several names of one owner; sharp ones among them."""
    for _ in range(count):
        m, n, k = int(rng.integers(2, 6)), int(rng.integers(0, 3)), int(rng.integers(2, 5))
        q = rng.dirichlet(np.full(m, rng.choice([0.2, 1.0])))
        others = [(rng.random(m), int(rng.integers(1, 5))) for _ in range(n)]
        extreme = rng.random() < 0.5
        names = [(np.round(rng.random(m)) if extreme else rng.random(m), int(rng.integers(1, 4))) for _ in range(k)]
        truth = np.round(rng.random(m)) if extreme else rng.random(m)
        yield q, others, names, truth


def gain_of_names(q: Array, others: Any, names: Any, truth: Array, fee: float, mu: float) -> float:
    """What several names bring the owner over one truthful name of the largest size it may have."""
    size = sum(w for _, w in names)
    p, paid = bills(q, others, names, mu)
    honest, owed = bills(q, others, [(truth, size)], mu)
    return float(size * truth @ (p - honest) - paid + owed - fee * (len(names) - 1))


def test_with_the_fee_no_names_gain_and_without_it_many_do() -> None:
    """The theorem on 1,000 random profiles; the negative control is the same search at half the fee."""
    rng = np.random.default_rng(2026)
    best = {1.0: -np.inf, 0.5: -np.inf}
    for q, others, names, truth in profiles(rng, 1000):
        mu = float(rng.choice([0.5, 1.0, 2.0]))
        limit = sum(w for _, w in names)
        for part in best:
            fee = part * false_name_fee(STRENGTH, limit, weight=mu)
            found = gain_of_names(q, others, [(truth, w) for _, w in names], truth, fee, mu)
            found = max(found, gain_of_names(q, others, names, truth, fee, mu))
            best[part] = max(best[part], found)
            most = (len(names) - 1) * false_name_fee(STRENGTH, limit, weight=mu) * (1 - part)
            assert found <= most + 1e-9
    assert best[1.0] <= 1e-9
    assert best[0.5] > 0.05


def test_no_strategy_gains_from_the_fee_on_with_the_profile_searched_for() -> None:
    """Reference, others, names' reports and truth climb what the names gain; without the fee they come near it."""
    rng, tried, most = np.random.default_rng(161), 0, 0.0
    for sizes in ((2, 2), (1, 3), (1, 1, 1), (4, 2)):
        mu, limit = float(rng.choice([0.5, 1.0, 2.0])), sum(sizes)
        fee = false_name_fee(STRENGTH, limit, weight=mu)

        def gain(x: Array, paid: float, sizes: tuple[int, ...] = sizes, mu: float = mu) -> float:
            nonlocal tried
            tried += 1
            odds, other, truth, *names = x.reshape(-1, 3)
            q = np.exp(8 * (odds - odds.max()))
            return gain_of_names(q / q.sum(), [(other, 2)], list(zip(names, sizes, strict=True)), truth, paid, mu)

        for _ in range(2):
            start = rng.random(3 * (3 + len(sizes)))
            bounds = [(0.0, 1.0)] * start.size
            found = minimize(lambda x: -gain(x, 0.0), start, method="L-BFGS-B", bounds=bounds, options={"maxiter": 25})
            assert gain(found.x, fee) <= 1e-9
            most = max(most, gain(found.x, 0.0) / fee / (len(sizes) - 1))
    assert tried >= 1000
    assert most > 0.9


def test_a_limit_for_each_name_alone_is_not_enough() -> None:
    """First counterexample of the limits: with a cap on each name only, many names gain more than F(3) apiece."""
    reward = np.array([0.0, 1.0])
    q = np.array([1.0, np.exp(-2 * 3 * 2)])
    q /= q.sum()
    count = 8
    _, one = bills(q, [], [(reward, 3 * count)])
    _, many = bills(q, [], [(reward, 3)] * count)
    assert (one - many) / (count - 1) > false_name_fee(STRENGTH, 3)


def test_a_platform_that_drops_those_who_lose_invites_lies() -> None:
    """Second counterexample: dropping groups whose utility is below the fee rewards the report (1, 0)."""
    q, fee, sizes = np.array([0.5, 0.5]), 0.8554, [3, 2, 1, 1]
    rewards = np.array([[0.8, 0.2], [0, 1], [1, 1], [0.4, 0.6]])

    def served(first: Array) -> float:
        said = np.vstack([first, rewards[1:]])
        members = [0, 1, 2, 3]
        while True:
            mechanism = Mechanism(AffineWelfare(), AffinePayments())
            out = mechanism.settle([Report(said[i], sizes[i]) for i in members], Table(q, KL(STRENGTH)))
            kept = [i for i, u in zip(members, out.utilities, strict=True) if u >= fee]
            if kept == members:
                break
            members = kept
            if not members:
                return 0.0
        if 0 not in members:
            return 0.0
        return float(sizes[0] * rewards[0] @ out.policy.probabilities - out.payments[members.index(0)] - fee)

    assert served(rewards[0]) == 0.0
    assert served(np.array([1.0, 0.0])) > 0.3


@pytest.mark.parametrize("space", ["l2", "menu"])
def test_half_the_limit_suffices_for_every_affine_maximiser(space: str) -> None:
    rng = np.random.default_rng(7)
    worst = -np.inf
    for _ in range(300):
        m = int(rng.integers(2, 5))
        sizes = rng.integers(1, 4, int(rng.integers(2, 4)))
        names = [np.round(rng.random(m)) for _ in sizes]
        other = Report(rng.random(m), int(rng.integers(1, 4)))
        where: Any = Table(rng.dirichlet(np.ones(m)), SquaredL2(0.3)) if space == "l2" else Menu(rng.random(m))
        mechanism = Mechanism(AffineWelfare(), AffinePayments())
        apart = mechanism.settle([other, *map(Report, names, map(int, sizes))], where)
        total = int(sizes.sum())
        merged = (sizes[:, None] * np.array(names)).sum(axis=0) / total
        together = mechanism.settle([other, Report(merged, total)], where)
        change = together.payments[1] - apart.payments[1:].sum()
        assert change <= (len(sizes) - 1) * general_false_name_fee(total) + 1e-9
        worst = max(worst, change / (len(sizes) - 1) / general_false_name_fee(total))
    assert worst > 0.3


def test_the_fee_grows_with_the_limit_and_is_below_half_of_it() -> None:
    fees = [false_name_fee(STRENGTH, k) for k in range(1, 40)]
    assert all(a < b for a, b in pairwise(fees))
    assert all(fee <= general_false_name_fee(k) for k, fee in enumerate(fees, start=1))


@pytest.mark.parametrize("arguments", [{"owner_limit": 0}, {"weight": 0.0}, {"width": -1.0}, {"strength": 0.0}])
def test_numbers_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(arguments))):
        false_name_fee(**{"strength": 0.5, "owner_limit": 3, **arguments})
