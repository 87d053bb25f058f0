"""Runs that are killed before each rename of a file into its place, and go on."""

import os
import subprocess
import sys
from pathlib import Path

KILLER = """
import os, signal, sys
from pathlib import Path
import rlhf_game.training_backends.lm.models, rlhf_game.training_backends.lm.sampling, pyarrow.parquet
from rlhf_game.outcomes import read_config, run

config, folder = read_config(sys.argv[1]), Path(sys.argv[2])
run(config, folder / "warm")  # so that no child has to import anything
replace = os.replace

def attempt(path, deadly):
    # Run in a child, killed just before its deadly-th rename into place.
    child = os.fork()
    if child == 0:
        left = deadly
        def counted(source, target):
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            replace(source, target)
        os.replace = counted
        run(config, path)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])

deadly = 0
while attempt(folder / str(deadly), deadly) == signal.SIGKILL:
    deadly += 1
    assert attempt(folder / str(deadly - 1), -1) == 0
print(deadly)
"""


def killed_everywhere(config: Path, folder: Path) -> int:
    """Run a configuration once for each rename, killed (-9) before it, and go on there; return how many there are.

    The folders are named by how many renames were made. No memory of the process survives: each run is a child's.
    """
    folder.mkdir()
    command_line = [sys.executable, "-W", "ignore", "-c", KILLER, str(config), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command_line, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout)
