"""What a policy trained on pairs is worth: margins of pairs, its sequence KL to the reference, its implicit reward."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.mechanism.arrays import Array
from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model
from rlhf_game.training_backends.lm.sampling import Sampling, log_probabilities, sample
from rlhf_game.training_backends.trainers.policies.policy_folders import CARD
from rlhf_game.training_backends.trainers.policies.policy_training import load_policy
from rlhf_game.training_backends.trainers.preferences.losses import PairBatch, PreferenceLoss
from rlhf_game.training_backends.trainers.preferences.preference_rows import encode_pairs
from rlhf_game.training_backends.trainers.reward_training import Pair


@final
@dataclass(frozen=True, eq=False)
class JudgedPairs:
    """Log-ratios log pi(y|x) - log ref(y|x) of whole responses in nats, and the loss of each pair; [n] each."""

    chosen: Array
    rejected: Array
    beta: float
    losses: Array
    """Of the pairs as one batch."""

    @property
    def margins(self) -> Array:
        """Return z, [n], in the unit of rewards."""
        return self.beta * (self.chosen - self.rejected)


def judge_pairs(
    policy: LanguageModel,
    reference: LanguageModel,
    pairs: Sequence[Pair],
    loss: PreferenceLoss,
    beta: float,
    *,
    system: str | None = None,
    columns: dict[str, Array] | None = None,
) -> JudgedPairs:
    """Return what a policy makes of pairs that it need not have seen, [n]."""
    encoded = encode_pairs(reference, pairs, system)
    prompts = [pair.prompt for pair in encoded]
    sides = [[pair.chosen for pair in encoded], [pair.rejected for pair in encoded]]
    mine = [log_probabilities(policy, prompts, side) for side in sides]
    known = [log_probabilities(reference, prompts, side) for side in sides]
    chosen, rejected = (a - b for a, b in zip(mine, known, strict=True))
    batch = PairBatch(
        chosen=torch.from_numpy(chosen),
        rejected=torch.from_numpy(rejected),
        beta=beta,
        lead=torch.from_numpy(mine[0] - mine[1]),
        chosen_tokens=torch.tensor([len(side) for side in sides[0]]),
        rejected_tokens=torch.tensor([len(side) for side in sides[1]]),
        columns={name: torch.as_tensor(values, dtype=torch.float64) for name, values in (columns or {}).items()},
    )
    return JudgedPairs(chosen, rejected, beta, loss.of(batch).detach().numpy())


def sequence_kl(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Text],
    *,
    per_prompt: int,
    max_new_tokens: int,
    seed: int,
    system: str | None = None,
) -> Array:
    """Return log pi(y|x) - log ref(y|x) of responses drawn from the policy, [B, per_prompt], in nats.

    Their mean estimates KL(pi || ref) of responses cut at max_new_tokens, without bias.
    """
    how = Sampling(max_new_tokens=max_new_tokens)
    drawn = sample(policy, prompts, per_prompt, seed=seed, sampling=how, system=system)
    encoded = reference.encode_prompts(prompts, system)
    asked = [encoded[i] for i in range(len(prompts)) for _ in range(per_prompt)]
    responses = [one.token_ids for draws in drawn for one in draws]
    known = log_probabilities(reference, asked, responses).reshape(len(prompts), per_prompt)
    return np.array([[one.log_probability for one in draws] for draws in drawn]) - known


@final
class ImplicitScorer:
    """beta (log pi(y|x) - log ref(y|x)) of a policy trained on pairs: the reward that it is optimal for.

    It is r(x, y) - beta log Z(x): known up to a constant of each prompt (Rafailov et al. 2023, eq. 5).
    """

    def __init__(self, policy: LanguageModel, reference: LanguageModel, beta: float, system: str | None) -> None:
        self._policy, self._reference = policy, reference
        self._beta, self._system = beta, system

    def score(self, pairs: Sequence[tuple[Text, Text]], *, batch_size: int = 16) -> Array:
        """Return the reward of each (prompt, response), [k], in the unit of beta."""
        encoded = [self._reference.encode_exchange(prompt, text, self._system) for prompt, text in pairs]
        prompts, responses = [asked for asked, _ in encoded], [answer for _, answer in encoded]
        mine = log_probabilities(self._policy, prompts, responses, batch_size=batch_size)
        return self._beta * (mine - log_probabilities(self._reference, prompts, responses, batch_size=batch_size))

    @property
    def provenance(self) -> dict[str, Any]:
        """Which weights answered."""
        reference = {f"reference_{key}": value for key, value in self._reference.provenance.items()}
        return {**self._policy.provenance, **reference, "beta": self._beta}


def implicit_scorer(folder: Path, *, device: str = "auto") -> ImplicitScorer:
    """Return the implicit reward of the policy in a folder that ``train_preferences`` wrote.

    Raises InputError when there is none, or the reference has other weights now.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        training = card["training"]
        beta, known = float(training["beta"]), card["reference"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: must hold a policy trained on preferences, found no {CARD} of one") from error
    reference = load_language_model(
        training["model"], revision=training["revision"], device=device, folds_system=training.get("fold_system", False)
    )
    if reference.provenance.get("sha256") != known.get("sha256"):
        raise InputError(
            f"{folder}: must be used with the reference that it was trained against, sha256 {known.get('sha256')}, "
            f"found {reference.provenance.get('sha256')}"
        )
    return ImplicitScorer(load_policy(folder, device=device), reference, beta, training["system"])
