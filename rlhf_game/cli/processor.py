"""How a command shares the processor with others."""

import os


def share_the_processor() -> None:
    """Let torch's idle threads sleep, not spin: on a machine that others use too this is several times faster.

    To be called before torch is imported; a choice in the environment stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
