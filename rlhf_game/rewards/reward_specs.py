"""What a configuration may say about one group's reward."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.chat.chat_specs import GradingFields, KeyName, Retries, WebAddress, Workers
from rlhf_game.files.hints import OrText, ShortForms
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.rewards.aggregates import Aggregate, Mean, MeanMinusDeviation, Median, Minimum, UncertaintyWeighted
from rlhf_game.rewards.calibration import Affine, Calibration, Logistic
from rlhf_game.rewards.calibration_specs import CalibrationSpec, SomeCalibration, tag_of
from rlhf_game.rewards.ensemble import Ensemble
from rlhf_game.rewards.lexical import Brevity, Clean, Readability, Sentiment
from rlhf_game.rewards.mix import Mix, MixPart
from rlhf_game.rewards.nested import Nested, RewardSpec
from rlhf_game.rewards.neural import EMBEDDER, ImplicitReward, RewardModel, Similarity, Truncate, WeightAverage
from rlhf_game.rewards.own_rewards import ColumnSpec, PythonSpec, TableSpec
from rlhf_game.rewards.remote import Judge, ScoreEndpoint
from rlhf_game.rewards.texts import TextReward


@final
class SentimentSpec(RewardSpec):
    """VADER's compound score, from -1 to 1."""

    kind: Literal["sentiment"] = "sentiment"

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Sentiment()

    def natural(self) -> Calibration:
        """Return the map of the whole range."""
        return Affine(-1.0, 1.0)


@final
class ReadabilitySpec(RewardSpec):
    """Flesch reading ease."""

    kind: Literal["readability"] = "readability"

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Readability()

    def natural(self) -> Calibration:
        """Return the map of the usual range."""
        return Affine(0.0, 100.0)


@final
class BrevitySpec(RewardSpec):
    """1 for no word, 0 at ``words`` words and more."""

    kind: Literal["brevity"] = "brevity"
    words: Annotated[int, Field(ge=1)] = 100
    """From how many words on the score is 0."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Brevity(self.words)


@final
class CleanSpec(RewardSpec):
    """exp(-number of profane words)."""

    kind: Literal["clean"] = "clean"

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Clean()


@final
class SimilaritySpec(RewardSpec):
    """Cosine to a text in a sentence embedding."""

    kind: Literal["similarity"] = "similarity"
    text: Name
    """What responses are compared with."""
    model: Name = EMBEDDER
    """A sentence-embedding model: a folder, an installed model or a name on the hub."""
    revision: Name | None = None
    """The commit on the hub."""
    truncate: Truncate | None = None
    """Which tokens are read of texts that are too long; without it such a text is an error."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Similarity(self.text, self.model, self.revision, base, self.truncate)

    def natural(self) -> Calibration:
        """Return the map of the positive range."""
        return Affine(0.0, 1.0)

    def own_models(self) -> tuple[str, ...]:
        """Return the embedder."""
        return (self.model,)


@final
class RewardModelSpec(RewardSpec):
    """A transformers sequence-classification model with one logit."""

    kind: Literal["hf"] = "hf"
    model: Name
    """A folder, or a name on the hub."""
    revision: Name | None = None
    """The commit on the hub."""
    truncate: Truncate | None = None
    """Which tokens are read of texts that are too long; without it such a text is an error."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return RewardModel(self.model, self.revision, base, truncate=self.truncate)

    def natural(self) -> Calibration:
        """Return the Bradley-Terry map: a logit's probability of being preferred to a response of logit 0."""
        return Logistic(0.0, 1.0)

    def own_models(self) -> tuple[str, ...]:
        """Return the model."""
        return (self.model,)


@final
class WarmSpec(RewardSpec):
    """WARM: one network with the average of the members' weights."""

    kind: Literal["warm"] = "warm"
    members: Annotated[list[Name], Field(min_length=1)]
    """Folders of fine-tuned networks from one start."""
    spread: bool = False
    """Whether the members score the responses as well, for the spread of the bill over them."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return WeightAverage(tuple(self.members), base, self.spread)

    def natural(self) -> Calibration:
        """Return the Bradley-Terry map."""
        return Logistic(0.0, 1.0)

    def own_models(self) -> tuple[str, ...]:
        """Return the members."""
        return tuple(self.members)


@final
class ImplicitSpec(RewardSpec):
    """The reward that a policy trained on preferences is optimal for."""

    kind: Literal["implicit"] = "implicit"
    folder: Name
    """Where ``rlhf-game train`` with kind preference, or OSP, left the policy."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return ImplicitReward(self.folder, base)

    def natural(self) -> Calibration:
        """Return the Bradley-Terry map: 0 is what the reference would say."""
        return Logistic(0.0, 1.0)

    def own_models(self) -> tuple[str, ...]:
        """Return the policy."""
        return (self.folder,)


