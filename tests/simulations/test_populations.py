"""Every scenario has the property that it is named for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from rlhf_game.errors import InputError
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.simulations.fields import SomeScenario
from rlhf_game.simulations.populations import DrawnScenario, Population

ADAPTER: TypeAdapter[Any] = TypeAdapter(SomeScenario)
KINDS = ("random", "polarised", "heavy", "duplicates", "niche", "correlated")


def scenario(kind: str, **fields: Any) -> DrawnScenario:
    made: DrawnScenario = ADAPTER.validate_python({"kind": kind, **fields})
    return made


def drawn(kind: str, seed: int = 0, normalization: str = "sum", **fields: Any) -> Population:
    made = scenario(kind, **fields).source(Path(), Normalization(normalization))
    return made.draw(np.random.default_rng(seed), Normalization(normalization))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalization", ["sum", "max", "none"])
@pytest.mark.parametrize("reference", ["uniform", "random"])
def test_a_population_is_in_its_domain_and_has_the_sizes_asked_for(
    kind: str, normalization: str, reference: str
) -> None:
    found = drawn(kind, normalization=normalization, reference=reference, groups=4, outcomes=7, sizes=[2, 5])
    Normalization(normalization).check(found.rewards)
    assert found.rewards.shape == (4, 7)
    assert found.reference.shape == (7,)
    assert found.reference.sum() == pytest.approx(1, abs=1e-12)
    light = found.sizes[1:] if kind == "heavy" else found.sizes
    assert set(light) <= {2.0, 3.0, 4.0, 5.0}


@pytest.mark.parametrize("kind", KINDS)
def test_a_population_is_a_function_of_its_stream(kind: str) -> None:
    one, same, other = drawn(kind, 1), drawn(kind, 1), drawn(kind, 2)
    np.testing.assert_array_equal(one.rewards, same.rewards)
    np.testing.assert_array_equal(one.sizes, same.sizes)
    assert not np.array_equal(one.rewards, other.rewards)


def test_sizes_reach_both_ends() -> None:
    sizes = np.concatenate([drawn("random", seed, sizes=[1, 3]).sizes for seed in range(60)])
    assert set(sizes) == {1.0, 2.0, 3.0}


def test_camps_want_different_outcomes_and_members_of_a_camp_the_same() -> None:
    found = drawn("polarised", groups=5, outcomes=9, camps=3)
    for i, reward in enumerate(found.rewards):
        assert set(np.flatnonzero(reward) % 3) == {i % 3}
    overlapping = drawn("polarised", groups=2, outcomes=6, camps=2, overlap=0.5)
    assert (overlapping.rewards > 0).all()


def test_the_heavy_group_outweighs_the_others_together() -> None:
    for seed in range(20):
        sizes = drawn("heavy", seed, groups=4, factor=3.0).sizes
        assert sizes[0] == 3 * sizes[1:].sum()


def test_duplicates_differ_by_the_jitter_at_most() -> None:
    found = drawn("duplicates", outcomes=10, distinct=3, jitter=0.05)
    for copy in range(3, 10):
        ratio = found.rewards[:, copy] / found.rewards[:, copy % 3]
        assert (ratio >= 0.95 / 1.05 - 1e-12).all()
        assert (ratio <= 1.05 / 0.95 + 1e-12).all()
    assert len(np.unique(found.rewards[0])) == 10


def test_a_niche_is_wanted_by_its_minority_alone() -> None:
    found = drawn("niche", groups=5, outcomes=8, niches=2, focus=0.9, sizes=[2, 6])
    np.testing.assert_array_equal(found.rewards[:, 6:] > 0, np.eye(5)[:, 3:] > 0)
    np.testing.assert_allclose(found.rewards[[3, 4], [6, 7]], 0.9)
    assert found.sizes[3:].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("groups", "correlation"), [(2, 0.0), (2, 0.3), (2, 0.8), (2, 1.0), (2, -0.5), (2, -1.0), (4, -0.3), (4, -1 / 3)]
)
def test_correlated_tastes_correlate_as_they_should(groups: int, correlation: float) -> None:
    pairs = np.stack(
        [drawn("correlated", seed, groups=groups, correlation=correlation).rewards[:2, 0] for seed in range(4000)]
    )
    assert (pairs >= 0).all()
    found = np.corrcoef(pairs.T)[0, 1]
    error = (1 - correlation**2) / np.sqrt(len(pairs))  # of a normal pair; a Dirichlet entry has heavier tails
    assert abs(found - correlation) <= 5 * error + 1e-12


def test_concentration_says_how_picky_groups_are() -> None:
    picky = drawn("random", groups=50, concentration=0.1).rewards.max(axis=1).mean()
    easy = drawn("random", groups=50, concentration=10.0).rewards.max(axis=1).mean()
    assert picky > 0.6 > 0.3 > easy


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("random", {"sizes": [3, 2]}, "scenario.sizes: must be .least, largest., found .3, 2."),
        ("polarised", {"camps": 4, "outcomes": 3}, "scenario.camps: must be at most .* found 4"),
        ("duplicates", {"distinct": 4, "outcomes": 3}, "scenario.distinct: must be at most .* found 4"),
        ("niche", {"niches": 3, "groups": 3}, "scenario.niches: must be at most 2"),
        ("correlated", {"groups": 3, "correlation": -0.6}, "scenario.correlation: must be .* -0.5 for 3 groups"),
    ],
)
def test_what_does_not_go_together_is_refused(kind: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        drawn(kind, **fields)
