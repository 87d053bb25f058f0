"""Kind ``seft``: a reviser that learns when to revise, and a policy that learns from revised responses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.files.prompt_rows import Prompts
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.files.training_fields import Count
from rlhf_game.registry import recipe
from rlhf_game.rewards.nested import BATCHES, refuse_rank
from rlhf_game.rewards.reward_specs import SomeReward
from rlhf_game.training.fine_tuning import EvolutionTraining, ReviserTraining
from rlhf_game.training.intervals import shown_number
from rlhf_game.training.kinds import MetricsTable, Task
from rlhf_game.training.training_data import PreferenceFields

if TYPE_CHECKING:
    from rlhf_game.training_backends import Sampling


@final
class LabelSpec(Strict):
    """What a revision's gain with the critic, in the critic's unit, says about how much to revise."""

    minor: float = 0.3
    """Above it (and not above major) [Minor Revise]; not above it [No Revise]."""
    major: Annotated[float, Field(validate_default=True)] = 1.0
    """Above it [Major Revise]."""
    kept: Annotated[float, Field(ge=0, le=1)] = 0.8
    """The probability with which a label other than [Major Revise] stays what it is."""

    @field_validator("major")
    @classmethod
    def _in_order(cls, major: float, info: Any) -> float:
        if not major >= info.data.get("minor", major):
            raise PydanticCustomError("in_order", "must be at least minor")
        return major


@final
class DrawSpec(Strict):
    """How responses and revisions are drawn; the paper does not say."""

    max_new_tokens: Count = 256
    """The most tokens of a response."""
    temperature: Positive = 0.7
    """Of responses."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Only the likeliest tokens that together have this probability."""

    def sampling(self) -> "Sampling":
        """Return it."""
        from rlhf_game.training_backends import Sampling

        return Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)


@final
class SeftConfig(PreferenceFields):
    """The preferences that a reviser learns from, the critic, and the policy that is to evolve."""

    kind: Literal["seft"]
    model: Name
    """The policy before the training."""
    reviser: Name | None = None
    """The language model that becomes the reviser; the policy's own unless named."""
    generator: Name | None = None
    """Writes the responses of the external evolution; what the reviser was made of unless named."""
    critic: SomeReward
    """The reward that says what a revision gains."""
    prompts: Prompts | None = None
    """Of both evolutions; those of the training pairs unless given."""
    warmup_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Of the training pairs, for the preliminary reviser; the others are for the adaptive one."""
    labels: LabelSpec = LabelSpec()
    """What a gain says about how much to revise."""
    ranks: Annotated[int, Field(ge=1, le=100)] = 7
    """Groups of like initial quality, by the critic, in which the revisers are judged."""
    draw: DrawSpec = DrawSpec()
    """How responses and revisions are drawn."""
    reviser_training: ReviserTraining = ReviserTraining()
    """How the revisers learn."""
    evolution: list[Literal["internal", "external"]] = ["internal", "external"]
    """internal: from the policy's own responses; external: from those of the generator; in this order."""
    evolution_training: EvolutionTraining = EvolutionTraining()
    """How the policy learns from revised responses."""

    @property
    def reviser_model(self) -> str:
        """What the reviser is made of."""
        return self.reviser or self.model

    def files(self) -> Mapping[str, str]:
        """Return the files of the data, of the prompts and of the critic."""
        prompts = {"prompts": self.prompts} if isinstance(self.prompts, str) else {}
        return {**super().files(), **prompts, **{f"critic ({file})": file for file in self.critic.files()}}

    def models(self) -> Mapping[str, str]:
        """Return the policy, the reviser, the generator and the critic's models."""
        named = {"model": self.model, "reviser": self.reviser, "generator": self.generator}
        critic = {f"critic ({model})": model for model in self.critic.models()}
        return {**{field: model for field, model in named.items() if model is not None}, **critic}

    def check(self, name: str) -> None:
        """Raise InputError when the critic's scores of different responses cannot be compared."""
        super().check(name)
        refuse_rank(self.critic, f"{name}: critic", BATCHES)

    def train(self, task: Task) -> dict[str, Any]:
        """Do what is left of the reviser's training and of the evolutions."""
        return recipe("seft")(self, task)

    def tables(self, metrics: dict[str, Any]) -> list[MetricsTable]:
        """Return what the revisers do by initial quality, and what the policy is worth after each evolution."""
        heads = (
            "reviser", "on", "rank", "responses", "critic before", "gain", "improved", "worsened", "major", "minor",
            "none",
        )  # fmt: skip
        rows = tuple(
            (
                reviser, subset, str(row["rank"]), str(row["responses"]), f"{row['original']:.3f}",
                f"{row['benefit']:+.3f}", shown_number(row["improved"]), shown_number(row["worsened"]),
                *(shown_number(row["labels"].get(label)) for label in ("major", "minor", "none")),
            )
            for reviser, subsets in metrics["revisers"].items()
            for subset, by_rank in subsets.items()
            for row in by_rank
        )  # fmt: skip
        policies = tuple(
            (name, f"{one['critic']:.3f}", shown_number(one["standard_error"]), f"{one['mean_length']:.0f}")
            for name, one in metrics["policies"].items()
        )
        return [
            MetricsTable("Revisers on held-out responses, by initial quality (rank 0 is the best)", heads, rows),
            MetricsTable("The policy on held-out prompts", ("after", "critic", "standard error", "length"), policies),
        ]
