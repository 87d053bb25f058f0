"""Measure approximate mechanisms where the truth is known; writes the tables and figures of approximate.md.

python -m measurements.measure_approximate          about two minutes on one core; the same numbers every time
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import rlhf_game as rg
from measurements.measured import write_figure, write_table
from rlhf_game.mechanism.noise import worst_loss
from rlhf_game.mechanism.rules.stopped_training import StoppedTraining, alone_welfare, others_welfare
from rlhf_game.mechanism.sampled.certificates import certified_gap, certified_gap_of_samples, certified_payments
from rlhf_game.mechanism.sampled.sampled_payments import sampled_payments

PAGE = "approximate.md"
SEED = 20240516
OUTCOMES, GROUPS = 6, 3
STEPS = (1, 2, 4, 8, 16, 32, 64)
RATE = 0.1


@dataclass(frozen=True, eq=False)
class Game:
    """One prompt under KL: rewards U[0, 1]^m scaled to sum 1, sizes U{1..5}, a Dirichlet(1) reference."""

    reference: Any
    rewards: Any
    sizes: Any

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Game":
        """Draw a game."""
        rewards = rng.random((GROUPS, OUTCOMES))
        sizes = rng.integers(1, 6, GROUPS).astype(float)
        return cls(rng.dirichlet(np.ones(OUTCOMES)), rewards / rewards.sum(axis=1, keepdims=True), sizes)

    def sheets(self, rows: int) -> tuple[Any, list[Any]]:
        """The reference and the rewards, the same on every row."""
        return np.tile(self.reference, (rows, 1)), [np.tile(reward, (rows, 1)) for reward in self.rewards]


def noise() -> None:
    """Worst loss found by noisy valuations, beside 2 w error (Thm 4.9)."""
    rng = np.random.default_rng(SEED)
    games = [Game.draw(rng) for _ in range(30)]
    errors, strengths = np.geomspace(0.001, 0.1, 9), (0.001, 0.01, 0.1, 1.0)
    curves = {}
    for regularizer in (rg.KL, rg.SquaredL2):
        for strength in strengths:
            ratios = [
                [
                    worst_loss(regularizer(strength), g.reference, g.sizes, g.rewards, g.sizes[0], e)[0]
                    / (2 * g.sizes[0] * e)
                    for g in games
                ]
                for e in errors
            ]
            curves[regularizer.name, strength] = np.array(ratios)
    rows = [
        [name, strength, *(f"{curve[k].mean():.3f} / {curve[k].max():.3f}" for k in (0, 4, 8))]
        for (name, strength), curve in curves.items()
    ]
    heads = ["regulariser", "strength", *(f"error {errors[k]:g}: mean / worst game" for k in (0, 4, 8))]
    write_table(PAGE, "noise", heads, rows)

    def draw(left: Any, right: Any) -> None:
        for axis, name in ((left, "kl"), (right, "l2")):
            for strength in strengths:
                axis.semilogx(errors, curves[name, strength].max(axis=1), ".-", label=f"strength {strength:g}")
            axis.axhline(1, color="black", lw=1)
            axis.set(
                title=f"{name}, worst of 30 games", xlabel="error of the valuations", ylabel="gain found / (2 w error)"
            )
        left.legend()

    write_figure("noise", draw)


def _lies(rng: np.random.Generator, truth: Any, count: int) -> Any:
    """Vertices, powers of the truth, blends and random reports, all with sum 1."""
    powers = truth ** rng.uniform(0, 8, (count // 4, 1))
    flat = rng.dirichlet(np.ones(OUTCOMES), count // 4)
    sharp = rng.dirichlet(0.2 * np.ones(OUTCOMES), count // 4)
    blends = rng.uniform(0, 1, (count // 4, 1)) * (flat - truth) + truth
    lies = np.concatenate([np.eye(OUTCOMES), powers, flat, sharp, blends])
    return lies / lies.sum(axis=1, keepdims=True)


def _utilities(game: Game, regularizer: Any, training: StoppedTraining, lies: Any, *, is_h1: bool) -> Any:
    """Group 0's utility for each report, up to a constant for a leave-one-out term that no report moves: [B]."""
    reference, sheets = game.sheets(len(lies))
    said = [lies, *sheets[1:]]
    last = training.progress(training.steps)
    policy = regularizer.maximize(last * game.sizes, said, reference)
    own = game.sizes[0] * policy.values(sheets[:1])[0]
    others = others_welfare(regularizer, reference, game.sizes, said, last)[0]
    if not is_h1:
        return own + others
    path = [
        others_welfare(regularizer, reference, game.sizes, said, training.progress(t))[0]
        for t in range(training.steps + 1)
    ]
    return own + others - np.max(path, axis=0)


