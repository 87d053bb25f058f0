"""A discovery that kills itself without warning in the middle of a generation. Arguments: configuration, folder."""

import os
import signal
import sys
from pathlib import Path

import torch

from rlhf_game.discovery import discover, read_discovery


def watch(what: str, done: int, total: int) -> None:
    if what.startswith("generation 2 of") and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    discover(read_discovery(sys.argv[1]), Path(sys.argv[2]), watch)
