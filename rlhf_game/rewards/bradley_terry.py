"""A linear reward on frozen features, fitted to preferences exactly: the Bradley-Terry loss is convex in the head.

With rewards r(x) = <weights, x> + bias, margins d_i = r(chosen_i) - r(rejected_i) and sums s_i = r(chosen_i) +
r(rejected_i), the loss is

    mean_i [ -(1 - smoothing) log sigma(d_i) - smoothing log sigma(-d_i) + eta s_i^2 ] + ridge / 2 |weights|^2.

eta is the regulariser that makes rewards comparable between models (Eisenstein et al. 2023, "Helping or Herding?",
eq. 2): without it a reward is only known up to a constant of each prompt, and the bias not at all.
"""

from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array

STEPS = 200
"""Newton steps before giving up; 5 to 15 are usual."""
ROUNDING = 1e-11
"""Below this decrement a comparison of two losses is one of rounding errors, and the full step is right."""


@final
@dataclass(frozen=True, eq=False)
class LinearHead:
    """A fitted head: weights [d], bias, its loss, and the length of the loss's gradient there."""

    weights: Array
    bias: float
    loss: float
    gradient_norm: float

    def __call__(self, features: Array) -> Array:
        """Return the rewards, [k], of features [k, d]."""
        return features @ self.weights + self.bias


@final
@dataclass(frozen=True)
class Likelihood:
    """The loss of the module's docstring: its constants, checked."""

    eta: float = 0.01
    ridge: float = 1e-3
    smoothing: float = 0.0
    has_bias: bool = True

    def __post_init__(self) -> None:
        if not (self.eta >= 0 and self.ridge > 0 and 0 <= self.smoothing < 0.5):
            raise InputError(
                f"eta must be >= 0, ridge > 0 and smoothing in [0, 0.5), got eta {self.eta}, ridge {self.ridge} and "
                f"smoothing {self.smoothing}"
            )

    def loss(self, point: Array, margins: Array, sums: Array) -> float:
        """Return the loss at the point (weights, bias), [d + 1]; margins, sums: the pairs' rows, [n, d + 1]."""
        d = margins @ point
        fit = np.logaddexp(0.0, -d) + self.smoothing * d  # -log sigma(-d) = -log sigma(d) + d
        square = float(point[:-1] @ point[:-1])
        return float(np.mean(fit) + self.eta * np.mean((sums @ point) ** 2) + self.ridge / 2.0 * square)

    def slope(self, point: Array, margins: Array, sums: Array) -> tuple[Array, Array]:
        """Return the gradient [d + 1] and the Hessian [d + 1, d + 1] of the loss."""
        n = len(margins)
        wrong = 0.5 * (1.0 - np.tanh(margins @ point / 2.0))  # sigma(-d)
        stiffness = np.append(np.full(len(point) - 1, self.ridge), 0.0)
        gradient = margins.T @ (self.smoothing - wrong) / n + 2.0 * self.eta * (sums.T @ (sums @ point)) / n
        hessian = (margins.T * (wrong * (1.0 - wrong))) @ margins / n + 2.0 * self.eta * (sums.T @ sums) / n
        return gradient + stiffness * point, hessian + np.diag(stiffness)


def fit_head(chosen: Array, rejected: Array, likelihood: Likelihood) -> LinearHead:
    """Return the head of least loss, by Newton's method; chosen, rejected: features of the pairs, [n, d] each.

    Raises InputError when the shapes differ, RunError when the method does not converge. Source: derived; the loss is
    strictly convex in the weights, and a test finds the same minimum by L-BFGS.
    """
    if chosen.ndim != 2 or chosen.shape != rejected.shape or not chosen.size:
        raise InputError(f"features must be two tables [n, d] of one shape, got {chosen.shape} and {rejected.shape}")
    ones = np.full((len(chosen), 1), 2.0)
    margins = np.hstack([chosen - rejected, 0.0 * ones])
    sums = np.hstack([chosen + rejected, ones])
    free = np.ones(margins.shape[1], dtype=bool)
    free[-1] = likelihood.has_bias and likelihood.eta > 0.0
    point = np.zeros(margins.shape[1])
    loss = likelihood.loss(point, margins, sums)
    for _ in range(STEPS):
        gradient, hessian = likelihood.slope(point, margins, sums)
        norm = float(np.linalg.norm(gradient[free]))
        step = np.zeros_like(point)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        decrement = float(gradient @ step)
        if decrement <= 1e-24 * max(1.0, loss):
            return LinearHead(point[:-1], float(point[-1]), loss, norm)
        size = 1.0
        while (
            decrement > ROUNDING and likelihood.loss(point - size * step, margins, sums) > loss - size * decrement / 4
        ):
            size /= 2.0
        point = point - size * step
        loss = likelihood.loss(point, margins, sums)
    raise RunError(f"the head did not converge in {STEPS} Newton steps: its gradient is still {norm:.3g} long")
