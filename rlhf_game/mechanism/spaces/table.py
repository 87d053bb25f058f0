"""Enumerated outcomes, for one prompt or many: exact for every regulariser.

Prompts with the same number of outcomes are solved together, as one sheet [rows, m] (theory section 1: the optimum
separates by prompt, every prompt has the same strength, and every quantity is the weighted mean over prompts).
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import (
    BLOCK,
    VIEWED,
    Array,
    blocks,
    content,
    extremes,
    finite,
    frozen,
    read_only,
    row_sums,
)
from rlhf_game.mechanism.domains import Coordinates, Domain, Sheets, Solver, declared
from rlhf_game.mechanism.regularizers.base import Regularizer
from rlhf_game.mechanism.regularizers.optimum import Optimum, whole
from rlhf_game.mechanism.reports import Normalization, Reward
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace, PolicyView
from rlhf_game.mechanism.spaces.expansion import PrefixTree, log_tokens
from rlhf_game.mechanism.spaces.prompt_layout import PromptLayout, shape_text

EQUAL = frozen(np.ones(1))
"""The weight of one prompt."""
REFERENCE_TOLERANCE = 1e-6 + 1e-12
"""How far the sum of a row may be from 1 and still be renormalised (three times 0.333333 is, with its rounding)."""


@final
class Table(PolicySpace[Sheets]):
    """All policies over enumerated outcomes.

    reference: q, the initial distribution: [m]; [B, m] for B prompts; or a list of B lists of any lengths.
    regularizer: what it costs to leave q. outcomes: labels shaped like the reference, which callable rewards are called
    on (one call for all of them, prompt after prompt). prompt_weights: [B], default equal; they are normalised.
    normalization: the declared domain of rewards, "none", "sum" or "max", on each prompt. bounds: [lo, hi], in units of
    reward, which every reward keeps; in place of a normalization. games: the rows [B, m] of the
    reference are games of their own, not prompts of one: sizes and weights are then [n, B], and what was one number is
    one for each game, [B].

    Arrays are read once and copied, except float64 arrays that are read-only (memory-mapped files, say) or have
    2^22 entries or more: those are viewed, so their author must not change them while the table is in use. A settlement
    copies no reward of 2^12 entries or more: it keeps what it found, and refuses to go on from a reward that was
    changed in place since. Files that are memory-mapped read-only are worked on block by block and may be larger than
    the memory.

    Raises InputError when a row of the reference is not within 1e-6 of sum 1 or has a negative entry.
    """

    def __init__(
        self,
        reference: ArrayLike | Sequence[ArrayLike],
        regularizer: Regularizer,
        *,
        outcomes: Sequence[Any] | None = None,
        prompt_weights: ArrayLike | None = None,
        normalization: Normalization | str = Normalization.NONE,
        bounds: Sequence[float] | None = None,
        games: bool = False,
    ) -> None:
        if not isinstance(regularizer, Regularizer):
            raise InputError(f"must be one such as KL(strength=0.1), got {regularizer!r}", field="regularizer")
        self.regularizer = regularizer
        self.strength = regularizer.strength
        self.layout = PromptLayout.of(reference)
        self.reference: Sheets = tuple(
            _distributions(sheet, members, regularizer)
            for sheet, members in zip(self.layout.split(reference, "reference"), self.layout.members, strict=True)
        )
        self.prompt_weights = self._read_weights(prompt_weights)
        self.normalization = Normalization.parse(normalization)
        self.bounds = None if bounds is None else self._read_bounds(bounds)
        self.outcomes = None if outcomes is None else self._read_outcomes(outcomes)
        self.games = games
        if games and (self.layout.is_flat or len(self.layout.members) > 1):
            raise InputError("must be games of one number of outcomes, [B][m], for a table of games", field="reference")

    def many(self, count: int) -> PolicySpace[Any]:
        """Return the games on the outcomes of its one prompt, together; of several prompts they are in turn."""
        if len(self.layout.widths) > 1:
            return super().many(count)
        reference = np.broadcast_to(self.reference[0][0], (count, self.layout.widths[0]))
        return Table(reference, self.regularizer, normalization=self.normalization, bounds=self.bounds, games=True)

    def game(self, b: int) -> "Table":
        """Return one game of a table of games."""
        return Table(self.reference[0][b], self.regularizer, normalization=self.normalization, bounds=self.bounds)

    def _read_weights(self, weights: ArrayLike | None) -> Array:
        prompts = len(self.layout.widths)
        if weights is None:
            return EQUAL if prompts == 1 else frozen(np.full(prompts, 1 / prompts))
        array = finite(weights, "prompt_weights")
        if array.shape != (prompts,):
            raise InputError(
                f"must be {prompts} numbers, one per prompt, got {shape_text(array)}", field="prompt_weights"
            )
        if (array < 0).any() or array.sum() <= 0:
            raise InputError(f"must be >= 0 with a sum > 0, got {array.tolist()}", field="prompt_weights")
        return frozen(array / array.sum())

    def _read_bounds(self, bounds: Sequence[float]) -> tuple[float, float]:
        ends = finite(bounds, "bounds")
        if ends.shape != (2,) or ends[0] > ends[1]:
            raise InputError(f"must be [lowest, highest], got {ends.tolist()}", field="bounds")
        if self.normalization is not Normalization.NONE:
            raise InputError(f"must not come with normalization {self.normalization.value}", field="bounds")
        return float(ends[0]), float(ends[1])

    def _read_outcomes(self, outcomes: Sequence[Any]) -> tuple[Any, ...]:
        prompts = [outcomes] if self.layout.is_flat else list(outcomes)
        if tuple(len(prompt) for prompt in prompts) != self.layout.widths:
            raise InputError("must be labels shaped like the reference", field="outcomes")
        return tuple(outcome for prompt in prompts for outcome in prompt)

    def labels(self, prompt: int) -> tuple[Any, ...]:
        """Return the labels of a prompt's outcomes, none where there are none; raise InputError without the prompt."""
        widths = self.layout.widths
        if not 0 <= prompt < len(widths):
            raise InputError(f"must be one of {len(widths)}, from 0, got {prompt}", field="prompt")
        start = sum(widths[:prompt])
        return (self.outcomes or ())[start : start + widths[prompt]]

    @property
    def enumeration(self) -> "Table":
        """Itself."""
        return self

    def softmax(self) -> tuple[Array, float]:
        """Return strength log q and the strength, for one prompt under KL."""
        if len(self.layout.widths) != 1 or not self.regularizer.is_entropic:
            return super().softmax()
        with np.errstate(divide="ignore"):
            base = self.strength * np.log(self.reference[0])
        return base[0] if self.layout.is_flat else base, self.strength

    def views(self, policy: Any, rewards: Sequence[Any]) -> list[PolicyView]:
        """Return one view of each prompt."""
        sheets, found, is_flat = [self.read_boost(reward) for reward in rewards], [], self.layout.is_flat
        policies = [policy.probabilities] if is_flat else policy.probabilities
        for b, (sheet, row) in enumerate(self.layout.places()):
            p, rows = np.asarray(policies[b]), np.stack([reward[sheet][row] for reward in sheets])
            weight, q = float(self.prompt_weights[b]), self.reference[sheet][row]
            found.append(PolicyView("" if is_flat else f"Prompt {b + 1}", True, "outcome", weight, q, p, rows))
        return found

    def coordinates(self, reward: Any) -> "TableCoordinates":
        """Return the rows of the prompts."""
        return TableCoordinates(self, self.read_boost)

    def read(self, reward: Reward | ArrayLike) -> Sheets:
        """Return a reward as sheets: a table shaped like the reference, or a function that is called on the outcomes.

        Raises InputError when the shape is wrong, a number is not finite, or the reward is outside the domain.
        """
        sheets = self.read_boost(reward)
        for sheet in sheets:
            self._check(sheet)
        return sheets

    def _check(self, sheet: Array) -> None:
        """Raise InputError where a reward is outside the domain."""
        self.normalization.check(sheet)
        if self.bounds is not None:
            low, high = self.bounds
            if sheet.min() < low or sheet.max() > high:
                outside = sheet.min() if sheet.min() < low else sheet.max()
                raise InputError(f"must be within the declared bounds {[low, high]}, got {outside}", field="reward")

    def view(self, reward: Any) -> tuple[Sheets, Callable[[], None] | None]:
        """Return a reward as sheets: a large array without a copy, and with a check that it has not been changed."""
        shape = self.layout.widths if self.layout.is_flat else (len(self.layout.widths), self.layout.widths[0])
        if not (type(reward) is np.ndarray and reward.dtype == np.float64 and reward.flags.writeable) or (
            reward.size < VIEWED or len(self.layout.members) > 1 or reward.shape != shape
        ):
            return self.read(reward), None
        seen = content(reward)
        if not isfinite(sum(seen)):
            return self.read(reward), None  # which says what is wrong
        sheet = read_only(reward[None] if self.layout.is_flat else reward)
        self._check(sheet)

        def unchanged() -> None:
            if content(reward) != seen:
                raise InputError("must stay as it was settled, got an array changed in place", field="reward")

        return (sheet,), unchanged

    def read_boost(self, boost: Any) -> Sheets:
        """Return a boost as sheets."""
        return self.layout.split(self._call(boost) if callable(boost) else boost, "reward")

    def _call(self, reward: Callable[[Sequence[Any]], ArrayLike]) -> Any:
        if self.outcomes is None:
            raise InputError("a reward that is a function needs the outcomes: Table(..., outcomes=[...])")
        flat = finite(reward(self.outcomes), "reward")
        if flat.shape != (len(self.outcomes),):
            raise InputError(
                f"must return {len(self.outcomes)} numbers, one per outcome, got {shape_text(flat)}", field="reward"
            )
        if self.layout.is_flat:
            return flat
        rows = np.split(flat, np.cumsum(self.layout.widths)[:-1])
        return np.stack(rows) if len(self.layout.members) == 1 else rows

    def maximize(self, weights: Array, rewards: Sequence[Sheets]) -> "TablePolicy":
        """Return the exact optimum."""
        optima = [
            self.regularizer.maximize(weights, [reward[k] for reward in rewards], sheet)
            for k, sheet in enumerate(self.reference)
        ]
        return TablePolicy(self, optima)

    def settle(self, weights: Array, rewards: Sequence[Sheets]) -> "TablePolicy":
        """Return the exact optimum, which then knows the values and externalities of its own rewards."""
        settled = [
            self.regularizer.settle(weights, [reward[k] for reward in rewards], sheet)
            for k, sheet in enumerate(self.reference)
        ]
        values = self.mean([one.values for one in settled])
        externalities = self.mean([one.externalities for one in settled])
        return TablePolicy(self, [one.optimum for one in settled], Own(weights, tuple(rewards), values, externalities))

    def shortfall(self, policy: Any, weights: Array, rewards: Sequence[Sheets]) -> Any:
        """Return how much less a policy reaches, by its probabilities, without cancellation."""
        optima = self.maximize(weights, rewards).optima
        sheets = self.layout.split(policy.probabilities, "policy")
        return self.mean([optimum.shortfall(p) for optimum, p in zip(optima, sheets, strict=True)])

    def magnitude(self, reward: Sheets) -> float:
        """Return the largest entry's size."""
        return max(max(-low, high) for low, high in map(extremes, reward))

    def least_gain(self, weights: Array, rewards: Sequence[Sheets], multiplier: float) -> Any:
        """Return the infimum over rewards r of the domain of max ASW(s + multiplier r) - max ASW(s), >= 0.

        Raises CombinationError when the domain is not declared.
        """
        self.normalization.must_be_declared()
        optima = self.maximize(weights, rewards).optima
        gains = [optimum.least_gain(multiplier, is_sum=self.normalization is Normalization.SUM) for optimum in optima]
        return self.mean(gains)

    def mean(self, by_sheet: Sequence[Array]) -> Array:
        """Return the weighted mean over prompts of arrays [..., rows], one per sheet: [...]; of games [..., B]."""
        if self.games:
            return by_sheet[0]
        if self.layout.is_flat:
            return by_sheet[0][..., 0]
        parts = [a @ self.prompt_weights[members] for a, members in zip(by_sheet, self.layout.members, strict=True)]
        total: Array = np.sum(parts, axis=0)
        return total


