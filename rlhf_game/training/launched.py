"""The processes of a launcher (torchrun, accelerate): which one this is, and waiting for the others."""

import os


def is_first() -> bool:
    """Return whether this process writes what a training leaves behind; a process on its own is the first."""
    return os.environ.get("RANK", "0") == "0"


def are_several() -> bool:
    """Return whether a launcher started more than one process."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def wait_for_everyone() -> None:
    """Go on when every process is here; at once in a process on its own."""
    if are_several():
        from rlhf_game.training_backends.trainers.processes import wait_for_everyone

        wait_for_everyone()
