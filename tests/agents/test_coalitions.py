"""Affine payments are not proof against coalitions nor against false names: the gain, replayed from the witness."""

from dataclasses import replace

import numpy as np
import pytest

import rlhf_game as rg
from rlhf_game.agents.coalitions import Coalition
from rlhf_game.agents.false_names import FalseNames
from rlhf_game.mechanism.participation import Participation, ParticipationPayments
from rlhf_game.mechanism.several import ModelPayments, SeveralModels

AFFINE = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
RNG = np.random.default_rng(0)
SPACE = rg.Table([0.5, 0.5], rg.KL(1.0), normalization="sum")
ALLIES = [rg.Group("one", [1, 0]), rg.Group("two", [1, 0]), rg.Group("three", [0, 1], 2)]


def total(
    mechanism: rg.Mechanism, reports: list[rg.Report], owners: list[rg.Group], charged: list[int], space: object
) -> float:
    settlement = mechanism.settle(reports, space)
    values = settlement.policy.values([space.read(group.reward) for group in owners])
    return float(values @ [group.size for group in owners] - settlement.payments[charged].sum())


def test_two_groups_gain_by_exaggerating_together() -> None:
    """By hand, each claims 4 members. KL, strength 1: p = sigmoid(8 - 2), p_-i = sigmoid(4 - 2), pay KL(p || p_-i)."""

    def policy(score: float) -> float:
        return 1 / (1 + np.exp(-score))

    def move(p: float, q: float) -> float:
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    truthful = 2 * policy(0) - 2 * move(policy(0), policy(-1))
    together = 2 * policy(6) - 2 * move(policy(6), policy(2))
    deviation = Coalition((0, 1)).deviate(AFFINE, ALLIES, SPACE, 4, RNG)
    assert deviation.members == ("one", "two")
    assert deviation.truthful_utility == pytest.approx(truthful, rel=1e-12)
    assert together - truthful > 0.7
    assert deviation.gain >= together - truthful - 1e-12
    alone = rg.audit(AFFINE, ALLIES, SPACE, size_limit=4)
    assert all(regret.is_proved and not regret.is_refuted for regret in alone)


