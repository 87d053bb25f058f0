"""Billing a log of served responses, each at its own price, beside what the total should be."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.files.build import build
from rlhf_game.files.documents import kind, parse_json_lines, read_text, shown
from rlhf_game.files.games import Game
from rlhf_game.files.tables import prompts_of
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.prices import response_prices
from rlhf_game.mechanism.reports import Report
from rlhf_game.mechanism.sampled.estimates import Estimate
from rlhf_game.mechanism.training import Trained

LEVEL: Final = 0.95
"""Of the interval of what a total should be."""


@final
@dataclass(frozen=True)
class Served:
    """One row of a log."""

    prompt: str
    response: str


@final
@dataclass(frozen=True, eq=False)
class Metered:
    """What a log of responses costs each group, in units of reward."""

    names: tuple[str, ...]
    prices: Array
    """Of each row for each group: [n, rows]; NaN where the response is not among the outcomes."""
    expected: Estimate
    """What the total of the rows that are known should be if they were drawn from the policy: [n]."""

    def document(self) -> dict[str, Any]:
        """Return what ``meter --json`` prints."""
        known = ~np.isnan(self.prices[0])
        groups = [
            {
                "name": name,
                "total": float(row[known].sum()),
                "expected": self.expected[i].document(),
                "responses": [None if math.isnan(price) else price for price in row.tolist()],
            }
            for i, (name, row) in enumerate(zip(self.names, self.prices, strict=True))
        ]
        return {"groups": groups, "unknown": np.flatnonzero(~known).tolist()}


def read_served(path: str | os.PathLike[str]) -> list[Served]:
    """Return the rows of a log (.jsonl, .parquet) with prompt and response; raise InputError that names the row."""
    name = shown(os.fspath(path), 200)
    if Path(path).suffix.lower() == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            rows = [(f"{name}: row {k}", row) for k, row in enumerate(parquet.read_table(os.fspath(path)).to_pylist())]
        except (ArrowException, OSError) as error:
            raise InputError(f"{name}: must be a parquet file that can be read, found {error}") from error
    else:
        rows = list(parse_json_lines(read_text(path), name))
    served = []
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: must be a mapping with prompt and response, found {kind(row)}")
        for key in ("prompt", "response"):
            if not isinstance(row.get(key), str):
                raise InputError(f"{where}: {key}: must be a text, found {kind(row.get(key))}")
        served.append(Served(row["prompt"], row["response"]))
    if not served:
        raise InputError(f"{name}: must have at least one row, found none")
    return served


def meter(game: Game, served: Sequence[Served]) -> Metered:
    """Return the price of every served response for every group.

    The prompts are those of the game's provenance; a response is known where it is an outcome of its prompt. Raises
    InputError when the game does not say its outcomes and prompts, or responses have no price there.
    """
    space, mechanism, groups = build(game)
    prompts: Any = (game.fields.provenance or {}).get("prompts")
    labels: Any = getattr(game.fields, "outcomes", None)
    for key, said in (("outcomes", labels), ("provenance.prompts", prompts)):
        if not isinstance(said, list):
            raise InputError(
                f"{game.name}: {key}: must be a list, to price responses by their words, found {kind(said)}"
            )
    labels = labels if isinstance(labels[0], list) else [labels]
    profile = read_profile([Report(group.reward, group.size) for group in groups], space)
    trained = Trained(mechanism.training, profile, space, mechanism.training.train(profile, space))
    try:
        prices = response_prices(trained)
    except CombinationError as error:
        raise InputError(f"{game.name}: {error}") from error
    policy: Any = trained.policy
    probabilities = prompts_of(policy.probabilities)
    places = {
        (str(prompt), text): (b, x)
        for b, (prompt, row) in enumerate(zip(prompts, labels, strict=True))
        for x, text in enumerate(row)
    }
    at = [places.get((one.prompt, one.response)) for one in served]
    columns = [np.full(len(groups), np.nan) if place is None else prices[place[0]][:, place[1]] for place in at]
    asked = [place[0] for place in at if place is not None]
    names = tuple(group.name for group in groups)
    return Metered(names, np.stack(columns, axis=1), _expected(asked, prices, probabilities))


def _expected(asked: Sequence[int], prices: Sequence[Array], probabilities: Sequence[Array]) -> Estimate:
    """Return Bernstein's interval of a sum of independent prices whose law is known: [n].

    |sum - mean| <= b L / 3 + sqrt((b L / 3)^2 + 2 V L) with probability 1 - delta, L = log(2 / delta), V the variance
    of the sum and b the largest distance of a price from its mean (Bernstein's inequality).
    """
    groups = len(prices[0])
    means, variance, reach = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    for b in asked:
        p, price = np.asarray(probabilities[b]), prices[b]
        mean = price @ p
        away = price - mean[:, None]
        means += mean
        variance += away**2 @ p
        reach = np.maximum(reach, np.where(p > 0, np.abs(away), 0.0).max(axis=1))
    bound = math.log(2 / (1 - LEVEL))
    drift = reach * bound / 3
    width = drift + np.sqrt(drift**2 + 2 * variance * bound)
    return Estimate(means, means - width, means + width, LEVEL)
