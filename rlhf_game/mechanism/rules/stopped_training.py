"""Training that stops early, on a table where the truth is known: what it costs, and two cheap payment rules.

Dual averaging with the regulariser as mirror map (for KL this is mirror descent, the exponentiated gradient): the dual
variable z moves to (1 - rate) z + rate * s / strength, and p = argmax_p <p, z> - D(p || q). Since z_0 = 0, after t
steps z_t = progress(t) * s / strength with progress(t) = 1 - (1 - rate)^t (derived; tested step by step), so checkpoint
t is the exact optimum for a part of the score.

The two heuristics of section 6 of arXiv:2405.16276 replace max ASW_-i by something cheaper:
H1, the best checkpoint of the main run (payments >= 0; the checkpoints depend on the group's own report), and
H2, a leave-one-out training of few steps (does not depend on the group's report; payments can be negative).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.domains import Sheets
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.optimum import Optimum
from rlhf_game.mechanism.rules.welfare_rules import TableRule, table_of
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.training import Trained


@final
@dataclass(frozen=True)
class StoppedTraining(TableRule):
    """Social welfare, trained for a number of steps that does not depend on the reports.

    steps: >= 0. rate: in (0, 1], the learning rate times the strength.
    """

    steps: int
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 0 or not 0 < self.rate <= 1:
            raise InputError(f"must be >= 0 and rate in (0, 1], got {self.steps!r} and {self.rate!r}", field="steps")

    def progress(self, steps: int) -> float:
        """Return the part of the way to the optimum that so many steps go: 1 - (1 - rate)^steps."""
        return float(1 - (1 - self.rate) ** steps)

    def sheets(self, sizes: Array, rewards: Sequence[Sheets], space: Table) -> Sheets:
        """Return the policy after the last step."""
        optima = space.maximize(self.progress(self.steps) * sizes, rewards).optima
        return tuple(optimum.probabilities() for optimum in optima)


def others_welfare(
    regularizer: Regularizer, reference: Array, weights: Array, rewards: Sequence[Array], progress: float
) -> Array:
    """Return ASW_-i of the checkpoint at that progress, without group i's share in it: [n, B]; rows are independent.

    weights: [n] or [n, B]. rewards: n of [B, m].
    """
    by = np.broadcast_to(weights[:, None], (len(rewards), len(reference))) if weights.ndim == 1 else weights
    optimum: Optimum = regularizer.maximize(progress * by, rewards, reference)
    values = by * optimum.values(rewards)
    return np.asarray(optimum.welfare + (1 - progress) * values.sum(axis=0) - values)


def alone_welfare(
    regularizer: Regularizer, reference: Array, weights: Array, rewards: Sequence[Array], progress: float
) -> Array:
    """Return ASW_-i of a training without group i, stopped at that progress: [n, B]; arguments as above."""
    everyone = np.arange(len(rewards))
    rows = []
    for i in everyone:
        rest = everyone != i
        kept = [reward for j, reward in enumerate(rewards) if j != i]
        optimum = regularizer.maximize(progress * weights[rest], kept, reference)
        shares = np.broadcast_to(weights[rest].reshape(len(kept), -1), (len(kept), len(reference)))
        values = (shares * optimum.values(kept)).sum(axis=0) if kept else 0.0
        rows.append(optimum.welfare + (1 - progress) * values)
    return np.stack(rows)


@final
@dataclass(frozen=True)
class CheckpointPayments(PaymentRule[StoppedTraining]):
    """H1: the best of ASW_-i over the checkpoints of the main run, the start included, minus ASW_-i at the last one."""

    def charge(self, optimum: Trained[StoppedTraining]) -> Array:
        """Return payments >= 0: [n]."""
        path = [_mean_others(optimum, t) for t in range(optimum.rule.steps + 1)]
        return np.asarray(np.max(path, axis=0) - path[-1])


@final
@dataclass(frozen=True)
class StoppedPayments(PaymentRule[StoppedTraining]):
    """H2: ASW_-i of a training without group i of so many steps, minus ASW_-i at the last step of the main run."""

    steps: int

    def charge(self, optimum: Trained[StoppedTraining]) -> Array:
        """Return payments of either sign: [n]."""
        table, progress = table_of(optimum.space, type(self)), optimum.rule.progress(self.steps)
        alone = [
            alone_welfare(table.regularizer, q, optimum.profile.sizes, [r[k] for r in optimum.rewards], progress)
            for k, q in enumerate(table.reference)
        ]
        return table.mean(alone).T - _mean_others(optimum, optimum.rule.steps)


def _mean_others(optimum: Trained[StoppedTraining], steps: int) -> Array:
    """Return ASW_-i of a checkpoint of the main run, the mean over prompts: [n]."""
    table, progress = table_of(optimum.space, type(optimum.rule)), optimum.rule.progress(steps)
    rows = [
        others_welfare(table.regularizer, q, optimum.profile.sizes, [r[k] for r in optimum.rewards], progress)
        for k, q in enumerate(table.reference)
    ]
    return table.mean(rows).T
