"""From a real language model and real rewards to a receipt, one resumable stage after another.

``Candidates`` is the space for use from Python; ``run`` is what ``rlhf-game run`` does with a configuration.
"""

from rlhf_game.outcomes.candidates import Candidates, Draft
from rlhf_game.outcomes.run_config import RunConfig, read_config
from rlhf_game.outcomes.run_pipeline import FinishedRun, run

__all__ = ["Candidates", "Draft", "FinishedRun", "RunConfig", "read_config", "run"]
