"""Rows of token ids for TRL's trainers, laid out beforehand in the order in which a training sees them.

A sampler that is made anew on resuming would begin with the first pass's order.
"""

from collections.abc import Sequence

import numpy as np

from rlhf_game.optimization import Optimization

IGNORED = -100
"""The label of a token that is no part of the loss."""


def labelled(read: Sequence[int], written: Sequence[int]) -> dict[str, list[int]]:
    """Return a row of TRL's SFT, whose loss is of what is written alone."""
    return {"input_ids": [*read, *written], "labels": [IGNORED] * len(read) + [*written]}


def shuffled_passes(size: int, needed: int, seed: int) -> list[int]:
    """Return ``needed`` places among ``size``: passes over all of them, each in an order of its own."""
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(size) for _ in range(-(-needed // size))]
    return [int(place) for place in np.concatenate(passes)[:needed]]


def ordered(how: Optimization, count: int, processes: int) -> list[int]:
    """Return the row of every place of every step: shuffled passes over all rows, the last one cut to whole steps.

    An epoch is rounded up to whole steps.
    """
    return shuffled_passes(count, how.steps_for(count, processes) * how.rows * processes, how.seed)
