"""Every number of a settlement against mpmath with 45 and more digits: payments to 1e-9 in every regime.

The oracle takes the input floats as the exact numbers that they are: nothing is excused by rounding of the input. The
one exception is random games (the last test), where the answer may truly be lost in the input's last digit: there a
payment may be off by 50 times what it changes when the input changes by one unit in the last place.
"""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from mpmath import mpf

import rlhf_game as rg
from rlhf_game.mechanism import arrays
from rlhf_game.mechanism.regularizers import base, kl, l2
from tests.mechanism.regimes import REGIMES, Regime
from tests.oracles import TINY
from tests.strategies import NAMES, TableGame, table_games

FAST = ("kl", "l2", "chi2")  # oracles of milliseconds: more seeds
CLOSING = ("chi2", "alpha:3", "alpha:1.5")
"""Their slacks with and without a group come from two solves, equal up to 1e-16; what is left costs its square."""
UNDERFLOW = 1e-290


def error(computed: float, exact: object, floor: float = UNDERFLOW) -> float:
    """Return the relative error; two numbers below ``floor`` count as equal. NaN is an infinite error."""
    wanted = mpf(exact)
    if abs(wanted) < floor and abs(computed) < floor:
        return 0.0
    off = float(abs(mpf(float(computed)) - wanted) / max(abs(wanted), mpf(floor)))
    return off if np.isfinite(off) else np.inf


def settle(game: TableGame) -> rg.Settlement:
    return rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(game.reports(), game.space())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_payments_welfare_and_policy_are_exact(regime: Regime, name: str) -> None:
    for seed in range(3 if name in FAST else 1):
        game = regime.make(name, np.random.default_rng(seed))
        exact, settled = game.exact(), settle(game)
        money = float(max(abs(entry) for table in game.rewards for row in table for entry in row))
        for i, (payment, wanted) in enumerate(zip(settled.payments, exact.payments, strict=True)):
            # an exact payment of 0 may come out as the square of a rounding error, in units of reward
            # (and so may, where the support can close and q is 1e-100, a payment that lies below that square)
            zero = mpf(10) ** (-290 if name in FAST else -TINY[False]) * max(money, 1.0)
            squared = abs(wanted) < zero or (regime.name == "tiny_reference" and name in CLOSING)
            floor = 1e-28 * money * game.sizes[i] if squared else UNDERFLOW
            assert error(payment, wanted, floor) <= 1e-9, f"seed {seed}, payment {i}: {payment!r} for {float(wanted)!r}"
        for i, (value, wanted) in enumerate(zip(settled.values, exact.values, strict=True)):
            assert error(value, wanted) <= 1e-9, f"seed {seed}, value {i}: {value!r} for {float(wanted)!r}"
        assert error(settled.policy.divergence, exact.divergence, 1e-28) <= 1e-9, f"seed {seed}"
        score = sum(w * max(abs(e) for e in table[0]) for w, table in zip(game.sizes, game.rewards, strict=True))
        # welfare may be a difference of two numbers of the score's size, by its very meaning
        assert abs(settled.policy.welfare - float(exact.welfare)) <= 1e-13 * max(score, abs(float(exact.welfare)))
        for p, wanted in zip(settled.policy.probabilities, exact.policy[0], strict=True):
            # a probability that is a difference of probabilities is known to their last digit
            assert abs(p - float(wanted)) <= max(1e-9 * float(wanted), 1e-15), (
                f"seed {seed}: {p!r} for {float(wanted)!r}"
            )


def test_the_tiny_regime_is_as_small_as_it_says() -> None:
    regime = next(r for r in REGIMES if r.name == "tiny_payments")
    settled = settle(regime.make("kl", np.random.default_rng(0)))
    assert 0 < settled.payments.max() < 1e-18
    assert settled.utilities.min() > 0.9e-4


def test_the_weak_regimes_underflow_where_the_leave_one_out_policy_lives() -> None:
    for name in ("weak", "very_weak", "opposed"):
        regime = next(r for r in REGIMES if r.name == name)
        game = regime.make("kl", np.random.default_rng(0))
        everybody = settle(game).policy.probabilities
        without = []
        for i in range(len(game.sizes)):
            reports = [r for j, r in enumerate(game.reports()) if j != i]
            without.append(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()).settle(reports, game.space()).policy)
        assert any((everybody[policy.probabilities > 0.5] == 0).any() for policy in without), name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [1e-6, 1e-3, 0.5, 1e3, 1e8])
def test_a_uniform_report_pays_nothing_whatever_its_size(name: str, strength: float) -> None:
    rng = np.random.default_rng(11)
    for level in (0.0, 0.1, 1.0, 1e6 / 3):
        reward = rng.uniform(0, 1, 6)
        game = TableGame(
            name, strength, [list(rng.dirichlet(np.ones(6)))], [[list(reward)], [[level] * 6]], [1, 1_000_000], [1.0]
        )
        assert abs(settle(game).payments[1]) <= 1e-28 * max(level, 1.0) * 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_asw_has_no_cancellation_at_strength_1e8(name: str) -> None:
    rng = np.random.default_rng(12)
    for _ in range(5):
        reference = rng.dirichlet(np.ones(6)) * 0.7 + 0.05
        game = TableGame(name, 1e8, [list(reference)], [[list(rng.uniform(0, 1, 6))] for _ in range(2)], [1, 2], [1.0])
        exact, settled = game.exact(), settle(game)
        assert error(settled.policy.welfare, exact.welfare) <= 1e-14
        assert error(settled.policy.divergence, exact.divergence) <= 1e-9
        assert settled.policy.divergence < 1e-14


