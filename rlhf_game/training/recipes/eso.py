"""Kind ``eso``: a policy trained on demonstrations by SFT, with evolution strategy optimisation in the last epochs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import BeforeValidator, Field

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text, as_called
from rlhf_game.files.hints import OrText
from rlhf_game.files.schema import Nonnegative, Positive
from rlhf_game.files.training_fields import Count, LoraSpec, ModelFields, OptimizationFields, Seed
from rlhf_game.mechanism.arrays import Array
from rlhf_game.optimization import ESO, Schedule
from rlhf_game.rewards.nested import BATCHES, refuse_rank
from rlhf_game.rewards.overlap import RougeL, rouge
from rlhf_game.rewards.reward_specs import SomeReward
from rlhf_game.rewards.texts import TextReward, call_reward
from rlhf_game.training.demonstrations import Demonstrations, DemonstrationSpec, read_demonstrations
from rlhf_game.training.intervals import interval
from rlhf_game.training.kinds import MetricsTable, Task, TrainingFields
from rlhf_game.training.outputs import changed_outputs

if TYPE_CHECKING:
    from rlhf_game.training_backends import LanguageModel
    from rlhf_game.training_backends.trainers.policies import EsoTraining, TrainedEso

SFT = "sft"
"""The folder of the same training without ESO."""


def _file_alone(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


@final
class EsoConfig(TrainingFields, OptimizationFields, ModelFields):
    """A policy, the demonstrations it is trained on, and ESO's settings; defaults are the paper's where it has one."""

    kind: Literal["eso"]
    data: Annotated[DemonstrationSpec, BeforeValidator(_file_alone), OrText()]
    """The demonstrations."""
    reward: SomeReward | None = None
    """Of a sample; None: ROUGE-L with the row's completion. Rewards are told that column as ``completion``."""
    weight: Nonnegative = 0.05
    """Of ESO's loss beside the SFT loss."""
    temperatures: Annotated[list[Positive], Field(min_length=2)] = [0.5, 1.0, 1.5, 2.0]
    """One sample of each row is drawn at each."""
    epochs: Count = 5
    """Passes over the rows."""
    eso_epochs: Count = 1
    """The last so many have ESO's loss."""
    lora: LoraSpec | None = None
    """An adapter; without it all weights are trained."""
    learning_rate: Positive = ESO.learning_rate
    schedule: Schedule = ESO.schedule
    weight_decay: Nonnegative = ESO.weight_decay
    save_steps: Count = ESO.save_steps
    max_length: Count = 512
    """Tokens of prompt and completion; longer rows are left out, and counted."""
    max_new_tokens: Count = 128
    """The most tokens of a sample."""
    keeps_checkpoints: bool = False
    """Whether checkpoints stay when the training is done."""
    compare: bool = False
    """Train by SFT alone as well, with the same rows in the same order."""
    judged: Count = 256
    """Held-out rows at most on which policies are judged, with one sample each."""
    seed: Seed = 0
    """Of everything that is random."""

    def files(self) -> Mapping[str, str]:
        """Return the demonstrations, and the files of the reward."""
        named = {} if self.reward is None else {f"reward {k}": file for k, file in enumerate(self.reward.files())}
        return {"data": self.data.file, **named}

    def models(self) -> Mapping[str, str]:
        """Return the model, and those of the reward."""
        named = {} if self.reward is None else {f"reward {k}": one for k, one in enumerate(self.reward.models())}
        return {"model": self.model, **named}

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together."""
        if self.eso_epochs > self.epochs:
            raise InputError(f"{name}: eso_epochs: must be at most epochs = {self.epochs}, found {self.eso_epochs}")
        if self.lora is not None and self.lora.dropout > 0:
            raise InputError(
                f"{name}: lora.dropout: must be 0 (what is sampled is what is trained), found {self.lora.dropout}"
            )
        if self.reward is not None:
            refuse_rank(self.reward, f"{name}: reward", BATCHES)

    def train(self, task: Task) -> dict[str, Any]:
        """Train, then judge on held-out rows."""
        rows = read_demonstrations(self.data, task.base, self.seed)
        trained = self._train(rows, task)
        return self._metrics(rows, trained, task)

    def assist(self, task: Task) -> None:
        """Train with the first process."""
        self._train(read_demonstrations(self.data, task.base, self.seed), task)

    def training(self, weight: float) -> "EsoTraining":
        """Return the training itself, with this weight of ESO."""
        from rlhf_game.training_backends.trainers.policies import EsoTraining

        return EsoTraining(
            self.reference,
            weight,
            tuple(self.temperatures),
            self.eso_epochs,
            self.optimization(self.lora, self.seed, keeps_checkpoints=self.keeps_checkpoints),
            max_length=self.max_length,
            max_new_tokens=self.max_new_tokens,
            system=self.system,
        )

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what each policy is worth on held-out rows."""
        header = ("policy", "ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE-L greedy", "reward", "nats per token")
        keys = ("rouge1", "rouge2", "rougeL", "greedy_rougeL", "reward", "nats_per_token")
        rows = tuple((name, *(_shown(one[key]) for key in keys)) for name, one in metrics["policies"].items())
        title = f"On {metrics['rows']['test']} held-out rows, one sample each at temperature 1"
        found = [MetricsTable(title, header, rows)]
        if "gain" in metrics:
            gains = (("ROUGE-L", _shown(metrics["gain"]["rougeL"])), ("reward", _shown(metrics["gain"]["reward"])))
            found.append(MetricsTable("What ESO adds to SFT, row by row", ("of", "gain"), gains))
        return found

    def _places(self) -> dict[str, tuple[str, float]]:
        """Return of each training its folder and the weight of ESO."""
        own = {"eso": (".", self.weight)}
        return {SFT: (SFT, 0.0), **own} if self.compare else own

    def _train(self, rows: Demonstrations, task: Task) -> dict[str, "TrainedEso"]:
        from rlhf_game.training_backends.trainers.policies import train_eso

        found = {}
        for label, (place, weight) in self._places().items():

            def watch_label(what: str, done: int, total: int, label: str = label) -> None:
                task.watch(f"{what} ({label})", done, total)

            found[label] = train_eso(
                self.training(weight), rows.training, self._reward(task.base), task.path / place, base=task.base,
                watch=watch_label,
            )  # fmt: skip
        return found

    def _reward(self, base: Path) -> TextReward:
        return RougeL() if self.reward is None else self.reward.build(base)

    def _metrics(self, rows: Demonstrations, trained: dict[str, "TrainedEso"], task: Task) -> dict[str, Any]:
        from rlhf_game.training_backends import load_reference
        from rlhf_game.training_backends.trainers.policies import load_policy

        test = rows.test[: self.judged]
        start = load_reference(self.reference, task.base)
        judged, outputs = {}, {}
        outputs["start"], judged["start"] = self._judge(start, test, task, "start")
        for label, done in trained.items():
            policy = load_policy(done.folder, device=self.device)
            outputs[label], judged[label] = self._judge(policy, test, task, label)
        own = trained["eso"]
        metrics: dict[str, Any] = {
            "kind": self.kind,
            "weight": self.weight,
            "training": {"steps": own.steps, "first_eso_step": own.first_eso_step + 1, "tokens": own.tokens},
            "rows": {"training": len(rows.training), "dropped": own.dropped, "test": len(test)},
            "policies": {
                label: {name: interval(values) for name, values in one.items()} for label, one in judged.items()
            },
            "outputs": changed_outputs([prompt for prompt, _ in test], outputs["start"], outputs["eso"]),
        }
        if SFT in judged:
            metrics["gain"] = {
                name: interval(judged["eso"][name] - judged[SFT][name])
                for name in ("rougeL", "greedy_rougeL", "reward")
            }
        return metrics

    def _judge(
        self, model: "LanguageModel", test: tuple[tuple[Text, Text], ...], task: Task, label: str
    ) -> tuple[list[str], dict[str, Array]]:
        """Return what a policy answers to the rows, and what it is worth on each row, [n] each."""
        from rlhf_game.training_backends.trainers.policies import judge_on_demonstrations

        task.watch(f"judge the policy ({label})", 0, 1)
        prompts, completions = [prompt for prompt, _ in test], [completion for _, completion in test]
        drawn, greedy, costs = judge_on_demonstrations(
            model, test, max_new_tokens=self.max_new_tokens, seed=self.seed, system=self.system
        )
        _, wanted = as_called(prompts, completions)
        rewards = call_reward(self._reward(task.base), prompts, drawn, {"completion": wanted})
        words = [str(completion) for completion in completions]
        return drawn, {
            **rouge(drawn, words),
            "greedy_rougeL": rouge(greedy, words)["rougeL"],
            "reward": rewards,
            "nats_per_token": costs,
        }


def _shown(found: Any) -> str:
    value = (found["low"] + found["high"]) / 2
    return f"{value:.4f} ± {(found['high'] - found['low']) / 2:.4f}"
