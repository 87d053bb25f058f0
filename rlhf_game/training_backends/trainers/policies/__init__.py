"""Policies trained on the groups' rewards: RLOO, GRPO, PPO and best-of-n distillation, through TRL."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.trainers.policies.elastic_callback": ("ElasticReset", "resets"),
    "rlhf_game.training_backends.trainers.policies.eso_training": ("EsoTraining", "TrainedEso", "train_eso"),
    "rlhf_game.training_backends.trainers.policies.policy_judging": ("cost_of_texts", "judge_on_demonstrations"),
    "rlhf_game.training_backends.trainers.policies.policy_settings": ("Faithfulness", "PolicyTraining", "PpoSettings"),
    "rlhf_game.training_backends.trainers.policies.policy_training": (
        "TrainedPolicy", "load_beside", "load_policy", "train_policy",
    ),
}  # fmt: skip

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.policies.elastic_callback import ElasticReset, resets
    from rlhf_game.training_backends.trainers.policies.eso_training import EsoTraining, TrainedEso, train_eso
    from rlhf_game.training_backends.trainers.policies.policy_judging import cost_of_texts, judge_on_demonstrations
    from rlhf_game.training_backends.trainers.policies.policy_settings import Faithfulness, PolicyTraining, PpoSettings
    from rlhf_game.training_backends.trainers.policies.policy_training import (
        TrainedPolicy,
        load_beside,
        load_policy,
        train_policy,
    )
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "ElasticReset", "EsoTraining", "Faithfulness", "PolicyTraining", "PpoSettings", "TrainedEso", "TrainedPolicy",
    "cost_of_texts", "judge_on_demonstrations", "load_beside", "load_policy", "resets",
    "train_eso", "train_policy",
]  # fmt: skip