@pytest.mark.parametrize("name", NAMES)
def test_prompts_of_different_lengths_and_weights(name: str) -> None:
    rng = np.random.default_rng(13)
    widths = [3, 1, 5, 3, 2]
    game = TableGame(
        name,
        0.2,
        [list(rng.dirichlet(np.ones(m))) for m in widths],
        [[list(rng.uniform(0, 1, m)) for m in widths] for _ in range(2)],
        [2, 1],
        [0.125, 0.25, 0.125, 0.5, 0.0],
    )
    exact, settled = game.exact(), settle(game)
    for computed, wanted in (
        *zip(settled.payments, exact.payments, strict=True),
        *zip(settled.values, exact.values, strict=True),
        (settled.policy.welfare, exact.welfare),
        (settled.policy.divergence, exact.divergence),
    ):
        assert error(computed, wanted) <= 1e-12
    for row, wanted_row in zip(settled.policy.probabilities, exact.policy, strict=True):
        np.testing.assert_allclose(row, [float(p) for p in wanted_row], rtol=1e-11)


@pytest.mark.parametrize("name", ["kl", "l2"])
def test_an_outcome_that_enters_with_a_small_mass_has_all_its_digits(name: str) -> None:
    # q_x = 0 and strength 1e8: p_x is about 1e-9 under squared L2, beside probabilities of 1/4
    regime = next(r for r in REGIMES if r.name == "strong_with_zeros")
    entered = []
    for seed in range(5):
        game = regime.make(name, np.random.default_rng(seed))
        policy = settle(game).policy.probabilities
        np.testing.assert_allclose(policy, [float(p) for p in game.exact().policy[0]], rtol=1e-9, atol=0)
        entered.append(policy[[1, 3]].max())
    assert max(entered) < 1e-7
    assert max(entered) > 0 or name == "kl"


RARE = [
    # (strength, reference, rewards, sizes): the payment comes from an outcome whose probability underflows
    (0.001629511937974148, [0.065, 0.935], [[0.4328, 0.00248], [0.7084, 0.00716], [0.4753, 0.39]], [1, 1, 2]),
    (0.00072, [0.658, 0.315, 0.027], [[0.4139, 0.415, 0.02586], [0.0305, 0.002317, 0.0010135]], [1, 5]),
    (0.000768, [0.543, 0.457], [[0.0912, 0.4029], [0.43936, 0.68743]], [1, 1]),
]


@pytest.mark.parametrize(("strength", "reference", "rewards", "sizes"), RARE)
def test_payments_that_come_from_probabilities_that_underflow(
    strength: float, reference: list[float], rewards: list[list[float]], sizes: list[int]
) -> None:
    game = TableGame("kl", strength, [reference], [[reward] for reward in rewards], sizes, [1.0])
    for payment, wanted in zip(settle(game).payments, game.exact().payments, strict=True):
        assert error(payment, wanted, 1e-190) <= 1e-9


@settings(max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # mpmath makes shrinking slow
@given(table_games(exponent=1e6))
def test_random_games_are_exact_up_to_the_conditioning_of_the_input(game: TableGame) -> None:
    exact, settled = game.exact(), settle(game)
    nudged = game.nudged(np.random.default_rng(0)).exact()
    money = max(max(abs(e) for row in table for e in row) for table in game.rewards)
    for i, payment in enumerate(settled.payments):
        wanted, moved = exact.payments[i], nudged.payments[i]
        allowed = 1e-9 * abs(wanted) + 50 * abs(wanted - moved) + mpf(1e-28) * (money * game.sizes[i])
        assert abs(mpf(float(payment)) - wanted) <= allowed, f"payment {i}: {payment!r} for {float(wanted)!r}"
        assert payment >= 0
    assert abs(settled.policy.welfare - float(exact.welfare)) <= 1e-12 * (1 + money * sum(game.sizes))


@pytest.mark.parametrize("name", ["kl", "l2"])
@pytest.mark.parametrize("regime", [r for r in REGIMES if r.name != "many_groups"], ids=lambda regime: regime.name)
def test_payments_do_not_depend_on_how_a_row_is_cut(regime: Regime, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (arrays, base, kl, l2):
        if module is arrays or hasattr(module, "BLOCK"):
            monkeypatch.setattr(module, "BLOCK", 6)  # one or two outcomes of a few groups
    for seed in range(2):
        game = regime.make(name, np.random.default_rng(seed))
        exact, settled = game.exact(), settle(game)
        money = float(max(abs(entry) for table in game.rewards for row in table for entry in row))
        for i, (payment, wanted) in enumerate(zip(settled.payments, exact.payments, strict=True)):
            floor = 1e-28 * money * game.sizes[i] if abs(wanted) < mpf(10) ** -290 else UNDERFLOW
            assert error(payment, wanted, floor) <= 1e-9, f"seed {seed}, payment {i}: {payment!r} for {float(wanted)!r}"
        for value, wanted in zip(settled.values, exact.values, strict=True):
            assert error(value, wanted) <= 1e-9
        assert error(settled.policy.divergence, exact.divergence, 1e-28) <= 1e-9
