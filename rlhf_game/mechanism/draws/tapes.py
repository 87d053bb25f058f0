"""Tapes of proposals: which are draws of the optimum, and what each group owes for them, exactly in expectation.

Proposals x_1, x_2, ... are drawn from the reference q with independent u_j in (0, 1). With shares g_i = mu_i w_i,
rewards in [0, hi_i], the score s = sum_i g_i r_i + b and its largest value H = sum_i g_i hi_i + max b, a proposal is
accepted where strength * log u_j < s(x_j) - H. The accepted ones are independent draws of the optimum p* proportional
to q exp(s / strength). Lower group i's share by t g_i, for t in [0, 1]: the same (x_j, u_j) is then accepted where
t > t_ij, its level for the group. So the first proposal with t_ij < t is a draw of the optimum at a share of
(1 - t) g_i, and as strength * log(Z / Z_-i) is the integral over t of g_i times the mean of r_i at that share,

    utility_i = w_i * integral over t of r_i(first proposal with t_ij < t),    bill_i = w_i r_i(served) - utility_i

have the means of truth: E bill_i is the affine payment, and utility_i is in [0, w_i hi_i] after every tape (derived;
docs/draws.md has the proofs, tests/mechanism/test_draws.py the tests).
"""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array, finite, frozen


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """What the draws are of and who pays for them; rewards, ceilings, strength and money in units of reward.

    sizes: w, [n]. multipliers: mu, [n]. strength: lambda. ceilings: hi, the most that each group's reward counts, [n];
    part of the declared calibration. boost_bounds: the least and the most that the provider's own boost adds.
    Raises InputError when a size, a multiplier, the strength or a ceiling is not a finite number > 0.
    """

    sizes: Array
    multipliers: Array
    strength: float
    ceilings: Array
    boost_bounds: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        for name in ("sizes", "multipliers", "ceilings"):
            array = finite(getattr(self, name), name)
            if array.shape != np.shape(self.sizes) or array.ndim != 1 or (array <= 0).any():
                raise InputError(f"must be one number > 0 per group, got {array.tolist()}", field=name)
            object.__setattr__(self, name, frozen(array))
        if not np.isfinite(self.strength) or self.strength <= 0:
            raise InputError(f"must be a finite number > 0, got {self.strength!r}", field="strength")
        low, high = self.boost_bounds
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise InputError(
                f"must be two finite numbers, the lower first, got {self.boost_bounds!r}", field="boost_bounds"
            )

    @property
    def shares(self) -> Array:
        """mu w: [n]."""
        return self.multipliers * self.sizes

    @property
    def top(self) -> float:
        """H, the largest score that there can be."""
        return float(self.shares @ self.ceilings) + self.boost_bounds[1]


@final
@dataclass(frozen=True, eq=False)
class Tape:
    """Proposals to one prompt in order, until the T-th that is accepted, which is the last.

    problem: what they are for. rewards: of each proposal, cut at the ceilings, [n, M]. boosts: [M]. Made by ``cut``.
    """

    problem: Problem
    rewards: Array
    boosts: Array
    accepted: NDArray[np.intp]
    """The places of the accepted proposals: [T]."""
    levels: Array
    """t_ij in [0, 1], 0 for the accepted: [n, M]."""

    @property
    def proposals(self) -> int:
        """M, the place of the last acceptance, counted from 1."""
        return int(self.rewards.shape[1])

    @property
    def draws(self) -> int:
        """T."""
        return len(self.accepted)

    @property
    def drawn(self) -> Array:
        """The rewards of the accepted proposals: [n, T]."""
        return self.rewards[:, self.accepted]

    @property
    def drawn_scores(self) -> Array:
        """The scores of the accepted proposals: [T]."""
        return self.problem.shares @ self.drawn + self.boosts[self.accepted]


