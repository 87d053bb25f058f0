"""Log probabilities that others say of whole responses, in nats: what they can be, and how near to the truth."""

import math
from collections.abc import Iterable
from typing import Any, Final

from rlhf_game.errors import InputError
from rlhf_game.files.rows import number_of

ROUNDING: Final = 1e-3
"""Nats that the log probability of a whole response may be above 0, added up in float32 or less."""
NEAR: Final = 0.1
"""Nats by which a log probability may differ from the one that the model here gives, beside FAR of it: half precision
and other kernels move it so far, another policy farther."""
FAR: Final = 0.01


def slack(log_probability: Any) -> Any:
    """Return by how many nats a log probability, or each of an array of them, may be another of the same model."""
    return NEAR + FAR * abs(log_probability)


def is_near(said: float, computed: float) -> bool:
    """Return whether two log probabilities of a response, in nats, may be of one model; of what it never says, none."""
    return math.isfinite(computed) and abs(said - computed) <= slack(computed)


def log_probability_of(value: Any, where: str) -> float:
    """Return a log probability, in nats; raise InputError that begins with ``where`` when it is none."""
    found = number_of(value, where)
    if found > ROUNDING:
        raise InputError(f"{where}: must be a log probability, at most 0, found {found:g}")
    return found


def check_total(logs: Iterable[float], where: str) -> None:
    """Raise InputError where distinct responses to one prompt have probabilities whose sum is more than 1.

    Whatever they are, they are no log probabilities of whole responses: means over tokens, say.
    """
    total = math.fsum(math.exp(one - slack(one)) for one in logs)
    if total > 1:
        raise InputError(
            f"{where}: must be log probabilities of whole responses, in nats: those of all distinct responses to a "
            f"prompt have a sum of at most 1, found {total:.4g} or more"
        )
