"""What is proved: by whom, for which type, and what happens when a search finds more than a proof allows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.training import Trained
from tests.strategies import regularizer

GROUPS = [rg.Group("a", [0.7, 0.3, 0.0], 2), rg.Group("b", [0.0, 0.4, 0.6], 1)]
TABLE = rg.Table([0.2, 0.3, 0.5], rg.KL(0.4), normalization="sum")
LIES = [rg.Resize(2.0), rg.Polarize(4.0)]


def dearer(*bases: type) -> Any:
    """A subclass, which the decorator `final` only forbids to type checkers, that charges 30 %."""

    def charge(self: Any, optimum: Any) -> Any:
        return 0.3 * bases[0].charge(self, optimum)

    return type("Dearer", bases, {"charge": charge})


@pytest.mark.parametrize("payment", [rg.AffinePayments, rg.RevenueOptimal])
def test_a_subclass_that_charges_otherwise_is_not_certified(payment: type) -> None:
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), dearer(payment)()), GROUPS, TABLE, LIES)
    assert any(regret.is_refuted for regret in regrets)
    assert all(regret.bound is None and regret.ir_bound is None for regret in regrets)
    plain = rg.audit(rg.Mechanism(rg.SocialWelfare(), payment()), GROUPS, TABLE, LIES)
    assert all(regret.is_proved and regret.ir_bound is not None for regret in plain)


def test_a_training_rule_that_trains_otherwise_is_not_certified() -> None:
    def train(self: Any, profile: Any, space: Any) -> Any:
        return space.maximize(2 * profile.sizes, profile.rewards)

    twice = type("Twice", (rg.AffineWelfare,), {"train": train})()
    regrets = rg.audit(rg.Mechanism(twice, rg.AffinePayments()), GROUPS, TABLE, LIES)
    assert all(regret.bound is None for regret in regrets)


@dataclass(frozen=True)
class Boastful(rg.PaymentRule[rg.AffineRule]):
    """No payments, and proofs that are false: of the regret, or of what the truth has at least."""

    of: str

    def charge(self, optimum: Trained[rg.AffineRule]) -> Any:
        return np.zeros(optimum.sizes.shape)

    def regret_bounds(self, optimum: Trained[rg.AffineRule]) -> Any:
        return np.full(optimum.sizes.shape, 1e-6) if self.of == "regret" else None

    def utility_bounds(self, optimum: Trained[rg.AffineRule], least: Any) -> Any:
        return optimum.sizes * 2.0 if self.of == "utility" else None


@pytest.mark.parametrize(
    ("of", "message"), [("regret", "more than the 1e-06 that"), ("utility", "less than the 4 that")]
)
def test_a_search_that_finds_more_than_is_proved_is_an_error(of: str, message: str) -> None:
    with pytest.raises(rg.RunError, match=message):
        rg.audit(rg.Mechanism(rg.SocialWelfare(), Boastful(of)), GROUPS, TABLE, LIES)
    rg.audit(rg.Mechanism(rg.SocialWelfare(), Boastful("nothing")), GROUPS, TABLE, LIES)


def test_a_rule_may_bring_a_proof_of_its_own() -> None:
    @dataclass(frozen=True)
    class Fair(rg.PaymentRule[rg.AffineRule]):
        def charge(self, optimum: Trained[rg.AffineRule]) -> Any:
            return optimum.externalities() / optimum.weights + 0.01

        def regret_bounds(self, optimum: Trained[rg.AffineRule]) -> Any:
            return np.zeros(optimum.sizes.shape)

    assert all(r.is_proved for r in rg.audit(rg.Mechanism(rg.SocialWelfare(), Fair()), GROUPS, TABLE, LIES))


def test_revenue_payments_never_take_more_than_the_infimum_however_small_it_is() -> None:
    """The floor of the least type's policy is about 1e-17 here."""
    table = rg.Table([0.2, 0.3, 0.5], rg.JensenShannon(0.2), normalization="sum")
    reports = [rg.Report([1, 0, 0], 4), rg.Report([0, 0.55, 0.45], 1)]
    settled = rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal()).settle(reports, table)
    assert 2e-16 < settled.values[1] < 3e-16
    assert settled.utilities.min() >= 0
    assert settled.payments[1] > 0.9 * settled.values[1]
    rng = np.random.default_rng(0)
    for name in ("js", "reverse_kl"):
        table = rg.Table([0.2, 0.3, 0.5], regularizer(name, 0.2), normalization="sum")
        for _ in range(3):
            reports = [rg.Report(rng.dirichlet(np.ones(3)), int(rng.integers(1, 9))) for _ in range(3)]
            settled = rg.Mechanism(rg.SocialWelfare(), rg.RevenueOptimal()).settle(reports, table)
            assert settled.utilities.min() >= -1e-15


def test_an_audit_knows_the_scale_of_everybody() -> None:
    """Rewards of 1e14 beside rewards of 1: what lies seem to gain is the rounding of the others' score."""
    next_state = [[0, 1, -1], [0, 1, -1]]
    space = Chain(next_state, [[0.5, 0.5, 0.0], [0.2, 0.6, 0.2]], rg.KL(0.7), horizon=4)
    rng = np.random.default_rng(1)
    groups = [rg.Group("rich", 1e14 * rng.random((2, 3)), 2), rg.Group("poor", rng.random((2, 3)))]
    for regret in rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()), groups, space, LIES):
        assert (regret.found, regret.bound) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["chi2", "alpha:3", "reverse_kl", "hellinger"])
