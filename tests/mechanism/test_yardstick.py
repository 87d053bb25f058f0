"""The yardstick against welfare by brute force over candidate sets, and its intervals against the exact share."""

from itertools import product

import numpy as np
import pytest

from rlhf_game import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws import yardstick
from rlhf_game.mechanism.draws.yardstick import best_of, fresh_candidates, kept, optimum, welfare

STRENGTH = 0.7
SCORES = np.array([0.0, 0.4, 0.9, 1.5, 1.5])


def exact_policy(scores: Array, reference: Array, count: int, rule: str) -> Array:
    """What is served, by listing all ordered sets of candidates."""
    p = np.zeros(len(scores))
    for drawn in product(range(len(scores)), repeat=count):
        chance = np.prod(reference[list(drawn)])
        of = scores[list(drawn)]
        shares = np.exp(of / STRENGTH) if rule == "fresh" else (of == of.max()).astype(float)
        for k, share in zip(drawn, shares / shares.sum(), strict=True):
            p[k] += chance * share
    return p


def exact_welfare(p: Array, q: Array, scores: Array) -> float:
    return float(p @ (scores - STRENGTH * np.log(p / q, where=p > 0, out=np.zeros_like(p))))


@pytest.mark.parametrize("rule", ["fresh", "best"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_welfare_is_that_of_all_candidate_sets(rule: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardstick, "SETS", 40_000)
    q, rng = np.full(5, 0.2), np.random.default_rng(0)
    ratio = (fresh_candidates(count) if rule == "fresh" else best_of(count))(SCORES, STRENGTH, rng)
    p = exact_policy(SCORES, q, count, rule)
    assert ratio / 5 == pytest.approx(p, abs=2e-3)
    assert welfare(SCORES, ratio, STRENGTH) == pytest.approx(exact_welfare(p, q, SCORES), abs=2e-3)


def test_the_optimum_keeps_all_and_the_reference_nothing() -> None:
    rng = np.random.default_rng(0)
    share, gain = kept([SCORES, SCORES / 2], STRENGTH, optimum, rng)
    assert float(share.value) == pytest.approx(1)
    exact = [STRENGTH * np.log(np.exp(s / STRENGTH).mean()) - s.mean() for s in (SCORES, SCORES / 2)]
    assert float(gain.value) == pytest.approx(np.mean(exact))
    assert float(kept([SCORES], STRENGTH, fresh_candidates(1), rng)[0].value) == pytest.approx(0)
    assert float(kept([SCORES], 5.0, best_of(64), rng)[0].value) < 0  # where leaving is dear it does harm


def test_more_candidates_keep_more_and_intervals_hold_the_truth() -> None:
    """A reference of many scores, known exactly by a large draw; 30 pools of 200."""
    rng = np.random.default_rng(1)
    everything = rng.beta(2, 3, 40_000) * 3
    exact = [float(kept([everything], STRENGTH, fresh_candidates(m), rng, resamples=2)[0].value) for m in (2, 8, 32)]
    assert 0 < exact[0] < exact[1] < exact[2] < 1
    held = 0
    for _ in range(30):
        share, gain = kept([rng.choice(everything, 200)], STRENGTH, fresh_candidates(8), rng, resamples=50)
        held += share.contains(exact[1])
        assert float(gain.low) > 0
    assert held >= 24  # 95 % by the bootstrap, of which some is lost with so few draws


def test_what_cannot_be_measured_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="nothing to gain"):
        kept([np.ones(5)], 1.0, optimum, rng)
    with pytest.raises(InputError, match="at least two draws"):
        kept([np.ones(1)], 1.0, optimum, rng)


def test_quasi_rejection_is_measured_as_it_is_on_a_listed_policy() -> None:
    """The trained policy is the optimum of a score that is a little off; bounds from where all are accepted upwards."""
    rng = np.random.default_rng(2)
    q, s = rng.dirichlet(np.ones(30)), rng.random(30) * 2
    best = q * np.exp(s / STRENGTH) / (q @ np.exp(s / STRENGTH))
    t = q * np.exp((s + 0.3 * rng.normal(size=30)) / STRENGTH)
    t /= t.sum()
    bounds = STRENGTH * np.quantile(np.log(q / t) + s / STRENGTH, [0.0, 0.3, 0.7, 1.0])
    tilted = np.minimum(q * np.exp(s / STRENGTH), np.exp(bounds[:, None] / STRENGTH) * t)
    rates = (tilted * np.exp(-bounds[:, None] / STRENGTH)).sum(axis=1)
    served = tilted / tilted.sum(axis=1, keepdims=True)
    missed = STRENGTH * (served * np.log(served / best)).sum(axis=1)
    drawn = rng.choice(30, size=20_000, p=t)
    found = yardstick.quasi_rejection(np.log(t / q)[drawn], s[drawn], STRENGTH, bounds, rng, level=0.9999)
    for estimate, truth in zip(found, (rates, missed), strict=True):
        assert (estimate.low - 1e-12 <= truth).all()
        assert (truth <= estimate.high + 1e-12).all()
    assert (rates[0], missed[0]) == pytest.approx((1.0, STRENGTH * (t @ np.log(t / best))))
    assert (np.diff(rates) < 0).all()
    assert (np.diff(missed) < 0).all()
    assert missed[-1] == pytest.approx(0.0, abs=1e-12)  # no bound is passed: exactly the optimum
    with pytest.raises(InputError, match="of the same draws"):
        yardstick.quasi_rejection([0.0], [0.0, 1.0], STRENGTH, 0.0, rng)
