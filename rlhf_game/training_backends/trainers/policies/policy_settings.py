"""How a policy is trained: plain values, checked once, with a hash that names the training."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from typing import Any, Literal, TypeAlias, final

from rlhf_game.errors import InputError, MissingExtra
from rlhf_game.optimization import (
    POLICIES,
    POLICY_ARGUMENTS,
    Optimization,
    Pretrained,
    check_arguments,
    document_of_training,
)
from rlhf_game.training_backends.lm.sampling import Sampling

TrainerName: TypeAlias = Literal["rloo", "grpo", "ppo", "best_of_n"]


@final
@dataclass(frozen=True)
class Faithfulness:
    """Whether a trainer's optimum is the mechanism's: q exp(s / lambda) / Z over whole responses."""

    is_faithful: bool
    reason: str


FAITHFULNESS: Mapping[str, Faithfulness] = {
    "rloo": Faithfulness(True, "the KL of the whole sequence is in the reward, so the optimum is q exp(s/lambda)/Z"),
    "ppo": Faithfulness(True, "each token's KL is in the reward and counts for the tokens before it, undiscounted"),
    "grpo": Faithfulness(
        False, "its KL is per token and lacks what a token does to the KL of later ones: exact for one token only"
    ),
    "best_of_n": Faithfulness(False, "it has no lambda: its KL is at most log n - (n-1)/n, whatever the rewards"),
}


@final
@dataclass(frozen=True)
class PpoSettings:
    """What PPO has beyond the others (Schulman et al. 2017; GAE of Schulman et al. 2016)."""

    epochs: int = 2
    """Updates on the responses of one generation."""
    gae: float = 0.95
    """GAE's lambda; its discount is 1, since the KL of a sequence is not discounted."""
    clip: float = 0.2
    value_weight: float = 0.1
    """Of the critic's loss beside the policy's."""
    value_clip: float = 0.2
    """How far a value moves in an update, in the unit of one group's reward."""


@final
@dataclass(frozen=True)
class PolicyTraining:
    """One training of a policy: argmax E[s] - strength KL(policy || model), s = sum_k weights[k] rewards[k].

    The reference is ``model`` itself at ``temperature``. A step draws batch_size * accumulation_steps responses on each
    device, num_generations to a prompt. Raises InputError where a value makes no sense, MissingExtra for vLLM.
    """

    model: Pretrained
    strength: float
    """lambda, in the unit of the weighted rewards."""
    weights: tuple[float, ...]
    """Of each reward: its group's size (times mu_i in a general affine maximiser)."""
    optimization: Optimization = POLICIES
    trainer: TrainerName = "rloo"
    num_generations: int = 4
    """Responses to a prompt in a step; n of best-of-n."""
    max_new_tokens: int = 64
    temperature: float = 1.0
    system: str | None = None
    kl_limit: float | None = None
    """Sequence KL to the reference, in nats, at which the training is given up as diverged."""
    ppo: PpoSettings | None = None

    def __post_init__(self) -> None:
        for name in ("strength", "temperature"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number > 0, got {value}")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if self.num_generations < 2:
            raise InputError(f"num_generations must be >= 2, got {self.num_generations}")
        if not self.weights or not all(isfinite(weight) and weight >= 0 for weight in self.weights):
            raise InputError(f"weights must be numbers >= 0, one per reward, got {list(self.weights)}")
        if self.kl_limit is not None and not self.kl_limit > 0:
            raise InputError(f"kl_limit must be > 0, got {self.kl_limit}")
        self._check_parts()

    def _check_parts(self) -> None:
        if self.trainer not in FAITHFULNESS:
            raise InputError(f"trainer must be {', '.join(FAITHFULNESS)}, got {self.trainer}")
        if self.ppo is not None and self.trainer != "ppo":
            raise InputError(f"ppo: must be left out with trainer {self.trainer}, found {self.ppo}")
        how = self.optimization
        if how.steps is None:
            raise InputError("steps must be given where a policy is trained on rewards, got none")
        how.must_have_no_dropout()
        if self.trainer == "ppo" and how.save_steps % self.ppo_settings.epochs:
            raise InputError(
                f"save_steps: must be a multiple of ppo.epochs = {self.ppo_settings.epochs} (a checkpoint lies between "
                f"generations), found {how.save_steps}"
            )
        further = dict(how.trl)
        check_arguments(further, POLICY_ARGUMENTS)
        if further.get("use_vllm") and find_spec("vllm") is None:
            raise MissingExtra("vllm", "vllm")

    @property
    def steps(self) -> int:
        """Steps that the training takes."""
        assert self.optimization.steps is not None  # checked above
        return self.optimization.steps

    @property
    def faithfulness(self) -> Faithfulness:
        """Whether the trained policy's lambda is the mechanism's."""
        return FAITHFULNESS[self.trainer]

    @property
    def ppo_settings(self) -> PpoSettings:
        """PPO's settings, or their defaults."""
        return self.ppo or PpoSettings()

    @property
    def beta(self) -> float:
        """What TRL calls beta: lambda, but for GRPO lambda (G-1)/G, since its group's mean contains the sample."""
        if self.trainer == "grpo":
            return self.strength * (self.num_generations - 1) / self.num_generations
        return self.strength

    @property
    def sampling(self) -> Sampling:
        """The distribution that is trained: what to sample the trained policy and the reference with."""
        return Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature)

    def document(self) -> dict[str, Any]:
        """Return all that decides the outcome, as JSON has it."""
        return {**document_of_training(self), "weights": list(self.weights)}

    @property
    def sha256(self) -> str:
        """Of the document."""
        return hashlib.sha256(json.dumps(self.document(), sort_keys=True).encode()).hexdigest()
