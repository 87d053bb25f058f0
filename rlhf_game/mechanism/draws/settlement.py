"""A settlement from tapes, one for each prompt: what is served, what everybody owes, and how well each number is known.

Bills, values and the affine welfare are unbiased for every number of draws T >= 1; intervals hold at their level for
every T, each on its own: the k-th single tapes of all prompts, added up with the prompts' weights, are independent and
bounded, so their mean has a betting interval; log Z has the intervals of ``partition``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite
from rlhf_game.mechanism.draws.log_mean import log_means, pivots
from rlhf_game.mechanism.draws.partition import (
    mean_rejections,
    rejection_variances,
    rejections_of_each,
    void_probability,
)
from rlhf_game.mechanism.draws.tapes import Problem, Tape, averaged_utilities, tape_utilities
from rlhf_game.mechanism.sampled.betting import betting_interval
from rlhf_game.mechanism.sampled.estimates import Estimate

Estimator: TypeAlias = Literal["rao_blackwell", "tape", "log_mean"]
SECOND: dict[Estimator, Estimator] = {"rao_blackwell": "tape", "tape": "rao_blackwell", "log_mean": "rao_blackwell"}
"""The other unbiased estimate from the same tapes, which stands beside each as a check."""
SPREAD = 0.5
"""Of g r / strength over draws of the optimum: up to here the log-mean bill varies less than the tapes'."""


@final
@dataclass(frozen=True, eq=False)
class DrawsSettlement:
    """A settlement; money and welfare in units of reward, one entry per group [n] unless it says otherwise."""

    values: Estimate
    payments: Estimate
    utilities: Estimate
    second_payments: Array
    """By the other estimator."""
    least_utilities: Array
    """The smallest utility over tapes and prompts: never below 0 but with log_mean."""
    social_welfare: Estimate
    affine_welfare: Estimate
    divergence: Estimate
    log_z: Estimate
    """Of each prompt: [B]."""
    errors: "Errors"


@final
@dataclass(frozen=True, eq=False)
class Errors:
    """Standard errors, shaped like what they are of; None where one draw of each prompt does not tell.

    Those of payments and utilities by ``rao_blackwell`` are those of the mean of single tapes, and so from above.
    """

    values: Array | None
    payments: Array | None
    utilities: Array | None
    social_welfare: Array | None
    affine_welfare: Array
    divergence: Array | None
    log_z: Array


def settle_tapes(
    tapes: Sequence[Tape],
    draws: int,
    *,
    estimator: Estimator = "rao_blackwell",
    prompt_weights: ArrayLike | None = None,
    level: float = 0.95,
    pilot: Sequence[Array] | None = None,
) -> DrawsSettlement:
    """Return the settlement of one problem from a tape for each prompt.

    draws: T. Tapes hold T acceptances each; with ``log_mean`` T 2^J, J from ``log_mean.doublings``. prompt_weights:
    rho, [B], > 0, default equal. level: of every interval on its own. pilot: of each prompt, the groups' rewards of
    other draws of the optimum, [n, k]; for the pivots of ``log_mean``.
    Raises InputError when the tapes are not of one problem or hold another number of acceptances.
    """
    rho, problem = _checked(tapes, draws, estimator, prompt_weights)
    most = problem.sizes * problem.ceilings
    served = problem.sizes[:, None] * _rows([tape.drawn for tape in tapes], rho, draws)
    left = _rows([tape_utilities(tape) for tape in tapes], rho, draws)
    worth = problem.sizes * _mean([tape.drawn.mean(axis=1) for tape in tapes], rho)
    parts = _utilities(estimator, tapes, draws, pilot)
    kept = _mean([part.mean(axis=1) for part in parts], rho)
    second = _mean([part.mean(axis=1) for part in _utilities(SECOND[estimator], tapes, draws, None)], rho)
    log_z, welfare = _partition(tapes, rho, level)
    return DrawsSettlement(
        values=_bet(served, (0.0 * most, most), level, worth).scaled(1 / problem.sizes),
        payments=_bet(served - left, (-most, most), level, worth - kept),
        utilities=_bet(left, (0.0 * most, most), level, kept),
        second_payments=worth - second,
        least_utilities=np.concatenate(parts, axis=1).min(axis=1),
        social_welfare=_bet(served.sum(axis=0), (0.0, most.sum()), level, worth.sum()),
        affine_welfare=welfare,
        divergence=_divergence(tapes, rho, draws, level),
        log_z=log_z,
        errors=_errors(estimator, tapes, rho, draws),
    )


