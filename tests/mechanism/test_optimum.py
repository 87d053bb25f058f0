"""The kernel's contract: B independent problems at once, however they are laid out in memory, however long they are."""

import itertools
import os
import tracemalloc

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf

import rlhf_game as rg
from rlhf_game.mechanism import arrays
from rlhf_game.mechanism.arrays import BLOCK, leave_one_out_sums
from rlhf_game.mechanism.regularizers import kl
from rlhf_game.mechanism.regularizers.departures import Pairs, left
from rlhf_game.mechanism.regularizers.moments import phi
from tests.mechanism.regimes import REGIMES, Regime
from tests.mechanism.test_exactness import error
from tests.strategies import NAMES, regularizer


def problems(seed: int, groups: int, games: int, outcomes: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, (groups, games)).astype(float)
    return weights, list(rng.uniform(0, 1, (groups, games, outcomes))), rng.dirichlet(np.ones(outcomes), games)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [1e-4, 0.3, 1e6])
def test_a_batch_is_its_problems_one_by_one(name: str, strength: float) -> None:
    weights, rewards, reference = problems(51, 3, 40, 6)
    kind = regularizer(name, strength)
    batch = kind.maximize(weights, rewards, reference)
    externalities, values, p = batch.externalities(weights, rewards), batch.values(rewards), batch.probabilities()
    for b in range(40):
        rows = [reward[b : b + 1] for reward in rewards]
        alone = kind.maximize(weights[:, b], rows, reference[b : b + 1])
        np.testing.assert_allclose(
            alone.externalities(weights[:, b], rows)[:, 0], externalities[:, b], rtol=1e-9, atol=1e-40
        )
        np.testing.assert_allclose(alone.values(rows)[:, 0], values[:, b], rtol=1e-12)
        np.testing.assert_allclose(alone.probabilities()[0], p[b], rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(alone.welfare[0], batch.welfare[b], rtol=1e-13)
        np.testing.assert_allclose(alone.divergence[0], batch.divergence[b], rtol=1e-9, atol=1e-30)


@pytest.mark.parametrize("name", NAMES)
def test_hard_rows_beside_easy_rows_change_neither(name: str) -> None:
    rng = np.random.default_rng(52)
    easy, hard = rng.uniform(0, 1, (2, 1, 5)), 1e5 * np.eye(5)[:2][:, None]
    flat = np.full((2, 1, 5), 0.3)
    reference = rng.dirichlet(np.ones(5), 3)
    rewards = [np.concatenate([easy[i], hard[i], flat[i]]) for i in range(2)]
    kind, weights = regularizer(name, 0.5), np.array([1.0, 2.0])
    together = kind.maximize(weights, rewards, reference).externalities(weights, rewards)
    for b in range(3):
        rows = [reward[b : b + 1] for reward in rewards]
        alone = kind.maximize(weights, rows, reference[b : b + 1]).externalities(weights, rows)
        np.testing.assert_allclose(together[:, b], alone[:, 0], rtol=1e-9, atol=1e-30)


@pytest.mark.parametrize("name", ["kl", "l2"])
@pytest.mark.parametrize("strength", [1e-5, 0.05, 1e4])
def test_a_row_longer_than_a_block_is_one_row(name: str, strength: float) -> None:
    # the same problem as one long row, and with each outcome's probability split over 80,000 equal outcomes
    rng = np.random.default_rng(53)
    small, weights = rng.dirichlet(np.ones(4)), np.array([1.0, 2.0, 1.0])
    rewards = rng.uniform(0, 1, (3, 1, 4))
    kind = regularizer(name, strength)
    copies = 80_000
    assert 4 * copies > 2 * BLOCK
    shuffled = rng.permutation(4 * copies)
    long = [np.repeat(reward, copies, axis=1)[:, shuffled] for reward in rewards]
    reference = np.repeat(small[None] / copies, copies, axis=1)[:, shuffled]
    # squared L2: (p/k - q/k)^2 summed over k copies is (p - q)^2 / k
    kind_long = regularizer(name, strength * copies) if name == "l2" else kind
    one, other = kind.maximize(weights, list(rewards), small[None]), kind_long.maximize(weights, long, reference)
    np.testing.assert_allclose(other.values(long), one.values(list(rewards)), rtol=1e-9)
    np.testing.assert_allclose(other.welfare, one.welfare, rtol=1e-11)
    np.testing.assert_allclose(
        other.externalities(weights, long), one.externalities(weights, list(rewards)), rtol=1e-9, atol=1e-300
    )


@pytest.mark.parametrize("name", ["kl", "l2"])
def test_tiny_payments_of_a_long_row_keep_their_digits(name: str) -> None:
    rng = np.random.default_rng(54)
    m, scale = 150_000, 1e-9
    reference, rewards = rng.dirichlet(np.ones(m))[None], [scale * rng.uniform(0, 1, (1, m)) for _ in range(3)]
    weights = np.array([1.0, 5.0, 2.0])
    strength = 1.0 if name == "kl" else 1.0 * m
    kind = regularizer(name, strength)
    optimum = kind.maximize(weights, rewards, reference)
    payments = optimum.externalities(weights, rewards)[:, 0]
    # to first order in scale: the variance under p / (2 strength), and the spread / (4 strength)
    p = optimum.probabilities()[0].astype(np.longdouble)
    for weight, reward, payment in zip(weights, rewards, payments, strict=True):
        own = reward[0].astype(np.longdouble)
        if name == "kl":
            expected = weight**2 * (p @ (own - p @ own) ** 2) / (2 * strength)
            assert payment == pytest.approx(float(expected), rel=1e-7)  # third order: weight * scale / strength
        else:
            inside = own[p > 0]
            expected = weight**2 * ((inside - inside.mean()) ** 2).sum() / (4 * strength)
            assert payment == pytest.approx(float(expected), rel=1e-3)  # a few outcomes enter or leave
        assert payment < 1e-16


@pytest.mark.parametrize("name", NAMES)
def test_memory_order_and_strides_do_not_matter(name: str) -> None:
    weights, rewards, reference = problems(55, 3, 6, 8)
    kind = regularizer(name, 0.2)
    expected = kind.maximize(weights, rewards, reference).externalities(weights, rewards)
    stacked = np.stack(rewards)
    wide = np.zeros((3, 12, 16))
    wide[:, ::2, ::2] = stacked
    for views in (
        [np.asfortranarray(reward) for reward in rewards],
        list(wide[:, ::2, ::2]),
        list(np.ascontiguousarray(stacked.transpose(2, 1, 0)).transpose(2, 1, 0)),
    ):
        ref = np.asfortranarray(reference)
        found = kind.maximize(weights, views, ref).externalities(weights, views)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_as_they_were(name: str) -> None:
    weights, rewards, reference = problems(56, 2, 3, 5)
    kept = [array.copy() for array in (weights, *rewards, reference)]
    kind = regularizer(name, 0.1)
    optimum = kind.maximize(weights, rewards, reference)
    optimum.externalities(weights, rewards)
    optimum.values(rewards)
    optimum.probabilities()[...] = 7
    assert optimum.probabilities().max() <= 1 + 1e-15
    for array, copy in zip((weights, *rewards, reference), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_phi_has_full_relative_accuracy() -> None:

    xs = np.concatenate([np.logspace(-150, 2.5, 400), -np.logspace(-150, 2.5, 400), [0.0]])
    with mpmath.workdps(350):
        for x, found in zip(xs, phi(xs), strict=True):
            exact = mpmath.expm1(-mpmath.mpf(float(x))) + mpmath.mpf(float(x))
            assert abs(found - exact) <= 1e-14 * exact + mpmath.mpf(10) ** -310


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_leave_one_out_sums_never_subtract(groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms = rng.uniform(0, 1, (groups, 3)) * 10.0 ** rng.integers(-12, 12, (groups, 1))
    for i, found in enumerate(leave_one_out_sums(terms)):
        expected = terms[[j for j in range(groups) if j != i]].sum(axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-15 * groups)


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 2**32 - 1), st.floats(-5, 7))
def test_policies_satisfy_the_conditions_of_optimality(name: str, seed: int, exponent: float) -> None:
    # a certificate, not an oracle: mass moved from any outcome to any other never raises the welfare
    rng = np.random.default_rng(seed)
    weights, rewards, reference = problems(seed, 2, 1, 6)
    strength = 10.0**exponent
    kind = regularizer(name, strength)
    optimum = kind.maximize(weights[:, 0], rewards, reference)
    p = optimum.probabilities()[0]
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-12)
    other = rng.dirichlet(np.ones(6) * rng.choice([0.2, 1, 5]), 50)
    from tests.oracles import divergence_of

    score = sum(w * r[0] for w, r in zip(weights[:, 0], rewards, strict=True))
    for candidate in other:
        mixed = 0.9 * p + 0.1 * candidate
        if name != "l2":
            mixed = np.where(reference[0] > 0, mixed, 0)
        welfare = mixed @ score - strength * float(
            divergence_of(name, list(map(float, mixed)), list(map(float, reference[0])))
        )
        assert welfare <= optimum.welfare[0] + 1e-9 * max(1.0, strength)