@final
class EndpointSpec(RewardSpec):
    """Scores from an HTTP endpoint."""

    kind: Literal["endpoint"] = "endpoint"
    url: WebAddress
    """Where scores are asked for."""
    timeout: Positive = 30.0
    """Seconds until a request is given up."""
    retries: Retries = 4
    """How often a request that failed is sent again."""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Responses in one request."""
    workers: Workers = 4
    """Requests at the same time."""
    key_env: KeyName | None = None
    """The environment variable that holds the key."""
    is_identified: bool = False
    """Whether its scores can be compared between prompts."""
    version: Name | None = None
    """Of what answers there; without one, no other run takes what was made of its scores."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return ScoreEndpoint(**self.model_dump(exclude={"kind", "version"}))

    def is_fixed(self) -> bool:
        """Return whether its version is declared."""
        return self.version is not None


@final
class JudgeSpec(RewardSpec, GradingFields):
    """Grades from a language model behind an OpenAI-compatible endpoint; without ``url``, on this machine."""

    kind: Literal["judge"] = "judge"
    model: Name
    """What the endpoint calls it, or a model on this machine."""
    url: WebAddress | None = None
    """Where /chat/completions is."""
    instruction: Name
    """What the judge is told to grade."""
    timeout: Positive = 60.0
    """Seconds until a request is given up."""
    retries: Retries = 4
    """How often a request that failed is sent again."""
    workers: Workers = 4
    """Requests at the same time."""
    key_env: KeyName | None = None
    """The environment variable that holds the key."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The most tokens that the judge writes."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = 0.0
    """Of the judge; null: the endpoint's own."""
    options: dict[str, Any] = {}
    """Further fields of the body of every request."""
    version: Name | None = None
    """Of what answers at ``url``; without one, no other run takes what was made of its grades."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return self.build_judge(base)

    def is_fixed(self) -> bool:
        """Return whether it is on this machine, or its version is declared."""
        return self.url is None or self.version is not None

    def build_keeping(self, base: Path, calls: Path) -> TextReward:
        """Return the reward, which keeps its answers."""
        return self.build_judge(base, calls)

    def build_judge(self, base: Path, calls: Path | None = None) -> Judge:
        """Return the judge. calls: the folder that keeps its answers."""
        known = self.model_dump(exclude={"kind", "ungraded", "version"})
        return Judge(**known, ungraded=self.declared, base=base, calls=calls)

    def own_models(self) -> tuple[str, ...]:
        """Return the model, where it is on this machine."""
        return (self.model,) if self.url is None else ()

    def natural(self) -> Calibration:
        """Return the map of the whole range."""
        return Affine(self.low, self.high)


@final
class AggregateSpec(Strict):
    """How the members' scores become one; c is the weight of their disagreement."""

    kind: Literal["mean", "median", "min", "mean_minus_std", "uncertainty_weighted"]
    c: Annotated[float | None, Field(ge=0)] = None
    """The weight of their disagreement."""

    @field_validator("c")
    @classmethod
    def _where_it_means_something(cls, c: float | None, info: Any) -> float | None:
        if c is not None and info.data.get("kind") in ("mean", "median", "min"):
            raise PydanticCustomError("c", "must not be given with mean, median or min")
        return c

    def build(self) -> Aggregate:
        """Return the aggregate."""
        c = 1.0 if self.c is None else self.c
        known = (Mean(), Median(), Minimum(), MeanMinusDeviation(c), UncertaintyWeighted(c))
        return dict(zip(("mean", "median", "min", "mean_minus_std", "uncertainty_weighted"), known, strict=True))[
            self.kind
        ]


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


SomeAggregate: TypeAlias = Annotated[AggregateSpec, BeforeValidator(_kind_alone), OrText()]


