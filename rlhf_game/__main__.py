"""``python -m rlhf_game`` is ``rlhf-game``."""

import sys

from rlhf_game.cli import main

if __name__ == "__main__":
    sys.exit(main())
