"""Policies trained on the groups' rewards: RLOO, GRPO, PPO and best-of-n distillation, through TRL."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.policies.elastic_reset": ("ElasticReset", "resets"),
    "rlhf_game.training_backends.policies.eso_training": ("EsoTraining", "TrainedEso", "train_eso"),
    "rlhf_game.training_backends.policies.judging": ("cost_of_texts", "judge_on_demonstrations"),
    "rlhf_game.training_backends.policies.settings": ("Faithfulness", "PolicyTraining", "PpoSettings"),
    "rlhf_game.training_backends.policies.training": ("TrainedPolicy", "load_policy", "train_policy"),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.policies.elastic_reset import ElasticReset, resets
    from rlhf_game.training_backends.policies.eso_training import EsoTraining, TrainedEso, train_eso
    from rlhf_game.training_backends.policies.judging import cost_of_texts, judge_on_demonstrations
    from rlhf_game.training_backends.policies.settings import Faithfulness, PolicyTraining, PpoSettings
    from rlhf_game.training_backends.policies.training import TrainedPolicy, load_policy, train_policy
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "ElasticReset", "EsoTraining", "Faithfulness", "PolicyTraining", "PpoSettings", "TrainedEso", "TrainedPolicy",
    "cost_of_texts", "judge_on_demonstrations", "load_policy", "resets", "train_eso", "train_policy",
]  # fmt: skip