@final
class EnsembleSpec(RewardSpec):
    """An aggregate of rewards, in the members' own unit."""

    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[list["SomeReward"], Field(min_length=1)]
    """The rewards."""
    aggregate: SomeAggregate = AggregateSpec(kind="mean")
    """How their scores become one."""
    assume_identified: bool = False
    """Aggregate by other than the mean although nothing says that scores of different prompts can be compared."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return self._of([member.build(base) for member in self.members])

    def build_keeping(self, base: Path, calls: Path) -> TextReward:
        """Return the reward, whose members keep their answers."""
        return self._of([member.build_keeping(base, calls) for member in self.members])

    def _of(self, members: list[TextReward]) -> TextReward:
        return Ensemble(tuple(members), self.aggregate.build(), self.assume_identified)

    def natural(self) -> Calibration:
        """Return the map of the first member: an ensemble puts like and like together."""
        return self.members[0].natural()

    def inner(self) -> Sequence[Nested]:
        """Return the members."""
        return [Nested(f"members[{k}]", member) for k, member in enumerate(self.members)]


@final
class PartSpec(Strict):
    """One reward of a mix."""

    reward: "SomeReward"
    """What scores a response."""
    calibration: SomeCalibration | None = None
    """From scores to [0, 1]."""
    weight: Positive = 1.0
    """What it counts."""


@final
class MixSpec(RewardSpec):
    """A weighted mean of calibrated rewards."""

    kind: Literal["mix"] = "mix"
    parts: Annotated[list[PartSpec], Field(min_length=1)]
    """The rewards, their calibrations and weights."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return self._of([part.reward.build(base) for part in self.parts])

    def build_keeping(self, base: Path, calls: Path) -> TextReward:
        """Return the reward, whose parts keep their answers."""
        return self._of([part.reward.build_keeping(base, calls) for part in self.parts])

    def _of(self, rewards: list[TextReward]) -> TextReward:
        parts = zip(self.parts, rewards, strict=True)
        return Mix(
            tuple(MixPart(reward, calibration_of(part.reward, part.calibration), part.weight) for part, reward in parts)
        )

    def inner(self) -> Sequence[Nested]:
        """Return the rewards of the parts, with their maps."""
        return [Nested(f"parts[{k}].reward", part.reward, part.calibration) for k, part in enumerate(self.parts)]


MAIN = {
    "python": "function", "hf": "model", "similarity": "text", "brevity": "words", "mix": "parts", "table": "file",
    "warm": "members", "ensemble": "members", "endpoint": "url", "implicit": "folder", "column": "column",
}  # fmt: skip
"""What the short form ``name: value`` gives a value to."""
ALONE = ("sentiment", "readability", "brevity", "clean")


def _spelled_out(value: Any) -> Any:
    """Turn the short forms ``sentiment`` and ``{python: f}`` into ``{kind: .., ..}``, with what else is said of it."""
    if isinstance(value, str) and value in ALONE:
        return {"kind": value}
    if not isinstance(value, dict) or "kind" in value or not value:
        return value
    named = [key for key in value if key in MAIN]
    if len(value) > 1:
        if len(named) != 1 or isinstance(value[named[0]], dict):
            return value
        return {"kind": named[0], **{MAIN[key] if key in named else key: one for key, one in value.items()}}
    ((kind, argument),) = value.items()
    if kind == "table" and isinstance(argument, dict):
        is_spelled_out = isinstance(argument.get("file"), str) or isinstance(argument.get("values"), dict)
        return {"kind": kind, **(argument if is_spelled_out else {"values": argument})}
    if isinstance(argument, dict):
        return {"kind": kind, **argument}
    return {"kind": kind, MAIN[kind]: argument} if kind in MAIN else {"kind": kind}


SomeReward: TypeAlias = Annotated[
    Annotated[
        Annotated[PythonSpec, Tag("<python>")]
        | Annotated[TableSpec, Tag("<table>")]
        | Annotated[ColumnSpec, Tag("<column>")]
        | Annotated[SentimentSpec, Tag("<sentiment>")]
        | Annotated[ReadabilitySpec, Tag("<readability>")]
        | Annotated[BrevitySpec, Tag("<brevity>")]
        | Annotated[CleanSpec, Tag("<clean>")]
        | Annotated[SimilaritySpec, Tag("<similarity>")]
        | Annotated[RewardModelSpec, Tag("<hf>")]
        | Annotated[WarmSpec, Tag("<warm>")]
        | Annotated[ImplicitSpec, Tag("<implicit>")]
        | Annotated[EnsembleSpec, Tag("<ensemble>")]
        | Annotated[EndpointSpec, Tag("<endpoint>")]
        | Annotated[JudgeSpec, Tag("<judge>")]
        | Annotated[MixSpec, Tag("<mix>")],
        Discriminator(
            tag_of,
            custom_error_type="reward",
            custom_error_message="must name a reward: python, table, column, sentiment, readability, brevity, clean, "
            "similarity, hf, warm, implicit, ensemble, endpoint, judge or mix",
        ),
    ],
    BeforeValidator(_spelled_out),
    ShortForms(MAIN, ALONE, tables=("table",)),
]
EnsembleSpec.model_rebuild()
PartSpec.model_rebuild()
MixSpec.model_rebuild()


def calibration_of(reward: RewardSpec, declared: CalibrationSpec | None) -> Calibration:
    """Return the declared map, or the reward's own when none is declared."""
    return reward.natural() if declared is None else declared.build()
