"""Cycle monotonicity, witnesses, shortest-path payments and payment equivalence, on finite sets of types."""

import time
from itertools import permutations

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.rochet import Implementability, equivalence, implementability
from rlhf_game.mechanism.rules.welfare_rules import Egalitarian, EqualSay, NashWelfare, PolicyMedian
from rlhf_game.mechanism.training import TrainingRule

OTHERS = [rg.Report([0.1, 0.2, 0.7], size=2), rg.Report([0.3, 0.6, 0.1])]
SPACE = rg.Table([0.4, 0.3, 0.3], rg.KL(0.5), normalization="sum")


def _types(count: int, seed: int = 0, sizes: bool = False) -> list[rg.Report]:
    rng = np.random.default_rng(seed)
    return [rg.Report(row, int(rng.integers(1, 5)) if sizes else 1) for row in rng.dirichlet(np.ones(3), size=count)]


def _least_cycle(losses: np.ndarray) -> float:
    """The least length of any simple cycle, by trying all."""
    count = len(losses)
    cycles = (order for k in range(2, count + 1) for order in permutations(range(count), k))
    return min(sum(losses[a, b] for a, b in zip(order, (*order[1:], order[0]), strict=True)) for order in cycles)


@pytest.mark.parametrize("space", [SPACE, rg.Table([0.4, 0.3, 0.3], rg.SquaredL2(0.5)), rg.Menu([0.1, 0.2, 0.0])])
def test_affine_maximisers_are_implementable_and_affine_payments_are_truthful(space: object) -> None:
    types = _types(40, sizes=True)
    rule = rg.AffineWelfare(weights=[2.0, 1.0, 0.5], boost=[0.3, 0.0, 0.1])
    digraph = implementability(rule, space, types, OTHERS)
    assert digraph.is_implementable
    assert digraph.cycle == ()
    affine = np.array([rg.Mechanism(rule, rg.AffinePayments()).settle([t, *OTHERS], space).payments[0] for t in types])
    for payments in (affine, digraph.payments(0), digraph.payments(7)):
        assert (payments - payments[:, None] <= digraph.losses + 1e-11).all()  # pay(r) - pay(r') <= l(r', r)
    for a, b in [(0, 1), (3, 17), (39, 2)]:
        assert digraph.difference(a, b).contains(affine[a] - affine[b], slack=1e-11)
    wrong = 2 * affine  # the negative control: a payment that is not truthful leaves an interval
    assert not all(
        digraph.difference(a, b).contains(wrong[a] - wrong[b], slack=1e-11) for a in range(40) for b in range(40)
    )


def test_shortest_paths_are_the_largest_truthful_payments() -> None:
    from scipy.optimize import linprog

    digraph = implementability(rg.SocialWelfare(), SPACE, _types(12), OTHERS, tolerance=0.0)
    pairs = [(a, b) for a in range(12) for b in range(12) if a != b]
    rows = np.array([np.eye(12)[b] - np.eye(12)[a] for a, b in pairs])
    lengths = np.array([digraph.losses[a, b] for a, b in pairs])
    for target in range(1, 12):
        best = linprog(-np.eye(12)[target], A_ub=rows, b_ub=lengths, bounds=[(0, 0)] + [(None, None)] * 11)
        assert digraph.payments(0)[target] == pytest.approx(-best.fun, abs=1e-8)


@pytest.mark.parametrize("rule", [EqualSay(), NashWelfare(), Egalitarian(), PolicyMedian()], ids=str)
def test_other_rules_are_checked_against_every_cycle(rule: TrainingRule) -> None:
    """Whatever the verdict is, trying every cycle gives the same one, and a witness is what it says."""
    for seed in range(3):
        digraph = implementability(rule, SPACE, _types(6, seed, sizes=True), OTHERS)
        assert digraph.is_implementable == (_least_cycle(digraph.losses) >= -1e-9)
        if not digraph.is_implementable:
            _check_witness(digraph)


def _check_witness(digraph: Implementability) -> None:
    cycle = digraph.cycle
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1 >= 2
    assert digraph.cycle_length == pytest.approx(
        sum(digraph.losses[a, b] for a, b in zip(cycle, cycle[1:], strict=False))
    )
    assert digraph.cycle_length < 0
    with pytest.raises(rg.InputError, match="no payments make this rule truthful"):
        digraph.payments(0)


