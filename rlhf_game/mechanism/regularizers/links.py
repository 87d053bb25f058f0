"""Links: the inverse u of f' for each separable f-divergence, in terms of a slack z, and what is derived from it."""

from abc import ABC, abstractmethod
from typing import final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.moments import LARGEST_EXPONENT, phi

SERIES = 0.05
"""Below this the remainders of expansions are their Taylor series."""
TINY = 1e-150
"""Its square is the smallest slack whose root is divided by."""


class Link(ABC):
    """u = (f')^{-1} in terms of the slack z, and what is derived from it. All arrays elementwise."""

    slope: float
    """k: how z moves when the dual variable (s - tau) / strength grows by 1."""
    unit: float
    """The z where u = 1."""

    @abstractmethod
    def density(self, z: Array) -> Array:
        """Return u(z) = p / q."""

    @abstractmethod
    def log_derivative(self, z: Array) -> Array:
        """Return u'(z) / u(z) where u > 0, else 0."""

    @abstractmethod
    def inverse(self, density: Array) -> Array:
        """Return the z > 0 with u(z) = density > 0."""

    @abstractmethod
    def change(self, z: Array, h: Array) -> Array:
        """Return u(z + h) - u(z) without cancellation."""

    @abstractmethod
    def response(self, z: Array, density: Array, other: Array, h: Array) -> tuple[Array, Array]:
        """Return u(other) - u(z) from the difference h = other - z, and u'(other); density: u(z)."""

    @abstractmethod
    def mean_step(self, excess: Array) -> Array:
        """Return (unit - M) u'(M) for M = u^{-1}(1 + excess), without cancellation for a small excess."""

    @abstractmethod
    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return f*(other) - f*(z) - u(z) (other - z) / slope >= 0 without cancellation; h is other - z."""

    @abstractmethod
    def from_zero(self, other: Array) -> Array:
        """Return f(0) + f*(other) >= 0: the limit of ``bregman`` where u(z) = 0."""


def psi(x: Array, log_ratio: Array) -> Array:
    """Return x - log(1 + x) >= 0 for x > -1, with full relative accuracy for small x; log_ratio: log(1 + x).

    For small x with y = x / (2 + x), by log(1 + x) = 2 artanh(y): x y - 2 y^3 (1/3 + y^2/5 + y^4/7 + ...).
    """
    small = np.abs(x) < SERIES
    if not small.any():
        return np.asarray(x - log_ratio)
    series = _psi_series(x)
    return series if small.all() else np.where(small, series, x - log_ratio)


def _psi_series(x: Array) -> Array:
    y = x / (2 + x)
    square = y * y
    series = np.full_like(y, 1 / 11)
    for k in (9, 7, 5, 3):
        series *= square
        series += 1 / k
    series *= square
    series *= -2
    series += x
    series *= y
    return series


def binomial_remainder(x: Array, log_ratio: Array, power: float) -> Array:
    """Return (1 + x)^power - 1 - power x for x > -1, accurate for small x too; log_ratio: log(1 + x)."""
    out: Array = np.expm1(power * log_ratio) - power * x
    small = np.abs(x) * max(1.0, abs(power)) < SERIES
    if small.any():
        y = x[small]
        term = np.full_like(y, power * (power - 1) / 2)
        series = term.copy()
        for k in range(3, 20):
            term = term * y * (power - k + 1) / k
            series += term
        out[small] = y * y * series
    return out


@final
class PowerLink(Link):
    """f = (t^A - 1 - A (t - 1)) / (A (A - 1)), and its limit t - 1 - log t at A = 0: u = z^(1 / (A - 1))."""

    def __init__(self, order: float) -> None:
        """order: A, neither 1 nor infinite."""
        self.order = order
        self.slope = order - 1
        self.unit = 1.0
        self.power = 1 / (order - 1)

    def density(self, z: Array) -> Array:
        """Return z^(1 / (A - 1)), 0 for z <= 0."""
        positive = z > 0
        if positive.all():
            return self._raised(z)
        return np.where(positive, self._raised(np.where(positive, z, 1.0)), 0.0)

    def _raised(self, z: Array) -> Array:
        """Return z^power for z > 0; numpy's own power takes ten times as long as a division."""
        if self.power == -1:
            return np.asarray(1 / z)
        if self.power == -2:
            return np.asarray(1 / (z * z))
        return np.asarray(z**self.power)

    def log_derivative(self, z: Array) -> Array:
        """Return 1 / ((A - 1) z)."""
        if (z > 0).all():
            return np.asarray(self.power / z)
        return np.where(z > 0, self.power / np.where(z > 0, z, 1.0), 0.0)

    def inverse(self, density: Array) -> Array:
        """Return density^(A - 1)."""
        out: Array = density**self.slope
        return out

    def change(self, z: Array, h: Array) -> Array:
        """Return u(z + h) - u(z)."""
        both = (z > 0) & (z + h > 0)
        ratio = np.where(both, h / np.where(z > 0, z, 1.0), 0.0)
        within = self.density(z) * np.expm1(self.power * np.log1p(ratio))
        return np.where(both, within, self.density(z + h) - self.density(z))

    def response(self, z: Array, density: Array, other: Array, h: Array) -> tuple[Array, Array]:
        """Return the change of z^power, in closed form for the powers of named divergences, and its derivative."""
        if self.power in (-1, -2):
            inverse = 1 / other
            change = h * inverse
            change *= -density
            if self.power == -1:
                inverse *= inverse
                return change, np.negative(inverse, out=inverse)
            square = inverse * inverse
            change *= (z + other) * inverse
            return change, -2 * square * inverse
        if self.power in (0.5, 1):
            moved = _held(z, other, h)
            if self.power == 1:
                return moved, (other > 0).astype(np.float64)
            root = np.sqrt(np.maximum(other, TINY * TINY))
            moved /= density + root
            slope = 0.5 / root
            slope *= other > 0
            return moved, slope
        change = self.change(z, h)
        return change, (density + change) * self.log_derivative(other)

    def mean_step(self, excess: Array) -> Array:
        """Return power (1 + excess) ((1 + excess)^(1 - A) - 1)."""
        return np.asarray(self.power * (1 + excess) * np.expm1(-self.slope * np.log1p(excess)))

    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return the divergence; where one side has left the support, a sum of positive terms."""
        if self.power == -2:
            ratio = h * (1 / z)
            return np.asarray(2 * ratio * ratio / other)
        if self.power in (0.5, 1):
            moved, start = _held(z, other, h), np.maximum(z, 0.0)
            beyond = np.maximum(-other, 0.0)
            if self.power == 1:
                moved *= moved
                moved /= 2
                beyond *= start
                moved += beyond
                return moved
            start, end = np.sqrt(start), np.sqrt(np.maximum(other, TINY * TINY))
            moved /= start + end
            moved *= moved
            end += start / 2
            moved *= end
            moved /= 3
            beyond *= start / 2
            moved += beyond
            return moved
        if self.order == 0:
            ratio = h / z
            near = np.log1p(np.maximum(ratio, -0.5))
            return psi(ratio, near if ratio.min() > -0.5 else np.where(ratio < -0.5, np.log(other / z), near))
        both = (z > 0) & (other > 0)
        safe = np.where(z > 0, z, 1.0)
        ratio = np.where(both, h / safe, 0.0)
        log_ratio = np.log1p(np.maximum(ratio, -0.5))
        log_ratio = np.where(ratio < -0.5, np.log(np.where(both, other, 1.0) / safe), log_ratio)
        power = self.order * self.power
        within = safe**power * binomial_remainder(ratio, log_ratio, power) / self.order
        left = safe**power / (self.order * self.slope) + safe**self.power * np.abs(other) / self.slope
        entered = np.where(other > 0, other, 1.0) ** power / self.order
        return np.where(both, within, np.where(z > 0, left, np.where(other > 0, entered, 0.0)))

    def from_zero(self, other: Array) -> Array:
        """Return z u(z) / A; infinite for A <= 0."""
        if self.order <= 0:
            return np.full_like(other, np.inf)
        return np.where(other > 0, other, 0.0) * self.density(other) / self.order


def _held(z: Array, other: Array, h: Array) -> Array:
    """Return max(other, 0) - max(z, 0): h itself inside the support."""
    moved = np.maximum(h, -z)
    return moved if z.min() > 0 else np.where(z > 0, moved, np.maximum(other, 0.0))


@final
class JensenShannonLink(Link):
    """f = (t log t - (t + 1) log((t + 1) / 2)) / 2: u = 1 / (e^z - 1)."""

    slope = -2.0
    unit = float(np.log(2))

    def density(self, z: Array) -> Array:
        """Return 1 / (e^z - 1)."""
        with np.errstate(over="ignore"):
            out: Array = 1 / np.expm1(z)
        return out

    def log_derivative(self, z: Array) -> Array:
        """Return -1 / (1 - e^-z)."""
        out: Array = 1 / np.expm1(-z)
        return out

    def inverse(self, density: Array) -> Array:
        """Return log(1 + 1 / density)."""
        out: Array = np.log1p(1 / density)
        return out

    def change(self, z: Array, h: Array) -> Array:
        """Return u(z + h) - u(z) = -u(z + h) (e^h - 1) / (1 - e^-z)."""
        small = np.abs(h) < 1
        product = self.density(z + h) * np.expm1(np.where(small, h, 0.0)) / np.expm1(-z)
        return np.where(small, product, self.density(z + h) - self.density(z))

    def response(self, z: Array, density: Array, other: Array, h: Array) -> tuple[Array, Array]:
        """Return u(z) (1 + u(other)) (e^-h - 1), and -u (1 + u) at the other slack."""
        end = self.density(other)
        above = 1 + end
        if h.min() < -LARGEST_EXPONENT:
            return end - density, -end * above
        change = np.expm1(-h)
        change *= above
        change *= density
        above *= end
        return change, np.negative(above, out=above)

    def mean_step(self, excess: Array) -> Array:
        """Return -(1 + excess) (2 + excess) log((2 + 2 excess) / (2 + excess))."""
        return np.asarray(-(1 + excess) * (2 + excess) * np.log1p(excess / (2 + excess)))

    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return [psi(-u expm1(-h)) + u phi(h)] / 2, or its unexpanded form where exp(-h) could overflow."""
        u = self.density(z)
        step = np.maximum(h, -LARGEST_EXPONENT)
        x = -u * np.expm1(-step)
        far = (x < -0.5) | (h < -LARGEST_EXPONENT)
        is_far = far.any()
        if is_far:
            step[far], x[far] = 0.0, 0.0
        out = psi(x, np.log1p(x))
        out += u * phi(step)
        if is_far:
            start, mass = np.broadcast_to(z, h.shape)[far], np.broadcast_to(u, h.shape)[far]
            out[far] = _log1mexp(start) - _log1mexp(other[far]) + mass * h[far]
        out /= 2
        return out

    def from_zero(self, other: Array) -> Array:
        """Return log(1 + u) / 2."""
        out: Array = np.log1p(self.density(other)) / 2
        return out


def _log1mexp(z: Array) -> Array:
    """Return log(1 - exp(-z)) for z > 0."""
    return np.where(z > 0.7, np.log1p(-np.exp(-np.maximum(z, 0.7))), np.log(-np.expm1(-z)))
