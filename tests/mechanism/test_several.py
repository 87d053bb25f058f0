"""Several models: goldens, every partition by hand, 60,000 lies, and a group that would lose without `no model`."""

from itertools import product

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.several import ModelPayments, SeveralModels, partition_values

Q = [0.7, 0.2, 0.1]
REPORTS = [rg.Report([0.6, 0.3, 0.1], 3), rg.Report([0.1, 0.2, 0.7], 2), rg.Report([0.3, 0.4, 0.3], 1)]
SPACE = rg.Table(Q, rg.KL(0.5))


def settled(cost: float, at_most: int = 3, has_none: bool = True, reports: list[rg.Report] = REPORTS) -> rg.Settlement:
    rule = SeveralModels(rg.SocialWelfare(), at_most, cost, has_none)
    return rg.Mechanism(rule, ModelPayments()).settle(reports, SPACE)


GOLDEN = [  # cost, W, parts, payments: theory2 section 15
    (0.0, 2.540915600, ((0,), (1,), (2,)), (0.10144616, 0.28696643, 0.00172814)),
    (0.15, 2.234732535, ((0,), (1, 2)), (0.25144616, 0.41245344, 0.00133795)),
    (0.2, 2.15, (), (0.00661219, 0.0, 0.0)),
    (0.5, 2.15, (), (0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(("cost", "welfare", "parts", "payments"), GOLDEN)
def test_the_models_and_payments_are_those_of_the_theory(
    cost: float, welfare: float, parts: tuple[tuple[int, ...], ...], payments: tuple[float, ...]
) -> None:
    found = settled(cost)
    assert found.affine_social_welfare == pytest.approx(welfare, abs=1e-9)
    assert found.policy.parts == parts  # type: ignore[attr-defined]
    np.testing.assert_allclose(found.payments, payments, atol=5e-9)
    assert (found.utilities >= 0).all()


def test_where_a_model_is_always_trained_there_is_a_deficit_worth_printing() -> None:
    always = settled(0.2, has_none=False)
    assert always.affine_social_welfare == pytest.approx(2.13473253, abs=1e-8)
    np.testing.assert_allclose(always.payments, [0.30144616, 0.46245344, 0.00133795], atol=5e-9)
    dear = settled(0.5, has_none=False)
    assert dear.affine_social_welfare == pytest.approx(1.697790035, abs=1e-9)
    assert len(dear.policy.parts) == 1  # type: ignore[attr-defined]
    assert dear.revenue == pytest.approx(0.3728, abs=5e-5)
    assert dear.revenue < dear.policy.cost == 0.5  # type: ignore[attr-defined]


def test_training_is_worth_it_up_to_what_it_brings() -> None:
    two = REPORTS[:2]
    assert settled(0.0610, 1, reports=two).policy.parts  # type: ignore[attr-defined]
    assert not settled(0.0611, 1, reports=two).policy.parts  # type: ignore[attr-defined]
    np.testing.assert_allclose(settled(0.1, 1, reports=two).payments, [0.111131, 0.078120], atol=5e-7)


def partitions(groups: list[int]) -> list[list[list[int]]]:
    """Every partition, by recursion: another way than over subsets."""
    if not groups:
        return [[]]
    first, *rest = groups
    out = []
    for smaller in partitions(rest):
        out += [[[first, *part] if k == at else part for k, part in enumerate(smaller)] for at in range(len(smaller))]
        out.append([[first], *smaller])
    return out


@pytest.mark.parametrize("at_most", [1, 2, 5])
def test_the_best_of_all_partitions_is_found(at_most: int) -> None:
    rng = np.random.default_rng(at_most)
    single = rng.normal(size=(32, 4)) + 1
    single[0] = 0
    best = partition_values(single, at_most, 5).max(axis=0)[31]
    some = [parts for parts in partitions([*range(5)]) if len(parts) <= at_most]
    sums = [sum(single[sum(1 << i for i in part)] for part in parts) for parts in some]
    np.testing.assert_allclose(best, np.max(sums, axis=0))


def test_payments_are_clarke_s_by_whole_maxima() -> None:
    """An independent way: W of all and W without each group, every partition enumerated."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        q, cost = rng.dirichlet(np.ones(4)), rng.uniform(0, 0.3)
        space = rg.Table(q, rg.SquaredL2(0.4))
        reports = [
            rg.Report(r, int(w)) for r, w in zip(rng.dirichlet(np.ones(4), 4), rng.integers(1, 5, 4), strict=True)
        ]
        found = rg.Mechanism(SeveralModels(rg.SocialWelfare(), 2, cost), ModelPayments()).settle(reports, space)

        def most(
            who: list[int], space: rg.Table = space, reports: list[rg.Report] = reports, cost: float = cost
        ) -> float:
            def reach(part: list[int]) -> float:
                rewards = [space.read(reports[i].reward) for i in part]
                return space.maximize(np.array([float(reports[i].size) for i in part]), rewards).welfare

            none = sum(reports[i].size * float(space.reference[0][0] @ np.asarray(reports[i].reward)) for i in who)
            return max(
                [none, *(sum(reach(p) - cost for p in parts) for parts in partitions(who) if 0 < len(parts) <= 2)]
            )

        everyone = [*range(4)]
        assert found.affine_social_welfare == pytest.approx(most(everyone), rel=1e-12)
        for i in everyone:
            others = [j for j in everyone if j != i]
            clarke = most(others) - (most(everyone) - reports[i].size * found.values[i])
            assert found.payments[i] == pytest.approx(clarke, rel=1e-9, abs=1e-12)


def test_none_of_60_000_lies_gains() -> None:
    """All at once: the welfare of every set of groups under every lie, by the regulariser itself."""
    rng = np.random.default_rng(3)
    count, cost, w = 60_000, 0.15, np.array([3.0, 2.0, 1.0])
    truth = np.array([report.reward for report in REPORTS])
    gains = []
    for liar in range(3):
        said = np.repeat(truth[:, None], count // 3, axis=1)
        said[liar] = rng.dirichlet(np.full(3, 0.5), count // 3)
        sizes = np.repeat(w[:, None], count // 3, axis=1)
        sizes[liar] = rng.integers(1, 13, count // 3)
        gains.append(
            utility(said, sizes, truth, w, liar, cost) - utility(truth[:, None], w[:, None], truth, w, liar, cost)
        )
    assert max(gain.max() for gain in gains) < 1e-12
    assert min(gain.min() for gain in gains) < -0.1


def test_no_lie_gains_by_the_package_s_own_payments_and_some_do_without() -> None:
    rng = np.random.default_rng(4)
    truth = [rg.Group(str(i), report.reward, report.size) for i, report in enumerate(REPORTS)]
    for payment, gains in ((ModelPayments(), False), (rg.NoPayments(), True)):
        mechanism = rg.Mechanism(SeveralModels(rg.SocialWelfare(), 2, 0.15), payment)
        others = (REPORTS[0], REPORTS[2])
        world = rg.World(mechanism, SPACE, others, 1, 12)
        honest = world.utility(truth[1], REPORTS[1])
        lies = [
            rg.Report(r, int(w)) for r, w in zip(rng.dirichlet(np.ones(3), 150), rng.integers(1, 13, 150), strict=True)
        ]
        best = max(world.utility(truth[1], lie) for lie in lies) - honest
        assert (best > 1e-3) == gains
        assert gains or best <= 1e-12


def utility(
    said: np.ndarray, sizes: np.ndarray, truth: np.ndarray, w: np.ndarray, liar: int, cost: float
) -> np.ndarray:
    """What the liar really gets in each game: said [3, B, 3], sizes [3, B]; by enumeration, not by the package."""
    q, strength = np.array(Q), 0.5
    sets = np.array([*product([0, 1], repeat=3)], dtype=float)[:, ::-1]  # row k: bits of k
    scores = np.einsum("kn,nb,nbm->kbm", sets, sizes, said)
    log_z = np.log(np.einsum("m,kbm->kb", q, np.exp(scores / strength)))
    policy = q * np.exp(scores / strength - log_z[..., None])
    reached, none = strength * log_z, scores @ q
    value = w[liar] * policy @ truth[liar]
    options = [(((1 << 3) - 1,),), ((1, 6),), ((2, 5),), ((3, 4),), ((1, 2, 4),)]
    flat = [parts[0] for parts in options]
    total = np.stack([none[7], *(sum(reached[p] - cost for p in parts) for parts in flat)])
    mine = np.stack([np.full(none.shape[1], w[liar] * q @ truth[liar]),
                     *(value[next(p for p in parts if p >> liar & 1)] for parts in flat)])  # fmt: skip
    others = 7 ^ (1 << liar)
    a, b = (1 << i for i in range(3) if i != liar)
    without = np.stack([none[others], reached[others] - cost, reached[a] + reached[b] - 2 * cost]).max(axis=0)
    chosen = total.argmax(axis=0)
    own_said = sizes[liar] * np.stack(
        [
            np.einsum("bm,m->b", said[liar], q),
            *(np.einsum("bm,bm->b", policy[next(p for p in parts if p >> liar & 1)], said[liar]) for parts in flat),
        ]
    )
    at = (chosen, np.arange(len(chosen)))
    return mine[at] - (without - (total[at] - own_said[at]))


def test_twelve_groups_are_settled_and_thirteen_refused() -> None:
    rng = np.random.default_rng(1)
    reports = [rg.Report(r, 1) for r in rng.dirichlet(np.ones(3), 13)]
    found = settled(0.02, 3, reports=reports[:12])
    assert sorted(i for part in found.policy.parts for i in part) == [*range(12)]  # type: ignore[attr-defined]
    assert (found.payments >= 0).all()
    with pytest.raises(InputError, match="groups must be at most 12 where several models are considered, got 13"):
        settled(0.02, reports=reports)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="at_most must be an integer >= 1"):
        SeveralModels(rg.SocialWelfare(), 0, 0.1)
    with pytest.raises(InputError, match="cost must be a number >= 0"):
        SeveralModels(rg.SocialWelfare(), 1, -0.1)
    with pytest.raises(CombinationError, match="without a boost"):
        SeveralModels(rg.AffineWelfare(boost=[1, 0, 0]), 1, 0.1)
    with pytest.raises(CombinationError, match="ModelPayments pays for SeveralModels"):
        rg.Mechanism(rg.SocialWelfare(), ModelPayments())


def test_a_rule_for_other_names_has_their_groups_weights_and_settles() -> None:
    space = rg.Table([0.25] * 4, rg.KL(0.5))
    rule = SeveralModels(rg.AffineWelfare([2.0, 1.0]), 2, 0.01)
    for who, weights in (([0, 0, 1], [2.0, 2.0, 1.0]), ([1], [1.0]), ([0, 1, None], [2.0, 1.0, 1.0])):
        named = rule.among(2, who)
        np.testing.assert_array_equal(named.rule.multipliers(len(who)), weights)
        rg.Mechanism(named, ModelPayments()).settle([rg.Report([1, 0, 0, 0])] * len(who), space)