@pytest.mark.parametrize(("name", "vectors"), [("kl", 2), ("l2", 6)])
def test_payments_of_a_large_table_need_a_few_vectors_and_blocks_beyond_the_input(name: str, vectors: int) -> None:
    n, m = 32, 300_000
    weights, rewards, reference = problems(57, n, 1, m)
    kind = regularizer(name, 0.3)

    peaks = []
    for groups in (n // 2, n):
        held, mine = weights[:groups, 0], rewards[:groups]
        tracemalloc.start()
        try:
            optimum = kind.maximize(held, mine, reference)
            optimum.externalities(held, mine)
            optimum.values(mine)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert max(peaks) <= vectors * 8 * m + 16 * 8 * BLOCK
    assert abs(peaks[1] - peaks[0]) <= 4 * 8 * BLOCK  # twice the groups need no more memory


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [1e-4, 0.05, 0.3, 1e6])
def test_settling_at_once_gives_what_is_asked_one_after_the_other(name: str, strength: float) -> None:
    for groups, games, outcomes in ((3, 4, 6), (2, 1, 30_000), (300, 1, 40)) if name in ("kl", "l2") else ((3, 4, 6),):
        weights, rewards, reference = problems(60, groups, games, outcomes)
        kind = regularizer(name, strength)
        settled, optimum = kind.settle(weights, rewards, reference), kind.maximize(weights, rewards, reference)
        np.testing.assert_allclose(settled.values, optimum.values(rewards), rtol=1e-11)
        wanted = optimum.externalities(weights, rewards)
        np.testing.assert_allclose(settled.externalities, wanted, rtol=1e-9, atol=1e-40)
        np.testing.assert_allclose(settled.optimum.divergence, optimum.divergence, rtol=1e-9, atol=1e-30)
        np.testing.assert_allclose(settled.optimum.welfare, optimum.welfare, rtol=1e-12)
        np.testing.assert_allclose(settled.optimum.probabilities(), optimum.probabilities(), rtol=1e-9, atol=1e-15)
        again = settled.optimum.externalities(weights, rewards)
        np.testing.assert_allclose(again, wanted, rtol=1e-9, atol=1e-40)


