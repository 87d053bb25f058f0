"""The summaries of a study: means with intervals, gathered part by part; memory does not grow with the games."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.simulations.market import SO_FAR
from rlhf_game.simulations.study import Study
from rlhf_game.simulations.trials import LISTS, column_of

GROUP_MEASURES: Final = {
    "value_i": "value", "utility_i": "utility", "payment_i": "payment", "gain_i": "gain", "truth_gain_i": "truth_gain",
    "lie_gain_i": "lie_gain",
}  # fmt: skip
"""What is summed up of each group; where the game itself has no such measure, that is the mean over groups."""
LEVEL: Final = 0.95
MOST_ERRORS: Final = 10
"""Errors that a summary shows."""
LAST: Final = 0.1
"""The share of a market's rounds that counts as its end."""


@final
class RunningMoments:
    """Means and variances of arrays of one shape that come in batches (Chan, Golub and LeVeque 1983).

    A sample that is NaN somewhere has no value there and does not count there.
    """

    def __init__(self) -> None:
        self._count: Array = np.zeros(())
        self._mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def take(self, samples: Array) -> None:
        """Add samples, [k, ...]."""
        known = ~np.isnan(samples)
        count = known.sum(axis=0).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows has no interval, see ends
            mean = np.where(known, samples, 0.0).sum(axis=0) / np.maximum(count, 1)
            squares = np.where(known, (samples - mean) ** 2, 0.0).sum(axis=0)
            total = np.maximum(self._count + count, 1)
            apart = mean - self._mean
            self._squares = self._squares + squares + apart**2 * (self._count * count / total)
            self._mean = self._mean + apart * (count / total)
        self._count = self._count + count

    def ends(self) -> tuple[Array, Array, Array]:
        """Return means and the ends of their intervals by Student's t: of length 0 for one sample.

        NaN of nothing, and where squares are more than float64 holds.
        """
        from scipy.special import stdtrit

        free = np.maximum(self._count - 1, 1)
        half = stdtrit(free, (1 + LEVEL) / 2) * np.sqrt(self._squares / free / np.maximum(self._count, 1))
        mean = np.where((self._count > 0) & np.isfinite(half), self._mean, np.nan)
        return mean, mean - half, mean + half

    def document(self, at: Any) -> Any:
        """Return the mean of one entry with its interval; None of nothing. Of a slice: lists, None for each hole."""
        ends = self.ends()
        if ends[0].ndim == 0:
            return None
        value, low, high = (_listed(end[at]) for end in ends)
        is_known = value is not None and value != [None] * np.size(value)
        return {"estimate": value, "low": low, "high": high, "level": LEVEL} if is_known else None


