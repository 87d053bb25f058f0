"""A training that kills itself without warning after eight of twelve steps. Arguments: the backbone, the folder."""

import os
import signal
import sys
from pathlib import Path

import torch

from rlhf_game.training_backends.reward_training import Finetuning, finetune
from tests.preferences import preferences, triples

HOW = Finetuning(max_steps=12, learning_rate=1e-3, max_length=64, save_steps=3, has_dropout=True, seed=7)


def watch(what: str, step: int, total: int) -> None:
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    finetune(sys.argv[1], triples(preferences(64, seed=0)), HOW, Path(sys.argv[2]), watch=watch)