@pytest.mark.parametrize("members", [(0, 1), (0, 2), (2, 1), (0, 1, 2)])
def test_the_gain_can_be_settled_again(members: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    space = rg.Table(rng.dirichlet(np.ones(4), 2), rg.SquaredL2(0.8), normalization="max")
    rewards = rng.random((3, 2, 4))
    rewards /= rewards.max(axis=-1, keepdims=True)
    groups = [rg.Group(f"g{i}", reward, i + 1) for i, reward in enumerate(rewards)]
    mechanism = rg.Mechanism(rg.AffineWelfare([1.0, 2.0, 0.5]), rg.AffinePayments())
    deviation = Coalition(members, 16).deviate(mechanism, groups, space, 12, rng)
    truth = [rg.Report(group.reward, group.size) for group in groups]
    said = list(truth)
    for at, report in zip(members, deviation.reports, strict=True):
        said[at] = report
    owners = [groups[at] for at in members]
    base, lie = (total(mechanism, reports, owners, list(members), space) for reports in (truth, said))
    assert deviation.gain == pytest.approx(lie - base, abs=1e-13)
    assert deviation.found > 0


def test_a_group_gains_by_splitting_truthfully() -> None:
    """Two halves move the model as one whole; each pays for its own half. By hand, KL, strength 1, no other group."""

    def cost(p: float, q: float) -> float:
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    def policy(score: float) -> float:
        return 1 / (1 + np.exp(-score))

    group = rg.Group("one", [1, 0], 2)
    saved = cost(policy(2), policy(0)) - 2 * cost(policy(2), policy(1))
    half = rg.Report([1, 0], 1)
    whole = AFFINE.settle([rg.Report([1, 0], 2)], SPACE)
    halves = AFFINE.settle([half, half], SPACE)
    np.testing.assert_allclose(halves.policy.probabilities, whole.policy.probabilities, rtol=1e-14)
    assert whole.revenue - halves.revenue == pytest.approx(saved, rel=1e-12)
    assert saved > 0.1
    deviation = FalseNames(0).deviate(AFFINE, [group], SPACE, 2, RNG)
    assert deviation.gain >= saved - 1e-12
    assert len(deviation.reports) == 2


@pytest.mark.parametrize("names", [2, 3])
def test_false_names_can_be_settled_again(names: int) -> None:
    rng = np.random.default_rng(8)
    space = rg.Table(rng.dirichlet(np.ones(3)), rg.KL(0.4), normalization="sum")
    groups = [rg.Group(f"g{i}", rng.dirichlet(np.ones(3)), i + 2) for i in range(3)]
    mechanism = rg.Mechanism(rg.AffineWelfare([1.0, 2.0, 0.5]), rg.AffinePayments())
    deviation = FalseNames(1, names, 12).deviate(mechanism, groups, space, 8, rng)
    several = rg.Mechanism(rg.AffineWelfare([1.0, *[2.0] * names, 0.5]), rg.AffinePayments())
    truth = [rg.Report(group.reward, group.size) for group in groups]
    said = [truth[0], *deviation.reports, truth[2]]
    base = total(mechanism, truth, [groups[1]], [1], space)
    lie = total(several, said, [groups[1]], list(range(1, 1 + names)), space)
    assert deviation.gain == pytest.approx(lie - base, abs=1e-13)
    assert deviation.found > 0


@pytest.mark.parametrize("kind", ["one model at a cost", "two models", "participation"])
def test_where_groups_have_models_of_their_own_each_name_is_served_by_its_own(kind: str) -> None:
    """The values of such policies need every group's reward, in order; the search asked for the owners' alone."""
    space = rg.Table([0.5, 0.3, 0.2], rg.KL(0.3), normalization="sum")
    groups = [rg.Group("a", [1, 0, 0], 3), rg.Group("b", [0, 1, 0], 1), rg.Group("c", [0, 0.2, 0.8], 2)]
    rule: rg.TrainingRule = SeveralModels(rg.SocialWelfare(), 2 if kind == "two models" else 1, 0.05)
    mechanism = rg.Mechanism(rule, ModelPayments())
    if kind == "participation":
        mechanism = rg.Mechanism(Participation(rg.SocialWelfare(), 0.05), ParticipationPayments())

    def earned(reports: list[rg.Report], real: list[rg.Group], at: range) -> float:
        settlement = mechanism.settle(reports, space)
        values = settlement.policy.values([space.read(group.reward) for group in real])
        return sum(real[k].size * values[k] - settlement.payments[k] for k in at)

    truth = [rg.Report(group.reward, group.size) for group in groups]
    names = FalseNames(0, 2, 2).deviate(mechanism, groups, space, 6, np.random.default_rng(3))
    said = [*names.reports, *truth[1:]]
    parts = [replace(groups[0], size=report.size) for report in names.reports]
    base = earned(truth, groups, range(1))
    assert names.truthful_utility == pytest.approx(base, rel=1e-12)
    assert names.gain == pytest.approx(earned(said, [*parts, *groups[1:]], range(2)) - base, abs=1e-12)
    assert names.found > 0.1

    pair = Coalition((0, 2), 2).deviate(mechanism, groups, space, 6, np.random.default_rng(4))
    together = [pair.reports[0], truth[1], pair.reports[1]]
    apart = [earned(reports, groups, range(3)) - earned(reports, groups, range(1, 2)) for reports in (truth, together)]
    assert pair.gain == pytest.approx(apart[1] - apart[0], abs=1e-12)
    assert pair.found > 0.05


def test_a_coalition_of_one_mind_gains_on_a_menu() -> None:
    """Either alone would reach the entry, so together neither pays (the classic failure of VCG)."""
    menu = rg.Menu([0, 0], normalization="max")
    groups = [rg.Group("one", [1, 0.4]), rg.Group("two", [1, 0.4]), rg.Group("three", [0, 1], 3)]
    deviation = Coalition((0, 1)).deviate(AFFINE, groups, menu, 12, RNG)
    assert deviation.truthful_utility == pytest.approx(0.8)
    assert deviation.gain == pytest.approx(2 - 0.8)


def test_what_cannot_gain_is_the_truth_and_zero() -> None:
    """Groups that want the same single outcome of a menu that is chosen anyway."""
    menu = rg.Menu([0, 0], normalization="max")
    deviation = Coalition((0, 1)).deviate(AFFINE, [rg.Group("one", [1, 0]), rg.Group("two", [1, 0])], menu, 4, RNG)
    assert deviation.gain == 0
    assert deviation.found == 0
    assert [report.size for report in deviation.reports] == [1, 1]


@pytest.mark.parametrize("members", [(0,), (1, 1), ()])
def test_a_coalition_has_two_members(members: tuple[int, ...]) -> None:
    with pytest.raises(rg.InputError, match="two or more different positions"):
        Coalition(members)


def test_members_must_be_there() -> None:
    with pytest.raises(rg.InputError, match="positions of the 3 groups"):
        Coalition((0, 3)).deviate(AFFINE, ALLIES, SPACE, 4, RNG)
    with pytest.raises(rg.InputError, match="one of the 3 positions"):
        FalseNames(3).deviate(AFFINE, ALLIES, SPACE, 4, RNG)
    with pytest.raises(rg.InputError, match="names must be an integer >= 2"):
        FalseNames(0, 1)
