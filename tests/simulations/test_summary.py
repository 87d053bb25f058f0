"""Summaries are what the rows say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats

from rlhf_game.simulations.simulation_pipeline import simulate
from rlhf_game.simulations.summary import RunningMoments
from tests.simulations.studies import MARKET, study


def test_running_means_are_means_with_student_s_intervals() -> None:
    samples = 1e6 + np.random.default_rng(0).standard_normal((57, 3))
    running = RunningMoments()
    for part in np.split(samples, [1, 1, 20, 41]):
        running.take(part)
    value, below, above = running.ends()
    np.testing.assert_allclose(value, samples.mean(axis=0), rtol=1e-13)
    low, high = stats.t.interval(0.95, 56, samples.mean(axis=0), stats.sem(samples, axis=0))
    np.testing.assert_allclose(above - value, high - samples.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(value - below, samples.mean(axis=0) - low, rtol=1e-9)


def test_what_has_no_value_in_a_game_does_not_count_there() -> None:
    samples = np.random.default_rng(2).standard_normal((30, 2))
    samples[::3, 0] = np.nan
    samples[:, 1] = np.nan
    running = RunningMoments()
    for part in np.split(samples, [1, 11]):
        running.take(part)
    known = samples[~np.isnan(samples[:, 0]), 0]
    found = running.document(0)
    assert found["estimate"] == pytest.approx(known.mean())
    assert found["high"] == pytest.approx(known.mean() + stats.t.ppf(0.975, 19) * stats.sem(known))
    assert running.document(1) is None
    assert running.document(slice(0, 2))["estimate"] == [pytest.approx(known.mean()), None]


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        running = RunningMoments()
        running.take(rng.standard_normal((8, 1)))
        _, low, high = running.ends()
        inside += bool(low[0] <= 0 <= high[0])
    assert abs(inside / 1000 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)


def test_a_mean_whose_squares_overflow_has_no_interval_and_is_unknown() -> None:
    running = RunningMoments()
    for part in ([[1e200, 1.0], [-1e200, 2.0]], [[1e308, 3.0], [1e308, 4.0]]):
        running.take(np.array(part))
    assert running.document(0) is None
    assert running.document(1)["estimate"] == pytest.approx(2.5)
    assert running.document(slice(0, 2))["high"][0] is None


def test_of_nothing_there_is_no_estimate_and_of_one_sample_no_width() -> None:
    assert RunningMoments().document(0) is None
    running = RunningMoments()
    running.take(np.array([[2.0]]))
    assert running.document(0) == {"estimate": 2.0, "low": 2.0, "high": 2.0, "level": 0.95}


def test_the_summaries_of_games_are_means_of_their_rows(tmp_path: Path) -> None:
    finished = simulate(study({"sweep": {"strength": [0.2, 1.0]}}), tmp_path / "out")
    table = parquet.read_table(finished.table).to_pandas()
    assert len(finished.summary["summaries"]) == 2 * 3 * 2
    for one in finished.summary["summaries"]:
        rows = table[
            (table.point == one["point"]) & (table.strategy == one["strategy"]) & (table.payment == one["payment"])
        ]
        measures = one["measures"]
        for name in ("welfare", "affine_welfare", "loss", "efficiency", "revenue", "divergence", "regret", "liars"):
            assert measures[name]["estimate"] == pytest.approx(rows[name].mean(), rel=1e-12, abs=1e-15)
            half = stats.t.ppf(0.975, 39) * rows[name].sem()
            assert measures[name]["high"] - measures[name]["low"] == pytest.approx(2 * half, rel=1e-6, abs=1e-12)
        assert measures["gaining"]["estimate"] == pytest.approx((rows.regret > 0).mean())
        assert one["largest_regret"] == rows.regret.max()
        for name in ("value", "utility", "payment", "gain"):
            by_group = rows[[f"{name}_{i}" for i in range(3)]].to_numpy()
            whole = rows.gain.mean() if name == "gain" else by_group.mean()
            assert measures[name]["estimate"] == pytest.approx(whole, rel=1e-12, abs=1e-15)
            assert [group[name]["estimate"] for group in one["groups"]] == pytest.approx(
                by_group.mean(axis=0).tolist(), rel=1e-12, abs=1e-15
            )


def test_the_summaries_of_a_market_are_series_and_their_ends(tmp_path: Path) -> None:
    finished = simulate(study({"games": 7, "chunk": 3, "rounds": 25}, MARKET), tmp_path / "out")
    table = parquet.read_table(finished.table).to_pandas()
    for one in finished.summary["summaries"]:
        rows = table[table.payment == one["payment"]]
        by_round = rows.groupby("round").truthful.mean()
        assert one["rounds"] == list(range(25))
        assert one["measures"]["truthful"]["estimate"] == pytest.approx(by_round.tolist(), rel=1e-12)
        ends = rows[rows["round"] >= 23].groupby("game").truthful.mean()
        assert one["last"]["truthful"]["estimate"] == pytest.approx(ends.mean(), rel=1e-12)
        half = stats.t.ppf(0.975, 6) * ends.sem()
        assert one["last"]["truthful"]["high"] - ends.mean() == pytest.approx(half, rel=1e-6)


def test_every_point_has_its_own_groups(tmp_path: Path) -> None:
    swept: dict[str, Any] = {"sweep": {"scenario.groups": [2, 3]}}
    finished = simulate(study(swept), tmp_path / "out")
    summary, table = finished.summary, parquet.read_table(finished.table).to_pandas()
    assert table[table.point == 0].value_2.isna().all()
    assert table[table.point == 1].value_2.notna().all()
    assert [len(one["groups"]) for one in summary["summaries"]] == [2] * 6 + [3] * 6
