"""Losses of preference pairs as pure functions of margins, and what a loss may see of a batch of pairs.

z = beta ((log pi(y+) - log ref(y+)) - (log pi(y-) - log ref(y-))) is the margin of a pair, [b], in the unit of rewards.
Every function takes torch tensors, or numpy arrays for numpy arrays back; each returns one number per pair, [b].
The discovered losses (DiscoPOP, Lu et al. 2024, Table 1 and App. E) are in their form for any beta; 0.05 is the beta at
which they were discovered, and there each is the code that was found. AQL has two forms that are not the same loss.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from rlhf_game.errors import InputError

DISCOVERY_BETA = 0.05
Elementwise: TypeAlias = Callable[..., Any]
"""Of tensors and numbers to a tensor [b], or of arrays and numbers to an array [b]."""


def _of_arrays_too(function: Callable[..., Tensor]) -> Elementwise:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        found = function(*map(_tensor, arguments), **{name: _tensor(value) for name, value in named.items()})
        is_of_arrays = any(isinstance(value, np.ndarray) for value in (*arguments, *named.values()))
        return found.numpy() if is_of_arrays else found

    return call


def _tensor(value: Any) -> Any:
    return torch.as_tensor(value, dtype=torch.float64) if isinstance(value, np.ndarray) else value


@_of_arrays_too
def dpo(z: Tensor) -> Tensor:
    """-log sigma(z) (Rafailov et al. 2023, eq. 7); finite as long as z is."""
    return -logsigmoid(z)


@_of_arrays_too
def ipo(ratio: Tensor, beta: float) -> Tensor:
    """(ratio - 1/(2 beta))^2 (Azar et al. 2023, eq. 17). ratio: z / beta, or a difference of means per token, [b]."""
    return (ratio - 1 / (2 * beta)) ** 2


@_of_arrays_too
def slic(z: Tensor) -> Tensor:
    """max(0, 1 - z), the hinge (Zhao et al. 2023)."""
    return relu(1 - z)


@_of_arrays_too
def kto_pair(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """KTO of both responses of a pair (Ethayarajh et al. 2024, eq. 8), each against the other side's batch mean.

    chosen, rejected: log pi/ref, [b], nats. Returns the mean of the two losses of each pair, in [0, 1]. The batch means
    stand for KL(pi || ref), are not below 0, and no gradient goes through them (the paper's z_0 has none).
    """
    kl_chosen = chosen.detach().mean().clamp(min=0)
    kl_rejected = rejected.detach().mean().clamp(min=0)
    good = 1 - torch.sigmoid(beta * (chosen - kl_rejected))
    bad = 1 - torch.sigmoid(beta * (kl_chosen - rejected))
    return (good + bad) / 2


@_of_arrays_too
def lrml(z: Tensor, tau: float = DISCOVERY_BETA) -> Tensor:
    """(1 - g) (-log sigma(z)) + g exp(-z), g = sigma(z / tau): DiscoPOP (eq. 5).

    g exp(-z) is computed as one exponential, so that it does not overflow where g vanishes (tau < 1).
    """
    return -torch.sigmoid(-z / tau) * logsigmoid(z) + torch.exp(logsigmoid(z / tau) - z)


@_of_arrays_too
def dbaql(z: Tensor) -> Tensor:
    """g (-log sigma(z / 0.9)) + (1 - g) exp(-0.9 z), g = sigma(Var(z / 0.05)), the batch's unbiased variance, b >= 2.

    (1 - g) exp(-0.9 z) is one exponential. Where z falls far and alike in the whole batch it overflows: in float32
    from z = -99.4 on.
    """
    spread = (z / DISCOVERY_BETA).var()
    return -torch.sigmoid(spread) * logsigmoid(z / 0.9) + torch.exp(logsigmoid(-spread) - 0.9 * z)


@_of_arrays_too
def aql(z: Tensor) -> Tensor:
    """q (-log sigma(z)) + (1 - q) max(0, 1 - z), q = sigma(0.05 m - z): the paper's AQL (eqs. 11 and 12).

    m = 0.5 + 0.01 (sigma(mean(z / 0.05)) - 0.5): the median, moved a little by the batch's mean.
    """
    return _blended(z, DISCOVERY_BETA * _moved_median(z) - z)


@_of_arrays_too
def aql_code(z: Tensor) -> Tensor:
    """AQL with q = sigma(m - z / 0.05), twenty times as steep: the authors' later code, which is another loss.

    Its slope at the reference is positive (+0.750) where that of the paper's is negative (-0.670).
    """
    return _blended(z, _moved_median(z) - z / DISCOVERY_BETA)


def _moved_median(z: Tensor) -> Tensor:
    return 0.5 + 0.01 * (torch.sigmoid((z / DISCOVERY_BETA).mean()) - 0.5)


def _blended(z: Tensor, logit: Tensor) -> Tensor:
    """Return the logistic loss with the weight sigma(logit), and the hinge with the rest: [b]."""
    return -torch.sigmoid(logit) * logsigmoid(z) + torch.sigmoid(-logit) * relu(1 - z)


@_of_arrays_too
def padll(z: Tensor) -> Tensor:
    """0.9 (1 - 0.5 [z < 0]) (-log sigma(z)): half the loss where the pair is the wrong way round; it jumps at 0."""
    return -0.9 * (1 - 0.5 * (z < 0).to(z.dtype)) * logsigmoid(z)


@_of_arrays_too
def aqfl(z: Tensor) -> Tensor:
    """g (-log sigma(z)) + (1 - g) max(0, 1 - z), g = sigma(0.1 |z / 0.05 - a|), b >= 2.

    a = a0 + 0.05 (sigma(mean(z / 0.05)) - a0), a0 = std(z / 0.05) mean(sigma(-z / 0.05)), std unbiased.
    """
    scaled = z / DISCOVERY_BETA
    start = scaled.std() * torch.sigmoid(-scaled).mean()
    centre = start + 0.05 * (torch.sigmoid(scaled.mean()) - start)
    return _blended(z, 0.1 * (scaled - centre).abs())


@_of_arrays_too
def cell(z: Tensor) -> Tensor:
    """(exp(-z) - log sigma(z)) / 2; exp(-z) overflows, in float32 from z = -88.7 on."""
    return (torch.exp(-z) - logsigmoid(z)) / 2


@_of_arrays_too
def pfl(z: Tensor, lead: Tensor) -> Tensor:
    """-log sigma(z) / 2 where lead > 0, else 2 max(0, 1 - z). lead: log pi(y+) - log pi(y-), [b], nats."""
    return torch.where(lead > 0, -logsigmoid(z) / 2, 2 * relu(1 - z))


@_of_arrays_too
def spce(z: Tensor, strength: Tensor) -> Tensor:
    """-p log sigma(z) - (1 - p) log sigma(-z) (OSP, eq. 8). strength: p, in [0, 1], [b]; with p = 1 it is DPO."""
    return -strength * logsigmoid(z) - (1 - strength) * logsigmoid(-z)


@final
@dataclass(frozen=True, eq=False)
class PairBatch:
    """What a loss sees of b pairs; tensors are [b]."""

    chosen: Tensor
    """log pi(y+|x) - log ref(y+|x) of whole responses, in nats."""
    rejected: Tensor
    beta: float
    lead: Tensor
    """log pi(y+|x) - log pi(y-|x), in nats."""
    chosen_tokens: Tensor
    """How many tokens y+ has, its end token included."""
    rejected_tokens: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further numbers of the pairs, by name."""

    @property
    def margin(self) -> Tensor:
        """Return z."""
        return self.beta * (self.chosen - self.rejected)


@final
@dataclass(frozen=True, eq=False)
class PreferenceLoss:
    """A loss with its name; ``of`` returns one number per pair, [b], of which the batch's mean is trained on.

    A loss of one's own needs a ``name`` and a ``formula`` for people; a training's folder remembers its code as well.
    """

    name: str
    of: Callable[[PairBatch], Tensor]
    formula: str
    trl: str | None = None
    """What TRL calls it, where it has it."""
    columns: tuple[str, ...] = ()
    """Columns that the pairs must have."""
    sees_batch: bool = False
    """Whether a pair's loss depends on the other pairs of its batch: then batch_size is part of the loss."""
    smallest_batch: int = 1


def _per_token(batch: PairBatch) -> Tensor:
    return batch.chosen / batch.chosen_tokens - batch.rejected / batch.rejected_tokens


def _named(*losses: PreferenceLoss) -> Mapping[str, PreferenceLoss]:
    return MappingProxyType({loss.name: loss for loss in losses})


LOSSES: Mapping[str, PreferenceLoss] = _named(
    PreferenceLoss("dpo", lambda b: dpo(b.margin), "-log s(z)", trl="sigmoid"),
    PreferenceLoss("ipo", lambda b: ipo(_per_token(b), b.beta), "(mean log-ratio y+ - y- - 1/(2 beta))^2", trl="ipo"),
    PreferenceLoss("ipo_summed", lambda b: ipo(b.chosen - b.rejected, b.beta), "(z/beta - 1/(2 beta))^2"),
    PreferenceLoss("slic", lambda b: slic(b.margin), "max(0, 1 - z)", trl="hinge"),
    PreferenceLoss(
        "kto_pair", lambda b: kto_pair(b.chosen, b.rejected, b.beta), "(s(k- - r+) + s(r- - k+)) / 2", sees_batch=True
    ),
    PreferenceLoss("lrml", lambda b: lrml(b.margin), "(1 - g) (-log s(z)) + g exp(-z)", trl="discopop"),
    PreferenceLoss(
        "dbaql", lambda b: dbaql(b.margin), "g (-log s(z/0.9)) + (1 - g) exp(-0.9 z)",
        sees_batch=True, smallest_batch=2,
    ),
    PreferenceLoss("aql", lambda b: aql(b.margin), "g (-log s(z)) + (1 - g) max(0, 1 - z)", sees_batch=True),
    PreferenceLoss("aql_code", lambda b: aql_code(b.margin), "as aql, g 20 times as steep", sees_batch=True),
    PreferenceLoss("padll", lambda b: padll(b.margin), "0.9 (1 - [z < 0]/2) (-log s(z))"),
    PreferenceLoss(
        "aqfl", lambda b: aqfl(b.margin), "g (-log s(z)) + (1 - g) max(0, 1 - z)", sees_batch=True, smallest_batch=2
    ),
    PreferenceLoss("cell", lambda b: cell(b.margin), "(exp(-z) - log s(z)) / 2"),
    PreferenceLoss("pfl", lambda b: pfl(b.margin, b.lead), "-log s(z) / 2, or 2 max(0, 1 - z)"),
    PreferenceLoss(
        "spce", lambda b: spce(b.margin, b.columns["strength"]), "-p log s(z) - (1 - p) log s(-z)",
        columns=("strength",),
    ),
)  # fmt: skip
"""Every loss by its name; s is the logistic function."""


def find_loss(loss: str | PreferenceLoss) -> PreferenceLoss:
    """Return the loss of that name, or the loss itself. Raises InputError when there is none."""
    if isinstance(loss, PreferenceLoss):
        return loss
    if loss not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {loss}")
    return LOSSES[loss]
