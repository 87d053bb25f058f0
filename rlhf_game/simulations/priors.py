"""A prior over types, for audits: the scenario of a study, with as many groups and outcomes as a game has."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.files.schema import Strict, parse_model
from rlhf_game.mechanism.reports import Group, Normalization, Report
from rlhf_game.outcomes.run_config import read_document
from rlhf_game.simulations.fields import SomeScenario
from rlhf_game.simulations.populations import PopulationSource


@final
class _Prior(Strict):
    """The one key of a prior."""

    scenario: SomeScenario


def read_prior(
    path: str | os.PathLike[str], groups: int, outcomes: int, normalization: Normalization
) -> PopulationSource:
    """Return where types come from. The file holds a scenario, or has one under ``scenario``; .yaml, .yml or .json.

    Raises InputError that names file and field when it is no scenario or does not fit the game.
    """
    document, name = read_document(path, "prior")
    said = document if "scenario" in document else {"scenario": document}
    fields = parse_model(_Prior, said, name)
    try:
        source = fields.scenario.source(Path(path).parent, normalization)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if source.count != groups:
        raise InputError(f"{name}: scenario.groups: must be {groups}, as many as the game has, found {source.count}")
    width = source.draw(np.random.default_rng(0), normalization).rewards.shape[1]
    if width != outcomes:
        raise InputError(f"{name}: scenario.outcomes: must be {outcomes}, as many as the game has, found {width}")
    return source


def others_of(
    source: PopulationSource, position: int, normalization: Normalization
) -> Callable[[np.random.Generator], Sequence[Report]]:
    """Return what draws the true reports of all groups but one."""

    def draw(rng: np.random.Generator) -> Sequence[Report]:
        drawn = source.draw(rng, normalization)
        reports = [Report(reward, int(size)) for reward, size in zip(drawn.rewards, drawn.sizes, strict=True)]
        return [*reports[:position], *reports[position + 1 :]]

    return draw


def types_of(
    source: PopulationSource, position: int, normalization: Normalization, rng: np.random.Generator, name: str
) -> Group:
    """Return a type of one group, drawn as it is in a whole population."""
    drawn = source.draw(rng, normalization)
    return Group(name, drawn.rewards[position], int(drawn.sizes[position]))
