"""Policies trained on the groups' rewards: RLOO, GRPO, PPO and best-of-n distillation, through TRL."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.policies.settings": ("Faithfulness", "PolicyTraining", "PpoSettings"),
    "rlhf_game.training_backends.policies.training": ("TrainedPolicy", "load_policy", "train_policy"),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.policies.settings import Faithfulness, PolicyTraining, PpoSettings
    from rlhf_game.training_backends.policies.training import TrainedPolicy, load_policy, train_policy
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "Faithfulness", "PolicyTraining", "PpoSettings", "TrainedPolicy", "load_policy", "train_policy",
]  # fmt: skip
