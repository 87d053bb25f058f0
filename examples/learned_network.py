"""A mechanism with learned payments, as a function that ``audit --mechanism`` takes: a small network, numpy only.

It trains the KL optimum and charges each group a learned share of what the policy is worth to it by its report, so that
nobody who tells the truth loses. Shares come from a network of one layer that is trained for revenue less a penalty on
regret, as in RegretNet (Duetting et al. 2019, arXiv:1706.03459): regret is the largest gain among misreports that it
tries itself. That estimate is what such a network reports of its own truthfulness, and it is only a lower bound:

    rlhf-game audit examples/games/table.yaml --set size_limit=4 --mechanism examples/learned_network.py:mechanism
"""

from functools import cache

import numpy as np

REFERENCE, STRENGTH = np.array([0.5, 0.3, 0.2]), 0.5
GROUPS, LARGEST = 2, 4
HIDDEN, STEPS, PROFILES, TRIED, PENALTY, RATE = 16, 400, 128, 8, 20.0, 0.02


def optimum(scores):
    """Return the KL optimum of scores [..., m]."""
    logits = np.log(REFERENCE) + scores / STRENGTH
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def drawn(rng, *shape):
    """Return random rewards of sum 1 and sizes."""
    return rng.dirichlet(np.ones(len(REFERENCE)), shape), rng.integers(1, LARGEST, shape, endpoint=True)


def features(own, others):
    """Return what the network sees of a group: its size times its reward, and that of all others: [..., 2m]."""
    return np.concatenate([own, others], axis=-1) / LARGEST


def shares(weights, x):
    """Return the share that is charged, in (0, 1), and the hidden layer."""
    hidden = np.tanh(x @ weights["in"] + weights["bias"])
    return 1 / (1 + np.exp(-(hidden @ weights["out"] + weights["level"]))), hidden


def tried(rng, rewards, sizes):
    """Return what happens to a group, the first of two, by the truth and by random misreports.

    rewards [b, 2, m] and sizes [b, 2] are true. Features [b, 1 + TRIED, 2m]; its value as reported, and its true value.
    """
    lies, claims = drawn(rng, len(rewards), TRIED)
    said = np.concatenate([rewards[:, :1], lies], axis=1)
    own = np.concatenate([sizes[:, :1], claims], axis=1)[..., None] * said
    others = (sizes[:, 1, None] * rewards[:, 1])[:, None]
    p = optimum(own + others)
    worth = sizes[:, :1] * np.einsum("bkm,bm->bk", p, rewards[:, 0])
    return features(own, np.broadcast_to(others, own.shape)), np.einsum("bkm,bkm->bk", p, own), worth


def estimate(weights, x, said, worth):
    """Return what a group pays at the truth, its largest gain among the misreports that were tried, and which it is."""
    share, _ = shares(weights, x)
    gain = (worth - share * said) - (worth - share * said)[:, :1]
    return share[:, 0] * said[:, 0], gain.max(axis=1), gain.argmax(axis=1)


@cache
def trained(seed=0):
    """Return the weights of the network: Adam on revenue less the penalty times mean regret."""
    rng = np.random.default_rng(seed)
    width = 2 * len(REFERENCE)
    weights = {"in": rng.normal(0, 0.5, (width, HIDDEN)), "bias": np.zeros(HIDDEN)}
    weights |= {"out": rng.normal(0, 0.5, HIDDEN), "level": np.zeros(())}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for step in range(1, STEPS + 1):
        x, said, worth = tried(rng, *drawn(rng, PROFILES, GROUPS))
        share, hidden = shares(weights, x)
        _, gain, best = estimate(weights, x, said, worth)
        rows = np.arange(PROFILES)
        slope = np.zeros_like(share)  # of the objective by each share
        slope[:, 0] = said[:, 0]
        caught = (gain > 0) * PENALTY
        slope[:, 0] -= caught * said[:, 0]
        slope[rows, best] += caught * said[rows, best]
        by_logit = slope * share * (1 - share) / PROFILES
        by_hidden = by_logit[..., None] * weights["out"] * (1 - hidden**2)
        gradient = {
            "in": np.einsum("bki,bkj->ij", x, by_hidden), "bias": by_hidden.sum(axis=(0, 1)),
            "out": np.einsum("bk,bkj->j", by_logit, hidden), "level": by_logit.sum(),
        }  # fmt: skip
        for name, slope_of in gradient.items():
            first[name] = 0.9 * first[name] + 0.1 * slope_of
            second[name] = 0.999 * second[name] + 0.001 * slope_of**2
            scale = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            weights[name] = weights[name] + RATE * first[name] / (1 - 0.9**step) / scale
    return weights


def own_estimate(rewards, sizes, seed=1):
    """Return the regret of the first group in each game by misreports that the network tries itself: [b]."""
    _, gain, _ = estimate(trained(), *tried(np.random.default_rng(seed), rewards, sizes))
    return gain


def mechanism(rewards, sizes):
    """Return the policy [m] and the payments [n] for rewards [n, m] and sizes [n]."""
    own = sizes[:, None] * rewards
    p = optimum(own.sum(axis=0))
    share, _ = shares(trained(), features(own, own.sum(axis=0) - own))
    return p, share * (own @ p)
