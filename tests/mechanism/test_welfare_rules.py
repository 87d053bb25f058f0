"""Fair welfares, the median and equal say: against a conic solver, in limits, and refused where they do not fit."""

from itertools import permutations

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.reports import Profile
from rlhf_game.mechanism.rules.social_choice import MaximalLottery, NashFeedback, RandomDictatorship
from rlhf_game.mechanism.rules.welfare_rules import (
    AlphaFair,
    Egalitarian,
    EqualSay,
    FairRule,
    NashWelfare,
    PolicyMedian,
)
from rlhf_game.mechanism.training import TrainingRule
from tests import oracles
from tests.strategies import regularizer

RULES = [NashWelfare(), AlphaFair(0.5), AlphaFair(3.0), Egalitarian(), EqualSay(), PolicyMedian()]


def _game(seed: int, groups: int = 3, outcomes: int = 5, prompts: int = 1) -> tuple[np.ndarray, list[rg.Report]]:
    rng = np.random.default_rng(seed)
    reference = rng.dirichlet(np.ones(outcomes), size=prompts)
    reports = [rg.Report(rng.random((prompts, outcomes)) ** 2, size=int(rng.integers(1, 6))) for _ in range(groups)]
    return reference, reports


def _conic(
    rule: TrainingRule, name: str, strength: float, reference: np.ndarray, reports: list[rg.Report]
) -> np.ndarray:
    """The same policy as a conic programme over the outcomes themselves: [B, m]."""
    import cvxpy as cp

    p = cp.Variable(reference.shape)
    prompts = len(reference)
    values = [cp.sum(cp.multiply(p, np.asarray(report.reward))) / prompts for report in reports]
    sizes = np.array([report.size for report in reports])
    if isinstance(rule, NashWelfare):
        welfare = sum(w * cp.log(v) for w, v in zip(sizes, values, strict=True))
    elif isinstance(rule, AlphaFair):
        a = rule.alpha
        welfare = sum(w * cp.power(v, 1 - a) for w, v in zip(sizes, values, strict=True)) / (1 - a)
    else:
        welfare = cp.minimum(*values)
    if name == "kl":
        cost = cp.sum(cp.rel_entr(p, reference))
    elif name == "l2":
        cost = cp.sum_squares(p - reference)
    else:  # squared Hellinger: sum (sqrt p - sqrt q)^2 / 2
        cost = cp.sum(p + reference - 2 * cp.multiply(np.sqrt(reference), cp.sqrt(p))) / 2
    problem = cp.Problem(cp.Maximize(welfare - strength / prompts * cost), [p >= 0, cp.sum(p, axis=1) == 1])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    return np.asarray(p.value)


@pytest.mark.parametrize("rule", [NashWelfare(), AlphaFair(0.5), AlphaFair(3.0), Egalitarian()], ids=str)
@pytest.mark.parametrize("name", ["kl", "l2", "hellinger"])
def test_fair_welfares_agree_with_a_conic_solver(rule: TrainingRule, name: str) -> None:
    for seed, (strength, prompts) in enumerate([(0.1, 1), (1.0, 2)]):
        reference, reports = _game(seed, prompts=prompts)
        table = rg.Table(reference, regularizer(name, strength))
        ours = rg.Mechanism(rule, rg.NoPayments()).settle(reports, table).policy.probabilities
        np.testing.assert_allclose(ours, _conic(rule, name, strength, reference, reports), atol=2e-5)  # the peer's


@pytest.mark.parametrize("name", ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_loses_affine_welfare_to_the_maximiser_by_exactly_its_gap(rule: TrainingRule, name: str) -> None:
    reference, reports = _game(8, prompts=2)
    table = rg.Table(reference, regularizer(name, 0.7))
    fair = rg.Mechanism(rule, rg.NoPayments()).settle(reports, table)
    best = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()).settle(reports, table)
    assert fair.policy.gap > 1e-4  # these games tell the rules apart
    assert fair.affine_social_welfare + fair.policy.gap == pytest.approx(best.affine_social_welfare, rel=1e-12)
    np.testing.assert_allclose(fair.policy.probabilities.sum(axis=-1), 1, rtol=1e-12)


def test_the_gap_of_the_maximiser_itself_is_zero() -> None:
    reference, reports = _game(3, groups=1)
    table = rg.Table(reference, rg.KL(0.3))
    one = [rg.Report(reports[0].reward, size=1)]
    assert rg.Mechanism(EqualSay(), rg.NoPayments()).settle(one, table).policy.gap < 1e-30


@pytest.mark.parametrize("name", ["kl", "l2", "reverse_kl", "chi2", "js", "hellinger", "alpha:3"])
def test_the_divergence_of_any_policy_is_the_definition_of_the_contract(name: str) -> None:
    rng = np.random.default_rng(5)
    reference, policy = rng.dirichlet(np.ones(6), size=3), rng.dirichlet(np.ones(6), size=3)
    policy[2, 4] = 0.0
    policy[2] /= policy[2].sum()
    ours = (rg.Alpha(0.7, order=3.0) if name == "alpha:3" else regularizer(name, 0.7)).divergence(policy, reference)
    exact = [oracles.mpf(0)] * 3
    for b in range(3):
        row = [oracles.mpf(x) for x in policy[b]]
        if name == "reverse_kl" and b == 2:
            assert ours[b] == np.inf
            continue
        exact[b] = oracles.divergence_of(name, row, [oracles.mpf(x) for x in reference[b]])
        assert ours[b] == pytest.approx(float(exact[b]), rel=1e-13)


