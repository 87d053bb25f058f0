"""Links: the inverse u of f' for each separable f-divergence, in terms of a slack z, and what is derived from it."""

from abc import ABC, abstractmethod
from typing import final

import numpy as np

from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.regularizers.moments import phi

SERIES = 0.05
"""Below this the remainders of expansions are their Taylor series."""


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
    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return f*(other) - f*(z) - u(z) (other - z) / slope >= 0 without cancellation; h is other - z."""

    @abstractmethod
    def from_zero(self, other: Array) -> Array:
        """Return f(0) + f*(other) >= 0: the limit of ``bregman`` where u(z) = 0."""


def psi(x: Array, log_ratio: Array) -> Array:
    """Return x - log(1 + x) >= 0 for x > -1, with full relative accuracy for small x; log_ratio: log(1 + x)."""
    out: Array = x - log_ratio
    small = np.abs(x) < SERIES
    if small.any():
        y = x[small]
        series = np.zeros_like(y)
        for k in range(18, 1, -1):
            series = 1 / k - y * series
        out[small] = y * y * series
    return out


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
        out: Array = np.where(z > 0, z, 1.0) ** self.power
        return np.where(z > 0, out, 0.0)

    def log_derivative(self, z: Array) -> Array:
        """Return 1 / ((A - 1) z)."""
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

    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return the divergence; where one side has left the support, a sum of positive terms."""
        both = (z > 0) & (other > 0)
        safe = np.where(z > 0, z, 1.0)
        ratio = np.where(both, h / safe, 0.0)
        log_ratio = np.log1p(np.maximum(ratio, -0.5))
        log_ratio = np.where(ratio < -0.5, np.log(np.where(both, other, 1.0) / safe), log_ratio)
        if self.order == 0:
            return psi(ratio, log_ratio)
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

    def bregman(self, z: Array, other: Array, h: Array) -> Array:
        """Return [psi(-u expm1(-h)) + u phi(h)] / 2, or its unexpanded form where exp(-h) could overflow."""
        u = self.density(z)
        x = -u * np.expm1(-np.maximum(h, -1.0))
        far = (h < -1) | (x < -0.5)
        step, x = np.where(far, 0.0, h), np.where(far, 0.0, x)
        near = psi(x, np.log1p(x)) + u * phi(step)
        return np.where(far, _log1mexp(z) - _log1mexp(other) + u * h, near) / 2

    def from_zero(self, other: Array) -> Array:
        """Return log(1 + u) / 2."""
        out: Array = np.log1p(self.density(other)) / 2
        return out


def _log1mexp(z: Array) -> Array:
    """Return log(1 - exp(-z)) for z > 0."""
    return np.where(z > 0.7, np.log1p(-np.exp(-np.maximum(z, 0.7))), np.log(-np.expm1(-z)))
