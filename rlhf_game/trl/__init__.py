"""For scripts that use TRL: the groups' rewards, what each of them owes, resets, and losses of preferences."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.trl.group_rewards": ("GroupRewards",),
    "rlhf_game.trl.group_callback": ("GroupCallback",),
    "rlhf_game.training_backends.trainers.policies.elastic_callback": ("ElasticReset",),
    "rlhf_game.training_backends.trainers.preferences.trainer": ("PreferenceTrainer",),
}

if TYPE_CHECKING:
    from rlhf_game.training_backends.trainers.policies.elastic_callback import ElasticReset
    from rlhf_game.training_backends.trainers.preferences.trainer import PreferenceTrainer
    from rlhf_game.trl.group_callback import GroupCallback
    from rlhf_game.trl.group_rewards import GroupRewards
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = ["ElasticReset", "GroupCallback", "GroupRewards", "PreferenceTrainer"]