def test_two_fair_rules_have_witnesses() -> None:
    """No payments make the egalitarian rule or Nash welfare truthful (the first gives more to whoever claims less)."""
    table = rg.Table([0.5, 0.3, 0.2], rg.KL(0.1))
    rng = np.random.default_rng(4)
    types = [rg.Report(row) for row in 0.5 * rng.random((20, 3))]
    for rule in (Egalitarian(), NashWelfare()):
        digraph = implementability(rule, table, types, OTHERS)
        assert not digraph.is_implementable
        _check_witness(digraph)
        # once more from settlements alone: together, the types gain by each reporting the one before
        loss = 0.0
        for lie, truth in zip(digraph.cycle[:-1], digraph.cycle[1:], strict=True):
            said = [rg.Mechanism(rule, rg.NoPayments()).settle([types[k], *OTHERS], table) for k in (truth, lie)]
            reward = [table.read(types[truth].reward)]
            loss += float(said[0].policy.values(reward)[0] - said[1].policy.values(reward)[0])
        assert loss == pytest.approx(digraph.cycle_length, rel=1e-6)
        assert loss < -1e-5  # a thousand times what the solver leaves open


def test_equal_say_is_implementable_where_the_size_is_known_and_not_where_it_is_private() -> None:
    """For one size it is an affine maximiser. Beyond, a large group with mild wishes gets as little as a small one."""
    assert implementability(EqualSay(), SPACE, _types(20), OTHERS).is_implementable
    digraph = implementability(EqualSay(), SPACE, _types(20, sizes=True), OTHERS)
    assert not digraph.is_implementable
    _check_witness(digraph)
    assert implementability(rg.SocialWelfare(), SPACE, _types(20, sizes=True), OTHERS).is_implementable


def test_a_zero_loss_is_an_edge() -> None:
    """csgraph reads a dense zero as no edge; here only the edge of length 0 makes the cycle negative."""
    losses = np.array([[0.0, 0.0, 9.0], [9.0, 0.0, 1.0], [-2.0, 9.0, 0.0]])
    digraph = Implementability(losses, 0.0)
    assert not digraph.is_implementable
    assert set(digraph.cycle) == {0, 1, 2}
    assert digraph.cycle_length == -1.0
    assert Implementability(losses + np.array([[0, 1.5, 0], [0, 0, 0], [0, 0, 0]]), 0.0).is_implementable


def test_every_random_digraph_is_judged_as_by_trying_all_cycles() -> None:
    rng = np.random.default_rng(1)
    verdicts = []
    for _ in range(150):
        losses = rng.integers(-2, 12, size=(5, 5)) / 2
        np.fill_diagonal(losses, 0)
        digraph = Implementability(losses, 0.0)
        assert digraph.is_implementable == (_least_cycle(losses) >= 0)
        verdicts.append(digraph.is_implementable)
        if not digraph.is_implementable:
            _check_witness(digraph)
    assert 20 < sum(verdicts) < 130


@pytest.mark.parametrize("regularizer", [rg.KL(0.5), rg.SquaredL2(0.5), rg.JensenShannon(0.5)], ids=str)
def test_payments_are_equivalent_as_types_get_denser(regularizer: object) -> None:
    table = rg.Table([0.4, 0.3, 0.3], regularizer)
    ends = (rg.Report([0.9, 0.1, 0.0]), rg.Report([0.0, 0.2, 0.8]))
    affine = [
        rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments()).settle([end, *OTHERS], table).payments[0] for end in ends
    ]
    intervals = [equivalence(rg.SocialWelfare(), table, ends, OTHERS, types) for types in (2, 3, 5, 9, 17, 33)]
    widths = np.array([float(interval.width) for interval in intervals])
    assert all(interval.contains(affine[0] - affine[1], slack=1e-11) for interval in intervals)
    np.testing.assert_allclose(widths[1:] / widths[:-1], 0.5, atol=0.1)  # first order in the distance of types
    assert float(intervals[-1].value) == pytest.approx(affine[0] - affine[1], abs=0.02 * widths[0])


def test_two_hundred_types_take_seconds() -> None:
    started = time.process_time()
    digraph = implementability(rg.SocialWelfare(), SPACE, _types(200), OTHERS)
    assert digraph.is_implementable
    assert digraph.difference(0, 199).width > 0
    rng = np.random.default_rng(0)
    losses = rng.random((200, 200)) - 0.01
    np.fill_diagonal(losses, 0)
    _check_witness(Implementability(losses, 0.0))
    assert time.process_time() - started < 5


def test_losses_must_be_a_square_of_numbers() -> None:
    with pytest.raises(rg.InputError, match="square with a diagonal of zeros"):
        Implementability(np.ones((2, 2)), 0.0)
    with pytest.raises(rg.InputError, match="the same size"):
        equivalence(rg.SocialWelfare(), SPACE, (rg.Report([1, 0, 0]), rg.Report([0, 1, 0], 2)), [], 3)
