"""The best response reaches what brute force finds, and never less than any lie that is tried against it."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.misreports import Indifferent, Noisy, RaiseAndLower
from rlhf_game.mechanism.spaces.chain import Chain
from tests.agents import brute
from tests.strategies import regularizer

FREE = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
GRIDS = {
    ("sum", 3): brute.simplex_grid(3, 60),
    ("sum", 4): brute.simplex_grid(4, 24),
    ("max", 3): brute.max_grid(3, 24),
    ("max", 4): brute.max_grid(4, 10),
}


def found(mechanism: rg.Mechanism, space: rg.Table, group: rg.Group, others: list[rg.Report], limit: int) -> float:
    world = rg.World(mechanism, space, tuple(others), 0, limit)
    report = rg.BestResponse()(group, world, np.random.default_rng(0))
    return world.utility(group, report) - world.utility(group, rg.Report(group.reward, group.size))


def normalized(rows: np.ndarray, domain: str) -> np.ndarray:
    return rows / (rows.sum(axis=-1, keepdims=True) if domain == "sum" else rows.max(axis=-1, keepdims=True))


@pytest.mark.parametrize(("domain", "outcomes"), GRIDS)
@pytest.mark.parametrize("name", ["kl", "l2"])
@pytest.mark.parametrize("strength", [0.05, 0.4, 3.0])  # 0.05 under L2: the policy stands at a vertex
def test_it_reaches_the_brute_force_optimum(domain: str, outcomes: int, name: str, strength: float) -> None:
    rng = np.random.default_rng(outcomes)
    limit = 4
    for game in range(6):
        reference = rng.dirichlet(np.ones(outcomes))
        rewards = normalized(rng.random((3, outcomes)) ** (1 + game % 3), domain)
        sizes = rng.integers(1, 4, 3)
        others = sizes[1] * rewards[1] + sizes[2] * rewards[2]
        group = rg.Group("one", rewards[0], int(sizes[0]))
        reports = [rg.Report(rewards[j], int(sizes[j])) for j in (1, 2)]
        space = rg.Table(reference, regularizer(name, strength), normalization=domain)
        grid = GRIDS[domain, outcomes]
        best = brute.best_gain(name, strength, reference, others, rewards[0], group.size, grid, limit)
        gain = found(FREE, space, group, reports, limit)
        assert gain >= 0.999 * best - 1e-12
        finer = 1.25 * best + 0.15 * group.size  # what a grid this coarse can miss
        assert gain <= finer


def test_it_leaves_a_vertex_where_the_payoff_is_flat() -> None:
    """L2, saturated: the others hold the policy at their vertex, and small lies change nothing at all."""
    space = rg.Table([0.25, 0.5, 0.25], rg.SquaredL2(0.05), normalization="sum")
    group, other = rg.Group("one", [0.1, 0.2, 0.7]), rg.Report([1, 0, 0], size=3)
    world = rg.World(FREE, space, (other,), 0, 4)
    truth = rg.Report(group.reward)
    assert world.settle(truth).policy.probabilities.tolist() == [1, 0, 0]
    near = rg.Report([0.1, 0.19, 0.71])
    assert world.utility(group, near) == world.utility(group, truth)
    report = rg.BestResponse()(group, world, np.random.default_rng(0))
    np.testing.assert_allclose(world.settle(report).policy.probabilities, [0, 0, 1], atol=1e-9)
    assert world.utility(group, report) - world.utility(group, truth) == pytest.approx(0.6)


def test_several_prompts_are_the_mean_of_their_own_optima() -> None:
    """Given the size the payoff separates, so with one size the optimum is that of each prompt alone."""
    rng = np.random.default_rng(5)
    reference, rewards = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(4), (2, 3))
    weights = np.array([0.5, 0.3, 0.2])
    together = rg.Table(reference, rg.KL(0.3), prompt_weights=weights, normalization="sum")
    gain = found(FREE, together, rg.Group("one", rewards[0]), [rg.Report(rewards[1])], 1)
    alone = [
        found(
            FREE,
            rg.Table(reference[b], rg.KL(0.3), normalization="sum"),
            rg.Group("one", rewards[0, b]),
            [rg.Report(rewards[1, b])],
            1,
        )
        for b in range(3)
    ]
    assert gain == pytest.approx(weights @ alone, rel=1e-6)  # two ascents that stop at slightly different points


def test_ragged_prompts_and_undeclared_domains_are_searched_too() -> None:
    space = rg.Table([[0.7, 0.3], [0.2, 0.5, 0.3]], rg.KL(0.2))
    group = rg.Group("one", [[0.9, 0.1], [0.8, 0.2, 0.4]], 2)
    world = rg.World(FREE, space, (rg.Report([[0, 1], [0, 0.5, 0.5]], 3),), 1, 8)
    report = rg.BestResponse()(group, world, np.random.default_rng(0))
    assert world.utility(group, report) > world.utility(group, rg.Report(group.reward, 2)) + 0.1
    for said, true in zip(report.reward, group.reward, strict=True):
        assert said.sum() == pytest.approx(sum(true), abs=1e-12)
        assert (said >= 0).all()


def test_a_size_between_those_of_the_grid_is_found() -> None:
    """L2 with one other group: what is best is a size near 700 of 4000, which no geometric grid holds."""
    rng = np.random.default_rng(3)
    space = rg.Table([0.3, 0.3, 0.4], rg.SquaredL2(400.0), normalization="max")
    group, other = rg.Group("one", [1, 0.95, 0]), rg.Report([0, 0, 1], size=3)
    world = rg.World(FREE, space, (other,), 0, 4000)
    report = rg.BestResponse()(group, world, rng)
    utilities = [world.utility(group, rg.Report(report.reward, size)) for size in range(1, 4001, 7)]
    assert world.utility(group, report) >= max(utilities) - 1e-12


@pytest.mark.parametrize(
    ("name", "payment"),
    [
        *(
            (name, payment())
            for name in ("kl", "l2")
            for payment in (rg.NoPayments, rg.AffinePayments, rg.RevenueOptimal)
        ),
        *((name, payment()) for name in ("chi2", "js") for payment in (rg.NoPayments, rg.AffinePayments)),
    ],
    ids=str,
)
def test_no_simple_lie_does_better(name: str, payment: object) -> None:
    rng = np.random.default_rng(11)
    space = rg.Table(rng.dirichlet(np.ones(5)), regularizer(name, 0.5), normalization="sum")
    groups = [rg.Group(f"g{i}", rng.dirichlet(np.ones(5)), int(rng.integers(1, 4))) for i in range(3)]
    lies = [rg.Polarize(4), RaiseAndLower(0.1), Indifferent(), Noisy(0.3), rg.Resize(3), rg.Resize(0.3)]
    regrets = rg.audit(rg.Mechanism(rg.SocialWelfare(), payment), groups, space, [*lies, rg.BestResponse(24)])
    for regret in regrets:
        assert regret.trials[-1].gain >= max(trial.gain for trial in regret.trials) - 1e-9
        assert regret.is_refuted == isinstance(payment, rg.NoPayments)


def test_on_a_menu_every_reachable_entry_is_tried() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        rewards = rng.integers(0, 8, (3, 4)) / 8
        rewards[:, 0] = 1
        menu = rg.Menu(rng.random(4), 1.0, normalization="max")
        group = rg.Group("one", rewards[0], 2)
        world = rg.World(FREE, menu, tuple(rg.Report(row, 2) for row in rewards[1:]), 0, 8)
        report = rg.BestResponse()(group, world, rng)
        best = max(world.utility(group, rg.Report(row, size)) for size in (1, 2, 5, 8) for row in brute.max_grid(4, 3))
        assert world.utility(group, report) >= best


def test_on_an_automaton_it_beats_the_enumerated_lies() -> None:
    """One state and three tokens, horizon 1, is a table."""
    chain = Chain([[-1, -1, -1]], [[0.5, 0.3, 0.2]], rg.KL(0.3), horizon=1, normalization="sum")
    table = rg.Table([0.5, 0.3, 0.2], rg.KL(0.3), normalization="sum")
    truth, other = [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]
    group, same = rg.Group("one", [truth]), rg.Group("one", truth)
    mine = rg.World(FREE, chain, (rg.Report([other], 2),), 0, 4)
    theirs = rg.World(FREE, table, (rg.Report(other, 2),), 0, 4)
    rng = np.random.default_rng(0)
    reached = mine.utility(group, rg.BestResponse()(group, mine, rng))
    assert reached == pytest.approx(theirs.utility(same, rg.BestResponse()(same, theirs, rng)), rel=1e-3)


def test_sizes_that_the_regularizer_refuses_do_not_stop_it() -> None:
    space = rg.Table([1e-9, 0.5, 0.5 - 1e-9], rg.Alpha(1e-3, order=-1.0), normalization="sum")
    world = rg.World(FREE, space, (rg.Report([0, 0.5, 0.5], 1),), 0, 10**6)
    group = rg.Group("one", [0, 0.7, 0.3])
    report = rg.BestResponse(8)(group, world, np.random.default_rng(0))
    assert world.utility(group, report) >= world.utility(group, rg.Report(group.reward))