def test_numbers_that_float64_cannot_hold_are_refused_from_python_too(name: str) -> None:
    table = rg.Table([1e-300, 1 - 1e-300], regularizer(name, 0.1))
    reports = [rg.Report([1, 0], 3), rg.Report([0, 1])]
    try:
        settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, table)
    except rg.InputError:
        return
    assert np.isfinite([*settled.payments, *settled.utilities]).all()


def test_ties_of_a_menu_do_not_depend_on_the_order_of_the_groups() -> None:
    """0.1 + 0.2 + 0.3 is 0.6 but for the rounding of a sum in some order."""
    menu, mechanism = rg.Menu([0.0, 0.0]), rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
    rows = [[0.1, 0.6], [0.2, 0.0], [0.3, 0.0]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]):
        assert mechanism.settle([rg.Report(rows[i]) for i in order], menu).policy.probabilities.tolist() == [1, 0]
        swapped = [rg.Report(rows[i][::-1]) for i in order]
        assert mechanism.settle(swapped, menu).policy.probabilities.tolist() == [1, 0]  # ties go to the first


def test_reports_and_groups_are_equal_by_what_they_say() -> None:
    one, same = rg.Report([1, 0.5]), rg.Report(np.array([1.0, 0.5]))
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, rg.Report([1, 0.5], 2), rg.Report([1, 0.25])}) == 3
    ragged = [rg.Report([[1, 0], [1]]), rg.Report([np.array([1.0, 0.0]), [1]])]
    assert ragged[0] == ragged[1]
    assert len(set(ragged)) == 1
    assert rg.Report(len) == rg.Report(len) != rg.Report(max)
    assert one != rg.Group("a", [1, 0.5])
    assert rg.Group("a", [1, 0.5]) == rg.Group("a", [1.0, 0.5]) != rg.Group("b", [1, 0.5])


def test_an_audit_takes_a_settlement_seeds_reports_and_mappings() -> None:
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    settlement = mechanism.settle(GROUPS, TABLE)
    assert (settlement.mechanism, settlement.space, settlement.reports) == (mechanism, TABLE, tuple(GROUPS))
    plain = rg.audit(mechanism, GROUPS, TABLE, LIES)
    told = [rg.Report(group.reward, group.size) for group in GROUPS]
    for again in (rg.audit(settlement, strategies=LIES), rg.audit(mechanism, told, TABLE, LIES, rng=0)):
        assert [regret.gain for regret in again] == [regret.gain for regret in plain]
    assert [regret.group for regret in rg.audit(mechanism, told, TABLE, LIES)] == ["group 0", "group 1"]
    mapped = mechanism.settle({group.name: group for group in GROUPS}, TABLE)
    np.testing.assert_array_equal(mapped.values, settlement.values)
    with pytest.raises(rg.InputError, match="rng must be a generator, or a seed >= 0, got 'one'"):
        rg.audit(mechanism, GROUPS, TABLE, LIES, rng="one")  # type: ignore[arg-type]
    with pytest.raises(rg.InputError, match="groups and space must be left out with a settlement"):
        rg.audit(settlement, GROUPS)
    with pytest.raises(rg.InputError, match=r"groups\[0\] must be a Group"):
        rg.audit(mechanism, [[1, 0, 0]], TABLE)  # type: ignore[list-item]


@pytest.mark.slow
def test_a_search_goes_on_where_a_regularizer_refuses_a_report() -> None:
    """Under alpha:3 some reports put a slack so near 0 that its square root has no digits left."""
    rng = np.random.default_rng(0)
    reference, rewards = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3)
    groups = [rg.Group(f"g{i}", rewards[i], int(size)) for i, size in enumerate(rng.integers(1, 4, 3))]
    table = rg.Table(reference, rg.Alpha(0.1, 3.0), normalization="sum")
    mechanism = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    assert any(regret.is_refuted for regret in rg.audit(mechanism, groups, table, [rg.BestResponse(2)], size_limit=4))


def test_intervals_over_a_trie_are_for_the_exact_payment_rule() -> None:
    trie = rg.Trie([0.6, 0.4], [0.1], rg.KL(1.0), bounds=(0, 1), outcomes=[(0,), (1,)])
    reports = [rg.Report([1, 0]), rg.Report([0, 1])]
    settled = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle(reports, trie)
    assert (settled.policy.certified(settled).payments.level) == 1
    other = rg.Mechanism(rg.SocialWelfare(), dearer(rg.AffinePayments)()).settle(reports, trie)
    with pytest.raises(rg.CombinationError, match="intervals are known for affine payments or none"):
        other.policy.certified(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chi2", "alpha:2"])
def test_a_search_finds_what_a_grid_finds(name: str) -> None:
    """All reports on a grid of step 1/30, at three sizes: the search finds at least 99.9 % of the best of them."""
    steps = 30
    grid = np.array([(a, b, steps - a - b) for a in range(steps + 1) for b in range(steps + 1 - a)]) / steps
    for seed in range(2):
        rng = np.random.default_rng(seed)
        reference, rewards, sizes = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3), rng.integers(1, 4, 3)
        kind = regularizer(name, 0.3)
        groups = [rg.Group(f"g{i}", rewards[i], int(sizes[i])) for i in range(3)]
        table = rg.Table(reference, kind, normalization="sum")
        (regret, *_) = rg.audit(rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()), groups, table, [rg.BestResponse()])
        best = 0.0
        for size in {1, int(sizes[0]), 4 * int(sizes.max())}:
            said = np.tile(rewards, (len(grid), 1, 1))
            said[:, 0] = grid
            many = rg.settle_many(said, [size, *sizes[1:]], reference, kind, payment=rg.NoPayments())
            best = max(best, float((sizes[0] * (many.policy @ rewards[0])).max()) - regret.truthful_utility)
        assert regret.found >= 0.999 * best > 0.01
