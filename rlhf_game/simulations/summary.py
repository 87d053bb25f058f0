"""The summaries of a study: means with intervals, gathered part by part; memory does not grow with the games."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.estimates import Estimate
from rlhf_game.simulations.games import GamesStudy
from rlhf_game.simulations.market import MarketStudy
from rlhf_game.simulations.study import Study

LEVEL: Final = 0.95
MOST_ERRORS: Final = 10
"""Errors that a summary shows."""
LAST: Final = 0.1
"""The share of a market's rounds that counts as its end."""


@final
class Running:
    """Means and variances of arrays of one shape that come in batches (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def take(self, samples: Array) -> None:
        """Add samples, [k, ...]."""
        if not len(samples):
            return
        mean = samples.mean(axis=0)
        squares = ((samples - mean) ** 2).sum(axis=0)
        total = self.count + len(samples)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart**2 * (self.count * len(samples) / total)
        self._mean = self._mean + apart * (len(samples) / total)
        self.count = total

    def estimate(self) -> Estimate | None:
        """Return the mean with its interval by Student's t, of length 0 for one sample; None of nothing."""
        from scipy.special import stdtrit

        if self.count == 0:
            return None
        if self.count == 1:
            return Estimate(self._mean, self._mean, self._mean, LEVEL)
        error = np.sqrt(self._squares / (self.count - 1) / self.count)
        half = float(stdtrit(self.count - 1, (1 + LEVEL) / 2)) * error
        return Estimate(self._mean, self._mean - half, self._mean + half, LEVEL)


