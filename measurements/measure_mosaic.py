"""Measure exact draws beside MOSAIC's rule at equal tokens, where all outcomes can be listed.

python -m measurements.measure_mosaic            an automaton; a minute or two on one core, the same numbers every time
python -m measurements.measure_mosaic FOLDER     the texts of SmolLM2 that measure_training keeps there, as if no other

Writes tables of docs/draws.md. MOSAIC (arXiv:2405.05905) draws M candidates from a model, weights them so that they
stand for the reference, serves one of them by exp(s / strength) and charges what it costs the others on the candidates;
exact draws charge by their tape. Both take M proposals of the same length.
"""

import sys
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import TypeAlias, final

import numpy as np

import rlhf_game as rg
from measurements.measure_draws import SIZES as TRAINED_SIZES
from measurements.measured import write_table
from measurements.smollm2 import Drawn, Yardstick
from rlhf_game.agents.baselines import mosaic
from rlhf_game.agents.coalitions import Coalition
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.importance import normalized_weights
from rlhf_game.mechanism.draws.tapes import Problem, averaged_utilities, cut, tape_utilities

SEED, TOKENS, HORIZON, STRENGTH = 5, 4, 4, 0.5
COUNTS, TIMES = (64, 256, 1024), 2000
BUDGET = 2.0
"""Of a group, in exact payments."""
HEADS = (
    "rule", "proposals", "bill off by, % of the exact one", "standard deviation of a bill, %", "kept of the gain, %",
    "least utility after a response", f"bills above {BUDGET:g} exact ones, %", "two groups gain together",
)  # fmt: skip
RULE = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())
Once: TypeAlias = Callable[[np.random.Generator], tuple[Array, Array, Array, float]]
"""A settlement: bills [n], utilities after the response that was served [n], the policy [m], proposals."""


@final
class Game:
    """A list of outcomes. q: [m]; rewards in [0, 1]: [n, m]; sizes: [n]; settled: exactly."""

    def __init__(self, q: Array, rewards: Array, sizes: Array, settled: rg.Settlement) -> None:
        self.q, self.rewards, self.sizes, self.settled = q, rewards, sizes, settled
        self.score = sizes @ rewards
        self.problem = Problem(sizes, np.ones(len(sizes)), STRENGTH, rewards.max(axis=1))
        self.rate = float(q @ np.exp((self.score - self.problem.top) / STRENGTH))

    def kept(self, p: Array) -> float:
        """Return the share of the exact gain over the reference that a policy keeps."""
        logs = np.log(np.where(p > 0, p, 1) / self.q)
        here, floor = p @ self.score - STRENGTH * (p @ logs), self.q @ self.score
        return float((here - floor) / (self.settled.affine_social_welfare - floor))


def automaton() -> Game:
    """The next token depends on the last one; settled by the recursion over states, with no list of sequences."""
    rng, sizes = np.random.default_rng(SEED), np.array([2.0, 1.0, 1.0])
    first, steps = rng.dirichlet(np.ones(TOKENS)), rng.dirichlet(np.ones(TOKENS), TOKENS)
    worth = rng.random((len(sizes), TOKENS + 1, TOKENS))
    reference = np.vstack([steps, first])
    paths = np.array(list(product(range(TOKENS), repeat=HORIZON)))
    before = np.column_stack([np.full(len(paths), TOKENS), paths[:, :-1]])
    means = worth[:, before, paths].mean(axis=2)
    least, most = (end[:, None, None] for end in (means.min(axis=1), means.max(axis=1)))
    worth = (worth - least) / (most - least)  # from 0 to 1 over the sequences
    reports = [rg.Report(table / HORIZON, int(size)) for table, size in zip(worth, sizes, strict=True)]
    after = np.tile(np.arange(TOKENS), (TOKENS + 1, 1))
    chain = rg.Chain(after, reference, rg.KL(STRENGTH), horizon=HORIZON, initial=TOKENS)
    settled = RULE.settle(reports, chain)
    rewards = np.clip(worth[:, before, paths].mean(axis=2), 0.0, 1.0)
    return Game(reference[before, paths].prod(axis=1), rewards, sizes, settled)


def texts(drawn: Drawn) -> Game:
    """The texts that were drawn for the first prompt, each as likely as the others."""
    rewards = drawn.samples.rewards[:, 0]
    q = np.full(rewards.shape[1], 1 / rewards.shape[1])
    reports = [rg.Report(row, int(size)) for row, size in zip(rewards, TRAINED_SIZES, strict=True)]
    return Game(q, rewards, TRAINED_SIZES, RULE.settle(reports, rg.Table(q, rg.KL(STRENGTH))))


