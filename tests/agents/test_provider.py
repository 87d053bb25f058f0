"""What the provider could gain: found at least as good as what the theory states, and every witness settles to it."""

import numpy as np
import pytest

from rlhf_game import (
    KL,
    AffinePayments,
    AffineWelfare,
    Group,
    Mechanism,
    Menu,
    NoPayments,
    Report,
    SocialWelfare,
    Table,
)
from rlhf_game.agents.provider import ProviderAudit, audit_provider
from rlhf_game.mechanism.reports import Normalization

G3 = [Group("one", [0.6, 0.3, 0.1], 3), Group("two", [0.1, 0.2, 0.7], 2)]
Q = [0.7, 0.2, 0.1]
AFFINE = Mechanism(SocialWelfare(), AffinePayments())


def space(strength: float = 0.5) -> Table:
    return Table(Q, KL(strength), normalization=Normalization.SUM)


def audited(limit: int) -> ProviderAudit:
    return audit_provider(AFFINE, G3, space(), size_limit=limit, rng=np.random.default_rng(0))


@pytest.mark.parametrize(("limit", "least"), [(3, 0.728753), (10, 0.733020), (12, 0.73302)])
def test_an_invented_group_brings_what_the_theory_says(limit: int, least: float) -> None:
    """Theory section 12: from .373756 to .728753 with size <= 3, .733020 with <= 10; supremum .733024."""
    found = audited(limit)
    assert found.revenue == pytest.approx(0.373756102268, abs=1e-10)
    assert found.best.kind == "invented"
    assert least - 1e-6 <= found.best.revenue <= 0.733024 + 1e-6


def test_the_witness_settles_to_what_was_found() -> None:
    found = audited(12)
    assert found.best.report is not None
    again = AFFINE.settle([*(Report(g.reward, g.size) for g in G3), found.best.report], space())
    assert again.payments[:2].sum() == pytest.approx(found.best.revenue, rel=1e-12)
    assert np.sum(found.best.report.reward) == pytest.approx(1.0)


def test_a_shaded_strength_is_found_by_brute_force_too() -> None:
    """With no size to invent with, the strength is what is left; a fine grid finds no more."""
    groups = [Group("one", [1.0, 0.0, 0.0], 1), Group("two", [0.0, 0.0, 1.0], 1)]
    found = audit_provider(
        AFFINE,
        groups,
        space(5.0),
        size_limit=1,
        rng=np.random.default_rng(0),
        strength=5.0,
        at_strength=space,
        starts=2,
    )
    reports = [Report(g.reward, g.size) for g in groups]
    grid = [float(AFFINE.settle(reports, space(float(s))).payments.sum()) for s in np.logspace(-1.3, 2.69, 400)]
    assert found.best.kind == "strength"
    assert found.best.revenue >= max(grid) - 1e-9
    assert found.gain > 0.1


def test_leaving_a_group_out_can_pay() -> None:
    """The classic of Conitzer and Sandholm: a third bidder raises welfare and lowers revenue, so it is not heard."""
    groups = [Group("a", [8.0, 0.0, 0.0, 0.0]), Group("b", [0.0, 8.0, 0.0, 0.0]), Group("c", [0.0, 0.0, 8.0, 0.0])]
    menu = Menu([0.0] * 4)
    helper = [*groups[:2], Group("d", [8.0, 8.0, 0.0, 0.0])]
    found = audit_provider(AFFINE, helper, menu, size_limit=1, rng=np.random.default_rng(0))
    assert found.gain > 0
    assert audit_provider(Mechanism(SocialWelfare(), NoPayments()), groups, menu, size_limit=2,
                          rng=np.random.default_rng(0)).gain == 0.0  # fmt: skip


def test_weights_of_the_real_groups_stay() -> None:
    mechanism = Mechanism(AffineWelfare([2.0, 0.5]), AffinePayments())
    found = audit_provider(mechanism, G3, space(), size_limit=4, rng=np.random.default_rng(1))
    honest = mechanism.settle([Report(g.reward, g.size) for g in G3], space())
    assert found.revenue == pytest.approx(float(honest.payments.sum()), rel=1e-12)
    assert found.gain > 0
