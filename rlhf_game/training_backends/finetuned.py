"""A language model to be trained, as a policy space: ``maximize`` trains, and what it returns is known through draws.

A trained policy is not quite optimal, so the payment that is right at the optimum (``externalities``) is not defined
for it: ``AffinePayments`` refuses, and ``FinetunedPayments`` charges by a leave-one-out term that it names.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import is_
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np

from rlhf_game.callables import call
from rlhf_game.errors import CombinationError, InputError
from rlhf_game.files.conversations import Text, as_called, text_of
from rlhf_game.mechanism.arrays import Array, numbers
from rlhf_game.mechanism.payments import PaymentRule
from rlhf_game.mechanism.sampled.sampled_settlement import (
    ByFormula,
    ByReference,
    ByTrainings,
    OthersWelfare,
    PolicySamples,
    SampledGame,
    SampledSettlement,
    least_cap,
    settle_samples,
    welfare_gap,
)
from rlhf_game.mechanism.spaces.base import Policy, PolicySpace
from rlhf_game.mechanism.training import AffineRule, Trained
from rlhf_game.training_backends.lm.models import LanguageModel, load_reference
from rlhf_game.training_backends.lm.sampling import Sample, log_probabilities, sample, token_log_probabilities
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy

TextReward: TypeAlias = Any
"""TRL's reward function, with values in [0, 1]."""


@final
@dataclass(frozen=True, eq=False)
class PolicyDraws:
    """Draws of one policy for each prompt, [B, N], and the log of its own probability over the reference's: [B, N]."""

    texts: tuple[tuple[str, ...], ...]
    log_ratios: Array


@final
class Finetuned(PolicySpace[TextReward]):
    """All policies that a language model can be trained to; nothing is trained, drawn or scored twice.

    training: how (its weights are replaced by those of the groups). prompts: [B]; columns: further columns of them, for
    rewards. folder: where trained policies are kept, each in a new folder of its own. samples: draws for each prompt.
    level, cap: see ``SampledGame``; the cap defaults to the least one for the weights that are trained on. A report's
    reward is a function with TRL's signature and values in [0, 1]; of draws it is asked once for each text to a prompt.
    Raises InputError when the trainer's optimum is not the mechanism's.
    """

    def __init__(
        self,
        training: PolicyTraining,
        prompts: Sequence[Text],
        folder: Path,
        *,
        samples: int = 64,
        level: float = 0.95,
        cap: float | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> None:
        if not training.faithfulness.is_faithful:
            raise InputError(f"training.trainer must be rloo or ppo: {training.faithfulness.reason}")
        self.training, self.folder, self.strength = training, folder, training.strength
        self.prompts = tuple(text_of(prompt, f"prompts[{b}]") for b, prompt in enumerate(prompts))
        self.samples, self.level, self.cap = samples, level, cap
        self.columns = {name: tuple(values) for name, values in (columns or {}).items()}
        self._model = load_reference(training.model)
        self._scores: list[tuple[TextReward, dict[tuple[int, str], float]]] = []
        self._trained: list[tuple[tuple[float, ...], tuple[TextReward, ...], FinetunedPolicy]] = []
        self.reference = self.draw(self._model)

    @property
    def sampled(self) -> "Finetuned":
        """Itself."""
        return self

    def read(self, reward: TextReward) -> TextReward:
        """Return the reward; raise InputError when it is no function, or is outside [0, 1] on the reference's draws."""
        if not callable(reward):
            raise InputError(f"reward must be a function of prompts and completions, got {type(reward).__name__}")
        self.score([reward], self.reference)
        return reward

    def maximize(self, weights: Array, rewards: Sequence[TextReward]) -> "FinetunedPolicy":
        """Train a policy on the weighted rewards; of no weight at all it is the reference."""
        pairs = zip(weights, rewards, strict=True)
        heard = [(float(weight), reward) for weight, reward in pairs if weight > 0]
        if not heard:
            return FinetunedPolicy(self, None, self.reference, np.zeros(0), ())
        shares, parts = tuple(weight for weight, _ in heard), tuple(reward for _, reward in heard)
        for known, own, policy in self._trained:
            if known == shares and all(map(is_, own, parts)):
                return policy
        policy = self._train(shares, parts)
        self._trained.append((shares, parts, policy))
        return policy

    def _train(self, shares: tuple[float, ...], rewards: tuple[TextReward, ...]) -> "FinetunedPolicy":
        self.folder.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(prefix="policy-", dir=self.folder))
        named = {f"reward {k}": reward for k, reward in enumerate(rewards)}
        train_policy(replace(self.training, weights=shares), self.prompts, named, out, columns=self.columns)
        return FinetunedPolicy(self, out, self.draw(load_policy(out)), np.array(shares), rewards)

    def draw(self, model: LanguageModel) -> PolicyDraws:
        """Return draws of a model, by the same random numbers for every model."""
        how, seed, system = self.training.sampling, self.training.optimization.seed, self.training.system
        rows = sample(model, self.prompts, self.samples, seed=seed, sampling=how, system=system)
        own = np.array([[one.log_probability for one in row] for row in rows])
        texts = tuple(tuple(one.text for one in row) for row in rows)
        return PolicyDraws(texts, np.zeros_like(own) if model is self._model else own - self._log_reference(rows))

    def score(self, rewards: Sequence[TextReward], draws: PolicyDraws) -> PolicySamples:
        """Return every reward of draws, [k, B, N], with their log ratios. Raises InputError outside [0, 1]."""
        texts = [(b, text) for b, row in enumerate(draws.texts) for text in row]
        found = np.array([self._scored(reward, texts) for reward in rewards])
        shape = (len(rewards), *draws.log_ratios.shape)
        return PolicySamples(found.reshape(shape), draws.log_ratios, draws is self.reference)

    def _scored(self, reward: TextReward, texts: Sequence[tuple[int, str]]) -> list[float]:
        """Return a reward of texts, each with the place of its prompt; only those that are new are asked for."""
        known = next((scores for own, scores in self._scores if own is reward), None)
        if known is None:
            known = {}
            self._scores.append((reward, known))
        new = [one for one in dict.fromkeys(texts) if one not in known]
        if new:
            asked, said = as_called([self.prompts[b] for b, _ in new], [text for _, text in new])
            columns = {key: [values[b] for b, _ in new] for key, values in self.columns.items()}
            given = {"prompts": asked, "completions": said, **columns}
            found = numbers(call(reward, given, name="reward"), "reward")
            if found.shape != (len(new),) or not ((found >= 0) & (found <= 1)).all():
                raise InputError(f"reward must return {len(new)} numbers in [0, 1]")
            known.update(zip(new, found.tolist(), strict=True))
        return [known[one] for one in texts]

    def game(self, sizes: Array, multipliers: Array) -> SampledGame:
        """Return what draws of these weights are settled by."""
        strength = self.training.strength
        cap = least_cap(sizes * multipliers, strength) if self.cap is None else self.cap
        return SampledGame(sizes, multipliers, strength, self.level, cap)

    def log_tokens(self, model: LanguageModel | None, sequence: Sequence[int], prompt: int) -> Array:
        """Return log p of each token of a response. model: None is the reference. prompt: its place."""
        if not 0 <= prompt < len(self.prompts):
            raise InputError(f"must be one of {len(self.prompts)}, from 0, got {prompt}", field="prompt")
        encoded = self._model.encode_prompt(self.prompts[prompt], self.training.system)
        return token_log_probabilities(model or self._model, encoded, sequence, sampling=self.training.sampling)

    def _log_reference(self, rows: Sequence[Sequence[Sample]]) -> Array:
        encoded = self._model.encode_prompts(self.prompts, self.training.system)
        prompts = [ids for ids, row in zip(encoded, rows, strict=True) for _ in row]
        responses = [one.token_ids for row in rows for one in row]
        found = log_probabilities(self._model, prompts, responses, sampling=self.training.sampling)
        return found.reshape(len(rows), -1)