def candidates(game: Game, count: int, tilt: float) -> Once:
    """MOSAIC. tilt: its candidates are drawn from q exp(tilt s / strength), and weighted."""
    proposal = game.q * np.exp(tilt * game.score / STRENGTH)
    proposal /= proposal.sum()

    def once(rng: np.random.Generator) -> tuple[Array, Array, Array, float]:
        drawn = rng.choice(len(game.q), size=count, p=proposal)
        weights = np.zeros(len(game.q))
        np.add.at(weights, drawn, normalized_weights(np.log(game.q[drawn] / proposal[drawn])))
        there = np.flatnonzero(weights)
        p, paid = mosaic(weights[there], STRENGTH, game.rewards[:, there], game.sizes, candidates=None)
        served = there[rng.choice(len(there), p=p / p.sum())]
        policy = np.zeros(len(game.q))
        policy[there] = p
        return paid, game.sizes * game.rewards[:, served] - paid, policy, count

    return once


def draws(game: Game, count: int) -> Once:
    """Exact draws: as many as so many proposals bring on average."""
    wanted = max(1, round(count * game.rate))
    optimum = game.q * np.exp(game.score / STRENGTH)
    optimum /= optimum.sum()

    def once(rng: np.random.Generator) -> tuple[Array, Array, Array, float]:
        outcomes, waits = np.zeros(0, dtype=np.intp), np.zeros(0)
        while True:
            more = int(2 * wanted / game.rate)
            outcomes = np.append(outcomes, rng.choice(len(game.q), size=more, p=game.q))
            waits = np.append(waits, rng.standard_exponential(more))
            tape = cut(game.problem, game.rewards[:, outcomes], waits, wanted)
            if tape is not None:
                paid = game.sizes * tape.drawn.mean(axis=1) - averaged_utilities(tape)
                return paid, tape_utilities(tape)[:, 0], optimum, tape.proposals

    return once


def collusion(game: Game, count: int | None, rng: np.random.Generator) -> float:
    """Return the most that two groups were found to gain together by lies, on average over sets of candidates."""
    found = []
    for _ in range(1 if count is None else 3):
        drawn = game.q if count is None else rng.multinomial(count, game.q) / count
        there = np.flatnonzero(drawn)
        space = rg.Table(drawn[there] / drawn[there].sum(), rg.KL(STRENGTH))
        groups = [rg.Group(f"{i}", game.rewards[i, there], int(size)) for i, size in enumerate(game.sizes)]
        pairs = list(combinations(range(len(groups)), 2))
        found.append(max(Coalition(pair, 1).deviate(RULE, groups, space, 4, rng).found for pair in pairs))
    return float(np.mean(found))


def row(name: str, once: Once, game: Game, together: float) -> list[str]:
    """A row of the table."""
    rng, exact = np.random.default_rng(SEED), game.settled.payments
    settled = [once(rng) for _ in range(TIMES)]
    bills, utilities = (np.array([one[k] for one in settled]) for k in (0, 1))
    policy = np.mean([one[2] for one in settled], axis=0)
    off, spread = 100 * (bills.mean(axis=0) / exact - 1), 100 * bills.std(axis=0) / exact
    worst = int(np.abs(off).argmax())
    return [
        name,
        f"{np.mean([one[3] for one in settled]):.0f}",
        f"{off[worst]:.1f} ± {2 * spread[worst] / TIMES**0.5:.1f}",
        f"{spread.mean():.0f}",
        f"{100 * game.kept(policy):.1f}",
        f"{utilities.min():.3f}",
        f"{100 * (bills > BUDGET * exact).mean():.1f}",
        f"{together:.3f}",
    ]


def main(folder: Path | None = None) -> None:
    """Measure and write the table."""
    game, rng = automaton() if folder is None else texts(Yardstick(folder).tape), np.random.default_rng(SEED)
    rows = []
    whole = collusion(game, None, rng)
    for count in COUNTS:
        gained = collusion(game, count, rng)
        rows.append(row(f"MOSAIC, {count} candidates of the reference", candidates(game, count, 0.0), game, gained))
        rows.append(row(f"MOSAIC, {count} of a better proposal, weighted", candidates(game, count, 0.5), game, gained))
        wanted = max(1, round(count * game.rate))
        rows.append(row(f"exact draws, {wanted}", draws(game, count), game, whole))
    write_table("draws.md", "mosaic" if folder is None else "mosaic_texts", HEADS, rows)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
