"""Numbers that are only known as an interval."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen


@final
@dataclass(frozen=True, eq=False)
class Estimate:
    """Arrays of one shape: the best single numbers, and ends between which the truth lies with probability ``level``.

    value, low, high: any shape ([] for one number, [n] for one per group), in the unit of the quantity, low <= high.
    An end may be infinite. The value need not be inside: a ratio and its interval may be biased differently.
    level: in (0, 1]; 1 means certain (a proof, not a confidence), otherwise it holds for each entry on its own.
    Raises InputError when the shapes differ, an end is not a number, low > high or the level is out of range.
    """

    value: Array
    low: Array
    high: Array
    level: float = 1.0

    def __post_init__(self) -> None:
        for field in ("value", "low", "high"):
            object.__setattr__(self, field, frozen(getattr(self, field)))
        if not self.value.shape == self.low.shape == self.high.shape:
            raise InputError(
                f"an estimate's value, low and high must have one shape, "
                f"got {self.value.shape}, {self.low.shape} and {self.high.shape}"
            )
        if not (self.low <= self.high).all():
            raise InputError(f"an estimate's low must be <= high, got {self.low.tolist()} and {self.high.tolist()}")
        if not 0 < self.level <= 1:
            raise InputError(f"an estimate's level must be in (0, 1], got {self.level!r}")

    @property
    def width(self) -> Array:
        """The length of the interval, high - low."""
        return np.asarray(self.high - self.low)

    def contains(self, truth: ArrayLike, slack: float = 0.0) -> bool:
        """Return whether every number of ``truth`` is inside its interval, ``slack`` (same unit) allowed outside."""
        array = np.asarray(truth, dtype=np.float64)
        return bool(((self.low - slack <= array) & (array <= self.high + slack)).all())

    def __getitem__(self, index: Any) -> "Estimate":
        """Return the estimate of one entry (or of a slice)."""
        return Estimate(self.value[index], self.low[index], self.high[index], self.level)

    def __add__(self, other: "Estimate") -> "Estimate":
        """Return the estimate of a sum, by interval arithmetic; of both levels < 1, at least 1 - the sum of misses."""
        level = 1.0 - (1.0 - self.level) - (1.0 - other.level)
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high, level)

    def scaled(self, factor: ArrayLike) -> "Estimate":
        """Return the estimate of ``factor`` times the quantity; a negative factor swaps the ends."""
        by = np.asarray(factor, dtype=np.float64)
        ends = (by * self.low, by * self.high)
        return Estimate(by * self.value, np.minimum(*ends), np.maximum(*ends), self.level)

    def document(self) -> Any:
        """Return the receipt's form: {estimate, low, high, level}, or nested lists of it for an array.

        Where the value is outside its interval, the interval is widened to hold it: it then covers no less.
        """
        if self.value.ndim:
            return [self[i].document() for i in range(len(self.value))]
        value = float(self.value)
        low, high = min(float(self.low), value), max(float(self.high), value)
        return {"estimate": value, "low": low, "high": high, "level": self.level}


def prompt_shares(weights: ArrayLike | None, count: int) -> Array:
    """Return weights of prompts as shares of 1, equal by default: [count]; raise InputError if they are not such."""
    given = np.full(count, 1.0) if weights is None else finite(weights, "prompt_weights")
    if given.shape != (count,) or (given < 0).any() or given.sum() <= 0:
        raise InputError(f"must be {count} numbers >= 0 with a sum > 0, got {given.tolist()}", field="prompt_weights")
    return np.asarray(given / given.sum())


def student_interval(
    values: ArrayLike, level: float = 0.95, known: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Return the mean of n independent values and Student's interval for its expectation: [...] of [..., n].

    Exact for normal values, approximate for others: where bounds are known, ``betting_interval`` holds for every law.
    Two values have an interval 6.5 times as wide as the normal quantile would give, which covers 70 % instead of 95 %.
    known: what the expectation keeps to. Of one value alone the interval is what is known, or where that is nothing,
    has no width and says nothing.
    """
    from scipy.special import stdtrit

    array = finite(values, "values")
    count = array.shape[-1]
    mean = array.mean(axis=-1)
    if count > 1:
        reach = stdtrit(count - 1, (1 + level) / 2) * array.std(axis=-1, ddof=1) / np.sqrt(count)
    else:
        reach = np.where(np.isfinite(known).all(), np.inf, 0.0)
    value, low, high = (np.clip(end, *known) for end in (mean, mean - reach, mean + reach))
    return Estimate(value, low, high, level)


def student_total(values: ArrayLike, counts: ArrayLike, level: float = 0.95) -> Estimate:
    """Return the total of further values of B laws, of each of which N >= 2 are known, and an interval for it: [...].

    values: [..., B, N]. counts: how many further ones of each law, [B]. The interval is for the total itself, not for
    its expectation: it has the spread of the further values as well. Approximate, for few values a little too wide.
    """
    from scipy.special import stdtrit

    array, further = finite(values, "values"), finite(counts, "counts")
    known = array.shape[-1]
    total = array.mean(axis=-1) @ further
    variance = array.var(axis=-1, ddof=1) @ (further + further**2 / known)
    reach = stdtrit(known - 1, (1 + level) / 2) * np.sqrt(variance)
    return Estimate(total, total - reach, total + reach, level)


def share_interval(share: float, count: int, level: float = 0.95) -> Estimate:
    """Return a share of ``count`` independent trials with the interval of Clopper and Pearson (1934) for its chance.

    It covers with at least ``level`` for every chance; a half counted for a tie leaves it valid only nearly.
    """
    from scipy.special import betaincinv

    hits, miss = share * count, (1 - level) / 2
    low = betaincinv(hits, count - hits + 1, miss) if hits > 0 else 0.0
    high = betaincinv(hits + 1, count - hits, 1 - miss) if hits < count else 1.0
    return Estimate(np.array(share), np.array(low), np.array(high), level)
