"""Kind ``policy``: a language model trained on the groups' rewards, its KL to the reference weighed by a strength."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

import numpy as np
from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.conversations import Text
from rlhf_game.files.documents import shown
from rlhf_game.files.prompt_rows import Prompts, prompts_of
from rlhf_game.files.sampled import sizes_and_weights
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.files.training_fields import Count, LoraSpec, ModelFields, PolicyTrainerFields, Seed
from rlhf_game.mechanism.arrays import Array
from rlhf_game.outcomes.finetuned.finetuned_training import in_unit, training_of
from rlhf_game.outcomes.run_config import GroupSpec
from rlhf_game.rewards.diagnostics import best_of_n_divergence
from rlhf_game.rewards.nested import BATCHES, refuse_rank
from rlhf_game.rewards.texts import call_reward
from rlhf_game.training.intervals import interval
from rlhf_game.training.kinds import MetricsTable, Task, TrainingFields
from rlhf_game.training.outputs import FEW, changed_outputs

if TYPE_CHECKING:
    from rlhf_game.training_backends import LanguageModel
    from rlhf_game.training_backends.trainers.policies import ElasticReset, PolicyTraining, TrainedPolicy

UNIT, NONNEGATIVE = (0.0, 1.0), (0.0, float("inf"))
"""What rewards, and divergences, keep to."""


@final
class ElasticResetSpec(Strict):
    """Resets to a moving average of the weights (Noukhovitch et al. 2023)."""

    every: Count
    """Steps from reset to reset."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    """Of the average: average <- (1 - decay) weights + decay average."""


@final
class JudgedSpec(Strict):
    """How the trained policy is judged: with responses to the first so many prompts, drawn anew."""

    prompts: Count = 64
    """How many."""
    per_prompt: Count = 8
    """Responses to each."""
    batch_size: Count = 64
    """Responses at a time."""


@final
@dataclass(frozen=True, eq=False)
class JudgedResponses:
    """What fresh responses of a policy, k to each of B prompts, are worth to the groups."""

    rewards: Array
    """[groups, B, k]."""
    log_ratios: Array
    """To the reference, [B, k]."""
    outputs: list[str]
    """The first response to each of the first few prompts."""


class PolicyFields(TrainingFields, PolicyTrainerFields, ModelFields, ABC):
    """A policy, the groups whose rewards it is trained on, and the trainer."""

    prompts: Prompts
    """What the policy is trained on: texts or lists of messages, or a file of them."""
    groups: Annotated[list[GroupSpec], Field(min_length=1)]
    """Whose rewards it is trained on."""
    weights: dict[Name, Positive] | None = None
    """mu of each group in a general affine maximiser, beside its size; 1 where it is not named."""
    strength: Positive
    """lambda, the price of leaving the reference, in units of reward."""
    lora: LoraSpec | None = None
    """An adapter; without it all weights are trained."""
    keeps_checkpoints: bool = False
    """Whether checkpoints stay when the training is done."""
    judged: JudgedSpec = JudgedSpec()
    """How the policy is judged."""
    seed: Seed = 0
    """Of everything that is random."""

    def files(self) -> Mapping[str, str]:
        """Return the prompts, and the files of the rewards."""
        named = {"prompts": self.prompts} if isinstance(self.prompts, str) else {}
        of_rewards = [(i, file) for i, group in enumerate(self.groups) for file in group.reward.files()]
        return {**named, **{f"groups[{i}].reward {k}": file for k, (i, file) in enumerate(of_rewards)}}

    def models(self) -> Mapping[str, str]:
        """Return the reference, and the models of the rewards."""
        of_rewards = [(i, model) for i, group in enumerate(self.groups) for model in group.reward.models()]
        return {"model": self.model, **{f"groups[{i}].reward {k}": model for k, (i, model) in enumerate(of_rewards)}}

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together."""
        names = [group.name for group in self.groups]
        for i, group in enumerate(self.groups):
            if group.name in names[:i]:
                raise InputError(f"{name}: groups[{i}].name: must differ from the others, found {shown(group.name)!r}")
            refuse_rank(group.reward, f"{name}: groups[{i}].reward", BATCHES, group.calibration)
        for group_name in self.weights or {}:
            if group_name not in names:
                raise InputError(f"{name}: weights.{shown(group_name)}: must be the name of a group, found none")
        try:
            self.training()
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def training(self) -> "PolicyTraining":
        """Return the training itself. Raises InputError where its fields do not go together."""
        sizes, multipliers = sizes_and_weights(self.groups, self.weights)
        shares = (multipliers * sizes).tolist()
        how = self.optimization(self.lora, self.seed, keeps_checkpoints=self.keeps_checkpoints)
        return training_of(self, self.reference, self.strength, shares, how, self.system)

    def train_into(
        self, place: Path, training: "PolicyTraining", reset: "ElasticReset | None", task: Task
    ) -> "TrainedPolicy":
        """Train, or go on with, the policy in the folder ``place``, and return it."""
        from rlhf_game.training_backends.trainers.policies import train_policy

        prompts, columns = prompts_of(self.prompts, task.base)
        return train_policy(
            training,
            prompts,
            in_unit(self.groups, task.base),
            place,
            columns=columns,
            base=task.base,
            watch=task.watch,
            callbacks=() if reset is None else (reset,),
        )

    def judged_prompts(self, task: Task) -> tuple[tuple[Text, ...], dict[str, tuple[Any, ...]]]:
        """Return the prompts that policies are judged on, and their further columns."""
        (prompts, columns), most = prompts_of(self.prompts, task.base), self.judged.prompts
        return prompts[:most], {key: values[:most] for key, values in columns.items()}

    def judge(self, model: "LanguageModel", reference: "LanguageModel", task: Task, who: str) -> JudgedResponses:
        """Return what fresh responses to the judged prompts are worth."""
        from rlhf_game.training_backends import log_probabilities, sample

        how, judged = self.training().sampling, self.judged
        (prompts, columns), each = self.judged_prompts(task), judged.per_prompt
        task.watch(f"draw from the {who}", 0, 1)
        drawn = sample(
            model, prompts, each, seed=self.seed, sampling=how, system=self.system, batch_size=judged.batch_size
        )
        asked = [prompt for prompt in prompts for _ in range(each)]
        texts = [one.text for row in drawn for one in row]
        given = {key: [value for value in values for _ in range(each)] for key, values in columns.items()}
        rewards = [call_reward(reward, asked, texts, given) for reward in in_unit(self.groups, task.base).values()]
        encoded = reference.encode_prompts(asked, self.system)
        ids = [one.token_ids for row in drawn for one in row]
        known = log_probabilities(reference, encoded, ids, sampling=how, batch_size=judged.batch_size)
        own = np.array([[one.log_probability for one in row] for row in drawn])
        stacked = np.stack(rewards).reshape(-1, len(prompts), each)
        return JudgedResponses(stacked, own - known.reshape(own.shape), [row[0].text for row in drawn[:FEW]])