@final
class PointSummary:
    """What one point of a study has shown so far: of every row of a game the numbers of all games."""

    def __init__(self, study: Study, point: int) -> None:
        one = study.points[point]
        self._layout = one.layout
        self._rounds = one.fields.series
        self.measures: dict[str, RunningMoments] = {}
        """Of each measure an array over the rows of a game."""
        self.ends: dict[str, RunningMoments] = {}
        """Of a market each measure at its end, an array over payment rules."""
        self.by_group: dict[str, RunningMoments] = {}
        """Of each measure of the groups an array over rows and groups."""
        self.games = 0
        self.failed = 0
        self.largest_regret: Array = np.zeros(self._layout.rows)

    @property
    def groups(self) -> int:
        """How many groups there are in every game."""
        return self._layout.groups

    def take(self, rows: Any) -> None:
        """Add the rows of some games, a pyarrow table in the layout of the study."""
        shape = (-1, self._layout.rows)
        is_good = rows.column("error").is_null().to_numpy().reshape(shape)[:, 0]
        self.games += len(is_good)
        self.failed += int((~is_good).sum())

        def numbers(column: str) -> Array:
            found = rows.column(column).to_numpy(zero_copy_only=False)
            out: Array = np.asarray(found, dtype=np.float64).reshape(shape)[is_good]
            return out

        for name in self._layout.scalars:
            if name not in LISTS:
                self._take(name, numbers(name))
        for name, measure in GROUP_MEASURES.items():
            if name in self._layout.by_group:
                each = np.stack([numbers(column_of(name, i)) for i in range(self.groups)], axis=-1)
                self.by_group.setdefault(measure, RunningMoments()).take(each)
                if measure not in self._layout.scalars:
                    self._take(measure, each.mean(axis=-1))
        if "regret" in self._layout.scalars and is_good.any():
            regret = numbers("regret")
            self._take("gaining", (regret > 0).astype(np.float64))
            self.largest_regret = np.maximum(self.largest_regret, regret.max(axis=0))

    def measured(self, at: Any) -> dict[str, Any]:
        """Return how many games there were, and the measures of a row, or of several as lists."""
        measures = {name: of.document(at) for name, of in self.measures.items()}
        return {"games": self.games, "failed": self.failed, "measures": measures}

    def cell(self, row: int) -> dict[str, Any]:
        """Return the measures of a row, also those of its groups."""
        groups = [{name: of.document((row, i)) for name, of in self.by_group.items()} for i in range(self.groups)]
        return {**self.measured(row), "groups": groups}

    def _take(self, name: str, samples: Array) -> None:
        self.measures.setdefault(name, RunningMoments()).take(samples)
        if self._rounds:
            each = samples.reshape(len(samples), samples.shape[1] // self._rounds, self._rounds)
            last = 1 if name in SO_FAR else max(1, round(LAST * self._rounds))
            self.ends.setdefault(name, RunningMoments()).take(each[..., -last:].mean(axis=2))


def _listed(numbers: Array) -> Any:
    """Return numbers as they are written down: None for those that are not known."""
    plain: Any = np.where(np.isnan(numbers), np.array(None), numbers)
    return plain.tolist()


def summary(study: Study, gathered: Sequence[PointSummary], errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what study.json says of the rows. errors: the first few, as {point, game, error}."""
    from rlhf_game import __version__

    rows = [study.points[point].layout.rows * one.games for point, one in enumerate(gathered)]
    labels = [strategy.label for point in study.points for strategy in point.fields.choices()]
    out: dict[str, Any] = {
        "version": __version__,
        "config_sha256": study.sha256,
        "kind": study.fields.kind,
        "seed": study.fields.seed,
        "games": study.fields.games,
        "axes": [{"field": field, "values": list(values)} for field, values in study.sweep.items()],
        "points": [dict(point.values) for point in study.points],
        "strategies": list(dict.fromkeys(labels)),
        "payments": list(study.fields.paid),
    }
    if study.fields.series:
        out["rounds"] = study.fields.series
    failed = [study.points[point].layout.rows * one.failed for point, one in enumerate(gathered)]
    out |= {"rows": sum(rows), "failed": sum(failed), "errors": list(errors)[:MOST_ERRORS]}
    of_point = SUMMARIES[study.fields.kind]
    out["summaries"] = [part for point, one in enumerate(gathered) if one.games for part in of_point(study, point, one)]
    return out


def _games_summaries(study: Study, point: int, gathered: PointSummary) -> Iterator[dict[str, Any]]:
    one = study.points[point]
    cells = product(one.fields.playable(gathered.groups), one.fields.paid)
    for k, (strategy, payment) in enumerate(cells):
        yield {
            "point": point,
            "strategy": strategy.label,
            "kind": strategy.kind,
            "who": one.fields.who(strategy),
            "payment": payment,
            "largest_regret": float(gathered.largest_regret[k]),
            **gathered.cell(k),
        }


def _equilibrium_summaries(study: Study, point: int, gathered: PointSummary) -> Iterator[dict[str, Any]]:
    for k, payment in enumerate(study.points[point].fields.paid):
        yield {"point": point, "payment": payment, **gathered.cell(k)}


def _market_summaries(study: Study, point: int, gathered: PointSummary) -> Iterator[dict[str, Any]]:
    fields = study.points[point].fields
    for k, payment in enumerate(fields.paid):
        rounds = slice(k * fields.series, (k + 1) * fields.series)
        last = {name: of.document(k) for name, of in gathered.ends.items()}
        series = {"rounds": list(range(fields.series)), "last": last}
        yield {"point": point, "payment": payment, **series, **gathered.measured(rounds)}


SUMMARIES: Final = {
    "games": _games_summaries,
    "equilibrium": _equilibrium_summaries,
    "market": _market_summaries,
}
"""What is summed up of a point, by the kind of study."""
