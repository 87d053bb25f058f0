"""The reporting game in normal form: every group chooses from a menu of reports; its payoffs, and its equilibria.

A profile says what each group chooses; payoffs are the groups' true utilities when it is settled. Groups without
payments are in a race that all of them may lose: its equilibria are found here by enumeration, for small games.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import Any, Final, final

import numpy as np

from rlhf_game.agents.misreports import Polarize, Resize, Truthful
from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.mechanism import Mechanism
from rlhf_game.mechanism.regret import SIZES, Strategy, World
from rlhf_game.mechanism.reports import Group, Report
from rlhf_game.mechanism.spaces.base import PolicySpace

MOST: Final = 100_000
"""Profiles; each is settled once."""
MOST_MIXED: Final = 8
"""Strategies of each of two groups up to which mixed equilibria are looked for."""
SAME: Final = 1e-9
"""Payoffs this close, as a share of the largest, are equal."""


@final
@dataclass(frozen=True)
class Composition:
    """Several lies as one: each is told of what the one before it said. Uses what they use."""

    strategies: tuple[Strategy, ...]

    def __call__(self, group: Group, world: World, rng: np.random.Generator) -> Report:
        """Return the last report."""
        report = Report(group.reward, group.size)
        for strategy in self.strategies:
            report = strategy(Group(group.name, report.reward, report.size), world, rng)
        return report


def standard_menu() -> tuple[tuple[str, Strategy], ...]:
    """Return the truth, a sharpened reward, a doubled size, and both."""
    sharp, large = Polarize(4.0), Resize(2.0)
    return (("truth", Truthful()), ("polarize", sharp), ("resize", large), ("both", Composition((sharp, large))))


@final
@dataclass(frozen=True, eq=False)
class NormalForm:
    """Payoffs of every profile. groups: n names; strategies: the names of each group's choices, k_1 .. k_n of them."""

    groups: tuple[str, ...]
    strategies: tuple[tuple[str, ...], ...]
    payoffs: Array
    """True utilities: [k_1, ..., k_n, n]."""
    affine_welfare: Array
    """sum of size * true value - strength * D(p || q): [k_1, ..., k_n]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """k_1 .. k_n."""
        return self.payoffs.shape[:-1]

    def regrets(self, profile: Sequence[int]) -> Array:
        """Return what each group would gain by its best other choice, >= 0: [n]."""
        at = tuple(profile)
        out = []
        for i in range(len(self.groups)):
            place: tuple[Any, ...] = (*at[:i], slice(None), *at[i + 1 :], i)
            own = self.payoffs[place]
            out.append(float(own.max() - own[at[i]]))
        return np.array(out)

    def pure_equilibria(self) -> list[tuple[int, ...]]:
        """Return every profile that no group gains by leaving, within rounding."""
        is_best = np.ones(self.shape, dtype=bool)
        slack = SAME * max(1e-300, float(np.abs(self.payoffs).max()))
        for i in range(len(self.groups)):
            own = self.payoffs[..., i]
            is_best &= own >= own.max(axis=i, keepdims=True) - slack
        return [tuple(int(k) for k in profile) for profile in np.argwhere(is_best)]

    def mixed_equilibria(self) -> list[tuple[Array, Array]]:
        """Return the equilibria of two groups, by enumeration of supports of one size (Mangasarian 1964; nashpy).

        All of them where the game is non-degenerate. Raises InputError with another number of groups, or more than
        MOST_MIXED choices of one.
        """
        if len(self.groups) != 2 or max(self.shape) > MOST_MIXED:
            raise InputError(
                f"mixed equilibria need two groups with at most {MOST_MIXED} choices each, got {list(self.shape)}"
            )
        first, second = self.payoffs[..., 0], self.payoffs[..., 1]
        found: list[tuple[Array, Array]] = []
        for size in range(1, min(self.shape) + 1):
            for rows, columns in product(*(combinations(range(k), size) for k in self.shape)):
                y = _indifferent(first[np.ix_(rows, columns)], columns, self.shape[1])
                x = _indifferent(second[np.ix_(rows, columns)].T, rows, self.shape[0])
                if x is not None and y is not None and self._is_equilibrium(x, y):
                    found.append((x, y))
        return found

    def _is_equilibrium(self, x: Array, y: Array) -> bool:
        rows, columns = self.payoffs[..., 0] @ y, x @ self.payoffs[..., 1]
        slack = SAME * max(1e-300, float(np.abs(self.payoffs).max()))
        return bool(rows @ x >= rows.max() - slack and columns @ y >= columns.max() - slack)

    def nfg(self, title: str) -> str:
        """Return the game in Gambit's .nfg format (payoff version, the first player's choice runs fastest)."""

        def quoted(text: str) -> str:
            return '"' + " ".join(text.split()).replace("\\", "\\\\").replace('"', '\\"') + '"'

        players = " ".join(map(quoted, self.groups))
        choices = "\n".join("{ " + " ".join(map(quoted, names)) + " }" for names in self.strategies)
        rows = self.payoffs.reshape(*self.shape, -1).transpose(*range(len(self.shape))[::-1], -1)
        numbers = "\n".join(" ".join(map(repr, map(float, row))) for row in rows.reshape(-1, len(self.groups)))
        return f'NFG 1 R {quoted(title)} {{ {players} }}\n{{ {choices} }}\n""\n{numbers}\n'


def _indifferent(payoffs: Array, support: Sequence[int], count: int) -> Array | None:
    """Return the mixture over ``support`` that makes all rows of ``payoffs`` equal; None where there is none.

    payoffs: [s, s], of the other group's choices against these.
    """
    size = len(support)
    system = np.vstack([payoffs[1:] - payoffs[:1], np.ones((1, size))])
    wanted = np.append(np.zeros(size - 1), 1.0)
    try:
        mixture = np.linalg.solve(system, wanted)
    except np.linalg.LinAlgError:
        return None
    if (mixture <= 0).any():
        return None
    out = np.zeros(count)
    out[list(support)] = mixture
    return out


def normal_form(
    mechanism: Mechanism,
    groups: Sequence[Group],
    space: PolicySpace[Any],
    menu: Sequence[tuple[str, Strategy]],
    *,
    size_limit: int | None = None,
    rng: np.random.Generator | None = None,
) -> NormalForm:
    """Return the game in which every group chooses from ``menu``, (name, strategy) pairs that know the others' truth.

    Reports of a group that come out the same are one choice, called by all their names. size_limit: default SIZES times
    the largest size. Raises InputError with more than MOST profiles.
    """
    limit = SIZES * max(group.size for group in groups) if size_limit is None else size_limit
    truths = [Report(group.reward, group.size) for group in groups]
    stream = np.random.default_rng(0) if rng is None else rng
    chosen = []
    for i, group in enumerate(groups):
        world = World(mechanism, space, (*truths[:i], *truths[i + 1 :]), i, limit)
        chosen.append(_distinct([(name, strategy(group, world, stream)) for name, strategy in menu]))
    shape = tuple(len(one) for one in chosen)
    if prod(shape) > MOST:
        raise InputError(f"the menu must leave at most {MOST} profiles, got {' x '.join(map(str, shape))}")
    payoffs, welfare = np.empty((*shape, len(groups))), np.empty(shape)
    rewards, sizes = [space.read(group.reward) for group in groups], np.array([float(group.size) for group in groups])
    for profile in _profiles(shape):
        reports = [one[k][1] for one, k in zip(chosen, profile, strict=True)]
        settled = mechanism.settle(reports, space)
        models = [settled.policy.model_of(i) for i in range(len(groups))]
        worth = sizes * [float(model.values([reward])[0]) for model, reward in zip(models, rewards, strict=True)]
        payoffs[profile] = worth - settled.payments
        cost = _cost(settled.policy, settled.social_welfare, settled.affine_social_welfare)
        welfare[profile] = worth.sum() - cost
    names = tuple(tuple(name for name, _ in one) for one in chosen)
    return NormalForm(tuple(group.name for group in groups), names, payoffs, welfare)


def _cost(policy: Any, social_welfare: float, affine_welfare: float) -> float:
    """Return strength * D(p || q); of a space without a regulariser as the difference of the reported welfares."""
    regularizer = getattr(getattr(policy, "space", None), "regularizer", None)
    if regularizer is not None:
        return float(regularizer.strength * policy.divergence)
    return social_welfare - affine_welfare


def _distinct(reports: Sequence[tuple[str, Report]]) -> list[tuple[str, Report]]:
    found: list[tuple[str, Report]] = []
    for name, report in reports:
        same = [k for k, (_, one) in enumerate(found) if _is_same(one, report)]
        if same:
            found[same[0]] = (f"{found[same[0]][0]} = {name}", found[same[0]][1])
        else:
            found.append((name, report))
    return found


def _is_same(one: Report, other: Report) -> bool:
    def flat(reward: Any) -> Array:
        return np.concatenate([np.ravel(np.asarray(row, dtype=np.float64)) for row in reward])

    first, second = flat(one.reward), flat(other.reward)
    return one.size == other.size and first.shape == second.shape and bool(np.array_equal(first, second))


def _profiles(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return product(*map(range, shape))
