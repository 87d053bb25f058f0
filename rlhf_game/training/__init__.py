"""``rlhf-game train``: from a configuration and data to checkpoints and their metrics, one resumable folder each."""

from rlhf_game.training.training_config import TrainingConfiguration, read_training
from rlhf_game.training.training_pipeline import FinishedTraining, count_calls, train

__all__ = ["FinishedTraining", "TrainingConfiguration", "count_calls", "read_training", "train"]