@final
class Gathered:
    """What one point of a study has shown so far: of every row of a game the numbers of all games."""

    def __init__(self, study: Study, point: int) -> None:
        fields = study.points[point].fields
        self._layout = fields.layout()
        self._rounds = fields.rounds if isinstance(fields, MarketStudy) else 0
        self._running: dict[str, Running] = {}
        self._ends: dict[str, Running] = {}
        self._by_group: dict[str, Running] = {}
        self.games = 0
        self.failed = 0
        self._groups: int | None = None

    @property
    def groups(self) -> int:
        """How many groups there are in every game; 0 where that differs."""
        return self._groups or 0

    def take(self, rows: Any) -> None:
        """Add the rows of some games, a pyarrow table in the layout of the study."""
        shape = (-1, self._layout.rows)
        is_good = rows.column("error").is_null().to_numpy().reshape(shape)[:, 0]
        self.games += len(is_good)
        self.failed += int((~is_good).sum())
        for name in self._layout.scalars:
            self._take(name, rows.column(name).to_numpy(zero_copy_only=False).reshape(shape)[is_good])
        for name in self._layout.lists:
            self._take_list(name, rows.column(name).combine_chunks(), shape, is_good)
        if "regret" in self._layout.scalars:
            regret = rows.column("regret").to_numpy(zero_copy_only=False).reshape(shape)[is_good]
            self._take("gaining", (regret > 0).astype(np.float64))

    def _take(self, name: str, samples: Array) -> None:
        self._running.setdefault(name, Running()).take(np.asarray(samples, dtype=np.float64))
        if self._rounds:
            each = samples.reshape(len(samples), samples.shape[1] // self._rounds, self._rounds)
            self._ends.setdefault(name, Running()).take(each[..., -max(1, round(LAST * self._rounds)) :].mean(axis=2))

    def _take_list(self, name: str, lists: Any, shape: tuple[int, int], is_good: Any) -> None:
        """Add the mean over groups, and the groups themselves while all games have as many."""
        lengths = np.diff(lists.offsets.to_numpy()).reshape(shape)[is_good][:, 0]
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        start = 0
        for n in _runs(lengths):
            size = n[0] * n[1] * shape[1]
            amounts = flat[start : start + size].reshape(n[1], shape[1], n[0])
            start += size
            self._take(name, amounts.mean(axis=2))
            self._groups = n[0] if self._groups in (None, n[0]) else 0
            if self._groups and not self._rounds:
                self._by_group.setdefault(name, Running()).take(amounts)

    def measures(self) -> dict[str, Estimate | None]:
        """Return each measure, an array over the rows of a game."""
        names = [*self._layout.scalars, *self._layout.lists, *(["gaining"] if "gaining" in self._running else [])]
        return {_singular(name): self._running.get(name, Running()).estimate() for name in names}

    def by_group(self) -> dict[str, Estimate | None]:
        """Return the measures of each group, arrays over rows and groups; nothing where their number differs."""
        if not self._groups:
            return {}
        return {_singular(name): running.estimate() for name, running in self._by_group.items()}

    def ends(self) -> dict[str, Estimate | None]:
        """Return of a market each measure at its end, an array over payment rules."""
        return {_singular(name): running.estimate() for name, running in self._ends.items()}


def _singular(name: str) -> str:
    return {"payments": "payment", "utilities": "utility", "gains": "gain"}.get(name, name)


def _runs(lengths: Array) -> Iterable[tuple[int, int]]:
    """Yield (value, times) for the runs of equal numbers."""
    edges = np.flatnonzero(np.diff(lengths)) + 1
    for run in np.split(lengths, edges):
        if len(run):
            yield int(run[0]), len(run)


def summary(study: Study, gathered: Sequence[Gathered], errors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what study.json says of the rows. errors: the first few, as {point, game, error}."""
    from rlhf_game import __version__

    rows = [study.points[point].fields.layout().rows * one.games for point, one in enumerate(gathered)]
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
        "payments": list(study.fields.payments),
    }
    if isinstance(study.fields, MarketStudy):
        out["rounds"] = study.fields.rounds
    failed = [study.points[point].fields.layout().rows * one.failed for point, one in enumerate(gathered)]
    out |= {"rows": sum(rows), "failed": sum(failed), "errors": list(errors)[:MOST_ERRORS]}
    of_point = _games_summaries if isinstance(study.fields, GamesStudy) else _market_summaries
    out["summaries"] = [part for point, one in enumerate(gathered) for part in of_point(study, point, one)]
    return out


def _games_summaries(study: Study, point: int, gathered: Gathered) -> Iterable[dict[str, Any]]:
    keys = study.points[point].fields.layout().keys
    measures, by_group = gathered.measures(), gathered.by_group()
    for k, (strategy, payment) in enumerate(zip(keys["strategy"], keys["payment"], strict=True)):
        out = {
            "point": point,
            "strategy": strategy,
            "payment": payment,
            "games": gathered.games,
            "failed": gathered.failed,
            "measures": {name: _document(one, k) for name, one in measures.items()},
        }
        groups = [
            {name: one[k, i].document() for name, one in by_group.items() if one is not None}
            for i in range(gathered.groups)
        ]
        yield {**out, "groups": groups} if groups else out


def _market_summaries(study: Study, point: int, gathered: Gathered) -> Iterable[dict[str, Any]]:
    fields = study.points[point].fields
    assert isinstance(fields, MarketStudy)
    measures, ends = gathered.measures(), gathered.ends()
    for k, payment in enumerate(fields.payments):
        rounds = slice(k * fields.rounds, (k + 1) * fields.rounds)
        series = {name: None if one is None else _series(one[rounds]) for name, one in measures.items()}
        yield {
            "point": point,
            "payment": payment,
            "games": gathered.games,
            "failed": gathered.failed,
            "rounds": list(range(fields.rounds)),
            "measures": series,
            "last": {name: _document(ends.get(name), k) for name in measures},
        }


def _document(one: Estimate | None, at: int) -> Any:
    return None if one is None else one[at].document()


def _series(one: Estimate) -> dict[str, Any]:
    return {"estimate": one.value.tolist(), "low": one.low.tolist(), "high": one.high.tolist(), "level": one.level}
