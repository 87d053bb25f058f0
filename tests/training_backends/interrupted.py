"""A training that kills itself without warning after eight of twelve steps: the backbone, the folder, how."""

import os
import signal
import sys
from pathlib import Path

import torch

from rlhf_game.optimization import Lora
from rlhf_game.training_backends.trainers.reward_training import Finetuning, finetune
from tests.preferences import preferences, triples
from tests.trainings import made

HOW = {
    name: made(
        Finetuning, lora=lora, steps=12, learning_rate=1e-3, max_length=64, save_steps=3, has_dropout=True, seed=7
    )
    for name, lora in {"full": None, "lora": Lora(rank=4, dropout=0.1)}.items()
}


def watch(what: str, step: int, total: int) -> None:
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    finetune(sys.argv[1], triples(preferences(64, seed=0)), HOW[sys.argv[3]], Path(sys.argv[2]), watch=watch)