def choose_estimator(problem: Problem, pilot: Sequence[Array]) -> Estimator:
    """Return the estimator that a pilot speaks for: log_mean where no group's g r / strength varies by more than half.

    pilot: of each prompt, the groups' rewards of draws of the optimum that the settlement does not use, [n, k].
    """
    spread = max(float((problem.shares / problem.strength * rewards.std(axis=1)).max()) for rewards in pilot)
    return "log_mean" if spread < SPREAD else "rao_blackwell"


def expected_proposals(problem: Problem, size: float, draws: int) -> float:
    """Return the most proposals a prompt that is expected for its draws, whatever sizes up to ``size`` are reported."""
    largest = size * float(problem.multipliers @ problem.ceilings) + problem.boost_bounds[1] - problem.boost_bounds[0]
    with np.errstate(over="ignore"):
        return float(draws * np.exp(largest / problem.strength))


def regret_bounds(problem: Problem, size_limit: float, draws: int, most: int, prompts: int) -> Array:
    """Return what no lie gains more than in expectation over the tapes, in money: [n].

    Truth is dominant in expectation on tapes that run to their end. One that needs more than ``most`` proposals is void
    for everybody, with a probability of at most pi for all reports with sizes up to ``size_limit``. Being void costs a
    truthful group at most w hi, and spares a liar at most a bill of size_limit hi: pi (w + size_limit) hi together.
    """
    rate = draws / expected_proposals(problem, size_limit, draws)
    void = void_probability(draws, rate, most, prompts)
    return np.asarray(void * (problem.sizes + size_limit) * problem.ceilings)


def _checked(
    tapes: Sequence[Tape], draws: int, estimator: Estimator, weights: ArrayLike | None
) -> tuple[Array, Problem]:
    if not tapes:
        raise InputError("must be one for each prompt, found none", field="tapes")
    array = np.full(len(tapes), 1.0) if weights is None else finite(weights, "prompt_weights")
    if array.shape != (len(tapes),) or (array <= 0).any():
        raise InputError(f"must be {len(tapes)} numbers > 0, got {array.tolist()}", field="prompt_weights")
    for b, tape in enumerate(tapes):
        if tape.problem is not tapes[0].problem:
            raise InputError("must be of the same problem as tapes[0]", field=f"tapes[{b}]")
        if tape.draws < draws or (estimator != "log_mean" and tape.draws != draws):
            raise InputError(f"must hold {draws} draws, got {tape.draws}", field=f"tapes[{b}]")
    return np.asarray(array / array.sum()), tapes[0].problem


def _utilities(estimator: Estimator, tapes: Sequence[Tape], draws: int, pilot: Sequence[Array] | None) -> list[Array]:
    """Return w v - bill of each prompt, one column a tape where the estimator averages single tapes: B of [n, ...]."""
    if estimator == "tape":
        return [tape_utilities(tape) for tape in tapes]
    if estimator == "rao_blackwell":
        return [averaged_utilities(tape)[:, None] for tape in tapes]
    problem, found = tapes[0].problem, []
    for b, tape in enumerate(tapes):
        pivot = pivots(problem.shares, problem.ceilings, problem.strength, None if pilot is None else pilot[b])
        means = log_means(_powers(tape), pivot, draws)
        found.append((-problem.strength / problem.multipliers * means)[:, None])
    return found


def _powers(tape: Tape) -> Array:
    return np.asarray(np.exp(-tape.problem.shares[:, None] * tape.drawn / tape.problem.strength))


