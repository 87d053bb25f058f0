"""What may be said: every point that is brought back is in the domain, and the projection is the nearest one."""

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.mechanism.domains import FixedSum, MaxOne, Within
from rlhf_game.mechanism.spaces.chain import Chain
from rlhf_game.mechanism.spaces.trie import Trie
from tests.agents import brute

CHAIN = ([[0, 1, -1], [1, 0, -1]], [[0.6, 0.3, 0.1], [0.5, 0.5, 0.0]])


def test_the_projection_on_a_simplex_is_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    grid = brute.simplex_grid(3, 40)
    domain = FixedSum(np.array([0.0, -0.5]), np.array([1.0, 0.5]))
    points = rng.normal(size=(50, 2, 3))
    nearest = domain.project(points)
    np.testing.assert_allclose(nearest.sum(axis=-1), np.broadcast_to(domain.total, (50, 2)), atol=1e-12)
    assert (nearest >= domain.low[:, None]).all()
    for row in range(2):
        others = domain.low[row] + (domain.total[row] - 3 * domain.low[row]) * grid
        apart = np.linalg.norm(points[:, row, None] - others, axis=-1).min(axis=1)
        assert (np.linalg.norm(points[:, row] - nearest[:, row], axis=-1) <= apart + 1e-12).all()


def test_the_projection_on_maximum_one_is_the_nearest_point() -> None:
    points = np.random.default_rng(1).normal(0.5, 1, size=(80, 1, 3))
    nearest = MaxOne(np.zeros(1)).project(points)
    assert (nearest.max(axis=-1) == 1).all()
    assert (nearest >= 0).all()
    apart = np.linalg.norm(points - brute.max_grid(3, 30), axis=-1).min(axis=1)
    assert (np.linalg.norm(points - nearest, axis=-1)[:, 0] <= apart + 1e-12).all()


@pytest.mark.parametrize("normalization", ["none", "sum", "max"])
@pytest.mark.parametrize("kind", ["table", "menu", "chain"])
def test_reports_made_from_rows_are_read_back_and_are_in_the_domain(kind: str, normalization: str) -> None:
    rng = np.random.default_rng(3)
    if kind == "chain":
        space = Chain(*CHAIN, rg.KL(0.5), horizon=3, normalization=normalization)
        truth = rng.random((2, 3))
        truth = {"none": truth, "sum": truth / space.total(truth), "max": truth / space.extremes(truth)[1]}[
            normalization
        ]
    else:
        space = (
            rg.Table([0.2, 0.3, 0.5], rg.KL(1), normalization=normalization)
            if kind == "table"
            else rg.Menu([0.1, 0, 0.3], normalization=normalization)
        )
        truth = rng.random(3)
        truth = {"none": truth, "sum": truth / truth.sum(), "max": truth / truth.max()}[normalization]
    system = space.coordinates(truth)
    sheets = system.sheets(truth)
    np.testing.assert_allclose(system.reward(sheets), truth, rtol=1e-14)
    (domain,) = system.domains(sheets)
    for said in [domain.project(sheets[0]), *domain.draw(rng, 5, sheets[0].shape[-1])]:
        report = system.reward((said,))
        space.read(report)  # raises if it is outside the declared domain
        if normalization == "none":
            assert np.sum(report) == pytest.approx(np.sum(truth))
    np.testing.assert_allclose(domain.project(sheets[0]), sheets[0], atol=1e-12)


def test_of_declared_bounds_every_reward_within_them_may_be_said_and_no_other() -> None:
    """What was tried of a trie kept the sum of the truth, and was refused by its own door where it left the bounds."""
    trie = Trie([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], [0.1, 0.0], rg.KL(1.0), bounds=(-0.5, 2.0))
    truth, rng = [[0.0, 0.5, 1.5], [0.25, 0.25, 0.25]], np.random.default_rng(0)
    system = trie.running.coordinates(truth)
    (sheet,) = system.sheets(truth)
    (domain,) = system.domains((sheet,))
    assert isinstance(domain, Within)
    np.testing.assert_array_equal(domain.project(np.array([[-9.0, 0.7, 9.0]] * 2)), [[-0.5, 0.7, 2.0]] * 2)
    np.testing.assert_allclose(domain.shaped(sheet + 0.5), sheet, atol=1e-15)  # what Polarize says at power 1
    for said in domain.draw(rng, 20, 3):
        trie.running.read(system.reward((said,)))
    with pytest.raises(rg.InputError, match=r"within the declared bounds \[-0.5, 2.0\], got 2.5"):
        trie.running.read([[0.0, 2.5, 0.0], [0.0, 0.0, 0.0]])
    group, rival = rg.Group("a", truth, 1), rg.Group("b", [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 3)
    free = rg.Mechanism(rg.SocialWelfare(), rg.NoPayments())
    found = rg.audit(free, [group, rival], trie.running, rng=rng)[0]
    loudest = np.asarray(found.report.reward)
    assert found.found > 0.05
    assert loudest.min() >= -0.5
    assert loudest.max() == pytest.approx(2.0)  # as loud as may be
    together = domain.together([domain.rows(np.array([1, 0]))])
    np.testing.assert_array_equal(together.project(np.full((2, 2, 3), 9.0)), np.full((2, 2, 3), 2.0))


def test_negative_rewards_keep_their_least_entry() -> None:
    space = rg.Table([0.5, 0.5], rg.KL(1))
    (domain,) = space.coordinates([0.0]).domains(space.coordinates([0.0]).sheets([-0.5, 0.25]))
    assert domain.low.tolist() == [-0.5]
    assert domain.project(np.array([[-5.0, 3.0]])).tolist() == [[-0.5, 0.25]]


def test_a_space_without_tables_is_named() -> None:
    trie = Trie([0.6, 0.4], [0.1], rg.KL(1.0), bounds=(0, 1), outcomes=[(0,), (1,)])
    with pytest.raises(rg.CombinationError, match="misreports of rewards on a Trie need rewards that are arrays"):
        trie.coordinates(len)