def _regret(game: Game, regularizer: Any, training: StoppedTraining, rng: np.random.Generator, *, is_h1: bool) -> float:
    """The largest gain found for group 0: a search with three rounds of refinement, so a lower bound."""
    truth = game.rewards[0]
    lies = np.concatenate([truth[None], _lies(rng, truth, 120)])
    honest, best, width = 0.0, 0.0, 0.3
    for turn in range(4):
        utilities = _utilities(game, regularizer, training, lies, is_h1=is_h1)
        honest = float(utilities[0]) if turn == 0 else honest
        best = max(best, float(utilities.max()) - honest)
        centre = lies[utilities.argmax()]
        near = np.maximum(centre * np.exp(width * rng.standard_normal((80, OUTCOMES))), 1e-12)
        lies = np.concatenate([centre[None], near / near.sum(axis=1, keepdims=True)])
        width /= 3
    return best


def _payments(game: Game, regularizer: Any, steps: int) -> tuple[Any, Any, Any, float]:
    """H1's payments, those of an exact leave-one-out term, ASW_-i at the last step, and the gap."""
    reference, sheets = game.sheets(1)
    training = StoppedTraining(steps, RATE)
    path = [
        others_welfare(regularizer, reference, game.sizes, sheets, training.progress(t))[:, 0] for t in range(steps + 1)
    ]
    best = alone_welfare(regularizer, reference, game.sizes, sheets, 1.0)[:, 0]
    trained = regularizer.maximize(training.progress(steps) * game.sizes, sheets, reference).probabilities()
    gap = float(regularizer.maximize(game.sizes, sheets, reference).shortfall(trained)[0])
    return np.max(path, axis=0) - path[-1], best - path[-1], path[-1], gap


def stopped() -> None:
    """H1 against exact leave-one-out terms as the main run gets longer, and H2 as its own runs do."""
    rng = np.random.default_rng(SEED + 1)
    games, regularizer = [Game.draw(rng) for _ in range(60)], rg.KL(0.2)
    rows, curve = [], []
    for steps in STEPS:
        training = StoppedTraining(steps, RATE)
        paid = [_payments(game, regularizer, steps) for game in games]
        h1, exact, gap = (np.array([p[k] for p in paid]) for k in (0, 1, 3))
        regrets = [
            np.array([_regret(game, regularizer, training, rng, is_h1=is_h1) for game in games])
            for is_h1 in (True, False)
        ]
        curve.append((gap.mean(), regrets[0].mean(), regrets[1].mean(), h1.sum() / exact.sum()))
        rows.append(
            [
                steps, f"{gap.mean():.4f}", f"{regrets[1].mean():.4f} / {regrets[1].max():.4f}",
                f"{regrets[0].mean():.4f} / {regrets[0].max():.4f}", f"{(regrets[0] > gap + 1e-9).mean():.0%}",
                f"{h1.sum() / exact.sum():.1%}", steps, (GROUPS + 1) * steps,
            ]
        )  # fmt: skip
    heads = [
        "steps", "gap: welfare lost, mean", "regret found, exact leave-one-out: mean / worst",
        "regret found, H1: mean / worst", "games with H1 regret above the gap", "H1 revenue / exact",
        "cost of H1 (steps)", "cost of leave-one-out runs as long",
    ]  # fmt: skip
    write_table(PAGE, "h1", heads, rows)
    _stopped_h2(games, regularizer, np.array(curve))