@pytest.mark.parametrize("entries", [4, 9, 20])
@pytest.mark.parametrize("regime", [r for r in REGIMES if r.name != "many_groups"], ids=lambda regime: regime.name)
def test_one_reading_in_blocks_of_few_outcomes_is_exact(
    regime: Regime, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "WIDE", entries)
    monkeypatch.setattr(kl, "NARROW", 1)
    monkeypatch.setattr(arrays, "SMALL", 0)
    for seed in range(2):
        game = regime.make("kl", np.random.default_rng(seed))
        exact = game.exact()
        weights, rows = np.array(game.sizes, dtype=float), [np.array(reward, dtype=float) for reward in game.rewards]
        settled = rg.KL(game.strength).settle(weights, rows, np.array(game.references))
        money = max(float(np.abs(row).max()) for row in rows)
        for size, payment, wanted in zip(weights, settled.externalities[:, 0], exact.payments, strict=True):
            floor = 1e-28 * money * size if abs(wanted) < mpf(10) ** -290 else 1e-290
            assert error(payment, wanted, floor) <= 1e-9
        for value, wanted in zip(settled.values[:, 0], exact.values, strict=True):
            assert error(value, wanted) <= 1e-9
        assert error(settled.optimum.divergence[0], exact.divergence, 1e-28) <= 1e-9
        np.testing.assert_allclose(
            settled.optimum.probabilities()[0], [float(p) for p in exact.policy[0]], rtol=1e-9, atol=1e-15
        )


