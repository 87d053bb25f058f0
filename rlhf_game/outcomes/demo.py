"""The demo's game, and what one group would gain in a game by exaggerating."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from rlhf_game.files.build import build
from rlhf_game.files.games import Game
from rlhf_game.mechanism.regret import World
from rlhf_game.mechanism.reports import Report
from rlhf_game.outcomes.run_config import Configuration, parse_config

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
class Money:
    """What the group's policy is really worth to it, w v, and what it pays, in units of reward."""

    worth: float
    """Its utility if nobody paid."""
    payment: float

    @property
    def utility(self) -> float:
        """What is left with payments."""
        return self.worth - self.payment


@final
@dataclass(frozen=True)
class BestExaggeration:
    """The exaggeration that gains most without payments, and what the same lie does with them."""

    favourites: int
    """The lie: reward 1 for this many best responses to each prompt, 0 for all others."""
    searched: int
    honest: Money
    lying: Money


def best_exaggeration(game: Game, group: int) -> BestExaggeration:
    """Search the group's polarised reports: all-or-nothing rewards with k favourites per prompt, every k.

    Utilities are true: at the group's real reward, whatever it says. A search finds a lower bound on what lying gains.
    """
    space, mechanism, groups = build(game)
    truth = groups[group]
    others = tuple(Report(other.reward, other.size) for i, other in enumerate(groups) if i != group)
    world = World(mechanism, space, others, group)

    def money(reward: Any) -> Money:
        return Money(*world.money(truth, world.settle(Report(reward, truth.size))))

    lies = [money(lie) for lie in _polarised([np.asarray(row) for row in game.rewards[group]])]
    best = max(range(len(lies)), key=lambda k: lies[k].worth)
    return BestExaggeration(best + 1, len(lies), money(truth.reward), lies[best])


def _polarised(truth: list[Any]) -> Iterator[list[Any]]:
    for favourites in range(1, max(map(len, truth))):
        yield [(np.argsort(np.argsort(-row, kind="stable")) < favourites).astype(float) for row in truth]