@final
@dataclass(frozen=True, eq=False)
class Own:
    """What a policy knows of the rewards that it was solved for: as they were when they were read."""

    weights: Array
    """[n]; of games [n, B]."""
    rewards: tuple[Sheets, ...]
    values: Array
    """[n]; of games [n, B]."""
    externalities: Array

    def count(self, rewards: Sequence[Sheets], weights: Array | None = None) -> int:
        """Return how many of its first rewards these are, with these weights; 0 where they are any others."""
        k = len(rewards)
        is_own = k <= len(self.rewards) and all(map(operator.is_, rewards, self.rewards))
        return k if is_own and (weights is None or (weights == self.weights[:k]).all()) else 0


def _is_tokens(label: Any) -> bool:
    return isinstance(label, list | tuple) and len(label) > 0 and all(isinstance(token, int) for token in label)


@final
class TablePolicy(Policy[Sheets]):
    """The exact optimum of a table."""

    def __init__(self, space: Table, optima: Sequence[Optimum], own: Own | None = None) -> None:
        self.space: Table = space
        self.own = own
        self.optima = tuple(optima)
        """One per sheet of the space."""
        self.welfare = space.mean([optimum.welfare for optimum in optima])
        self.divergence = space.mean([optimum.divergence for optimum in optima])
        self.gap = 0.0 if all(optimum.is_exact for optimum in optima) else None

    @property
    def probabilities(self) -> Any:
        """p, shaped like the reference: [m], [B, m] or a list of B arrays."""
        return self.space.layout.join(tuple(map(whole, self.optima, self.space.reference)))

    def pieces(self) -> Iterator[Array]:
        """Yield p outcome after outcome, prompt after prompt, in pieces [k] that stay small however long p is."""
        if len(self.optima) == 1:
            (optimum,), (q,) = self.optima, self.space.reference
            for block in blocks(q.shape, 1, [q]):
                yield optimum.probabilities(block).ravel()
            return
        for sheet, row in self.space.layout.places():
            yield self.optima[sheet].probabilities((slice(row, row + 1), slice(None))).ravel()

    def values(self, rewards: Sequence[Sheets]) -> Array:
        """Return <p, r> for each reward: [k]."""
        if self.own is not None and (k := self.own.count(rewards)):
            return self.own.values[:k].copy()
        return self.space.mean([o.values([reward[k] for reward in rewards]) for k, o in enumerate(self.optima)])

    def prices(self, weights: Array, rewards: Sequence[Sheets]) -> list[Array]:
        """Return the prices under KL; raise CombinationError under another regulariser."""
        if not self.space.regularizer.is_entropic:
            return super().prices(weights, rewards)
        sheets = []
        for k, optimum in enumerate(self.optima):
            parts = [reward[k] for reward in rewards]
            own = np.stack(parts) - optimum.values(parts)[..., None]
            sheets.append(weights[:, None, None] * own + optimum.externalities(weights, parts)[..., None])
        return [sheets[sheet][:, row] for sheet, row in self.space.layout.places()]

    def log_tokens(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return log p of each token under KL, where outcomes are sequences of which none begins another."""
        labels = self.space.labels(prompt)
        if not (self.space.regularizer.is_entropic and labels and all(map(_is_tokens, labels))):
            return super().log_tokens(sequence, prompt)
        sheet, row = self.space.layout.places()[prompt]
        p = self.optima[sheet].probabilities((slice(row, row + 1), slice(None)))[0]
        return log_tokens(PrefixTree([tuple(label) for label in labels], p, 1 + max(map(max, labels))), sequence)

    def externalities(self, weights: Array, rewards: Sequence[Sheets]) -> Array:
        """Return the Bregman divergence of max ASW for each pair, without cancellation: [k]."""
        if self.own is not None and (k := self.own.count(rewards, weights)):
            return self.own.externalities[:k].copy()
        return self.space.mean(
            [o.externalities(weights, [reward[k] for reward in rewards]) for k, o in enumerate(self.optima)]
        )


def _distributions(sheet: Array, prompts: NDArray[np.intp], regularizer: Regularizer) -> Array:
    """Return the rows of a sheet renormalised; raise InputError if one is not a distribution.

    A large sheet is left as it is where the regulariser does not ask for the scale: no copy is made.
    """
    if extremes(sheet)[0] < 0:
        row, column = (int(i) for i in np.argwhere(sheet < 0)[0])
        where = f"[{prompts[row]}][{column}]" if len(prompts) > 1 else f"[{column}]"
        raise InputError(f"must be >= 0, got {sheet[row, column]} at {where}", field="reference")
    totals = row_sums(sheet)
    wrong = np.abs(totals - 1) > REFERENCE_TOLERANCE
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"must sum to 1 (within {REFERENCE_TOLERANCE:.0e}), got {totals[row]} at prompt {prompts[row]}",
            field="reference",
        )
    if (np.abs(totals - 1) <= 4e-16).all() or (regularizer.any_scale and sheet.size > BLOCK):
        return sheet
    return read_only(sheet / totals[:, None])


@final
@dataclass(frozen=True, eq=False)
class TableCoordinates(Coordinates):
    """One row for each prompt. read: from a reward as people write it to the table's sheets."""

    space: Table
    read: Callable[[Any], Sheets]

    def sheets(self, reward: Any) -> Sheets:
        """Return what the table reads."""
        return self.read(reward)

    def reward(self, sheets: Sheets) -> Any:
        """Return a reward shaped like the reference."""
        return self.space.layout.join(sheets)

    def domains(self, truth: Sheets) -> tuple[Domain, ...]:
        """Return the declared domain of each prompt."""
        return tuple(declared(self.space.normalization, sheet, self.space.bounds) for sheet in truth)

    @property
    def pace(self) -> Literal["rows", "iterated", "whole"]:  # type: ignore[override]
        """How much one policy takes: less where it has a closed form."""
        return "rows" if self.space.regularizer.is_closed else "iterated"

    def prompt_weights(self) -> Sheets:
        """Return the weights of the prompts."""
        return tuple(self.space.prompt_weights[rows] for rows in self.space.layout.members)

    def solver(self, sheet: int) -> "TableSolver":
        """Return the table's own optimum."""
        return TableSolver(self.space.regularizer, self.space.reference[sheet])

    def least_value(self, reward: Any) -> float:
        """Return the mean over prompts of the least entry."""
        return float(self.space.mean([sheet.min(axis=1) for sheet in self.sheets(reward)]))


@final
@dataclass(frozen=True, eq=False)
class TableSolver(Solver):
    """The exact optimum of every row. reference: [B, m]."""

    regularizer: Regularizer
    reference: Array

    def maximize(self, parts: Sequence[Array]) -> Optimum:
        """Return the optimum of every row."""
        return self.regularizer.maximize(np.ones(len(parts)), parts, self.reference)

    def rows(self, which: NDArray[np.intp]) -> "TableSolver":
        """Return the solver of some rows."""
        return TableSolver(self.regularizer, self.reference[which])
