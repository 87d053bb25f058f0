"""What every ``kind`` of ``rlhf-game train`` has: a configuration that knows its files, its training and its tables."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from rlhf_game.chat import Ledger
from rlhf_game.files.run_folder import Progress
from rlhf_game.files.schema import Strict
from rlhf_game.files.workspace import Workspace


@final
@dataclass(frozen=True)
class Task:
    """A training to be done, or to be gone on with."""

    base: Path
    """The folder that relative paths of the configuration start from."""
    path: Path
    """The folder to fill, held by this process."""
    watch: Progress

    @cached_property
    def workspace(self) -> Workspace:
        """The folder as its files are known by their content."""
        return Workspace(self.path)


@final
@dataclass(frozen=True)
class MetricsTable:
    """Metrics as people read them: a header and rows of as many texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class TrainingFields(Strict, ABC):
    """The configuration of one kind; each is a final class of its own and a line in the registry."""

    kind: str

    def files(self) -> Mapping[str, str]:
        """Return the files whose content is part of the configuration, by the field that names them."""
        return {}

    def models(self) -> Mapping[str, str]:
        """Return the models whose weights are part of the configuration, by the field that names them."""
        return {}

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together. name: of the configuration, for messages."""
        return

    @abstractmethod
    def train(self, task: Task) -> dict[str, Any]:
        """Do what is left in the task's folder and return the metrics: what metrics.json holds.

        Raises InputError when data or configuration are wrong, RunError when the training fails.
        """

    def assist(self, task: Task) -> None:
        """Do the share of a process that is not a launcher's first: nothing, where one process is enough."""
        return

    def count_calls(self, task: Task) -> dict[str, Any]:
        """Return the account of what language models would be asked; nothing is asked or written."""
        return Ledger(None).report()

    @abstractmethod
    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what people read of the metrics."""
