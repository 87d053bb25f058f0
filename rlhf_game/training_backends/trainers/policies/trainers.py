"""TRL's policy trainers as they are used here, and a reward as they call it."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from rlhf_game.callables import call
from rlhf_game.errors import InputError, RunError, boundary
from rlhf_game.files.conversations import as_called, text_of
from rlhf_game.mechanism.arrays import Array, numbers
from rlhf_game.training_backends.lm.models import LanguageModel
from rlhf_game.training_backends.trainers.policies.policy_settings import PolicyTraining
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints

BESIDES = ("trainer_state", "log_extra", "log_metric")
"""What TRL hands to a reward function besides texts, their ids and columns."""


class TrlReward(Protocol):
    """TRL's reward function: one number per completion; further columns of the prompts come by keyword."""

    def __call__(self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> Sequence[float]:
        """Return one number per completion."""
        ...


def refuse_ranks(rewards: Mapping[str, TrlReward]) -> None:
    """Raise InputError when a reward of a text depends on the other texts of its batch (see rewards.is_pointwise)."""
    for name, reward in rewards.items():
        if not getattr(reward, "is_pointwise", True):
            raise InputError(
                f"rewards[{name!r}] must not be calibrated by rank: a rank among the responses of one batch is another "
                "reward in every batch, got one that is"
            )


@final
class NamedReward:
    """A reward as TRL calls it and logs it: on texts as sampling decodes them, with its numbers checked."""

    def __init__(self, name: str, reward: TrlReward, language_model: LanguageModel, columns: Sequence[str]) -> None:
        self.__name__ = name
        self._reward = reward
        self._decode = language_model.decode
        self._columns = columns

    def __call__(
        self, prompts: Sequence[Any], completions: Any, completion_ids: Sequence[list[int]], **columns: Any
    ) -> list[float]:
        """Return the rewards, [k]; TRL's own decoding of the completions is not used."""
        known = {key: columns[key] for key in (*self._columns, *BESIDES) if key in columns}
        known["completion_ids"] = completion_ids
        rewards = self.score(prompts, [self._decode(ids) for ids in completion_ids], known)
        return [float(reward) for reward in rewards]

    def score(self, prompts: Sequence[Any], texts: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Array:
        """Return the rewards of texts, [k], prompts as texts, conversations or messages as TRL keeps them.

        Raises RunError when they are not one finite number each.
        """
        asked, said = as_called([text_of(prompt, "prompts") for prompt in prompts], texts)
        given = {"prompts": asked, "completions": said, **columns}
        with boundary(f"the reward {self.__name__} failed"):
            found = call(self._reward, given, name=f"the reward {self.__name__}")
        rewards = numbers(found, f"the reward {self.__name__}")
        if rewards.shape != (len(texts),) or not np.isfinite(rewards).all():
            raise RunError(f"the reward {self.__name__} must return {len(texts)} finite numbers, got {rewards[:5]} ...")
        return rewards


class PolicyTrainer(SafeCheckpoints, ABC):
    """What the trainers share: prompts are read as sampling reads them, and a resumed training is the same one."""

    language_model: LanguageModel
    system: str | None

    def begin(self, training: PolicyTraining, language_model: LanguageModel) -> None:
        """Take what TRL's constructor does not know; called once, before training."""
        self.language_model, self.system = language_model, training.system

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        asked = [text_of(prompt, "prompts") for prompt in prompts]
        return self.language_model.encode_prompts(asked, self.system), None, {}


@final
class Rloo(PolicyTrainer, RLOOTrainer):
    """REINFORCE with a leave-one-out baseline and the sequence's KL in the reward (Ahmadian et al. 2024)."""


@final
class Grpo(PolicyTrainer, GRPOTrainer):
    """GRPO without the division by the group's deviation (Dr. GRPO, Liu et al. 2025), the KL in the loss."""
