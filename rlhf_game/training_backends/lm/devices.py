"""The devices that torch can compute on."""

import torch


def gpu_names() -> list[str]:
    """Return the names of the GPUs that torch can use, in torch's order."""
    return [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
