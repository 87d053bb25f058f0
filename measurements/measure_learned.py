"""Measure learned affine maximisers; writes the tables and the figure of learned.md.

python -m measurements.measure_learned          about a minute on one core; the same numbers every time
"""

from itertools import product
from typing import Any

import numpy as np

import rlhf_game as rg
from measurements.measured import write_figure, write_table
from rlhf_game.mechanism.rules.learned import SCHEDULES, Prior, learn, outcomes

PAGE = "learned.md"
SEED = 20240517
STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
SHARES = (0.0, 0.3, 0.5, 0.7, 0.9, 0.99)
PLAIN = rg.AffineWelfare()


def bidders(rng: np.random.Generator, profiles: int) -> Prior:
    """Three bidders with values U[0, 1] for one item: entry 0 is nobody, entry i gives it to bidder i."""
    rewards = np.zeros((profiles, 3, 4))
    rewards[:, np.arange(3), np.arange(1, 4)] = rng.random((profiles, 3))
    return Prior(rewards)


def groups(rng: np.random.Generator, profiles: int) -> Prior:
    """Two groups over four outcomes: the first one's favourite is known to be the first outcome; sizes U{1, 2, 3}."""
    rewards = [rng.dirichlet(likely, size=profiles) for likely in ([6, 1, 1, 1], [1, 1, 1, 1])]
    return Prior(np.stack(rewards, axis=1), rng.integers(1, 4, size=(profiles, 2)))


def _mean(values: Any) -> str:
    return f"{values.mean():.4f} ± {1.96 * values.std() / np.sqrt(len(values)):.4f}"


def auction() -> None:
    """Myerson's revenue, found by gradient."""
    rng = np.random.default_rng(SEED)
    space = rg.Menu([0, 0, 0, 0], outcomes=["nobody", "first", "second", "third"])
    fresh = bidders(rng, 400_000)
    rows = [["second price (no boost)", "1/2 = 0.5", _mean(outcomes(PLAIN, space, fresh).revenue), "0 0 0"]]
    for profiles in (100, 1_000, 10_000, 50_000):
        rule = learn(space, bidders(rng, profiles))
        boosts = np.asarray(rule.boost)
        reserves = " ".join(f"{r:.3f}" for r in (boosts[0] - boosts[1:]) / np.asarray(rule.weights))
        revenue = _mean(outcomes(rule, space, fresh).revenue)
        rows.append([f"learned from {profiles:,} profiles", "17/32 = 0.53125", revenue, reserves])
    write_table(PAGE, "auction", ["mechanism", "known", "revenue on 400,000 other profiles", "reserve prices"], rows)


def additive(rng: np.random.Generator, profiles: int, count: int) -> Prior:
    """Bidders with two items of values U[0, 1]; an entry says who gets which item, 0 being nobody."""
    values = rng.random((profiles, count, 2))
    owners = np.array([*product(range(count + 1), repeat=2)])
    held = np.stack([owners == i + 1 for i in range(count)])
    return Prior(np.einsum("sit,ikt->sik", values, held.astype(float)))


def items() -> None:
    """Two items, where no optimum is known in general."""
    rng = np.random.default_rng(SEED + 2)
    rows = []
    for count, known in ((1, "optimum (12 + 2 sqrt 2) / 27 = 0.5492"), (2, "VCG 2/3, item by item 5/6 = 0.8333")):
        space = rg.Menu(np.zeros((count + 1) ** 2))
        prior, fresh = additive(rng, 10_000, count), additive(rng, 300_000, count)
        for label, cooling in (("one schedule", SCHEDULES[0]), ("the best of three, on held-out profiles", None)):
            revenue = outcomes(learn(space, prior, cooling=cooling), space, fresh).revenue
            rows.append([count, label, known, _mean(revenue)])
    write_table(PAGE, "items", ["bidders", "search", "known", "revenue on 300,000 other profiles"], rows)


def front() -> None:
    """Revenue against welfare, over strength and over learned weights and boosts."""
    rng = np.random.default_rng(SEED + 1)
    known, fresh = groups(rng, 4_000), groups(rng, 40_000)
    rows, lines = [], {}
    for strength in STRENGTHS:
        table = rg.Table([0.25] * 4, rg.KL(strength))
        points = []
        rules = [(f"{share:g}", learn(table, known, welfare_share=share)) for share in SHARES]
        for label, rule in [("plain", PLAIN), *rules]:
            found = outcomes(rule, table, fresh)
            points.append((found.social_welfare.mean(), found.revenue.mean()))
            weights = " ".join(f"{w:.2f}" for w in rule.multipliers(2))
            boosts = "0 0 0 0" if rule.boost is None else " ".join(f"{b:.2f}" for b in np.asarray(rule.boost))
            if label in ("plain", "0", "0.5", "0.9"):
                rows.append(
                    [
                        strength, label, _mean(found.revenue), f"{found.social_welfare.mean():.4f}",
                        f"{found.policy.divergence.mean():.3f}", weights, boosts,
                    ]
                )  # fmt: skip
        lines[strength] = np.array(points)
    heads = ["strength", "weight of welfare", "revenue", "social welfare", "divergence", "weights", "boosts"]
    write_table(PAGE, "front", heads, rows)

    def draw(axis: Any) -> None:
        for strength, points in lines.items():
            (line,) = axis.plot(*points[1:].T, ".-", label=f"strength {strength:g}")
            axis.plot(*points[0], "o", mfc="none", color=line.get_color())
        axis.plot([], [], "o", mfc="none", color="black", label="plain affine payments")
        axis.set(xlabel="social welfare, mean", ylabel="revenue, mean", title="KL, two groups, four outcomes")
        axis.legend()

    write_figure("revenue_welfare", draw, size=(6.0, 4.0), panels=1)


if __name__ == "__main__":
    for measure in (auction, items, front):
        measure()
        print(f"{measure.__name__}: written")
