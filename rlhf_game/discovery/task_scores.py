"""What a loss is worth: trained with on small tasks whose every response is enumerated."""

from collections.abc import Sequence
from functools import cached_property
from statistics import fmean
from typing import Any, final

from rlhf_game.discovery.archive import Entry, ExpressionProposal
from rlhf_game.discovery.discovery_config import DiscoveryConfig
from rlhf_game.discovery.expression_loss import loss_of
from rlhf_game.discovery.expressions import parse, write
from rlhf_game.errors import InputError, RunError

ALIKE = 1e-6
"""Of two losses' slopes at the probes, the largest 1, the largest difference at which they count as the same."""


@final
class TaskScorer:
    """The tasks of a configuration. Candidates are scored on some, and compared with known losses on others."""

    def __init__(self, fields: DiscoveryConfig) -> None:
        self._fields = fields

    @cached_property
    def _tasks(self) -> tuple[list[Any], list[Any]]:
        from rlhf_game.training_backends.trainers.preferences import ExactTask, TaskSettings

        spec = self._fields.tasks
        settings = TaskSettings(**spec.model_dump(exclude={"count", "held_out"}))
        first = self._fields.seed * 1_000_003
        tasks = [ExactTask(settings, first + k) for k in range(spec.count + spec.held_out)]
        return tasks[: spec.count], tasks[spec.count :]

    def judge(self, proposal: ExpressionProposal, generation: int, index: int, before: Sequence[Entry]) -> Entry:
        """Return the entry of a candidate: its score, or the reason why it has none. before: entries to differ from."""
        from rlhf_game.training_backends.trainers.preferences import check_trainable

        text, slopes = proposal.text, tuple[float, ...]()
        try:
            expression = parse(proposal.text, self._fields.limits.limits())
            text = write(expression)
            loss = loss_of(expression)
            slopes = check_trainable(loss, self._fields.tasks.beta)
            _check_new(slopes, before)
            found = self._train(loss, self._tasks[0])
        except (InputError, RunError) as error:
            return Entry(generation, index, text, proposal.origin, reason=str(error))
        return Entry(generation, index, text, proposal.origin, slopes=slopes, **found)

    def baseline(self, name: str, *, held_out: bool) -> dict[str, Any]:
        """Return what a known loss is worth. Raises InputError when there is none, or it needs further columns."""
        from rlhf_game.training_backends.trainers.preferences import find_loss

        loss = find_loss(name)
        if loss.columns:
            raise InputError(f"baselines: must need no column of the pairs, found {name} with {loss.columns[0]}")
        return {"formula": loss.formula, **self._train(loss, self._tasks[held_out])}

    def held_out(self, text: str) -> dict[str, Any]:
        """Return what an expression is worth on the tasks that no candidate was scored on."""
        return self._train(loss_of(parse(text, self._fields.limits.limits())), self._tasks[1])

    def _train(self, loss: Any, tasks: Sequence[Any]) -> dict[str, Any]:
        found = [task.train(loss, seconds=self._fields.limits.seconds) for task in tasks]
        return {
            "score": fmean(worth.score for worth in found),
            "scores": tuple(worth.score for worth in found),
            "reward": fmean(worth.reward for worth in found),
            "kl": fmean(worth.kl for worth in found),
        }


def _check_new(slopes: Sequence[float], before: Sequence[Entry]) -> None:
    for entry in before:
        if entry.slopes and max(abs(a - b) for a, b in zip(slopes, entry.slopes, strict=True)) <= ALIKE:
            raise InputError(f"must be a new function, found the slopes of {entry.name} up to a factor")