@final
class PolicyConfig(PolicyFields):
    """A policy, as it is at the end of its training."""

    kind: Literal["policy"]
    elastic_reset: ElasticResetSpec | None = None
    """Reset the weights on the way."""

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together."""
        super().check(name)
        if self.elastic_reset is not None and self.trainer == "best_of_n":
            raise InputError(f"{name}: elastic_reset: must be left out with trainer best_of_n, found it")

    def train(self, task: Task) -> dict[str, Any]:
        """Train the policy, then judge it beside the reference."""
        return self._metrics(self._train(task), task)

    def assist(self, task: Task) -> None:
        """Train with the first process."""
        self._train(task)

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return each group's reward before and after, and how far the policy is from the reference."""
        header = ("group", "weight", "reference", "policy", "95 % interval")
        rows = tuple(
            (name, f"{one['weight']:g}", f"{one['reference']['estimate']:.3f}", *_shown(one["policy"]))
            for name, one in metrics["groups"].items()
        )
        kl = ("KL to the reference, nats a response", *_shown(metrics["sequence_kl"]))
        return [
            MetricsTable("Rewards in [0, 1], of fresh responses", header, rows),
            MetricsTable(
                f"The policy ({metrics['trainer']}: {metrics['faithfulness']})", ("", "estimate", "interval"), (kl,)
            ),
        ]

    def _train(self, task: Task) -> "TrainedPolicy":
        from rlhf_game.training_backends.trainers.policies import ElasticReset

        reset = self.elastic_reset
        made = None if reset is None else ElasticReset(reset.every, decay=reset.decay)
        return self.train_into(task.path, self.training(), made, task)

    def _metrics(self, trained: "TrainedPolicy", task: Task) -> dict[str, Any]:
        from rlhf_game.training_backends import load_reference
        from rlhf_game.training_backends.trainers.policies import load_policy

        training = self.training()
        reference = load_reference(self.reference, task.base)
        before = self.judge(reference, reference, task, "reference")
        after = self.judge(load_policy(task.path, device=self.device), reference, task, "policy")
        bound = {"kl_bound": best_of_n_divergence(self.num_generations)} if self.trainer == "best_of_n" else {}
        return {
            "kind": self.kind,
            "trainer": self.trainer,
            "strength": self.strength,
            "is_faithful": training.faithfulness.is_faithful,
            "faithfulness": training.faithfulness.reason,
            "training": {"steps": trained.steps, "tokens": trained.tokens},
            "groups": {
                group.name: {
                    "weight": training.weights[i],
                    "reference": mean_over_prompts(before.rewards[i], UNIT),
                    "policy": mean_over_prompts(after.rewards[i], UNIT),
                }
                for i, group in enumerate(self.groups)
            },
            "sequence_kl": mean_over_prompts(after.log_ratios, NONNEGATIVE),
            "outputs": changed_outputs(self.judged_prompts(task)[0], before.outputs, after.outputs),
            **bound,
        }


def mean_over_prompts(values: Array, known: tuple[float, float]) -> dict[str, Any]:
    """Return the mean of values [B, k] with an interval; draws of one prompt count together where there are several.

    known: what the mean keeps to.
    """
    return interval(values.mean(axis=1) if len(values) > 1 else values.ravel(), known)


def _shown(found: Mapping[str, float]) -> tuple[str, str]:
    return f"{found['estimate']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]"
