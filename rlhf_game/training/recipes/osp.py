"""Kind ``osp``: a policy that learns from pairs of its own responses, judged by what it was before."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import Field

from rlhf_game.errors import InputError
from rlhf_game.files.prompt_rows import PromptRow
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.files.training_fields import Count, LoraSpec, ModelFields, OptimizationFields, Seed
from rlhf_game.optimization import ROUNDS
from rlhf_game.registry import recipe
from rlhf_game.rewards.nested import BATCHES, refuse_rank
from rlhf_game.rewards.reward_specs import SomeReward
from rlhf_game.training.fine_tuning import JudgeTraining
from rlhf_game.training.intervals import shown_number
from rlhf_game.training.kinds import MetricsTable, Task, TrainingFields
from rlhf_game.training.training_data import SomeData

if TYPE_CHECKING:
    from rlhf_game.training_backends import Sampling
    from rlhf_game.training_backends.trainers.preferences import PreferenceTraining
    from rlhf_game.training_backends.trainers.self_training import JudgePrompt


@final
class SelfJudgeSpec(Strict):
    """What says which of two responses is better; the model itself, as it was before the training, unless named."""

    model: Name | None = None
    """Another model that judges."""
    instruction: Name | None = None
    """With {prompt}, {first} and {second}."""
    lead: str = "RESPONSE "
    """What is before the letter of its choice."""
    answers: Annotated[list[Name], Field(min_length=2, max_length=2)] = ["A", "B"]
    """The letters of the first and of the second response."""
    augment: SomeData | None = None
    """Human preferences that it first learns to judge by, half of them with swapped positions."""
    training: JudgeTraining = JudgeTraining()
    """How it learns to judge, with ``augment``."""

    def prompt(self) -> "JudgePrompt":
        """Return what it is asked. Raises InputError when a part is missing."""
        from rlhf_game.training_backends.trainers.self_training import JudgePrompt

        first, second = self.answers
        given = {} if self.instruction is None else {"instruction": self.instruction}
        return JudgePrompt(**given, lead=self.lead, answers=(first, second))


@final
class OspConfig(TrainingFields, OptimizationFields, ModelFields):
    """Rounds of drawing, pairing, judging and training; the reference and the judge stay what they were."""

    kind: Literal["osp"]
    prompts: Name | Annotated[list[PromptRow], Field(min_length=2)]
    """What the policy answers: a file, or texts."""
    rounds: Count = 4
    """How often in one pass through the prompts the policy is drawn from anew."""
    passes: Count = 1
    """Through all prompts, of ``rounds`` rounds each."""
    responses: Annotated[int, Field(ge=2, le=1000)] = 7
    """K, to each prompt."""
    max_new_tokens: Count = 128
    """The most tokens of a response."""
    temperature: Positive = 0.7
    """Of responses."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Only the likeliest tokens that together have this probability."""
    pairing: Literal["ranked", "random"] = "ranked"
    """ranked: by the judge's order; random: to compare with."""
    labels: Literal["soft", "hard"] = "soft"
    """hard: strengths are rounded to 0 and 1, which is online DPO."""
    judge: SelfJudgeSpec = SelfJudgeSpec()
    """What says which of two responses is better."""
    beta: Positive = 0.1
    """lambda: the optimum is reference * exp(reward / beta)."""
    lora: LoraSpec | None = None
    """An adapter; without it all weights are trained."""
    learning_rate: Positive = ROUNDS.learning_rate
    max_length: Count = 512
    """Tokens of prompt and response; longer pairs are left out, and counted."""
    gold: SomeReward | None = None
    """A reward that nothing is trained on, of every round's responses."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the prompts, held out to compare the policy with the reference on."""
    test_responses: Count = 4
    """Responses to each of those."""
    seed: Seed = 0
    """Of everything that is random."""

    def files(self) -> Mapping[str, str]:
        """Return the prompts, the judge's preferences and the gold reward's files."""
        found = {} if isinstance(self.prompts, list) else {"prompts": self.prompts}
        if self.judge.augment is not None and self.judge.augment.file is not None:
            found["judge.augment"] = self.judge.augment.file
        return {**found, **{f"gold ({file})": file for file in (self.gold.files() if self.gold else ())}}

    def models(self) -> Mapping[str, str]:
        """Return the policy, the judge and the gold reward's models."""
        judge = {} if self.judge.model is None else {"judge.model": self.judge.model}
        gold = {f"gold ({model})": model for model in (self.gold.models() if self.gold else ())}
        return {"model": self.model, **judge, **gold}

    def check(self, name: str) -> None:
        """Raise InputError when fields do not go together."""
        if self.judge.augment is None and self.judge.training != JudgeTraining():
            raise InputError(f"{name}: judge.training: must come with judge.augment, found none")
        if self.gold is not None:
            refuse_rank(self.gold, f"{name}: gold", BATCHES)

    def train(self, task: Task) -> dict[str, Any]:
        """Do what is left of the rounds, then compare the policy with the reference."""
        return recipe("osp")(self, task)

    def sampling(self) -> "Sampling":
        """Return how responses are drawn."""
        from rlhf_game.training_backends import Sampling

        return Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)

    def training(self, start: str | None, seed: int) -> "PreferenceTraining":
        """Return the training of one round. start: the folder of the round before."""
        from rlhf_game.training_backends.trainers.preferences import PreferenceTraining

        return PreferenceTraining(
            self.reference,
            "spce",
            self.beta,
            self.optimization(self.lora, seed),
            start=start,
            max_length=self.max_length,
            system=self.system,
        )

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what happened in each round, what the judge is worth, and what came out."""
        rounds = tuple(
            (
                str(k), str(one["pairs"]), f"{one['strength']['mean']:.3f}", f"{one['position_bias']:+.3f}",
                f"{one['consistency']:.2f}", shown_number(one["length_bias"]["correlation"]),
                f"{one['mean_length']:.0f}", f"{one['training']['last_loss']:.3f}", shown_number(one.get("gold")),
            )
            for k, one in enumerate(metrics["rounds"])
        )  # fmt: skip
        heads = (
            "round", "pairs", "mean strength", "position bias", "consistent", "length bias", "mean length", "last loss",
            "gold",
        )  # fmt: skip
        final = metrics["final"]
        kl = final["sequence_kl"]
        gold = [shown_number(final.get("gold", {}).get(name)) for name in ("reference", "policy")]
        lengths = [f"{final['mean_length'][name]:.0f}" for name in ("reference", "policy")]
        compared = (f"{final['preferred']:.3f}", f"{kl['estimate']:.3f}", *lengths, *gold)
        found = [MetricsTable("Rounds: what was drawn and judged", heads, rounds)]
        if "judge" in metrics:
            rows = tuple(
                (name, f"{one['accuracy']:.3f}", f"{one['position_bias']:+.3f}", f"{one['consistency']:.2f}")
                for name, one in metrics["judge"].items()
            )
            found.append(
                MetricsTable(
                    "The judge on held-out preferences", ("judge", "accuracy", "position bias", "consistent"), rows
                )
            )
        ends = ("preferred by the judge", "KL, nats", "length before", "length after", "gold before", "gold after")
        return [*found, MetricsTable("The policy against the reference, on held-out prompts", ends, (compared,))]