def _stopped_h2(games: list[Game], regularizer: Any, curve: Any) -> None:
    steps = STEPS[-1]
    training = StoppedTraining(steps, RATE)
    paid = [_payments(game, regularizer, steps) for game in games]
    exact, at_last = np.array([p[1] for p in paid]), np.array([p[2] for p in paid])
    rows, ratio, negative = [], [], []
    for own in (0, *STEPS):
        h2 = []
        for game in games:
            reference, sheets = game.sheets(1)
            h2.append(alone_welfare(regularizer, reference, game.sizes, sheets, training.progress(own))[:, 0])
        payments = np.array(h2) - at_last
        ratio.append(payments.sum() / exact.sum())
        negative.append((payments < 0).mean())
        rows.append([own, f"{ratio[-1]:.1%}", f"{negative[-1]:.0%}", f"{payments.min():.3f}", steps + GROUPS * own])
    heads = ["steps without each group", "H2 revenue / exact", "negative payments", "lowest payment", "cost (steps)"]
    write_table(PAGE, "h2", heads, rows)

    def draw(left: Any, right: Any) -> None:
        for k, label in enumerate(("gap (bound for exact and H2)", "regret found, H1", "regret found, exact and H2")):
            left.loglog(STEPS, np.maximum(curve[:, k], 1e-9), ".-", label=label)
        left.set(title="KL, strength 0.2, mean of 60 games", xlabel="steps of the main run", ylabel="units of reward")
        left.legend()
        right.plot((0, *STEPS), ratio, ".-", label="H2 revenue / exact")
        right.plot((0, *STEPS), negative, ".-", label="H2 share of negative payments")
        right.plot(STEPS, curve[:, 3], ".-", label="H1 revenue / exact, main run so long")
        right.set(xscale="symlog", ylim=(-1, 1.5), xlabel="steps of each leave-one-out run")
        right.axhline(1, color="black", lw=1)
        right.legend()

    write_figure("stopped_training", draw)


def samples() -> None:
    """Coverage of payments from samples, and what an unfinished training does to them."""
    game = Game.draw(np.random.default_rng(SEED + 2))
    rng = np.random.default_rng(SEED + 3)
    rows = []
    for strength in (0.05, 0.1, 0.2, 0.5, 2.0):
        reference, sheets = game.sheets(1)
        best = rg.KL(strength).maximize(game.sizes, sheets, reference)
        truth, policy = best.externalities(game.sizes, sheets)[:, 0], best.probabilities()[0]
        for count in (100, 1000):
            inside, proven, sizes, widths, certain = [], [], [], [], []
            for turn in range(1000):
                drawn = game.rewards[:, rng.choice(OUTCOMES, count, p=policy / policy.sum())]
                found = sampled_payments(drawn, game.sizes, strength)
                inside.append((found.payments.low <= truth) & (truth <= found.payments.high))
                sizes.append(found.effective_sizes)
                widths.append(found.payments.width)
                if turn < 100:
                    sure = certified_payments(drawn, game.sizes, strength, (0.0, 1.0))
                    proven.append((sure.low <= truth) & (truth <= sure.high))
                    certain.append(sure.width)
            rows.append(
                [
                    strength, count, f"{np.mean(inside, axis=0).min():.1%}", f"{np.mean(sizes, axis=0).min():.0f}",
                    f"{truth.mean():.4f}", f"{np.mean(widths):.4f}", f"{np.mean(proven, axis=0).min():.1%}",
                    f"{np.mean(certain):.3f}",
                ]
            )  # fmt: skip
    heads = [
        "strength", "samples", "coverage of 95 % intervals, worst group", "effective size, worst group",
        "payment, mean", "width, mean", "coverage of the certified interval", "its width",
    ]  # fmt: skip
    write_table(PAGE, "samples", heads, rows)


def pooled() -> None:
    """Half-widths of certified payments with the prompts: as they are, and by Hoeffding and Bernstein before."""
    sizes, strength, count, rows = np.array([2.0, 1.0]), 0.5, 1000, []
    for prompts in (1, 4, 16):
        found: Any = []
        for seed in range(8):
            rng = np.random.default_rng(SEED + seed)
            q, rewards = rng.dirichlet(np.ones(8)), rng.random((2, 8))
            policy = q * np.exp(sizes @ rewards / strength)
            drawn = rewards[:, rng.choice(8, (prompts, count), p=policy / policy.sum())]
            now = certified_payments(drawn, sizes, strength, (0.0, 1.0))
            asymptotic = sampled_payments(drawn, sizes, strength)
            found.append([_before(drawn, sizes, strength), now.width / 2, asymptotic.payments.width / 2])
        before, after, hoped = np.mean(found, axis=0)
        for size, *numbers in zip(("2", "1"), before, after, hoped, strict=True):
            rows.append([prompts, size, *(f"{number:.4f}" for number in numbers)])
    heads = ["prompts", "size", "certified before", "certified now", "asymptotic"]
    write_table(PAGE, "pooled", heads, rows)


