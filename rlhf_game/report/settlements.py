"""What a report says of one game, as numbers: payments taken apart, the policy before and after, sharper reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from rlhf_game.agents.domains import coordinates
from rlhf_game.agents.misreports import Polarize
from rlhf_game.errors import CombinationError
from rlhf_game.files.build import build
from rlhf_game.files.games import Game
from rlhf_game.files.schema import AutomatonFields
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.audit import SIZES, World
from rlhf_game.mechanism.mechanism import Mechanism, Settlement, read_profile
from rlhf_game.mechanism.payments import AffinePayments, NoPayments
from rlhf_game.mechanism.reports import Group, Profile, Report
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.table import Table
from rlhf_game.mechanism.spaces.trie import Trie
from rlhf_game.mechanism.training import AffineRule, Trained

SHARPNESS: Final = tuple(2.0 ** (k / 2) for k in range(-6, 7))
"""Powers that a report is raised to; 1 is the truth."""


@final
@dataclass(frozen=True)
class Breakdown:
    """The payment of one group, as the sum of what it costs each other group and the provider; in units of reward.

    With p the policy, p_-i the one that is trained without group i, mu the weights and b the boost (derived from
    Thm 4.2 of arXiv:2405.16276; tested against the payments of receipts):

        payment_i = sum_{j != i} (mu_j / mu_i) w_j (v_j(p_-i) - v_j(p)) + <b, p_-i - p> / mu_i
                    + strength (D(p) - D(p_-i)) / mu_i + extra
    """

    value: float
    """w_i v_i(p)."""
    value_without: float
    """w_i v_i(p_-i): what it would get if it stayed away."""
    costs: tuple[float, ...]
    """What each group loses because this one takes part, [n]; its own entry is 0."""
    boost: float
    """What the provider's own boost loses."""
    regularizer: float
    """strength * (D(p) - D(p_-i)) / mu_i: how much further from the reference the model is moved."""
    extra: float
    """What the payment rule adds (revenue) or leaves out (none: minus all of the above)."""
    payment: float

    @property
    def externality(self) -> float:
        """The payment under affine payments."""
        return self.payment - self.extra


@final
@dataclass(frozen=True, eq=False)
class Change:
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
    return (space.table if isinstance(space, Trie) else space), mechanism, groups


def largest_size(game: Game) -> int:
    """Return the largest size that a group may say."""
    return game.fields.size_limit or SIZES * max(group.size for group in game.fields.groups)


def breakdowns(game: Game) -> list[Breakdown] | None:
    """Return the payment of each group taken apart, one more training per group; None where no welfare is maximised."""
    space, mechanism, groups = running(game)
    training = mechanism.training
    if not isinstance(training, AffineRule):
        return None
    profile = read_profile([Report(group.reward, group.size) for group in groups], space)
    boosts = [space.read_boost(boost) for boost in training.boosts()]
    mu, strength = training.multipliers(len(groups)), game.fields.strength

    def amounts(policy: Policy[Any]) -> tuple[Array, float, float]:
        boost = float(policy.values(boosts)[0]) if boosts else 0.0
        return mu * profile.sizes * policy.values(profile.rewards), boost, strength * policy.divergence

    found = []
    with np.errstate(all="ignore"):
        settlement = mechanism.settle_profile(profile, space)
        affine = AffinePayments().charge(Trained(training, profile, space, settlement.policy))
        values, boost, cost = amounts(settlement.policy)
        for i in range(len(groups)):
            others = np.where(np.arange(len(groups)) == i, 0.0, profile.sizes)
            without = amounts(training.train(Profile(profile.rewards, others), space))
            lost = (without[0] - values) / mu[i]
            own, lost[i] = float(values[i] / mu[i]), 0.0
            found.append(
                Breakdown(
                    value=own,
                    value_without=float(without[0][i] / mu[i]),
                    costs=tuple(lost.tolist()),
                    boost=(without[1] - boost) / float(mu[i]),
                    regularizer=(cost - without[2]) / float(mu[i]),
                    extra=float(settlement.payments[i] - affine[i]),
                    payment=float(settlement.payments[i]),
                )
            )
    return found


def changes(game: Game, settlement: Settlement, prompts: Sequence[str]) -> list[Change]:
    """Return the policy before and after, for each prompt in order. prompts: their texts, [B] or none."""
    space, _, groups = running(game)
    policy: Any = settlement.policy
    if isinstance(game.fields, AutomatonFields):
        before, after = np.asarray(game.reference), np.asarray(policy.probabilities)[0]
        rewards = np.stack([np.asarray(reward) for reward in game.rewards], axis=1)
        names = tuple(f"token {token}" for token in range(before.shape[1]))
        return [
            Change(f"First token, state {s}", 1 / len(before), names, before[s], after[s], rewards[s])
            for s in range(len(before))
            if s == game.fields.initial
        ]
    labels: Any = game.fields.outcomes
    if not isinstance(space, Table):
        rows = np.stack([np.asarray(reward) for reward in game.rewards])
        names = tuple(labels or (f"entry {k}" for k in range(rows.shape[1])))
        return [Change("The menu", 1.0, names, np.zeros(rows.shape[1]), np.asarray(policy.probabilities), rows)]
    found = []
    for b, (sheet, row) in enumerate(space.layout.places()):
        table_policy = policy.table if hasattr(policy, "table") else policy
        q, p = space.reference[sheet][row], table_policy.optima[sheet].probabilities()[row]
        own = None if labels is None else labels if space.layout.is_flat else labels[b]
        names = tuple(own or (f"outcome {x}" for x in range(len(q))))
        rewards = np.stack([space.read_boost(group.reward)[sheet][row] for group in groups])
        prompt = prompts[b] if b < len(prompts) else "" if space.layout.is_flat else f"Prompt {b + 1}"
        found.append(Change(prompt, float(space.prompt_weights[b]), names, q, p, rewards))
    return found


def sharpness(game: Game) -> list[Sharpness] | None:
    """Return each group's utility over SHARPNESS; None where rewards are no tables or no welfare is maximised.

    With payments: by the rule of the game, or affine payments where it has none.
    """
    space, mechanism, groups = running(game)
    try:
        coordinates(space)
    except CombinationError:
        return None
    if not isinstance(mechanism.training, AffineRule):
        return None
    paid = mechanism
    if isinstance(mechanism.payment, NoPayments):
        paid = Mechanism(mechanism.training, AffinePayments())
    rules = (paid, Mechanism(mechanism.training, NoPayments()))
    truths = [Report(group.reward, group.size) for group in groups]
    found, rng = [], np.random.default_rng(0)  # polarising draws nothing
    with np.errstate(all="ignore"):
        for i, group in enumerate(groups):
            worlds = [World(rule, space, (*truths[:i], *truths[i + 1 :]), i, largest_size(game)) for rule in rules]
            said = [Polarize(power)(group, worlds[0], rng) for power in SHARPNESS]
            utilities = [tuple(world.utility(group, report) for report in said) for world in worlds]
            found.append(Sharpness(*utilities))
    return found