def _errors(estimator: Estimator, tapes: Sequence[Tape], rho: Array, draws: int) -> Errors:
    """Return the standard errors, of means over draws, and of log Z by the delta method. rho: shares of prompts."""
    problem = tapes[0].problem
    sizes, variances = (
        problem.sizes[:, None],
        rejection_variances([t.proposals for t in tapes], [t.draws for t in tapes]),
    )
    of_log_z = float(rho**2 @ variances)
    served = [sizes * tape.drawn for tape in tapes]
    if estimator == "log_mean":
        scale = (problem.strength / problem.multipliers)[:, None]
        left = [-scale * y / y.mean(axis=1, keepdims=True) for y in map(_powers, tapes)]
    else:
        left = [tape_utilities(tape) for tape in tapes]

    def error(by_prompt: Sequence[Array]) -> Array | None:
        """Return the standard error of the mean over draws, of which the prompts may have different numbers: [n]."""
        if draws == 1:
            return None
        return np.asarray(
            np.sqrt(sum(w**2 * x.var(axis=1, ddof=1) / x.shape[1] for w, x in zip(rho, by_prompt, strict=True)))
        )

    values, scores = error(served), error([tape.drawn_scores[None] for tape in tapes])
    welfare = error([rows.sum(axis=0, keepdims=True) for rows in served])
    return Errors(
        values=None if values is None else values / problem.sizes,
        payments=error([mine - theirs for mine, theirs in zip(served, left, strict=True)]),
        utilities=error(left),
        social_welfare=None if welfare is None else welfare[0],
        affine_welfare=np.asarray(problem.strength * np.sqrt(of_log_z)),
        # what is drawn does not depend on how many proposals it took
        divergence=None if scores is None else np.sqrt((scores[0] / problem.strength) ** 2 + of_log_z),
        log_z=np.sqrt(variances),
    )


def _partition(tapes: Sequence[Tape], rho: Array, level: float) -> tuple[Estimate, Estimate]:
    """Return log Z of each prompt, [B], and the affine welfare, strength times their mean."""
    problem = tapes[0].problem
    proposals, draws = [tape.proposals for tape in tapes], [tape.draws for tape in tapes]
    each = rejections_of_each(proposals, draws, level).scaled(-1.0)
    mean = mean_rejections(proposals, draws, rho, level).scaled(-problem.strength)
    return _moved(each, problem.top / problem.strength), _moved(mean, problem.top)


def _divergence(tapes: Sequence[Tape], rho: Array, draws: int, level: float) -> Estimate:
    """Return KL = E_p*[s] / strength - log Z, each side of the difference at half the misses."""
    problem, half = tapes[0].problem, (1 + level) / 2
    scores = [tape.drawn_scores[None] for tape in tapes]
    value = float(_mean([score.mean(axis=1) for score in scores], rho)[0])
    reached = _bet(_rows(scores, rho, draws)[0], (problem.boost_bounds[0], problem.top), half, value)
    _, welfare = _partition(tapes, rho, half)
    found = (reached + welfare.scaled(-1.0)).scaled(1 / problem.strength)
    return Estimate(found.value, np.minimum(found.value, np.maximum(found.low, 0.0)), found.high, level)


def _mean(by_prompt: Sequence[Array], rho: Array) -> Array:
    return np.asarray(np.tensordot(rho, np.stack(by_prompt), 1))


def _rows(by_prompt: Sequence[Array], rho: Array, draws: int) -> Array:
    """Return the weighted sums over prompts of each prompt's k-th entry: [n, T] of B arrays [n, >= T]."""
    return _mean([rows[:, :draws] for rows in by_prompt], rho)


def _bet(rows: Array, bounds: tuple[ArrayLike, ArrayLike], level: float, values: ArrayLike) -> Estimate:
    """Return betting intervals of means around other estimates of them, stretched where needed to hold them."""
    found, numbers = betting_interval(rows, bounds, level), np.asarray(values, dtype=np.float64)
    return Estimate(numbers, np.minimum(found.low, numbers), np.maximum(found.high, numbers), level)


def _moved(estimate: Estimate, by: float) -> Estimate:
    return Estimate(estimate.value + by, estimate.low + by, estimate.high + by, estimate.level)