def _before(drawn: Any, sizes: Any, strength: float) -> Any:
    """The better of Hoeffding and Maurer-Pontil on each prompt, at the prompt's share of the misses: [n]."""
    ends = []
    for reward, size in zip(drawn, sizes, strict=True):
        share, count = size / strength, reward.shape[1]
        log_miss = np.log(4 / (0.025 / len(reward)))
        lows, highs = np.zeros(len(reward)), np.zeros(len(reward))
        for x, least, sign in ((reward, 0.0, share), (np.exp(-share * reward), np.exp(-share), 0.0)):
            length, mean, variance = 1.0 - least, x.mean(axis=1), x.var(axis=1, ddof=1)
            hoeffding = length * np.sqrt(log_miss / (2 * count))
            bernstein = np.sqrt(2 * variance * (log_miss + np.log(2)) / count)
            reach = np.minimum(hoeffding, bernstein + 7 * length * (log_miss + np.log(2)) / (3 * (count - 1)))
            low, high = np.maximum(mean - reach, least), np.minimum(mean + reach, 1.0)
            lows, highs = (
                (lows + sign * low, highs + sign * high) if sign else (lows + np.log(low), highs + np.log(high))
            )
        ends.append(strength * (np.maximum(highs, 0) - np.maximum(lows, 0)).mean() / 2)
    return np.array(ends)


def unfinished() -> None:
    """What the one-training formula says at policies on the way to the optimum."""
    games = [Game.draw(np.random.default_rng(SEED + 10 + k)) for k in range(60)]
    regularizer, rows = rg.KL(0.2), []
    for steps in STEPS:
        formula, affine, gaps = [], [], []
        for game in games:
            reference, sheets = game.sheets(1)
            _, exact, _, gap = _payments(game, regularizer, steps)
            policy = regularizer.maximize(StoppedTraining(steps, RATE).progress(steps) * game.sizes, sheets, reference)
            share = game.sizes[:, None] * game.rewards / 0.2
            p = policy.probabilities()[0]
            formula.append(0.2 * (share @ p + np.log(np.exp(-share) @ p)))
            affine.append(exact)
            gaps.append(gap)
        error = np.array(formula) - np.array(affine)
        rows.append(
            [
                steps, f"{np.mean(gaps):.4f}", f"{np.mean(affine):.4f}", f"{np.mean(formula):.4f}",
                f"{error.min():+.3f} to {error.max():+.3f}",
            ]
        )  # fmt: skip
    heads = [
        "steps",
        "gap, mean",
        "affine payment of that policy, mean",
        "formula, mean",
        "formula minus payment, range",
    ]
    write_table(PAGE, "unfinished", heads, rows)


def certificate() -> None:
    """How tight the certificates are: the true gap beside their ends."""
    game = Game.draw(np.random.default_rng(SEED + 4))
    rng = np.random.default_rng(SEED + 5)
    score = game.sizes @ game.rewards
    bounds = (0.0, float(game.sizes.sum()))
    rows = []
    for strength in (1.0, 4.0):
        for part in (0.5, 1.0):
            p = game.reference * np.exp(part * score / strength)
            p /= p.sum()
            best = game.reference * np.exp(score / strength)
            ratio = np.log(p / game.reference)
            gap = strength * float(p @ np.log(p / (best / best.sum())))
            limit = part * bounds[1] / strength
            for count in (1_000, 10_000, 100_000):
                said, heard = rng.choice(OUTCOMES, count, p=game.reference), rng.choice(OUTCOMES, count, p=p)
                own = (score[heard], ratio[heard], strength, bounds, (-limit, limit))
                both, alone = certified_gap(score[said], *own), certified_gap_of_samples(*own)
                rows.append(
                    [
                        f"{strength:g}", f"{part:.0%}", count, f"{max(gap, 0):.4f}", f"{both.value:.4f}",
                        f"{both.high:.3f}", f"{alone.high:.3f}",
                    ]
                )  # fmt: skip
    heads = [
        "strength", "part of the score trained on", "samples", "true gap", "estimate", "certified, both samples",
        "certified, delivered only",
    ]  # fmt: skip
    write_table(PAGE, "certificate", heads, rows)


if __name__ == "__main__":
    for measure in (noise, stopped, samples, pooled, unfinished, certificate):
        measure()
        print(f"{measure.__name__}: written")
