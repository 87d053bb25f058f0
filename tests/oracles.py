"""Slow and independent answers to compare with: mpmath with 60 and more digits, exact fractions, cvxpy.

Nothing here uses rlhf_game. Payments come from their definition, the difference of two maxima of theory section 3; at
60 digits and more that difference costs nothing, and the precision is doubled until two answers agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
from mpmath import mp, mpf

Row = Sequence[float]
Table = Sequence[Row]  # one row per prompt

TINY = {True: 200, False: 70}
"""By whether policies have a closed form: a payment below 10 to minus this, relative to all money, counts as 0."""


@dataclass(frozen=True)
class Exact:
    """The settlement of one game; mpmath numbers."""

    policy: list[list[Any]]
    values: list[Any]
    divergence: Any
    welfare: Any
    payments: list[Any]


# ---- separable f-divergences: sum q f(p / q), from contract.md -------------------------------------------------------


@dataclass(frozen=True)
class Divergence:
    """f on t >= 0, its derivative and second derivative, and the t >= 0 where the derivative is y (0 if there is none).

    ``domain`` is the supremum of f', None when f' is unbounded above.
    """

    f: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    curvature: Callable[[Any], Any]
    inverse: Callable[[Any], Any]
    ceiling: Callable[[], Any] | None = None


def _log_or_zero(t: Any) -> Any:
    return mpf(0) if t == 0 else t * mp.log(t)


def _js_inverse(y: Any) -> Any:
    grown = mp.exp(2 * y)
    return grown / (2 - grown)


def alpha(order: float) -> Divergence:
    """f(t) = (t^A - 1 - A (t - 1)) / (A (A - 1)), A not 0 or 1."""
    a = mpf(order)

    def inverse(y: Any) -> Any:
        base = 1 + (a - 1) * y
        return mpf(0) if base <= 0 else base ** (1 / (a - 1))

    return Divergence(
        f=lambda t: (t**a - 1 - a * (t - 1)) / (a * (a - 1)),
        slope=lambda t: (t ** (a - 1) - 1) / (a - 1),
        curvature=lambda t: t ** (a - 2),
        inverse=inverse,
        ceiling=None if order > 1 else (lambda: 1 / (1 - a)),
    )


DIVERGENCES: dict[str, Divergence] = {
    "kl": Divergence(
        f=_log_or_zero,
        slope=lambda t: mp.log(t) + 1,
        curvature=lambda t: 1 / t,
        inverse=lambda y: mp.exp(y - 1),
    ),
    "reverse_kl": Divergence(
        f=lambda t: -mp.log(t),
        slope=lambda t: -1 / t,
        curvature=lambda t: 1 / t**2,
        inverse=lambda y: -1 / y,
        ceiling=lambda: mpf(0),
    ),
    "chi2": Divergence(
        f=lambda t: (t - 1) ** 2,
        slope=lambda t: 2 * (t - 1),
        curvature=lambda t: mpf(2),
        inverse=lambda y: max(mpf(0), 1 + y / 2),
    ),
    "js": Divergence(
        f=lambda t: (_log_or_zero(t) - (t + 1) * mp.log((t + 1) / 2)) / 2,
        slope=lambda t: mp.log(2 * t / (t + 1)) / 2,
        curvature=lambda t: 1 / (2 * t * (t + 1)),
        inverse=_js_inverse,
        ceiling=lambda: mp.log(2) / 2,
    ),
    "hellinger": Divergence(
        f=lambda t: (mp.sqrt(t) - 1) ** 2 / 2,
        slope=lambda t: (1 - 1 / mp.sqrt(t)) / 2,
        curvature=lambda t: t ** mpf("-1.5") / 4,
        inverse=lambda y: (1 - 2 * y) ** -2,
        ceiling=lambda: mpf(1) / 2,
    ),
}


def divergence_named(name: str) -> Divergence:
    """Return the divergence of contract.md with this name; ``alpha:A`` too."""
    return alpha(float(name.removeprefix("alpha:"))) if name.startswith("alpha:") else DIVERGENCES[name]


# ---- one prompt ------------------------------------------------------------------------------------------------------


def _softmax(score: list[Any], reference: list[Any], strength: Any) -> list[Any]:
    top = max(s for s, q in zip(score, reference, strict=True) if q > 0)
    grown = [q * mp.exp((s - top) / strength) if q > 0 else mpf(0) for s, q in zip(score, reference, strict=True)]
    total = mp.fsum(grown)
    return [g / total for g in grown]


def _piecewise(offset: list[Any], slope: list[Any]) -> list[Any]:
    """Return max(0, offset - tau slope) with sum 1, by trying every active set in the order in which they open."""
    order = sorted((x for x in range(len(offset)) if slope[x] > 0), key=lambda x: -offset[x] / slope[x])
    for count in range(len(order), 0, -1):
        active = order[:count]
        tau = (mp.fsum(offset[x] for x in active) - 1) / mp.fsum(slope[x] for x in active)
        if offset[active[-1]] - tau * slope[active[-1]] >= 0:
            return [max(mpf(0), offset[x] - tau * slope[x]) if x in active else mpf(0) for x in range(len(offset))]
    raise AssertionError("one active outcome always fits")


def root_policy(divergence: Divergence, score: list[Any], reference: list[Any], strength: Any) -> list[Any]:
    """Return q max(0, (f')^{-1}((s - tau) / strength)), tau by bisection that Newton may shorten.

    The digits that (s - tau) / strength and a rare outcome's share of the mass lose are added first.
    """
    support = [x for x, q in enumerate(reference) if q > 0]
    top = max(score[x] for x in support)
    reach = 2 + (top - min(score[x] for x in support)) / strength
    rarest = min(reference[x] for x in support)
    goal = mpf(10) ** (3 - mp.dps)
    with mpmath.workdps(mp.dps + 5 + int(mp.log10(reach) - 2 * mp.log10(rarest))):
        relative = {x: (score[x] - top) / strength for x in support}

        def policy(level: Any) -> dict[int, Any]:
            return {x: reference[x] * divergence.inverse(relative[x] - level) for x in support}

        low = max(relative[x] - divergence.slope(1 / reference[x]) for x in support)  # one outcome alone has mass 1
        high = -divergence.slope(mpf(1))  # no outcome gains
        pole = None if divergence.ceiling is None else -divergence.ceiling()
        level = high
        for step in range(100 + 10 * mp.dps):
            masses = policy(level)
            excess = mp.fsum(masses.values()) - 1
            if abs(excess) <= goal or low >= high:
                break
            low, high = (level, high) if excess > 0 else (low, level)
            rate = mp.fsum(
                reference[x] / divergence.curvature(mass / reference[x]) for x, mass in masses.items() if mass > 0
            )
            newton = level + excess / rate
            middle = (low + high) / 2 if pole is None else pole + mp.sqrt((low - pole) * (high - pole))
            level = newton if low < newton < high and step % 4 else middle
        else:
            raise AssertionError("the root was not found")
        return [masses.get(x, mpf(0)) for x in range(len(reference))]


def best_policy(name: str, score: list[Any], reference: list[Any], strength: Any) -> list[Any]:
    """Return argmax <p, s> - strength D(p || q) for one prompt, at the working precision."""
    if name == "kl":
        return _softmax(score, reference, strength)
    if name == "l2":
        offset = [q + s / (2 * strength) for s, q in zip(score, reference, strict=True)]
        return _piecewise(offset, [mpf(1)] * len(offset))
    if name == "chi2":
        offset = [q * (1 + s / (2 * strength)) for s, q in zip(score, reference, strict=True)]
        return _piecewise(offset, list(reference))
    return root_policy(divergence_named(name), score, reference, strength)


def divergence_of(name: str, policy: list[Any], reference: list[Any]) -> Any:
    """Return D(p || q) for one prompt, from the definition; outcomes that both exclude cost nothing."""
    if name == "l2":
        return mp.fsum((p - q) ** 2 for p, q in zip(policy, reference, strict=True))
    f = divergence_named(name).f
    return mp.fsum(q * f(p / q) for p, q in zip(policy, reference, strict=True) if q > 0)


# ---- games -----------------------------------------------------------------------------------------------------------


def _exactly(table: Table) -> list[list[Any]]:
    return [[mpf(float(entry)) for entry in row] for row in table]


def _normalized(row: list[Any]) -> list[Any]:
    total = mp.fsum(row)
    return [entry / total for entry in row]


def _dot(left: list[Any], right: list[Any]) -> Any:
    return mp.fsum(a * b for a, b in zip(left, right, strict=True))


def settle_at(
    digits: int,
    name: str,
    strength: float,
    references: Table,
    rewards: Sequence[Table],
    sizes: Sequence[int],
    prompt_weights: Row | None = None,
    multipliers: Row | None = None,
    boost: Table | None = None,
) -> Exact:
    """Settle one game with ``digits`` digits; every float of the input is taken as the number that it is."""
    with mpmath.workdps(digits):
        reference = [_normalized(row) for row in _exactly(references)]
        tables = [_exactly(table) for table in rewards]
        mu = [mpf(float(m)) for m in (multipliers if multipliers is not None else [1.0] * len(sizes))]
        shares = [m * int(w) for m, w in zip(mu, sizes, strict=True)]
        rho = _normalized(
            [mpf(float(c)) for c in (prompt_weights if prompt_weights is not None else [1.0] * len(reference))]
        )
        bonus = _exactly(boost) if boost is not None else [[mpf(0)] * len(row) for row in reference]
        unit = mpf(float(strength))
        prompts, count = range(len(reference)), len(tables)

        def score(without: int | None) -> list[list[Any]]:
            return [
                [
                    bonus[b][x] + mp.fsum(shares[i] * tables[i][b][x] for i in range(count) if i != without)
                    for x in range(len(reference[b]))
                ]
                for b in prompts
            ]

        def trained(on: list[list[Any]]) -> list[list[Any]]:
            return [best_policy(name, on[b], reference[b], unit) for b in prompts]

        def welfare(of: list[list[Any]], on: list[list[Any]]) -> Any:
            return mp.fsum(
                rho[b] * (_dot(of[b], on[b]) - unit * divergence_of(name, of[b], reference[b])) for b in prompts
            )

        policy = trained(score(None))
        payments = []
        for i in range(count):
            others = score(i)
            payments.append((welfare(trained(others), others) - welfare(policy, others)) / mu[i])
        return Exact(
            policy=policy,
            values=[mp.fsum(rho[b] * _dot(policy[b], table[b]) for b in prompts) for table in tables],
            divergence=mp.fsum(rho[b] * divergence_of(name, policy[b], reference[b]) for b in prompts),
            welfare=welfare(policy, score(None)),
            payments=payments,
        )


def settle_exactly(name: str, strength: float, *game: Any, digits: int = 45, **options: Any) -> Exact:
    """Settle one game; the digits are doubled until every payment has 15 of them or is seen to be below TINY."""
    tiny = TINY[name in ("kl", "l2", "chi2")]
    while True:
        answer = settle_at(digits, name, strength, *game, **options)
        money = max([abs(answer.welfare), *(abs(value) for value in answer.values)])
        noise = money * mpf(10) ** (10 - digits)
        if digits >= tiny + 20 or all(abs(payment) > noise * mpf(10) ** 15 for payment in answer.payments):
            return answer
        digits *= 2


# ---- menus: exact rational arithmetic --------------------------------------------------------------------------------


def settle_menu_exactly(
    divergence: Row,
    strength: float,
    rewards: Sequence[Row],
    sizes: Sequence[int],
    multipliers: Row | None = None,
    boost: Row | None = None,
) -> tuple[int, list[Fraction]]:
    """Return the chosen entry (ties: the first) and the payments of an affine maximiser over a menu."""
    entries, groups = range(len(divergence)), range(len(rewards))
    mu = [Fraction(float(m)) for m in (multipliers if multipliers is not None else [1.0] * len(sizes))]
    base = [
        (Fraction(float(boost[k])) if boost is not None else Fraction(0))
        - Fraction(float(strength)) * Fraction(float(divergence[k]))
        for k in entries
    ]

    def totals(without: int | None) -> list[Fraction]:
        return [
            base[k]
            + sum((mu[i] * sizes[i] * Fraction(float(rewards[i][k])) for i in groups if i != without), Fraction(0))
            for k in entries
        ]

    everybody = totals(None)
    chosen = everybody.index(max(everybody))
    payments = []
    for i in groups:
        others = totals(i)
        payments.append((max(others) - others[chosen]) / mu[i])
    return chosen, payments


# ---- revenue-optimal payments under KL -------------------------------------------------------------------------------


def least_utility(policy_without: Row, strength: float, domain: str) -> tuple[Any, list[Any]]:
    """Return min over the domain of strength log sum_x p_-i,x exp(r_x / strength), and the reward that attains it.

    By bisection on the level: at the optimum every rewarded outcome has the same p_x exp(r_x / strength) (theory
    section 4). ``domain`` is "sum" or "max"; the policy may hold mpmath numbers.
    """
    p = [mpf(entry) for entry in policy_without]
    unit = mpf(strength)
    if domain == "max":
        worst = min(range(len(p)), key=lambda x: p[x])
        reward = [mpf(1) if x == worst else mpf(0) for x in range(len(p))]
    else:
        logs = [mp.log(entry) for entry in p]
        low, high = min(logs), max(logs) + 1 / unit
        for _ in range(4 * mp.prec):
            level = (low + high) / 2
            spent = mp.fsum(unit * max(mpf(0), level - entry) for entry in logs)
            low, high = (level, high) if spent < 1 else (low, level)
        reward = [unit * max(mpf(0), low - entry) for entry in logs]
    return unit * mp.log(mp.fsum(a * mp.exp(r / unit) for a, r in zip(p, reward, strict=True))), reward


# ---- cvxpy -----------------------------------------------------------------------------------------------------------


def conic_maximum(name: str, strength: float, score: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the policy and the welfare that Clarabel finds for one prompt (reference > 0)."""
    import cvxpy as cp

    p = cp.Variable(len(score), nonneg=True)
    problem = cp.Problem(cp.Maximize(score @ p - strength * conic_cost(name, p, reference)), [cp.sum(p) == 1])
    problem.solve(solver=cp.CLARABEL)
    return np.asarray(p.value), float(problem.value)


def conic_floor(name: str, strength: float, score: np.ndarray, reference: np.ndarray) -> float:
    """Return max_p <p, s> - strength D(p || q) + min_x p_x, by Clarabel."""
    import cvxpy as cp

    p = cp.Variable(len(score), nonneg=True)
    cost = strength * conic_cost(name, p, reference)
    problem = cp.Problem(cp.Maximize(score @ p - cost + cp.min(p)), [cp.sum(p) == 1])
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value)


def conic_cost(name: str, p: Any, q: np.ndarray) -> Any:
    """Return D(p || q) as a cvxpy expression."""
    import cvxpy as cp

    cost: dict[str, Callable[[], Any]] = {
        "kl": lambda: cp.sum(cp.rel_entr(p, q)),
        "l2": lambda: cp.sum_squares(p - q),
        "reverse_kl": lambda: cp.sum(cp.rel_entr(q, p)),
        "chi2": lambda: cp.sum(cp.multiply(1 / q, cp.square(p - q))),
        "js": lambda: cp.sum(cp.rel_entr(p, (p + q) / 2) + cp.rel_entr(q, (p + q) / 2)) / 2,
        "hellinger": lambda: cp.sum(p / 2 + q / 2 - cp.multiply(np.sqrt(q), cp.sqrt(p))),
        "alpha:3": lambda: cp.sum(cp.multiply(q**-2, cp.power(p, 3)) - q - 3 * (p - q)) / 6,
    }
    return cost[name]()
