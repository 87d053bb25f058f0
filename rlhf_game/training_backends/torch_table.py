"""KL tables in torch: the same numbers as ``Table``, in float64, on the CPU or on a GPU.

The formulas are those of mechanism/regularizers/kl.py: payments are cumulants of the shares, sums of non-negative terms
that are merged from block to block. Where the exponents are too large for that (beyond 600, or 100 where probabilities
underflow) the sheet goes to the CPU and numpy finishes it, so accuracy is that of ``Table`` everywhere and only the
speed is not: such games gain nothing from a GPU (test_torch_tables_are_as_exact_as_numpy_tables).
"""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, final

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rlhf_game.errors import InputError
from rlhf_game.mechanism.arrays import BLOCK, Array, blocks
from rlhf_game.mechanism.domains import Coordinates, Sheets
from rlhf_game.mechanism.regularizers.kl import KL, Gibbs
from rlhf_game.mechanism.regularizers.moments import (
    LARGEST_BESIDE_UNDERFLOW,
    LARGEST_EXPONENT,
    SERIES,
    SMALL_CUMULANT,
    UNDERFLOW,
    Moments,
    merge,
)
from rlhf_game.mechanism.regularizers.optimum import RECOMPUTE, WHOLE, Block, by_row
from rlhf_game.mechanism.reports import Normalization
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.spaces.table import Table, TableCoordinates

GPU_BLOCK = 2**26
"""Entries of a block of all rewards on a GPU (512 MiB): few and long kernels."""

Tensors = tuple[Tensor, ...]
"""One [rows, m] per number of outcomes m that occurs."""


@final
class TorchTable(PolicySpace[Tensors]):
    """All policies over enumerated outcomes, under KL, with the arithmetic in torch.

    The arguments are those of Table. device: "cpu", "cuda", "cuda:1", ... Rewards may be what a Table reads, or tensors
    shaped like a reference that is no ragged list, on any device: float64 ones there already are not copied, so their
    author must not change them. Fair welfares and other rules that need numpy's outcomes are not for it.

    Raises InputError as Table does, and when the regulariser is not KL.
    """

    def __init__(
        self,
        reference: ArrayLike | Sequence[ArrayLike],
        regularizer: KL,
        *,
        device: str = "cpu",
        outcomes: Sequence[Any] | None = None,
        prompt_weights: ArrayLike | None = None,
        normalization: Normalization | str = Normalization.NONE,
    ) -> None:
        if not getattr(regularizer, "is_entropic", False):
            raise InputError(f"regularizer must be KL for a torch table, got {type(regularizer).__name__}")
        self.device = torch.device(device)
        self.strength = regularizer.strength
        self.normalization = Normalization.parse(normalization)
        self.table = Table(
            reference, regularizer, outcomes=outcomes, prompt_weights=prompt_weights, normalization=normalization
        )
        self.reference = self._put(self.table.reference)

    def read(self, reward: Any) -> Tensors:
        """Return a reward as tensors on the device; raise InputError as Table does."""
        if not isinstance(reward, Tensor):
            return self._put(self.table.read(reward))
        sheets = self._take(reward)
        if self.table.normalization is not Normalization.NONE:
            self.table.read(reward.detach().cpu().numpy())
        return sheets

    def read_boost(self, boost: Any) -> Tensors:
        """Return a boost as tensors on the device."""
        return self._take(boost) if isinstance(boost, Tensor) else self._put(self.table.read_boost(boost))

    def coordinates(self, reward: Any) -> Coordinates:
        """Return the rows of the prompts; searches move in numpy."""
        return TableCoordinates(self.table, self._rows)

    def magnitude(self, reward: Tensors) -> float:
        """Return the largest entry's size."""
        return max(float(sheet.abs().max()) for sheet in reward)

    def least_gain(self, weights: Array, rewards: Sequence[Tensors], multiplier: float) -> Any:
        """Return the infimum over the declared domain, by numpy."""
        return self.table.least_gain(weights, [tuple(map(_numpy, reward)) for reward in rewards], multiplier)

    def _rows(self, reward: Any) -> Sheets:
        return self.table.read_boost(reward.detach().cpu().numpy() if isinstance(reward, Tensor) else reward)

    def maximize(self, weights: Array, rewards: Sequence[Tensors]) -> "TorchPolicy":
        """Return the exact optimum."""
        optima = [
            TorchGibbs(self.strength, sheet, weights, [reward[k] for reward in rewards])
            for k, sheet in enumerate(self.reference)
        ]
        return TorchPolicy(self.table, optima)

    def _put(self, sheets: Sequence[Array]) -> Tensors:
        return tuple(torch.tensor(sheet, dtype=torch.float64, device=self.device) for sheet in sheets)

    def _take(self, reward: Tensor) -> Tensors:
        shape = self.table.layout.join(self.table.reference)
        wanted = shape.shape if isinstance(shape, np.ndarray) else "no tensor, but a list of rows"
        if tuple(reward.shape) != wanted:
            raise InputError(f"reward must have the shape {wanted}, got {tuple(reward.shape)}")
        taken = reward.detach().to(self.device, torch.float64)
        if not bool(torch.isfinite(taken).all()):
            raise InputError("reward must be finite, got a number that is not")
        return (taken.reshape(-1, taken.shape[-1]),)


