"""A training that kills itself without warning after eight of twelve steps: the kind, the model, the folder."""

import sys
from pathlib import Path

import torch

from rlhf_game.optimization import Lora
from rlhf_game.training_backends.trainers.policies import PolicyTraining, PpoSettings, train_policy
from tests.training_backends.trainers.policies.enumerable import REWARDS
from tests.trainings import killed, made

PROMPTS = ["a b", "c", "d a", "b b", "a d c"]


def training(kind: str, model: str) -> PolicyTraining:
    name, _, lora = kind.partition("-")
    return made(
        PolicyTraining,
        model=model, strength=0.3, weights=(1.0, 2.0), trainer=name, lora=Lora(rank=4) if lora else None, steps=12,
        batch_size=8, accumulation_steps=2, num_generations=4, max_new_tokens=3, learning_rate=1e-2, save_steps=3,
        device="cpu", seed=7, ppo=PpoSettings(epochs=3) if name == "ppo" else None,
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_policy(training(sys.argv[1], sys.argv[2]), PROMPTS, REWARDS, Path(sys.argv[3]), watch=killed)
