"""Kind ``elastic_reset``: a policy trained with Elastic Reset, and its reward against its drift along the training."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.documents import lines_of, read_text
from rlhf_game.files.schema import Name, Positive
from rlhf_game.files.training_fields import Count
from rlhf_game.training.kinds import MetricsTable, Task
from rlhf_game.training.outputs import changed_outputs
from rlhf_game.training.recipes.policy import NONNEGATIVE, UNIT, PolicyFields, mean_over_prompts

if TYPE_CHECKING:
    from rlhf_game.training_backends import LanguageModel
    from rlhf_game.training_backends.trainers.policies import TrainedPolicy

OWN, PLAIN = "elastic_reset", "plain"
"""The training with resets, and the same one without."""


@final
class ElasticResetConfig(PolicyFields):
    """A policy, its resets, and what is judged at its checkpoints; defaults are the paper's where it has one."""

    kind: Literal["elastic_reset"]
    strength: Positive = 0.001
    """The paper's small coefficient of the KL, for PPO on one reward."""
    every: Count
    """Steps from reset to reset."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Of the average: average <- (1 - decay) weights + decay average."""
    place: Literal["cpu", "model"] = "cpu"
    """Where the average is kept: on the CPU, or on the model's device."""
    compare: bool = False
    """Train without resets as well, with the same seed and prompts."""
    texts: Name | None = None
    """A .txt file of held-out text, one a line, on which the perplexity is measured."""

    def files(self) -> Mapping[str, str]:
        """Return the files of a policy, and the texts."""
        return {**super().files(), **({} if self.texts is None else {"texts": self.texts})}

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together."""
        super().check(name)
        if self.trainer == "best_of_n":
            raise InputError(f"{name}: trainer: must be rloo, grpo or ppo to be reset, found best_of_n")
        if self.every >= self.steps:
            raise InputError(
                f"{name}: every: must be less than steps = {self.steps} (the last step is not reset), found "
                f"{self.every}"
            )
        updates = self.training().ppo_settings.epochs if self.trainer == "ppo" else 1
        if self.every % updates:
            raise InputError(
                f"{name}: every: must be a multiple of ppo.epochs = {updates} (a reset lies between generations), "
                f"found {self.every}"
            )

    def train(self, task: Task) -> dict[str, Any]:
        """Train, then judge every checkpoint."""
        trained = self._train(task)
        runs = {label: self._run(label, done, task) for label, done in trained.items()}
        first, *_, last = runs[OWN]["points"]
        if not self.keeps_checkpoints:
            for done in trained.values():
                shutil.rmtree(done.folder / "checkpoints", ignore_errors=True)
        from rlhf_game.training_backends.trainers.policies import resets

        return {
            "kind": self.kind,
            "trainer": self.trainer,
            "strength": self.strength,
            "every": self.every,
            "decay": self.decay,
            "resets": resets(self.every, self.steps),
            "runs": runs,
            "outputs": changed_outputs(self.judged_prompts(task)[0], first["outputs"], last["outputs"]),
        }

    def assist(self, task: Task) -> None:
        """Train with the first process."""
        self._train(task)

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return each training's points, those that no other point of the training is better than marked."""
        header = ("step", "reward", "KL, nats", "perplexity", "best")
        found = []
        for label, run in metrics["runs"].items():
            rows = tuple(
                (
                    f"{point['step']}{' (reset)' if point['after_reset'] else ''}",
                    _shown(point["reward"]),
                    _shown(point["sequence_kl"]),
                    "" if point["perplexity"] is None else f"{point['perplexity']:.3f}",
                    "*" if point["on_front"] else "",
                )
                for point in run["points"]
            )
            found.append(MetricsTable(f"{label}: reward against drift", header, rows))
        return found

    def _train(self, task: Task) -> dict[str, "TrainedPolicy"]:
        from rlhf_game.training_backends.trainers.policies import ElasticReset

        training = self.training()
        training = replace(training, optimization=replace(training.optimization, keeps_checkpoints=True))
        reset = ElasticReset(self.every, decay=self.decay, place=self.place)
        found = {OWN: self.train_into(task.path, training, reset, task)}
        if self.compare:
            found[PLAIN] = self.train_into(task.path / PLAIN, training, None, task)
        return found

    def _run(self, label: str, done: "TrainedPolicy", task: Task) -> dict[str, Any]:
        steps = [0, *range(self.save_steps, self.steps, self.save_steps), self.steps]
        points = [self._point(label, done.folder, step, task) for step in steps]
        best = front([(point["reward"]["estimate"], point["sequence_kl"]["estimate"]) for point in points])
        return {
            "training": {"steps": done.steps, "tokens": done.tokens},
            "points": [{**point, "on_front": k in best} for k, point in enumerate(points)],
        }

    def _point(self, label: str, folder: Path, step: int, task: Task) -> dict[str, Any]:
        """Return what the policy was after this step; found once, and kept beside the policy."""
        known = folder / "points" / f"step-{step}.json"
        return dict(task.workspace.kept(known, lambda: self._measured(label, folder, step, task)))

    def _measured(self, label: str, folder: Path, step: int, task: Task) -> dict[str, Any]:
        from rlhf_game.training_backends import load_reference
        from rlhf_game.training_backends.trainers.policies import load_policy, resets

        reference = load_reference(self.reference, task.base)
        place = folder if step == self.steps else folder / "checkpoints" / f"checkpoint-{step}"
        policy = reference if step == 0 else load_policy(place, device=self.device)
        judged = self.judge(policy, reference, task, f"policy ({label}, step {step})")
        weights = np.array(self.training().weights)
        return {
            "step": step,
            "after_reset": label == OWN and step in resets(self.every, self.steps),
            "reward": mean_over_prompts(np.tensordot(weights / weights.sum(), judged.rewards, axes=1), UNIT),
            "groups": {
                group.name: mean_over_prompts(one, UNIT) for group, one in zip(self.groups, judged.rewards, strict=True)
            },
            "sequence_kl": mean_over_prompts(judged.log_ratios, NONNEGATIVE),
            "perplexity": self._perplexity(policy, task.base),
            "outputs": judged.outputs,
        }

    def _perplexity(self, policy: "LanguageModel", base: Path) -> float | None:
        """Return exp(nats per token) of the held-out texts."""
        if self.texts is None:
            return None
        from rlhf_game.training_backends.trainers.policies import cost_of_texts

        nats, tokens = cost_of_texts(policy, [line for line in lines_of(read_text(base / self.texts)) if line.strip()])
        return float(np.exp(nats.sum() / tokens.sum()))


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the Pareto front: the places of the points (reward, drift) that no other point beats.

    A point is beaten by another of at least its reward and at most its drift that is not the same.
    """
    return {
        k
        for k, (reward, drift) in enumerate(points)
        if not any(a >= reward and b <= drift and (a, b) != (reward, drift) for a, b in points)
    }


def _shown(found: Mapping[str, float]) -> str:
    return f"{found['estimate']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
