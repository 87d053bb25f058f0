"""Draws by rejection on models whose outcomes can all be listed, and the exact truth about them from a table."""

from dataclasses import dataclass
from typing import final

import numpy as np

import rlhf_game as rg
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.tapes import Problem, Tape, acceptances, cut

FAR = 4.0
"""Standard errors: a mean that is right is further off once in 16,000 times."""


def distances(samples: list[Array] | Array, truth: Array | float) -> Array:
    """How many standard errors the mean of independent estimates is from the truth."""
    array = np.asarray(samples)
    errors = array.std(axis=0, ddof=1) / np.sqrt(len(array))
    return np.asarray((array.mean(axis=0) - truth) / errors)


@final
@dataclass(frozen=True, eq=False)
class Model:
    """A reference [B, m], rewards [n, B, m] in [0, 1], a boost [B, m], and the problem that is drawn from."""

    reference: Array
    rewards: Array
    problem: Problem
    boost: Array
    prompt_weights: Array

    def settled(self) -> rg.Settlement:
        """The exact settlement, rewards cut at the ceilings."""
        cut_off = np.minimum(self.rewards, self.problem.ceilings[:, None, None])
        space = rg.Table(self.reference, rg.KL(self.problem.strength), prompt_weights=self.prompt_weights)
        rule = rg.AffineWelfare(self.problem.multipliers, self.boost)
        sizes = self.problem.sizes.astype(int)
        reports = [rg.Report(reward, int(size)) for reward, size in zip(cut_off, sizes, strict=True)]
        return rg.Mechanism(rule, rg.AffinePayments()).settle(reports, space)

    def log_z(self) -> Array:
        cut_off = np.minimum(self.rewards, self.problem.ceilings[:, None, None])
        score = np.tensordot(self.problem.shares, cut_off, 1) + self.boost
        return np.asarray(np.log((self.reference * np.exp(score / self.problem.strength)).sum(axis=1)))

    def rate(self, prompt: int) -> float:
        """The acceptance rate."""
        return float(np.exp(self.log_z()[prompt] - self.problem.top / self.problem.strength))

    def tape(self, prompt: int, draws: int, rng: np.random.Generator) -> Tape:
        """A tape of one prompt."""
        return self.many(prompt, draws, 1, rng)[0]

    def many(self, prompt: int, draws: int, count: int, rng: np.random.Generator) -> list[Tape]:
        """So many independent tapes of one prompt: a long one, parted after each ``draws`` acceptances."""
        outcomes, waits, shares = np.zeros(0, dtype=np.intp), np.zeros(0), self.reference[prompt].cumsum()
        rate = self.rate(prompt)
        while True:
            more = int(1.1 * draws * count / rate) + int(3 / rate) + 8
            picked = np.searchsorted(shares, rng.random(more))
            outcomes = np.append(outcomes, np.minimum(picked, self.reference.shape[1] - 1))
            waits = np.append(waits, rng.standard_exponential(more))
            rewards, boosts = self.rewards[:, prompt][:, outcomes], self.boost[prompt][outcomes]
            whole = cut(self.problem, rewards, waits, draws * count, boosts)
            if whole is not None:
                break
        ends = whole.accepted[draws - 1 :: draws] + 1
        return [
            Tape(
                self.problem,
                whole.rewards[:, start:end],
                whole.boosts[start:end],
                whole.accepted[k * draws : (k + 1) * draws] - start,
                whole.levels[:, start:end],
            )
            for k, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True))
        ]

    def tapes(self, draws: int, count: int, rng: np.random.Generator) -> list[tuple[Tape, ...]]:
        """So many times a tape of each prompt."""
        return list(zip(*(self.many(b, draws, count, rng) for b in range(len(self.reference))), strict=True))

    def drawn(self, prompt: int, count: int, rng: np.random.Generator) -> Array:
        """Rewards of exact draws of the optimum, picked from the table: [n, count]."""
        probabilities = np.atleast_2d(self.settled().policy.probabilities)[prompt]
        picked = rng.choice(len(probabilities), size=count, p=probabilities / probabilities.sum())
        return np.minimum(self.rewards[:, prompt][:, picked], self.problem.ceilings[:, None])

    def accepts(self, prompt: int, outcomes: Array, waits: Array) -> Array:
        return acceptances(self.problem, self.rewards[:, prompt][:, outcomes], waits, self.boost[prompt][outcomes])


def golden(ceilings: tuple[float, float] = (1.0, 1.0)) -> Model:
    """The golden game G3 of the theory."""
    problem = Problem(np.array([3.0, 2.0]), np.ones(2), 0.5, np.array(ceilings))
    rewards = np.array([[[0.6, 0.3, 0.1]], [[0.1, 0.2, 0.7]]])
    return Model(np.array([[0.7, 0.2, 0.1]]), rewards, problem, np.zeros((1, 3)), np.ones(1))


def several(strength: float = 0.6) -> Model:
    """Three prompts of unequal weight, two groups with weights, ceilings and a boost."""
    rng = np.random.default_rng(11)
    boost = rng.uniform(-0.2, 0.2, (3, 6))
    problem = Problem(np.array([2.0, 1.0]), np.array([0.5, 1.5]), strength, np.array([0.9, 0.8]), (-0.2, 0.2))
    return Model(rng.dirichlet(np.ones(6), 3), rng.random((2, 3, 6)), problem, boost, np.array([0.2, 0.5, 0.3]))


def steep(ratio: float) -> Model:
    """One group of g / strength = ratio beside one of 1; likely outcomes are good, so that draws are not dear."""
    problem = Problem(np.array([4.0, 1.0]), np.ones(2), 4.0 / ratio, np.ones(2))
    reference = np.array([[0.5, 0.3, 0.15, 0.05]])
    rewards = np.array([[[0.8, 1.0, 0.3, 0.0]], [[0.7, 0.9, 1.0, 0.2]]])
    return Model(reference, rewards, problem, np.zeros((1, 4)), np.ones(1))
