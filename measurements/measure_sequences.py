"""Draw the figure of sequences.md: exact payments over 50^K sequences, and an interval that closes.

python -m measurements.measure_sequences          a few seconds on one core; the same numbers every time
"""

from typing import Any

import numpy as np

import rlhf_game as rg
from measurements.measured import write_figure
from rlhf_game.mechanism.certified import certify
from rlhf_game.mechanism.mechanism import read_profile
from rlhf_game.mechanism.spaces.expansion import expand

SEED = 7
HORIZONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 400)
MASSES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999)
MECHANISM = rg.Mechanism(rg.SocialWelfare(), rg.AffinePayments())


def lengths() -> tuple[list[float], float]:
    """Payments of one group over K independent tokens, and of one token by the table: K times it is the truth."""
    rng = np.random.default_rng(SEED)
    reference, rewards = rng.dirichlet(np.ones(50)), rng.random((2, 50))
    paid = []
    for horizon in HORIZONS:
        chain = rg.Chain(np.zeros((1, 50)), reference[None], rg.KL(0.5), horizon=horizon)
        paid.append(float(MECHANISM.settle([rg.Report(reward[None]) for reward in rewards], chain).payments[0]))
    one = MECHANISM.settle([rg.Report(reward) for reward in rewards], rg.Table(reference, rg.KL(0.5)))
    return paid, float(one.payments[0])


def intervals() -> tuple[list[float], np.ndarray, float]:
    """The missing masses, [estimate, low, high] of a payment for each, and the payment over everything."""

    def row(prefix: tuple[int, ...]) -> np.ndarray:
        logits = 2.0 * np.random.default_rng([SEED, *prefix]).normal(size=5)
        return logits - np.logaddexp.reduce(logits)

    def reward(sequence: tuple[int, ...], group: int) -> float:
        return float(np.random.default_rng([SEED, group, *sequence]).random())

    missing, ends = [], []
    for mass in (*MASSES, 1.0):
        found = expand(lambda prefixes: np.stack([row(p) for p in prefixes]), ends=[0], max_tokens=4, mass=mass)
        space = rg.Trie.over(found, rg.KL(0.7))
        reports = [rg.Report([reward(sequence, group) for sequence in found.sequences]) for group in (0, 1)]
        profile = read_profile(reports, space)
        payments = certify(MECHANISM, profile, MECHANISM.settle_profile(profile, space)).payments
        missing.append(found.missing)
        ends.append([payments.value[0], payments.low[0], payments.high[0]])
    return missing[:-1], np.array(ends[:-1]), ends[-1][0]


def draw(left: Any, right: Any) -> None:
    """One panel for each kind of space."""
    paid, one = lengths()
    left.loglog(HORIZONS, [one * horizon for horizon in HORIZONS], "-", color="0.6", label="closed form")
    left.loglog(HORIZONS, paid, "o", label="Chain")
    left.set(xlabel="tokens K  (50^K sequences)", ylabel="payment", title="automaton: exact at any length")
    left.legend()
    missing, ends, truth = intervals()
    right.fill_between(missing, ends[:, 1], ends[:, 2], alpha=0.3, label="certified interval")
    right.plot(missing, ends[:, 0], "o-", label="payment that is charged")
    right.axhline(truth, color="k", linestyle="--", linewidth=1, label="over all sequences")
    right.set(xscale="log", xlabel="missing mass δ", ylabel="payment", title="trie: certain at any mass")
    right.invert_xaxis()
    right.legend()


if __name__ == "__main__":
    write_figure("sequences", draw)