def test_a_tiny_divergence_keeps_its_digits() -> None:
    reference = np.full((1, 4), 0.25)
    policy = reference + 2.0**-40 * np.array([[1, -1, 1, -1]])
    assert rg.KL(1.0).divergence(policy, reference)[0] == pytest.approx(2 * 2.0**-80 * 4, rel=1e-9)
    assert rg.SquaredL2(1.0).divergence(policy, reference)[0] == pytest.approx(4 * 2.0**-80, rel=1e-12)
    assert rg.JensenShannon(1.0).divergence(policy, reference)[0] == pytest.approx(2.0**-80 * 2, rel=1e-3)


def test_mass_where_the_reference_has_none_costs_everything_but_under_l2() -> None:
    reference, policy = np.array([[0.5, 0.5, 0.0]]), np.array([[0.4, 0.4, 0.2]])
    assert rg.KL(1.0).divergence(policy, reference)[0] == np.inf
    assert rg.Hellinger(1.0).divergence(policy, reference)[0] == np.inf
    assert rg.SquaredL2(1.0).divergence(policy, reference)[0] == pytest.approx(0.06)


def test_aversion_leads_from_social_welfare_over_nash_to_egalitarian() -> None:
    reference, reports = _game(11)
    table = rg.Table(reference, rg.KL(0.5))

    def policy(rule: TrainingRule) -> np.ndarray:
        return np.asarray(rg.Mechanism(rule, rg.NoPayments()).settle(reports, table).policy.probabilities)

    np.testing.assert_allclose(policy(AlphaFair(1e-4)), policy(rg.SocialWelfare()), atol=1e-3)
    np.testing.assert_allclose(policy(AlphaFair(1 + 1e-5)), policy(NashWelfare()), atol=1e-4)
    assert np.abs(policy(NashWelfare()) - policy(rg.SocialWelfare())).max() > 0.01


def test_the_egalitarian_policy_makes_the_poorest_groups_equal() -> None:
    table = rg.Table([0.5, 0.3, 0.2], rg.KL(0.05))
    reports = [rg.Report([1, 0, 0]), rg.Report([0, 1, 0]), rg.Report([0, 0, 1], size=50)]
    settled = rg.Mechanism(Egalitarian(), rg.NoPayments()).settle(reports, table)
    low = settled.values.min()
    assert low > 0.3
    assert rg.Mechanism(rg.SocialWelfare(), rg.NoPayments()).settle(reports, table).values.min() < 1e-6


def test_equal_say_ignores_sizes() -> None:
    reference, reports = _game(2)
    table = rg.Table(reference, rg.SquaredL2(0.5))
    one = [rg.Report(report.reward) for report in reports]
    said = [rg.Mechanism(EqualSay(), rg.NoPayments()).settle(r, table).policy.probabilities for r in (reports, one)]
    np.testing.assert_array_equal(*said)


@pytest.mark.parametrize("seed", range(12))
def test_the_median_minimises_the_distance_to_the_groups_policies(seed: int) -> None:
    from scipy.optimize import linprog

    rng = np.random.default_rng(seed)
    reference, reports = _game(seed, groups=int(rng.integers(1, 6)), outcomes=4)
    table = rg.Table(reference, rg.SquaredL2(0.2) if seed % 2 else rg.KL(0.2))
    ours = rg.Mechanism(PolicyMedian(), rg.NoPayments()).settle(reports, table).policy.probabilities[0]
    profile = read_profile(reports, table)
    alone = np.array(
        [table.maximize(profile.sizes[i : i + 1], [r]).probabilities[0] for i, r in enumerate(profile.rewards)]
    )
    groups, outcomes = alone.shape
    cost = np.concatenate([np.zeros(outcomes), np.repeat(profile.sizes, outcomes)])
    above = np.vstack(
        [np.hstack([s * np.tile(np.eye(outcomes), (groups, 1)), -np.eye(groups * outcomes)]) for s in (1, -1)]
    )
    best = linprog(
        cost, A_ub=above, b_ub=np.concatenate([alone.ravel(), -alone.ravel()]),
        A_eq=np.concatenate([np.ones(outcomes), np.zeros(groups * outcomes)])[None], b_eq=[1],
    )  # fmt: skip
    assert profile.sizes @ np.abs(ours - alone).sum(axis=1) == pytest.approx(best.fun, rel=1e-7, abs=1e-9)


