"""What one would write without this package: the same payments from n + 1 separate solves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logsumexp

Array = np.ndarray


def clarke(
    weights: Array, rewards: Array, welfare: Callable[[Array], float], policy: Callable[[Array], Array]
) -> Array:
    """Payments from n + 1 solves, each of which aggregates its own score."""
    score = weights @ rewards
    values = rewards @ policy(score)
    best = welfare(score)
    payments = np.empty(len(weights))
    for i in range(len(weights)):
        others = np.array(weights)
        others[i] = 0
        payments[i] = welfare(others @ rewards) - (best - weights[i] * values[i])
    return payments


def clarke_by_subtraction(
    weights: Array, rewards: Array, welfare: Callable[[Array], float], policy: Callable[[Array], Array]
) -> Array:
    """Payments from n + 1 solves; the score is aggregated once, and a leave-one-out score is a difference."""
    score = weights @ rewards
    values = rewards @ policy(score)
    best = welfare(score)
    return np.array(
        [
            welfare(score - weight * reward) - (best - weight * value)
            for weight, reward, value in zip(weights, rewards, values, strict=True)
        ]
    )


def kl_with_scipy(reference: Array, strength: float) -> tuple[Callable[[Array], float], Callable[[Array], Array]]:
    """max ASW and its policy by scipy's logsumexp."""
    log_reference = np.log(reference)

    def welfare(score: Array) -> float:
        return float(strength * logsumexp(log_reference + score / strength))

    def policy(score: Array) -> Array:
        exponents = log_reference + score / strength
        return np.exp(exponents - logsumexp(exponents))

    return welfare, policy


def l2_with_sorting(reference: Array, strength: float) -> tuple[Callable[[Array], float], Callable[[Array], Array]]:
    """max ASW and its policy by projecting onto the simplex with a sort."""

    def policy(score: Array) -> Array:
        y = reference + score / (2 * strength)
        descending = np.sort(y)[::-1]
        excess = np.cumsum(descending) - 1
        count = np.count_nonzero(descending * np.arange(1, len(y) + 1) > excess)
        return np.maximum(y - excess[count - 1] / count, 0)

    def welfare(score: Array) -> float:
        p = policy(score)
        return float(p @ score - strength * np.sum((p - reference) ** 2))

    return welfare, policy


def conic_formulations(
    kind: str, reference: Array, strength: float
) -> dict[str, Callable[[Sequence[Array]], list[float]]]:
    """Ways to give cvxpy the welfare maxima of several scores: each returns the maxima by Clarabel, build included."""
    import cvxpy as cp

    outcomes = len(reference)

    def cost(p: cp.Variable) -> cp.Expression:
        return cp.sum(cp.rel_entr(p, reference)) if kind == "kl" else cp.sum_squares(p - reference)

    def solve(problem: cp.Problem) -> float:
        return float(problem.solve(solver=cp.CLARABEL))

    def direct(scores: Sequence[Array]) -> list[float]:
        found = []
        for score in scores:
            p = cp.Variable(outcomes, nonneg=True)
            found.append(solve(cp.Problem(cp.Maximize(score @ p - strength * cost(p)), [cp.sum(p) == 1])))
        return found

    def entropy(scores: Sequence[Array]) -> list[float]:
        found = []
        for score in scores:
            p = cp.Variable(outcomes)
            linear = score + strength * np.log(reference)
            found.append(solve(cp.Problem(cp.Maximize(linear @ p + strength * cp.sum(cp.entr(p))), [cp.sum(p) == 1])))
        return found

    def parametric(scores: Sequence[Array]) -> list[float]:
        p, parameter = cp.Variable(outcomes, nonneg=True), cp.Parameter(outcomes)
        problem = cp.Problem(cp.Maximize(parameter @ p - strength * cost(p)), [cp.sum(p) == 1])
        found = []
        for score in scores:
            parameter.value = score
            found.append(solve(problem))
        return found

    ways = {"direct": direct, "parametric": parametric}
    return {**ways, "entropy": entropy} if kind == "kl" else ways
