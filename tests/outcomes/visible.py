"""What a process that was given a device says of it; a module of its own, so that the process imports nothing else."""

import os


def visible_device(task: str) -> tuple[str, str]:
    return task, os.environ["CUDA_VISIBLE_DEVICES"]
