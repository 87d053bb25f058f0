"""Axes: from the numbers of a figure to its pixels, with round numbers to read them by."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log2, log10
from typing import Final, final

from rlhf_game.report.data_table import number

LARGEST: Final = 1e300
"""What is beyond it has no place on an axis: two such numbers may be farther apart than float64 can say."""


@final
@dataclass(frozen=True)
class Axis:
    """A scale from [low, high] to pixels [start, end]; logarithmic where ``is_log`` says so."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a number; beyond the ends, that of the end."""
        low, high, value = (log(v) if self.is_log else v for v in (self.low, self.high, self._inside(value)))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Return about ``count`` round numbers on the axis, with their texts."""
        if self.is_log:
            return self._log_ticks(count)
        step = _round_step((self.high - self.low) / count)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        places = next((p for p in range(7) if abs(step * 10**p - round(step * 10**p)) < 1e-6), 7)
        return [(k * step, number(k * step, places)) for k in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[tuple[float, str]]:
        doublings = log2(self.high / self.low)
        if doublings <= 3.4 * count:
            first, last = ceil(log2(self.low) - 1e-9), floor(log2(self.high) + 1e-9)
            step = max(1, ceil((last - first) / (count + 1)))
            powers = [k for k in range(first, last + 1) if k % step == 0]
            return [(2.0**k, _ratio(k)) for k in powers]
        first, last = ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9)
        step = max(1, ceil((last - first) / (count + 1)))
        return [(10.0**k, f"1e{k}".replace("-", "\N{MINUS SIGN}")) for k in range(first, last + 1) if k % step == 0]


def spanning(values: Iterable[float], start: float, end: float, *, zero: bool = False, room: float = 0.06) -> Axis:
    """Return a linear axis that holds all values up to LARGEST (and 0, if ``zero``), with ``room`` of it to spare."""
    finite = [value for value in values if abs(value) < LARGEST] + ([0.0] if zero else [])
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        middle = max(abs(low), abs(high)) or 1.0
        low, high = (low - middle / 2, high + middle / 2) if not zero or low else (0.0, 1.0)
    spare = room * (high - low)
    low, high = (low if zero and low == 0 else low - spare), (high if zero and high == 0 else high + spare)
    return Axis(low, high, start, end)


def spanning_log(values: Iterable[float], start: float, end: float) -> Axis:
    """Return a logarithmic axis that holds all values > 0."""
    positive = [value for value in values if isfinite(value) and value > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 2.0)
    if low == high:
        low, high = low / 2, high * 2
    return Axis(low, high, start, end, is_log=True)


def is_geometric(values: Iterable[float]) -> bool:
    """Return whether numbers are better read on a logarithmic axis: all > 0, over a factor of 8 or more, unevenly."""
    finite = sorted(set(values))
    if len(finite) < 3 or finite[0] <= 0 or finite[-1] / finite[0] < 8:
        return False
    middle = finite[len(finite) // 2]
    return middle < finite[0] + 0.35 * (finite[-1] - finite[0])


def _round_step(rough: float) -> float:
    power = 10.0 ** floor(log10(rough))
    return next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * (1 - 1e-9))


def _ratio(power: int) -> str:
    if power >= 0:
        return str(2**power)
    return f"1/{2**-power}" if power >= -6 else f"2^{power}".replace("-", "\N{MINUS SIGN}")
