"""What a report says of one game, as numbers: payments taken apart, the policy before and after, sharper reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from rlhf_game.agents.misreports import Polarize
from rlhf_game.errors import CombinationError
from rlhf_game.files.build import build
from rlhf_game.files.games import Game
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.breakdown import Breakdown, take_apart
from rlhf_game.mechanism.mechanism import Mechanism, Settlement
from rlhf_game.mechanism.payments import AffinePayments
from rlhf_game.mechanism.regret import SIZES, World
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace
from rlhf_game.mechanism.training import AffineRule

SHARPNESS: Final = tuple(2.0 ** (k / 2) for k in range(-6, 7))
"""Powers that a report is raised to; 1 is the truth."""


@final
@dataclass(frozen=True, eq=False)
class PolicyChange:
    """What became of the policy for one prompt (of an automaton: for the first token in one state)."""

    prompt: str
    weight: float
    """Of the prompt, all together 1."""
    labels: tuple[str, ...]
    before: Array
    """q: [m]; of a menu zeros."""
    after: Array
    """p: [m]."""
    rewards: Array
    """Of each group: [n, m]."""

    @property
    def moved(self) -> float:
        """The probability that changed sides: half the sum of |p - q|."""
        return float(np.abs(self.after - self.before).sum() / 2)

    def top(self, count: int) -> list[int]:
        """Return the outcomes with the largest probability before or after, the likeliest one after first."""
        often = np.argsort(-np.maximum(self.before, self.after), kind="stable")[:count]
        return sorted(often.tolist(), key=lambda x: (-self.after[x], x))


@final
@dataclass(frozen=True)
class Sharpness:
    """One group's true utility as it sharpens its report while all others say the truth; in units of reward."""

    with_payments: tuple[float, ...]
    without: tuple[float, ...]
    """One for each of SHARPNESS."""


def running(game: Game) -> tuple[PolicySpace[Any], Mechanism, list[Group]]:
    """Return the space, mechanism and groups that run: of a trie the table over the responses that were found."""
    space, mechanism, groups = build(game)
    return space.running, mechanism, groups


def largest_size(game: Game) -> int:
    """Return the largest size that a group may say."""
    return game.fields.size_limit or SIZES * max(group.size for group in game.fields.groups)


def breakdowns(game: Game) -> list[Breakdown] | None:
    """Return the payment of each group taken apart, one more training per group; None where no welfare is maximised."""
    space, mechanism, groups = running(game)
    with np.errstate(all="ignore"):
        return take_apart(mechanism.settle(groups, space))


def changes(game: Game, settlement: Settlement, prompts: Sequence[str]) -> list[PolicyChange]:
    """Return the policy before and after, for each prompt in order; none where groups have models of their own.

    prompts: their texts, [B] or none.
    """
    if game.fields.models is not None:
        return []
    space, _, groups = running(game)
    labels: Any = getattr(game.fields, "outcomes", None)
    is_flat = labels is None or isinstance(labels[0], str)
    found = []
    for b, view in enumerate(space.views(settlement.policy.model_of(0), [group.reward for group in groups])):
        own = labels if is_flat else labels[b]
        names = tuple(own or (f"{view.outcome} {x}" for x in range(len(view.policy))))
        told = prompts[b] if view.is_prompt and b < len(prompts) else view.name
        found.append(PolicyChange(told, view.weight, names, view.reference, view.policy, view.rewards))
    return found


def sharpness(game: Game) -> list[Sharpness] | None:
    """Return each group's utility over SHARPNESS; None where rewards are no tables or no welfare is maximised.

    With payments: by the rule of the game, or affine payments where it has none.
    """
    space, mechanism, groups = running(game)
    try:
        for group in groups:
            space.coordinates(group.reward)
    except CombinationError:
        return None
    if not isinstance(mechanism.training, AffineRule):
        return None
    paid = mechanism
    if mechanism.payment.is_free:
        paid = Mechanism(mechanism.training, AffinePayments())
    truths = [Report(group.reward, group.size) for group in groups]
    found, rng = [], np.random.default_rng(0)  # polarising draws nothing
    with np.errstate(all="ignore"):
        for i, group in enumerate(groups):
            world = World(paid, space, (*truths[:i], *truths[i + 1 :]), i, largest_size(game))
            said = [Polarize(power)(group, world, rng) for power in SHARPNESS]
            money = [world.money(group, world.settle(report)) for report in said]
            found.append(Sharpness(tuple(v - payment for v, payment in money), tuple(v for v, _ in money)))
    return found
