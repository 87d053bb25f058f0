r"""Rules without money: a random dictator, the maximal lottery, Nash learning from human feedback; their distortion.

They weigh outcomes, not the cost of leaving the reference, which only says what is possible: no outcome with q = 0 is
ever chosen. Payments would not make them truthful, and none is needed for the random dictator (theory2 section 18).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np

from rlhf_game.errors import InputError, RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.rules.welfare_rules import TableRule
from rlhf_game.mechanism.spaces.table import Table

TIE: Final = 1e-12
"""Rewards this close to the best, as a share of the largest, are as good."""
SOLVED: Final = 1e-12
"""The largest difference of log-probabilities between two steps at which an iteration has arrived."""
MOST_STEPS: Final = 100_000


class RowRule(TableRule):
    """A rule that looks at each prompt alone, and only at outcomes that the reference has."""

    @abstractmethod
    def row(self, shares: Array, rewards: Array, reference: Array) -> Array:
        """Return the probabilities of one prompt: [m]. shares: w_i / sum w, [n]; rewards: [n, m]; reference: [m]."""

    @final
    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the probabilities on every sheet."""
        out = []
        for k, reference in enumerate(space.reference):
            sheet = np.zeros_like(reference)
            for b, q in enumerate(reference):
                there = q > 0
                table = np.stack([reward[k][b][there] for reward in rewards])
                sheet[b, there] = self.row(sizes / sizes.sum(), table, q[there])
            out.append(sheet)
        return tuple(out)


@final
@dataclass(frozen=True)
class RandomDictatorship(RowRule):
    """A member drawn at random decides: its favourite outcome, in proportion to q where it has several.

    Truth is a best report of rewards, whatever the others say: a report moves only the mass w_i / sum w of the group,
    and the truth puts it on the favourites. It is not proof against reported sizes (Gibbard 1977).
    """

    def row(self, shares: Array, rewards: Array, reference: Array) -> Array:
        """Return sum_i share_i * (the favourites of i)."""
        top = rewards.max(axis=1, keepdims=True)
        favourites = (rewards >= top - TIE * np.abs(rewards).max(axis=1, keepdims=True)) * reference
        return np.asarray(shares @ (favourites / favourites.sum(axis=1, keepdims=True)))


@final
@dataclass(frozen=True)
class MaximalLottery(RowRule):
    """The lottery that no other one beats in a vote between the two (Fishburn 1984): only rankings count, not amounts.

    p maximises min_y sum_x p_x M_xy with the margins M_xy = sum_i w_i sign(r_i,x - r_i,y) / sum w: a linear programme
    whose value is 0. Where several lotteries are best, one corner of them is returned.
    """

    def row(self, shares: Array, rewards: Array, reference: Array) -> Array:
        """Return the lottery; raise RunError when the programme is not solved."""
        from scipy.optimize import linprog

        margins = np.einsum("i,ixy->xy", shares, np.sign(rewards[:, :, None] - rewards[:, None, :]))
        count = len(reference)
        cost = np.append(np.zeros(count), -1.0)  # the guaranteed margin
        rows = np.hstack([-margins.T, np.ones((count, 1))])
        total = np.append(np.ones(count), 0.0)[None]
        ends = [(0.0, None)] * count + [(None, None)]
        found = linprog(cost, A_ub=rows, b_ub=np.zeros(count), A_eq=total, b_eq=[1.0], bounds=ends, method="highs")
        if not found.success:
            raise RunError(f"the maximal lottery was not found: {found.message}")
        lottery = np.maximum(found.x[:count], 0.0)
        return np.asarray(lottery / lottery.sum())


@final
@dataclass(frozen=True)
class NashFeedback(RowRule):
    """Nash learning from human feedback (Munos et al., arXiv:2312.00886): the policy that no other one is preferred to.

    P_xy = sum_i (w_i / sum w) sigma(slope (r_i,x - r_i,y)) is how often x is preferred to y (Bradley-Terry), and p the
    equilibrium of the game P(p, p') - temperature (KL(p || q) - KL(p' || q)), which is symmetric and unique:
    p proportional to q exp(P p / temperature). slope: > 0, by unit of reward. temperature: > 0.
    """

    slope: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in ("slope", "temperature"):
            value = getattr(self, name)
            if not 0 < value < np.inf:
                raise InputError(f"must be a number > 0, got {value!r}", field=name)

    def row(self, shares: Array, rewards: Array, reference: Array) -> Array:
        """Return the equilibrium, by damped iteration; raise RunError when it does not arrive."""
        from scipy.special import expit

        gaps = rewards[:, :, None] - rewards[:, None, :]
        preferred = np.einsum("i,ixy->xy", shares, expit(self.slope * gaps))
        base = np.log(reference)
        logs, damping, last = base - np.logaddexp.reduce(base), 1.0, np.inf
        for _ in range(MOST_STEPS):
            aim = base + preferred @ np.exp(logs) / self.temperature
            aim -= np.logaddexp.reduce(aim)
            away = float(np.abs(aim - logs).max())
            if away <= SOLVED:
                return np.asarray(np.exp(aim))
            damping = damping / 2 if away > last else damping
            last = away
            logs = logs + damping * (aim - logs)
            logs -= np.logaddexp.reduce(logs)
        raise RunError(
            f"Nash learning from human feedback did not settle in {MOST_STEPS} steps (last change {away:.3g})"
        )


def distortion(policy: Array, sizes: Array, rewards: Array) -> float:
    """Return the best social welfare over that of a policy, >= 1; infinite where that is worth nothing.

    policy: [m]; sizes: [n]; rewards: [n, m], >= 0 (Procaccia and Rosenschein 2006).
    """
    worth = sizes @ rewards
    reached = float(policy @ worth)
    return float(worth.max()) / reached if reached > 0 else float("inf")
