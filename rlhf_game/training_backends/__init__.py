"""Language models and reward models: the one place where torch, transformers, trl and peft are imported."""

from typing import TYPE_CHECKING

from rlhf_game.training_backends.lazy import lazily

_NAMES = {
    "rlhf_game.training_backends.lm.autoregressive": ("NextTokens", "PolicyLogits", "expand_prompt"),
    "rlhf_game.training_backends.lm.averaging": ("average_models", "load_average"),
    "rlhf_game.training_backends.lm.checkpoints": ("Checkpoint", "find_checkpoint"),
    "rlhf_game.training_backends.lm.hub": ("load_rows", "push_folder"),
    "rlhf_game.training_backends.lm.models": ("LanguageModel", "load_language_model", "load_reference"),
    "rlhf_game.training_backends.lm.reward_networks": ("Named", "Networks", "is_identified", "load_reward_model"),
    "rlhf_game.training_backends.trainers.reward_training": ("Finetuning", "finetune", "frozen_features"),
    "rlhf_game.training_backends.lm.sampling": ("Sample", "Sampling", "log_probabilities", "sample"),
    "rlhf_game.training_backends.lm.scorers": ("Classifier", "Embedder", "load_classifier", "load_embedder"),
    "rlhf_game.training_backends.torch_table": ("TorchTable",),
}

if TYPE_CHECKING:  # for editors and type checkers, which then also know a name that does not exist
    from rlhf_game.training_backends.lm.autoregressive import NextTokens, PolicyLogits, expand_prompt
    from rlhf_game.training_backends.lm.averaging import average_models, load_average
    from rlhf_game.training_backends.lm.checkpoints import Checkpoint, find_checkpoint
    from rlhf_game.training_backends.lm.hub import load_rows, push_folder
    from rlhf_game.training_backends.lm.models import LanguageModel, load_language_model, load_reference
    from rlhf_game.training_backends.lm.reward_networks import Named, Networks, is_identified, load_reward_model
    from rlhf_game.training_backends.lm.sampling import Sample, Sampling, log_probabilities, sample
    from rlhf_game.training_backends.lm.scorers import Classifier, Embedder, load_classifier, load_embedder
    from rlhf_game.training_backends.torch_table import TorchTable
    from rlhf_game.training_backends.trainers.reward_training import Finetuning, finetune, frozen_features
else:
    __getattr__ = lazily(__name__, _NAMES)

__all__ = [
    "Checkpoint", "Classifier", "Embedder", "Finetuning", "LanguageModel", "Named", "Networks", "NextTokens",
    "PolicyLogits", "Sample", "Sampling", "TorchTable", "average_models", "expand_prompt", "find_checkpoint",
    "finetune", "frozen_features", "is_identified", "load_average", "load_classifier", "load_embedder",
    "load_language_model", "load_reference", "load_reward_model", "load_rows", "log_probabilities", "push_folder",
    "sample",
]  # fmt: skip
