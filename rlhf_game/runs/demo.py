"""The demo's game, and what one group would gain in a game by exaggerating."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.files.build import build
from rlhf_game.files.games import Game
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.payments import AffinePayments, NoPayments, PaymentRule
from rlhf_game.mechanism.reports import Report
from rlhf_game.mechanism.training import SocialWelfare
from rlhf_game.runs.config import Configuration, parse_config

POLICY_TEXT = (
    "We are sorry for the delay and will help. We never promise a cure: herbal tea does not treat an illness, "
    "please ask a doctor. Please read the terms and cancel in time."
)
GAME: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "prompts": [
        "Write one sentence that advertises a herbal sleep tea.",
        "In one sentence: does ginger tea cure a cold?",
        "Write one sentence to a customer whose parcel is late.",
        "In one sentence, explain what a free trial is.",
    ],
    "outcomes": {"kind": "candidates", "per_prompt": 12, "max_new_tokens": 48, "temperature": 0.7},
    "regularizer": "kl",
    "strength": 0.5,
    "payment": "affine",
    "groups": [
        {"name": "Marketing (positive)", "size": 3, "reward": "sentiment"},
        {
            "name": "Plain-language (readable, short)",
            "size": 3,
            "reward": {"mix": [{"reward": "readability"}, {"reward": {"brevity": 40}}]},
        },
        {
            "name": "Safety (clean, near the policy)",
            "size": 4,
            "reward": {"mix": [{"reward": "clean", "weight": 1}, {"reward": {"similarity": POLICY_TEXT}, "weight": 3}]},
        },
    ],
    "seed": 7,
}


def demo_config() -> Configuration:
    """Return the demo's configuration; it needs no file."""
    return parse_config(GAME, "demo", Path())


@final
@dataclass(frozen=True)
class Outcome:
    """One member's value and the group's true utility w v - payment under a payment rule, in units of reward."""

    value: float
    payment: float
    utility: float


@final
@dataclass(frozen=True)
class Lie:
    """The exaggeration that gains most without payments, and what the same lie does with them."""

    favourites: int
    """The lie: reward 1 for this many best responses to each prompt, 0 for all others."""
    searched: int
    honest_free: Outcome
    lying_free: Outcome
    honest_paid: Outcome
    lying_paid: Outcome


def best_exaggeration(game: Game, group: int) -> Lie:
    """Search the group's polarised reports: all-or-nothing rewards with k favourites per prompt, every k.

    Utilities are true: at the group's real reward, whatever it says. A search finds a lower bound on what lying gains.
    """
    truth = [np.asarray(row) for row in game.rewards[group]]
    lies = list(_polarised(truth))
    honest_free, *free = _outcomes(game, group, [truth, *lies], NoPayments())
    honest_paid, *paid = _outcomes(game, group, [truth, *lies], AffinePayments())
    best = max(range(len(lies)), key=lambda k: free[k].utility)
    return Lie(best + 1, len(lies), honest_free, free[best], honest_paid, paid[best])


def _polarised(truth: list[Any]) -> Iterator[list[Any]]:
    for favourites in range(1, max(map(len, truth))):
        yield [(np.argsort(np.argsort(-row, kind="stable")) < favourites).astype(float) for row in truth]


def _outcomes(game: Game, group: int, rewards: list[Any], payment: PaymentRule[Any]) -> list[Outcome]:
    """Return the group's outcome for each thing that it could say, the others being as the game has them."""
    space, _, groups = build(game)
    size, truth = groups[group].size, space.read(rewards[0])
    found = []
    for reward in rewards:
        reports = [Report(reward if i == group else other.reward, other.size) for i, other in enumerate(groups)]
        settled = Mechanism(SocialWelfare(), payment).settle(reports, space)
        value, paid = float(settled.policy.values([truth])[0]), float(settled.payments[group])
        found.append(Outcome(value, paid, size * value - paid))
    return found
