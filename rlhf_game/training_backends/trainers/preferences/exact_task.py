"""Preference tasks so small that every response is enumerated: what a loss is worth is computed, not sampled.

A response is ``length`` tokens of ``tokens`` kinds. The reference q is a random softmax of features (each token at each
place, each pair of neighbours), the reward r a random linear function of them, of unit deviation under q. Pairs are
drawn from q and labelled by Bradley-Terry with r. The policy is q exp(theta phi) / Z with one theta per prompt, so that
the optimum q exp(r / beta) / Z of J = E[r] - beta KL(pi || q) can be reached.
"""

from dataclasses import dataclass
from time import monotonic
from typing import final

import numpy as np
import torch
from torch import Tensor

from rlhf_game.errors import RunError
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.trainers.preferences.losses import PairBatch, PreferenceLoss


@final
@dataclass(frozen=True)
class TaskSettings:
    """The size of a task, and how a policy is trained on it."""

    prompts: int = 4
    tokens: int = 4
    length: int = 3
    pairs: int = 64
    """Per prompt."""
    beta: float = 0.5
    """In the unit of the reward, whose deviation under the reference is 1."""
    flip: float = 0.0
    """The share of labels turned round."""
    steps: int = 60
    batch_size: int = 32
    learning_rate: float = 0.1


@final
@dataclass(frozen=True)
class TaskResult:
    """What training with a loss came to on one task."""

    score: float
    """(J(pi) - J(q)) / (J(optimum) - J(q)): 0 is the reference, 1 the best policy that there is; may be negative."""
    reward: float
    """E[r] under the policy, in deviations of r under the reference, whose mean is 0."""
    kl: float
    """KL(pi || q), nats, the mean over prompts."""


@final
class ExactTask:
    """One task, its data and its optimum, fixed by a seed."""

    def __init__(self, settings: TaskSettings, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.settings = settings
        self.features = _features(settings.tokens, settings.length)  # [K, d]
        size = (settings.prompts, self.features.shape[1])
        self.log_reference = _log_softmax(rng.normal(size=size) * 0.5 @ self.features.T)  # [P, K]
        reward = rng.normal(size=size) @ self.features.T
        q = np.exp(self.log_reference)
        mean = (q * reward).sum(axis=1, keepdims=True)
        deviation = np.sqrt((q * (reward - mean) ** 2).sum(axis=1, keepdims=True))
        self.reward = (reward - mean) / deviation  # [P, K]
        self.pairs = self._draw(rng)  # [P * pairs, 3]: prompt, chosen, rejected
        self._seed = seed

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        rows: list[tuple[int, int, int]] = []
        for prompt in range(self.settings.prompts):
            q = np.exp(self.log_reference[prompt])
            while len(rows) < (prompt + 1) * self.settings.pairs:
                first, second = rng.choice(len(q), size=2, p=q / q.sum())
                if first == second:
                    continue
                gap = self.reward[prompt, first] - self.reward[prompt, second]
                is_first = rng.random() < 1 / (1 + np.exp(-gap))
                if (rng.random() < self.settings.flip) == is_first:
                    first, second = second, first
                rows.append((prompt, first, second))
        return np.array(rows)

    def value(self, log_policy: Array) -> tuple[float, float]:
        """Return E[r] and KL(pi || q), means over prompts. log_policy: [P, K]."""
        policy = np.exp(log_policy)
        reward = float((policy * self.reward).sum(axis=1).mean())
        return reward, float((policy * (log_policy - self.log_reference)).sum(axis=1).mean())

    @property
    def optimum(self) -> Array:
        """Return the log-probabilities of q exp(r / beta) / Z, [P, K]."""
        return _log_softmax(self.log_reference + self.reward / self.settings.beta)

    def worth(self, log_policy: Array) -> TaskResult:
        """Return what a policy is worth. log_policy: [P, K]."""
        reward, kl = self.value(log_policy)
        best, far = self.value(self.optimum)
        beta = self.settings.beta
        return TaskResult((reward - beta * kl) / (best - beta * far), reward, kl)

    def train(self, loss: PreferenceLoss, *, seconds: float = float("inf")) -> TaskResult:
        """Return what the policy is worth that Adam finds for a loss, gradients clipped to norm 1.

        seconds: the time after which the training is given up. Raises RunError with the reason when it takes longer, or
        the loss, its gradient or the policy is no number.
        """
        how, deadline = self.settings, monotonic() + seconds
        reference, features = torch.from_numpy(self.log_reference), torch.from_numpy(self.features)
        theta = torch.zeros(how.prompts, self.features.shape[1], dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([theta], lr=how.learning_rate)
        order = np.random.default_rng(self._seed)
        with torch.enable_grad():
            for step in range(how.steps):
                if monotonic() > deadline:
                    raise RunError(f"its training took longer than {seconds:g} seconds")
                rows = torch.from_numpy(self.pairs[order.integers(len(self.pairs), size=how.batch_size)])
                log_policy = torch.log_softmax(reference + theta @ features.T, dim=1)
                batch = _batch(log_policy, reference, rows, how.beta)
                mean = loss.of(batch).mean()
                if not torch.isfinite(mean):
                    raise RunError(f"its loss is {float(mean.detach())} at step {step + 1}")
                adam.zero_grad()
                mean.backward()
                norm = torch.nn.utils.clip_grad_norm_([theta], 1.0)
                if not torch.isfinite(norm):
                    raise RunError(f"its gradient is {float(norm)} at step {step + 1}")
                for group in adam.param_groups:
                    group["lr"] = how.learning_rate * (1 - step / how.steps)
                adam.step()
        found = torch.log_softmax(reference + theta.detach() @ features.T, dim=1).numpy()
        if not np.isfinite(found).all():
            raise RunError("its policy gives some response no probability at all")
        return self.worth(found)


def _batch(log_policy: Tensor, reference: Tensor, rows: Tensor, beta: float) -> PairBatch:
    prompt, chosen, rejected = rows.T
    yes, no = log_policy[prompt, chosen], log_policy[prompt, rejected]
    tokens = torch.ones_like(yes)
    return PairBatch(
        chosen=yes - reference[prompt, chosen],
        rejected=no - reference[prompt, rejected],
        beta=beta,
        lead=(yes - no).detach(),
        chosen_tokens=tokens,
        rejected_tokens=tokens,
    )


def _features(tokens: int, length: int) -> Array:
    """Return for each of the tokens**length responses its tokens by place and its pairs of neighbours, as 0 and 1."""
    responses = np.stack(np.meshgrid(*[np.arange(tokens)] * length, indexing="ij"), axis=-1).reshape(-1, length)
    single = np.eye(tokens)[responses].reshape(len(responses), -1)
    both = responses[:, :-1] * tokens + responses[:, 1:]
    return np.concatenate([single, np.eye(tokens**2)[both].reshape(len(responses), -1)], axis=1)


def _log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