def acceptances(
    problem: Problem, rewards: ArrayLike, exponentials: ArrayLike, boosts: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Return which proposals are draws of the optimum: [M]. Arguments as of ``cut``."""
    return _read(problem, rewards, exponentials, boosts)[2] < 0


def may_count(problem: Problem, most: ArrayLike, exponentials: ArrayLike) -> NDArray[np.bool_]:
    """Return which proposals may still serve or bill anybody: [k]. most: what their rewards are at most, [n, k].

    Where strength * exponential is below what all but one group must fall short of their ceilings by, whichever is left
    out, neither the problem nor the one without a group accepts the proposal: it counts in no bill, whatever follows.
    """
    rewards, waits = finite(most, "most"), finite(exponentials, "exponentials")
    short = problem.shares[:, None] * np.maximum(problem.ceilings[:, None] - rewards, 0.0)
    return np.asarray(short.sum(axis=0) - short.max(axis=0) < problem.strength * waits)


def cut(
    problem: Problem, rewards: ArrayLike, exponentials: ArrayLike, draws: int, boosts: ArrayLike | None = None
) -> Tape | None:
    """Return the tape up to its ``draws``-th acceptance, or None where there are fewer; what comes after is discarded.

    rewards: of the proposals in order, in [0, 1] or any range from 0, [n, M]; what is above a ceiling counts as the
    ceiling. exponentials: -log of their uniform numbers, [M]. boosts: [M]. Raises InputError on wrong shapes, a reward
    below 0 or a boost above its ceiling.
    """
    if draws < 1:
        raise InputError(f"must be >= 1, got {draws}", field="draws")
    array, added, slack = _read(problem, rewards, exponentials, boosts)
    places = np.flatnonzero(slack < 0)[:draws]
    if len(places) < draws:
        return None
    end = int(places[-1]) + 1
    array, slack = array[:, :end], slack[:end]
    room = problem.shares[:, None] * (problem.ceilings[:, None] - array)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratios = np.where(room > 0, slack / room, 1.0)
    levels = np.where(slack < 0, 0.0, np.minimum(ratios, 1.0))
    return Tape(problem, array, added[:end], places, levels)


def _read(
    problem: Problem, rewards: ArrayLike, exponentials: ArrayLike, boosts: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Return the rewards [n, M], the boosts [M], and H - s - strength * exponential, accepted where < 0: [M]."""
    array, waits = finite(rewards, "rewards"), finite(exponentials, "exponentials")
    if array.ndim != 2 or len(array) != len(problem.sizes) or waits.shape != array.shape[1:]:
        raise InputError(
            f"must be [{len(problem.sizes)} groups, proposals] and exponentials one per proposal, got "
            f"{list(array.shape)} and {list(waits.shape)}",
            field="rewards",
        )
    if (array < 0).any():
        raise InputError(f"must be >= 0, got {array.min():.6g}", field="rewards")
    array = np.minimum(array, problem.ceilings[:, None])
    slack = problem.shares @ (problem.ceilings[:, None] - array) - problem.strength * waits
    low, high = problem.boost_bounds
    added = np.zeros_like(waits) if boosts is None else finite(boosts, "boosts")
    if added.shape != waits.shape or ((added < low) | (added > high)).any():
        raise InputError(f"must be one per proposal within the declared bounds {problem.boost_bounds}", field="boosts")
    return array, added, slack + (high - added)


def tape_utilities(tape: Tape) -> Array:
    """Return what each single tape, from one acceptance to the next, leaves each group, in [0, w hi]: [n, T].

    The bill of the k-th draw is w_i r_i(drawn) - utility_i: for each of them alone its mean is the affine payment.
    """
    found = np.empty((len(tape.rewards), tape.draws))
    starts = np.concatenate([[0], tape.accepted[:-1] + 1])
    for k, (start, end) in enumerate(zip(starts, tape.accepted, strict=True)):
        least = np.minimum.accumulate(tape.levels[:, start : end + 1], axis=1)
        falls = -np.diff(least, axis=1, prepend=1.0)
        found[:, k] = (tape.rewards[:, start : end + 1] * falls).sum(axis=1)
    return tape.problem.sizes[:, None] * found


def averaged_utilities(tape: Tape) -> Array:
    """Return the mean of a tape's single utilities over all orders of the proposals before its last, in [0, w hi]: [n].

    Given where a tape ends that order is exchangeable, so this is the Rao-Blackwell estimate: the same mean, never a
    larger variance. Of the n proposals before the last that pass at level t (t_ij < t), each that was not accepted is
    the first of a single tape with probability T / n, each accepted one and the last with (T - 1) / n.
    """
    is_accepted = np.zeros(tape.proposals, dtype=bool)
    is_accepted[tape.accepted] = True
    of_drawn = (tape.draws - 1) / tape.draws * tape.drawn.sum(axis=1)
    found = np.empty(len(tape.rewards))
    for i, (reward, levels) in enumerate(zip(tape.rewards, tape.levels, strict=True)):
        passing = ~is_accepted & (levels < 1)
        order = np.argsort(levels[passing], kind="stable")
        ends = np.concatenate([[0.0], levels[passing][order], [1.0]])
        sums = of_drawn[i] + np.concatenate([[0.0], reward[passing][order].cumsum()])
        counts = tape.draws - 1 + np.arange(len(sums), dtype=np.float64)
        if tape.draws == 1:  # where nothing else passes, the one draw is the first that does
            sums[0], counts[0] = tape.drawn[i, 0], 1.0
        found[i] = sums / counts @ np.diff(ends)
    return tape.problem.sizes * found
