"""How many cores this process may use."""

import os


def available_cores() -> int:
    """Return the cores that the system lets this process run on; where it does not say, those of the machine."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