@final
class TorchPolicy(Policy[Tensors]):
    """The exact optimum of a torch table; its numbers come back as numpy arrays."""

    def __init__(self, table: Table, optima: Sequence["TorchGibbs"]) -> None:
        self.table = table
        self.optima = tuple(optima)
        self.welfare = float(table.mean([optimum.welfare for optimum in optima]))
        self.divergence = float(table.mean([optimum.divergence for optimum in optima]))
        self.gap = 0.0

    @property
    def probabilities(self) -> Any:
        """p, shaped like the reference: [m], [B, m] or a list of B arrays."""
        return self.table.layout.join(tuple(o.log_probabilities().exp_().cpu().numpy() for o in self.optima))

    def values(self, rewards: Sequence[Tensors]) -> Array:
        """Return <p, r> for each reward: [k]."""
        return self.table.mean([o.values([reward[k] for reward in rewards]) for k, o in enumerate(self.optima)])

    def externalities(self, weights: Array, rewards: Sequence[Tensors]) -> Array:
        """Return strength * KL(p || p without w r), for k pairs, without cancellation: [k]."""
        return self.table.mean(
            [o.externalities(weights, [reward[k] for reward in rewards]) for k, o in enumerate(self.optima)]
        )


@final
class TorchGibbs:
    """q exp(s / strength) / Z on every row of a sheet."""

    def __init__(self, strength: float, reference: Tensor, weights: Array, rewards: Sequence[Tensor]) -> None:
        self.strength = strength
        self.reference = reference
        self.weights = weights
        self.rewards = tuple(rewards)
        self.entries = BLOCK if reference.device.type == "cpu" else GPU_BLOCK
        self.anchor, self.relative, offset = self._aggregate()
        self.log_partition = reference.new_zeros(len(reference))
        log_z, means, cumulants = self._moments(np.ones((1, len(reference))), [self.relative])
        self.log_partition = reference.new_tensor(log_z)
        self.divergence: Array = cumulants[0]
        self.welfare: Array = offset + strength * (means[0] - cumulants[0])
        lost = np.isnan(self.divergence)
        if lost.any():
            best, _ = self._by_numpy()
            self.divergence = np.where(lost, best.divergence, self.divergence)
            self.welfare = np.where(lost, best.welfare, self.welfare)

    def log_probabilities(self, block: Block = WHOLE) -> Tensor:
        """Return log p on a block: [rows, columns]; -inf where the reference is zero."""
        log_p = torch.log(self.reference[block])
        log_p += self.relative[block] / self.strength
        log_p -= self.log_partition[block[0], None]
        return log_p

    def values(self, rewards: Sequence[Tensor]) -> Array:
        """Return <p, r>: [k, B]."""
        out = self.reference.new_zeros((len(rewards), len(self.reference)))
        for block in blocks(tuple(self.reference.shape), 1, entries=self.entries):
            p = self.log_probabilities(block).exp_()
            for i, reward in enumerate(rewards):
                out[i, block[0]] += torch.linalg.vecdot(p, reward[block])
        return np.asarray(out.cpu().numpy())

    def externalities(self, weights: Array, rewards: Sequence[Tensor]) -> Array:
        """Return strength * KL(p || p without w r), for k pairs: [k, B]."""
        _, _, cumulants = self._moments(by_row(weights, len(self.reference)), rewards)
        lost = np.isnan(cumulants)
        if not lost.any():
            return self.strength * cumulants
        best, own = self._by_numpy()
        kept = [next((a for r, a in own if r is reward), None) for reward in rewards]
        asked = [_numpy(reward) if a is None else a for reward, a in zip(rewards, kept, strict=True)]
        return np.where(lost, best.externalities(weights, asked), self.strength * cumulants)

    def _by_numpy(self) -> tuple[Gibbs, list[tuple[Tensor, Array]]]:
        """Return the same optimum by numpy, and its rewards in both forms."""
        own = [(reward, _numpy(reward)) for reward in self.rewards]
        best = KL(self.strength).maximize(self.weights, [array for _, array in own], _numpy(self.reference))
        return best, own

    def _aggregate(self) -> tuple[Tensor, Tensor, Array]:
        """Return the anchor [B], s - s[anchor] [B, m] and s[anchor] [B]; summed again around it if s is large."""
        rows = torch.arange(len(self.reference), device=self.reference.device)
        total = torch.zeros_like(self.reference)
        for weight, reward in zip(self.weights.tolist(), self.rewards, strict=True):
            total.add_(reward, alpha=weight)
        anchor = torch.argmax(torch.log(self.reference) + total / self.strength, dim=1)
        low, high = total.amin(dim=1), total.amax(dim=1)
        if bool((torch.maximum(-low, high) > RECOMPUTE * (high - low).clamp(max=self.strength)).any()):
            offset = torch.zeros_like(low)
            total.zero_()
            for weight, reward in zip(self.weights.tolist(), self.rewards, strict=True):
                held = reward[rows, anchor]
                total.add_(reward - held[:, None], alpha=weight)
                offset += weight * held
        else:
            offset = total[rows, anchor]
            total -= offset[:, None]
        return anchor, total, np.asarray(offset.cpu().numpy())

    def _moments(self, weights: Array, rewards: Sequence[Tensor]) -> Moments:
        """Return the moments of the shares w r / strength on whole rows, in one reading (see Gibbs)."""
        rows = torch.arange(len(self.reference), device=self.reference.device)
        scales = self.reference.new_tensor(weights / self.strength)
        held = torch.stack([reward[rows, self.anchor] for reward in rewards]) if rewards else scales
        log_mass = np.empty(len(self.reference))
        means = np.empty((len(rewards), len(self.reference)))
        cumulants = np.empty_like(means)
        read = blocks(tuple(self.reference.shape), len(rewards), entries=self.entries)
        for at, across in groupby(read, itemgetter(0)):
            found = [self._block_moments(scales[:, at], held[:, at], rewards, block) for block in across]
            log_mass[at], means[:, at], cumulants[:, at] = merge([_fetched(part) for part in found])
        return log_mass, means, cumulants

    def _block_moments(
        self, scales: Tensor, held: Tensor, rewards: Sequence[Tensor], block: Block
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the moments of one block, under p given the block."""
        log_p = self.log_probabilities(block)
        top = log_p.amax(dim=1)
        top = torch.where(torch.isfinite(top), top, 0.0)
        log_p -= top[:, None]
        lost = ((log_p < UNDERFLOW) & (log_p > -torch.inf)).any(dim=1)
        p = log_p.exp_()
        mass = p.sum(dim=1)
        p /= torch.where(mass > 0, mass, 1.0)[:, None]
        shares = p.new_empty((len(rewards), *p.shape))
        for i, reward in enumerate(rewards):
            torch.sub(reward[block], held[i, :, None], out=shares[i])
        shares *= scales[:, :, None]
        means = torch.linalg.vecdot(shares, p)
        cumulants = torch.log(torch.linalg.vecdot(shares.neg_().exp_(), p)) + means
        size = means.abs().clamp(min=1.0)
        is_plain = (cumulants > SMALL_CUMULANT * size) & (cumulants < torch.inf) & (size < LARGEST_BESIDE_UNDERFLOW)
        careful = ~is_plain | lost
        for i in torch.nonzero(careful.any(dim=1))[:, 0].tolist():
            chosen = careful[i]
            c = (rewards[i][block][chosen] - held[i, chosen, None]) * scales[i, chosen, None]
            cumulants[i, chosen] = _cumulants(p[chosen], c - means[i, chosen, None], lost[chosen])
        return top + torch.log(mass), means, cumulants


def _cumulants(p: Tensor, c: Tensor, lost: Tensor) -> Tensor:
    """Return log E_p[exp(-c)] for E_p[c] = 0 up to rounding: [b]; NaN where an exponent is too large."""
    c = c - torch.linalg.vecdot(p, c)[:, None]
    total = torch.linalg.vecdot(p, _phi(c))
    limit = torch.where(lost, LARGEST_BESIDE_UNDERFLOW, LARGEST_EXPONENT)
    return torch.where((-c).amax(dim=1) > limit, torch.nan, torch.log1p(total))


def _phi(c: Tensor) -> Tensor:
    """Return exp(-c) - 1 + c >= 0, with full relative accuracy for small c too."""
    x = torch.where(c.abs() < SERIES, -c, 0.0)
    series = torch.full_like(x, 1 / 12)
    for k in range(11, 2, -1):
        series = (1 + x * series) / k
    return torch.where(c.abs() < SERIES, x * x * (1 + x * series) / 2, torch.expm1(-c) + c)


def _fetched(moments: tuple[Tensor, Tensor, Tensor]) -> Moments:
    log_mass, means, cumulants = (np.asarray(part.cpu().numpy()) for part in moments)
    return log_mass, means, cumulants


def _numpy(sheet: Tensor) -> Array:
    return np.asarray(sheet.cpu().numpy())
