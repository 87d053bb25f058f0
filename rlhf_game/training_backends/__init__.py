"""Language models and reward models: the one place where torch, transformers, trl and peft are imported."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.autoregressive": ("NextTokens", "PolicyLogits", "expand_prompt"),
    "rlhf_game.training_backends.averaging": ("average_models", "load_average"),
    "rlhf_game.training_backends.checkpoints": ("Checkpoint", "find_checkpoint"),
    "rlhf_game.training_backends.hub": ("load_rows", "push_folder"),
    "rlhf_game.training_backends.models": ("LanguageModel", "load_language_model"),
    "rlhf_game.training_backends.reward_models": ("Named", "Networks", "is_identified", "load_reward_model"),
    "rlhf_game.training_backends.reward_training": ("Finetuning", "Lora", "finetune", "frozen_features"),
    "rlhf_game.training_backends.sampling": ("Sample", "Sampling", "log_probabilities", "sample"),
    "rlhf_game.training_backends.scorers": ("Classifier", "Embedder", "load_classifier", "load_embedder"),
    "rlhf_game.training_backends.tables": ("TorchTable",),
}

if TYPE_CHECKING:  # for editors and type checkers, which then also know a name that does not exist
    from rlhf_game.training_backends.autoregressive import NextTokens, PolicyLogits, expand_prompt
    from rlhf_game.training_backends.averaging import average_models, load_average
    from rlhf_game.training_backends.checkpoints import Checkpoint, find_checkpoint
    from rlhf_game.training_backends.hub import load_rows, push_folder
    from rlhf_game.training_backends.models import LanguageModel, load_language_model
    from rlhf_game.training_backends.reward_models import Named, Networks, is_identified, load_reward_model
    from rlhf_game.training_backends.reward_training import Finetuning, Lora, finetune, frozen_features
    from rlhf_game.training_backends.sampling import Sample, Sampling, log_probabilities, sample
    from rlhf_game.training_backends.scorers import Classifier, Embedder, load_classifier, load_embedder
    from rlhf_game.training_backends.tables import TorchTable
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "Checkpoint", "Classifier", "Embedder", "Finetuning", "LanguageModel", "Lora", "Named", "Networks", "NextTokens",
    "PolicyLogits", "Sample", "Sampling", "TorchTable", "average_models", "expand_prompt", "find_checkpoint",
    "finetune", "frozen_features", "is_identified", "load_average", "load_classifier", "load_embedder",
    "load_language_model", "load_reward_model", "load_rows", "log_probabilities", "push_folder", "sample",
]  # fmt: skip