@pytest.mark.parametrize("name", ["kl", "l2"])
def test_any_number_of_threads_gives_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, rewards, reference = problems(61, 3, 1, 70_000)
    kind = regularizer(name, 0.3)
    monkeypatch.setattr(arrays, "THREADED", 1)
    monkeypatch.setattr(kl, "WIDE", 10_000)
    monkeypatch.setattr(kl, "BLOCK", 10_000)
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        settled = kind.settle(weights, rewards, reference)
        again = kind.maximize(weights, rewards, reference)
        numbers = [*settled[1:], settled.optimum.probabilities(), again.externalities(weights, rewards), again.welfare]
        found.append([array.tobytes() for array in numbers])
    assert found[0] == found[1] == found[2]


def test_the_environment_says_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert arrays.threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as workers have it
    assert arrays.threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert arrays.threads() == len(os.sched_getaffinity(0))


def test_all_pairs_of_divergences_agree_at_the_reference() -> None:
    # second order: every f with f''(1) = c costs c / 2 sum (p - q)^2 / q near q, so payments agree at great strength
    curvature = {
        "kl": 1,
        "reverse_kl": 1,
        "chi2": 2,
        "js": 0.25,
        "hellinger": 0.25,
        "alpha:3": 1,
        "alpha:0.5": 1,
        "alpha:-1": 1,
    }
    weights, rewards, reference = problems(58, 3, 1, 5)
    payments = {
        name: regularizer(name, 1e7 / c)
        .maximize(weights[:, 0], rewards, reference)
        .externalities(weights[:, 0], rewards)[:, 0]
        for name, c in curvature.items()
    }
    for one, other in itertools.pairwise(payments):
        np.testing.assert_allclose(payments[one], payments[other], rtol=1e-5)


@pytest.mark.parametrize("name", ["kl", "l2", "chi2"])
def test_a_long_reference_a_little_off_one_is_that_reference_made_to_sum_to_one(name: str) -> None:
    rng = np.random.default_rng(59)
    m = 200_000
    reference, reports = rng.dirichlet(np.ones(m)), [rg.Report(rng.uniform(0, 1, m), size=2) for _ in range(2)]
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    tables = [rg.Table(q, regularizer=regularizer(name, 0.5)) for q in (reference, reference * (1 + 5e-7))]
    exact, off = (mechanism.settle(reports, table) for table in tables)
    np.testing.assert_allclose(off.payments, exact.payments, rtol=1e-9)
    np.testing.assert_allclose(off.values, exact.values, rtol=1e-11)
    np.testing.assert_allclose(off.policy.probabilities, exact.policy.probabilities, rtol=1e-8, atol=1e-18)
    assert off.policy.welfare == pytest.approx(exact.policy.welfare, rel=1e-12)
    assert off.policy.divergence == pytest.approx(exact.policy.divergence, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("kl", "l2")])
