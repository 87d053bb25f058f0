"""What is private (Group), what is said (Report), and the declared domain of what may be said."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import CombinationError, InputError
from rlhf_game.mechanism.arrays import Array, extremes, frozen, row_maxima, row_sums

V = TypeVar("V")
"""A reward in a space's own coordinates: a [B, m] table, transition arrays, a scorer of texts."""

NORMALIZATION_TOLERANCE = 1e-6 + 1e-12
"""How far a sum or a maximum may be from 1 and still count as 1: three times 0.333333 does, with its rounding."""


LARGEST_SIZE = 2**53
"""Sizes up to here are exact in float64."""


class Reward(Protocol):
    """A table, any function, a neural reward model: all are called the same way, on a sequence of outcomes."""

    def __call__(self, outcomes: Sequence[Any], /) -> ArrayLike:
        """Return one number per outcome, in units of reward."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Group:
    """The truth, private: one member's reward r_i and the number of members w_i."""

    name: str
    reward: Reward | ArrayLike
    size: int = 1

    def __post_init__(self) -> None:
        check_size(self.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Group) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.name, self.size, _content(self.reward)


@final
@dataclass(frozen=True, eq=False)
class Report:
    """What a group says: same fields as its truth, another type, so that the two cannot be confused."""

    reward: Reward | ArrayLike
    size: int = 1

    def __post_init__(self) -> None:
        check_size(self.size)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        return self.size, _content(self.reward)


def _content(reward: Any) -> Any:
    """Return what tells two rewards apart: the numbers of a table, and for anything else the object itself."""
    if callable(reward):
        return id(reward)
    try:
        numbers = np.asarray(reward, dtype=np.float64) + 0.0
    except (TypeError, ValueError):  # rows of different lengths, or no numbers at all
        return (
            tuple(map(_content, reward)) if isinstance(reward, Sequence) and not isinstance(reward, str) else id(reward)
        )
    return numbers.shape, numbers.tobytes()


def check_size(size: Any) -> None:
    """Raise InputError unless ``size`` is an integer >= 1."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InputError(f"must be an integer >= 1, got {size!r}", field="size")
    if size > LARGEST_SIZE:
        raise InputError(
            f"must be at most {LARGEST_SIZE}, got one of {int(size).bit_length()} binary digits", field="size"
        )


@final
@dataclass(frozen=True, eq=False)
class Profile(Generic[V]):
    """All reports, each read once, in the space's coordinates: n rewards and their sizes [n].

    unchanged: raises InputError where a reward was read without a copy and has been changed in place since.
    """

    held: tuple[V, ...]
    sizes: Array
    unchanged: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", frozen(self.sizes))

    @property
    def rewards(self) -> tuple[V, ...]:
        """The rewards, as they were read."""
        if self.unchanged is not None:
            self.unchanged()
        return self.held


@final
class Normalization(StrEnum):
    """The declared domain of rewards: a reward outside it is an input error, never silently rescaled.

    With several prompts each prompt's rewards are in the domain.
    """

    NONE = "none"
    SUM = "sum"
    MAX = "max"

    @classmethod
    def parse(cls, value: "Normalization | str") -> "Normalization":
        """Return the domain of that name; raise InputError if there is none."""
        try:
            return cls(value)
        except ValueError as error:
            raise InputError(f"must be one of {', '.join(cls)}, got {value!r}", field="normalization") from error

    def must_be_declared(self) -> None:
        """Raise CombinationError when there is no domain to take an infimum over."""
        if self is Normalization.NONE:
            raise CombinationError("the least gain over a domain needs normalization sum or max, not none")

    def check(self, rewards: Array) -> None:
        """Raise InputError unless each row of ``rewards`` [B, m] is in the domain."""
        if self is Normalization.NONE:
            return
        if extremes(rewards)[0] < 0:
            row, column = (int(i) for i in np.argwhere(rewards < 0)[0])
            raise InputError(
                f"must be >= 0 under normalization {self.value}, got {rewards[row, column]} "
                f"at prompt {row}, outcome {column}",
                field="reward",
            )
        totals = row_sums(rewards) if self is Normalization.SUM else row_maxima(rewards)
        wrong = np.abs(totals - 1.0) > NORMALIZATION_TOLERANCE
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"must have {self.value} 1 under normalization {self.value}, "
                f"got {self.value} {totals[row]} at prompt {row}",
                field="reward",
            )