@final
class FinetunedPolicy(Policy[TextReward]):
    """A trained policy, known through its draws. folder: None for the reference. gap: certified at the level given."""

    def __init__(
        self, space: Finetuned, folder: Path | None, draws: PolicyDraws, shares: Array, rewards: tuple[TextReward, ...]
    ) -> None:
        self.space: Finetuned = space
        self.folder, self.draws = folder, draws
        if not rewards:
            self.welfare = self.divergence = self.gap = 0.0
            return
        game = space.game(shares, np.ones(len(shares)))
        delivered, reference = space.score(rewards, draws), space.score(rewards, space.reference)
        self.welfare = float(game.welfare(delivered, game.level).value)
        self.divergence = float(game.costs(delivered).mean())
        self.gap = float(welfare_gap(game, delivered, reference).high)

    def values(self, rewards: Sequence[TextReward]) -> Array:
        """Return the mean of each reward over the draws: [k]."""
        return np.asarray(self.space.score(rewards, self.draws).rewards.mean(axis=(1, 2)))

    def log_tokens(self, sequence: Sequence[int], prompt: int = 0) -> Array:
        """Return log p of each token of a response to a prompt by its place; raise InputError of one not whole."""
        return self.space.log_tokens(self._model, sequence, prompt)

    @cached_property
    def _model(self) -> LanguageModel | None:
        return None if self.folder is None else load_policy(self.folder)

    def externalities(self, weights: Array, rewards: Sequence[TextReward]) -> Array:
        """Raise CombinationError: this is defined at the optimum, and a trained policy is not quite there."""
        raise CombinationError(
            "AffinePayments needs a policy that is exactly optimal, not FinetunedPolicy; use FinetunedPayments(), "
            "which says where the welfare without each group comes from"
        )


@final
@dataclass(frozen=True)
class FinetunedPayments(PaymentRule[AffineRule]):
    """(1 / mu) [h - ASW_-i(p^)], with h by ``source`` (see ``rlhf_game.mechanism.sampled.sampled_settlement``)."""

    source: Literal["samples", "reference", "leave_one_out"] = "samples"

    def charge(self, optimum: Trained[AffineRule]) -> Array:
        """Return the best numbers of the payments: [n]. ``settle`` has their intervals and the certificate."""
        return self.settle(optimum).payments.value

    def settle(self, optimum: Trained[AffineRule]) -> SampledSettlement:
        """Return the settlement of a policy as intervals, with its certificate. Raises CombinationError elsewhere."""
        space = optimum.space.sampled
        policy: Any = optimum.policy  # of this space
        if optimum.rule.boosts():
            raise CombinationError("FinetunedPayments needs a training rule without a boost")
        game = space.game(optimum.sizes, optimum.weights)
        reference, rewards = space.score(optimum.rewards, space.reference), list(optimum.rewards)
        others: OthersWelfare
        if self.source == "leave_one_out":
            alone = [space.maximize(shares, rewards).draws for shares in game.without()]
            others = ByTrainings([space.score(rewards, draws) for draws in alone])
        else:
            others = ByFormula(reference) if self.source == "samples" else ByReference(reference)
        return settle_samples(game, space.score(rewards, policy.draws), reference, others)
