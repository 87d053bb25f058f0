"""A training that kills itself without warning after eight of twelve steps. Arguments: the model, a folder, how."""

import sys
from pathlib import Path

import torch

from rlhf_game.optimization import Lora
from rlhf_game.training_backends.trainers.preferences import PreferenceTraining, train_preferences
from tests.preferences import preferences, triples
from tests.trainings import killed, made

PAIRS = triples(preferences(64, seed=0))


def training(model: str, how: str) -> PreferenceTraining:
    lora = Lora(rank=4, dropout=0.1) if how == "lora" else None
    return made(
        PreferenceTraining,
        model, lora=lora, steps=12, learning_rate=1e-3, max_length=64, save_steps=3, has_dropout=True, seed=7,
        device="cpu", keeps_checkpoints=False,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_preferences(training(sys.argv[1], sys.argv[3]), PAIRS, Path(sys.argv[2]) / "killed", watch=killed)
