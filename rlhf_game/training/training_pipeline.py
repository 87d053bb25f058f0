"""``rlhf-game train``: what is left of a training, then its metrics; a finished one is only read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from rlhf_game.files.run_folder import Progress, unwatched
from rlhf_game.files.workspace import open_workspace
from rlhf_game.training.kinds import MetricsTable, Task
from rlhf_game.training.launched import is_first, wait_for_everyone
from rlhf_game.training.training_config import TrainingConfiguration

METRICS = "metrics.json"
"""The last file that is written: where it is, the training is finished."""


@final
@dataclass(frozen=True)
class FinishedTraining:
    """A finished training."""

    folder: Path
    metrics: dict[str, Any]
    """Empty in the processes of a launcher that are not the first."""
    tables: list[MetricsTable]
    """What people read of the metrics."""


def train(configuration: TrainingConfiguration, path: Path, progress: Progress | None = None) -> FinishedTraining:
    """Do what is left of the training in the folder ``path``, and return it finished.

    Under torchrun or accelerate every process calls this: the first one holds the folder, writes and returns; the
    others do their share of a training that is made for several processes, and return no metrics. Raises InputError
    when data or configuration are wrong or the folder is another training's, RunError when the folder is in use or a
    training diverges.
    """
    if not is_first():
        wait_for_everyone()
        if not (path / METRICS).exists():
            configuration.fields.assist(Task(configuration.base, path, unwatched))
        return FinishedTraining(path, {}, [])
    with open_workspace(path, configuration, METRICS) as workspace:
        known = path / METRICS
        wait_for_everyone()
        if not known.exists():
            task = Task(configuration.base, path, progress or unwatched)
            workspace.finish_json(known, configuration.fields.train(task))
        metrics = workspace.read_json(known)
        return FinishedTraining(path, metrics, configuration.fields.tables(metrics))


def count_calls(configuration: TrainingConfiguration, path: Path) -> dict[str, Any]:
    """Return the account of what the training in the folder ``path`` would ask of language models, asking nothing."""
    return configuration.fields.count_calls(Task(configuration.base, path, unwatched))