@pytest.mark.parametrize(("rows", "width", "strength"), [(1, 9001, 0.5), (300, 7, 0.05), (40, 90, 2.0), (60, 5, 1e-3)])
def test_pairs_that_leave_at_once_are_as_exact_as_one_by_one(name: str, rows: int, width: int, strength: float) -> None:
    weights, rewards, reference = problems(7, 4, rows, width)
    reference[:, ::3] = 0.0
    reference /= reference.sum(axis=1, keepdims=True)
    optimum = regularizer(name, strength).maximize(weights, rewards, reference)
    foreign = np.full(rows, 0.25), rewards[0] * rewards[1]  # it was not solved for
    weights, rewards = np.vstack([weights, foreign[0]]), [*rewards, foreign[1]]
    together = optimum.externalities(weights, rewards)
    with_care = np.array([optimum.slacks.externality(*pair) for pair in zip(weights, rewards, strict=True)])
    np.testing.assert_allclose(together, with_care, rtol=2e-10, atol=1e-30)
    pairs = Pairs(optimum.slacks, slice(0, rows), weights, rewards)
    sure = left(optimum.link, pairs.parts, pairs.typical, pairs.ends)[1]
    assert sure.mean() > (0.1 if (name, rows) == ("alpha:-1", 1) else 0.9)  # its slacks range over nine decades


def test_a_step_that_is_larger_than_the_payment_is_not_taken_off_it() -> None:
    """A payment of 5e-53 beside scores of 2e15, by 260 digits of mpmath; it was -3e-38, and said to be sure."""
    rewards = [[0.7715340338546458, 0.02959019452112932], [0.5, 0.5], [0.445741606000707, 0.4388201955946618]]
    reports = [rg.Report(reward, size) for reward, size in zip(rewards, (1000, 5, 10**9), strict=True)]
    mechanism = rg.Mechanism(
        rg.AffineWelfare(weights=[0.7022110264398236, 63748.16018632864, 5037182.339895452]), rg.AffinePayments()
    )
    table = rg.Table([0.8459716879366849, 0.15402831206331516], rg.JensenShannon(10.0))
    paid = mechanism.settle(reports, table).payments
    np.testing.assert_allclose(paid, [0, 0, 4.6192704124792061e-53], rtol=1e-9)


def test_exponents_of_hundreds_lose_no_digit_in_one_reading() -> None:
    """Means of shares up to 600, where payments are tiny or the policy is almost certain."""
    rng, hundreds = np.random.default_rng(1), 0
    with mpmath.workdps(700):
        for _ in range(40):
            groups, outcomes = 3, int(rng.integers(2, 9))
            strength, weights = float(10 ** rng.uniform(-3.5, -1.2)), rng.integers(1, 6, groups).astype(float)
            rewards, q = rng.random((groups, outcomes)) + rng.choice([0.0, 0.3]), rng.dirichlet(np.ones(outcomes))
            settled = rg.KL(strength).settle(weights, [reward[None] for reward in rewards], q[None])
            shares = [[mpf(w) * mpf(r) / mpf(strength) for r in row] for w, row in zip(weights, rewards, strict=True)]
            powers = [mpf(x) * mpmath.exp(sum(column)) for x, column in zip(q, zip(*shares, strict=True), strict=True)]
            p = [power / sum(powers) for power in powers]
            for i, row in enumerate(shares):
                mean = mpmath.fdot(p, row)
                paid = mpf(strength) * (mpmath.log(mpmath.fdot(p, [mpmath.exp(-share) for share in row])) + mean)
                hundreds += bool(100 < mean < 600)
                assert error(settled.externalities[i, 0], paid, 1e-290) <= 1e-10
    assert hundreds > 20


def test_a_payment_that_underflows_in_one_reading_is_read_again() -> None:
    """One group alone, with shares of 735 and 685: E_p[exp(-share)] is a number of a few digits only."""
    q, reward = np.array([[0.3, 0.7]]), np.array([[0.735, 0.685]])
    settled = rg.KL(0.001).settle(np.ones(1), [reward], q)
    with mpmath.workdps(700):
        first, second = (mpf(x) * mpmath.exp(mpf(r) / mpf(0.001)) for x, r in zip(q[0], reward[0], strict=True))
        p = first / (first + second)
        mean = p * mpf(reward[0, 0]) + (1 - p) * mpf(reward[0, 1])
        paid = mpf(0.001) * mpmath.log(mpf(1) / (first + second)) + mean
        assert error(settled.externalities[0, 0], paid, 1e-290) <= 1e-10
