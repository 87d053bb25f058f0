"""Outcomes of kind draws: what a configuration may say about the tapes, the bills and what is declared beforehand."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.files.drawn import PILOT, Ceiling, Count
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.mechanism.draws.settlement import expected_proposals
from rlhf_game.mechanism.draws.tapes import Problem
from rlhf_game.mechanism.reports import LARGEST_SIZE
from rlhf_game.outcomes.served_draws import ServerSpec

LARGEST: Final = 1e300
"""What stands in messages for larger numbers."""


@final
class DrawsSpec(Strict):
    """Outcomes are exact draws of the optimum over all texts, found by rejection."""

    kind: Literal["draws"]
    draws: Count
    """T, of each prompt."""
    max_proposals: Count
    """To one prompt; a run that needs more is void for everybody."""
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 64
    """The most tokens of a response."""
    temperature: Positive = 1.0
    """Of the reference; 1 is the model's own distribution."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Only the likeliest k tokens; 0: all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the likeliest tokens that together have this probability."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Proposals at a time on this machine."""
    server: ServerSpec | None = None
    """What generates the proposals elsewhere: it serves the model."""
    estimator: Literal["rao_blackwell", "tape", "log_mean", "auto"] = "rao_blackwell"
    """How bills are computed from the tape; auto chooses by a pilot."""
    ceilings: dict[Name, Ceiling] = {}
    """The most that a group's reward counts; 1 where none is said."""
    size_limit: Annotated[int, Field(ge=1, le=LARGEST_SIZE)] | None = None
    """The largest size that may be reported; a run that could need more than max_proposals is then refused."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Of the intervals."""

    def fault(self, sizes: Mapping[str, int], weights: Mapping[str, float], strength: float) -> str | None:
        """Return what is wrong with what is declared, beginning with a field; rewards are not looked at."""
        for name in self.ceilings:
            if name not in sizes:
                return f"ceilings.{name}: must be the name of a group, found none of that name"
        least = max(self.draws, PILOT) if self.estimator in ("auto", "log_mean") else self.draws
        if self.max_proposals < least:
            return f"max_proposals: must be at least the {least} draws of a prompt, found {self.max_proposals}"
        if self.size_limit is None:
            return None
        for name, size in sizes.items():
            if size > self.size_limit:
                return (
                    f"size_limit: must be at least the size of every group, found {self.size_limit} and {name}'s {size}"
                )
        problem = self.problem(list(sizes), [self.size_limit] * len(sizes), weights, strength)
        expected = expected_proposals(problem, self.size_limit, self.draws)
        if expected <= self.max_proposals:
            return None
        reach = self.size_limit * float(problem.multipliers @ problem.ceilings)
        room = float(np.log(self.max_proposals / self.draws)) if self.max_proposals > self.draws else 0.0
        fits = "more max_proposals"
        if room > 0:
            fits = (
                f"strength {reach / room:.3g}, or ceilings or calibrations {strength * room / reach:.3g} times as high"
            )
        return (
            f"max_proposals: must be at least {min(expected, LARGEST):.6g}, what {self.draws} draws may take with "
            f"sizes up to size_limit, found {self.max_proposals}; {fits} would do, and outcomes candidates need no "
            "such number"
        )

    def problem(
        self, names: Sequence[str], sizes: Sequence[int], weights: Mapping[str, float], strength: float
    ) -> Problem:
        """Return what is drawn from and charged for."""
        return Problem(
            np.array(sizes, dtype=np.float64),
            np.array([weights.get(name, 1.0) for name in names]),
            strength,
            np.array([self.ceilings.get(name, 1.0) for name in names]),
        )