def test_three_groups_that_agree_on_nothing_have_the_even_median() -> None:
    table = rg.Table([1 / 3, 1 / 3, 1 / 3], rg.SquaredL2(0.01))
    reports = [rg.Report(row) for row in np.eye(3)]
    policy = rg.Mechanism(PolicyMedian(), rg.NoPayments()).settle(reports, table).policy.probabilities
    np.testing.assert_allclose(policy, 1 / 3, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_is_anonymous(rule: TrainingRule) -> None:
    reference, reports = _game(21)
    table = rg.Table(reference, rg.KL(0.3))
    policies = [
        rg.Mechanism(rule, rg.NoPayments()).settle([reports[i] for i in order], table).policy.probabilities
        for order in permutations(range(3))
    ]
    for policy in policies[1:]:
        np.testing.assert_allclose(policy, policies[0], atol=1e-8)


@pytest.mark.parametrize("rule", [*RULES, RandomDictatorship(), MaximalLottery(), NashFeedback()], ids=str)
def test_a_group_of_size_0_is_not_there(rule: TrainingRule) -> None:
    """Neither among groups of one game, nor in some of many games; where nobody is, the reference stays."""
    reference, reports = _game(21)
    rewards = [np.asarray(report.reward) for report in reports]
    table = rg.Table(reference, rg.KL(0.3))
    read = [table.read(reward) for reward in rewards]
    here = rule.train(Profile(tuple(read[:2]), np.array([2.0, 3.0])), table)
    gone = rule.train(Profile(tuple(read), np.array([2.0, 3.0, 0.0])), table)
    everybody = rule.train(Profile(tuple(read), np.array([2.0, 3.0, 1.0])), table)
    np.testing.assert_allclose(gone.probabilities, here.probabilities, atol=1e-12)  # type: ignore[attr-defined]
    assert np.abs(everybody.probabilities - here.probabilities).max() > 1e-3  # type: ignore[attr-defined]
    games = rg.Table(np.repeat(reference, 3, axis=0), rg.KL(0.3), games=True)
    sizes = np.array([[2.0, 2.0, 0.0], [3.0, 3.0, 0.0], [0.0, 1.0, 0.0]])
    many = rule.train(Profile(tuple(games.read(np.repeat(reward, 3, axis=0)) for reward in rewards), sizes), games)
    expected = np.stack([policy.probabilities.ravel() for policy in (here, everybody)] + [reference[0]])  # type: ignore[attr-defined]
    np.testing.assert_allclose(many.probabilities, expected, atol=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_affine_payments_are_refused(rule: TrainingRule) -> None:
    with pytest.raises(rg.CombinationError, match=f"AffinePayments pays for AffineRule, not {type(rule).__name__}"):
        rg.Mechanism(rule, rg.AffinePayments())
    reference, reports = _game(1)
    table = rg.Table(reference, rg.KL(0.3))
    policy = rg.Mechanism(rule, rg.NoPayments()).settle(reports, table).policy
    with pytest.raises(rg.CombinationError, match="trained by another rule"):
        policy.externalities(np.ones(1), [table.read(reports[0].reward)])


def test_affine_payments_would_not_make_equal_say_truthful() -> None:
    """Why they are refused: with sizes private, reporting size 1 divides the payment and changes nothing else."""
    table = rg.Table([0.5, 0.5], rg.KL(0.2))
    mine, other = rg.Report([1, 0], size=4), rg.Report([0, 1])
    said = [rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle([rg.Report([1, 0]), other], table)]
    value, payment = said[0].values[0], said[0].payments[0]
    truthful, lie = mine.size * value - mine.size * payment, mine.size * value - 1 * payment
    assert lie > truthful + 0.1


def test_what_a_rule_cannot_do_is_said() -> None:
    table = rg.Table([0.5, 0.5, 0.0], rg.KL(0.2))
    nash = rg.Mechanism(NashWelfare(), rg.NoPayments())
    with pytest.raises(rg.InputError, match="report 1: a fair welfare needs a reward > 0 on some outcome"):
        nash.settle([rg.Report([1, 0, 0]), rg.Report([0, 0, 1])], table)
    with pytest.raises(rg.InputError, match="report 0: a fair welfare needs rewards >= 0"):
        nash.settle([rg.Report([1, -1, 0])], table)
    with pytest.raises(rg.CombinationError, match="NashWelfare needs a Table, not Menu"):
        nash.settle([rg.Report([1, 0])], rg.Menu([0, 0]))
    with pytest.raises(rg.InputError, match="alpha must be a number > 0 other than 1"):
        AlphaFair(1.0)


def test_a_solver_that_stops_short_is_an_error_and_not_an_answer() -> None:
    class Lazy(FairRule):
        def welfare(self, values: np.ndarray, sizes: np.ndarray) -> float:
            return float(values.min())

        def conjugate(self, weights: np.ndarray, sizes: np.ndarray) -> float:
            return 0.0

        def solve(self, sizes: np.ndarray, rewards: object, space: object) -> np.ndarray:
            return np.full(len(sizes), 1 / len(sizes))

    reference, reports = _game(4)
    with pytest.raises(rg.RunError, match="Lazy is solved to .* only"):
        rg.Mechanism(Lazy(), rg.NoPayments()).settle(reports, rg.Table(reference, rg.KL(0.3)))
