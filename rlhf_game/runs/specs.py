"""What a configuration may say about one group's reward and its calibration."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.errors import InputError
from rlhf_game.files.documents import parse_json, read_text, shown
from rlhf_game.files.schema import Name, Positive, Strict
from rlhf_game.rewards.calibration import Affine, Calibration, Logistic, Rank, Unit
from rlhf_game.rewards.functions import PythonFunction, TextTable
from rlhf_game.rewards.lexical import Brevity, Clean, Readability, Sentiment
from rlhf_game.rewards.mix import Mix, Part
from rlhf_game.rewards.neural import EMBEDDER, RewardModel, Similarity
from rlhf_game.rewards.texts import TextReward

FITTED = frozenset(
    {"minmax", "min_max", "min-max", "zscore", "z_score", "z-score", "standardize", "quantile", "softmax"}
)
"""Names of maps that are fitted on the scores that they map."""


class CalibrationSpec(Strict, ABC):
    """A declared map from scores to [0, 1]."""

    @abstractmethod
    def build(self) -> Calibration:
        """Return the map."""


@final
class UnitSpec(CalibrationSpec):
    """Scores are in [0, 1] already."""

    kind: Literal["unit"] = "unit"

    def build(self) -> Calibration:
        """Return the map."""
        return Unit()


@final
class AffineSpec(CalibrationSpec):
    """(score - low) / (high - low), cut to [0, 1]."""

    kind: Literal["affine"] = "affine"
    low: float
    high: float

    @field_validator("high")
    @classmethod
    def _above_low(cls, high: float, info: Any) -> float:
        if high <= info.data.get("low", float("-inf")):
            raise PydanticCustomError("above_low", "must be above low")
        return high

    def build(self) -> Calibration:
        """Return the map."""
        return Affine(self.low, self.high)


@final
class LogisticSpec(CalibrationSpec):
    """1 / (1 + exp(-(score - center) / scale))."""

    kind: Literal["logistic"] = "logistic"
    center: float
    scale: Positive

    def build(self) -> Calibration:
        """Return the map."""
        return Logistic(self.center, self.scale)


@final
class RankSpec(CalibrationSpec):
    """Rank among the prompt's candidates."""

    kind: Literal["rank"] = "rank"

    def build(self) -> Calibration:
        """Return the map."""
        return Rank()


def _declared(value: Any) -> Any:
    """Let ``kind`` alone stand for the whole, and refuse a map that is fitted on the group's own scores."""
    document = {"kind": value} if isinstance(value, str) else value
    if isinstance(document, dict) and str(document.get("kind")).lower() in FITTED:
        raise PydanticCustomError(
            "fitted",
            "must not be fitted on the group's own scores of the same candidates: a group could then move everybody's "
            "scale by what it says about one response; declare affine (low, high), logistic (center, scale) or rank",
        )
    return document


def tag_of(value: Any) -> str | None:
    """Return the ``kind`` of a document or of a checked model as a tag that no message shows."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return f"<{kind}>" if isinstance(kind, str) else None


SomeCalibration: TypeAlias = Annotated[
    Annotated[
        Annotated[UnitSpec, Tag("<unit>")]
        | Annotated[AffineSpec, Tag("<affine>")]
        | Annotated[LogisticSpec, Tag("<logistic>")]
        | Annotated[RankSpec, Tag("<rank>")],
        Discriminator(
            tag_of,
            custom_error_type="calibration",
            custom_error_message="must have the kind unit, affine, logistic or rank",
        ),
    ],
    BeforeValidator(_declared),
]


class RewardSpec(Strict, ABC):
    """A reward, by name."""

    @abstractmethod
    def build(self, base: Path) -> TextReward:
        """Return the reward; nothing is loaded yet. base: the folder that relative paths are in."""

    def natural(self) -> Calibration:
        """Return the map to [0, 1] where the configuration declares none."""
        return Unit()

    def files(self) -> tuple[str, ...]:
        """Return the files whose content is part of the configuration."""
        return ()


@final
class PythonSpec(RewardSpec):
    """A function with TRL's signature: ``package.module:function`` or ``path/to/file.py:function``."""

    kind: Literal["python"] = "python"
    function: Annotated[str, Field(pattern=r"^[^:]+(:\\[^:]+)?:[A-Za-z_][A-Za-z0-9_]*$")]

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return PythonFunction(self.function, base)

    def files(self) -> tuple[str, ...]:
        """Return the file that defines the function, when it is named."""
        place = self.function.rpartition(":")[0]
        return (place,) if place.endswith(".py") else ()


@final
class TableSpec(RewardSpec):
    """Numbers for texts: {text: number}, here or in a .json file."""

    kind: Literal["table"] = "table"
    file: Name | None = None
    values: Annotated[dict[str, float] | None, Field(validate_default=True)] = None
    default: float | None = None

    @field_validator("values")
    @classmethod
    def _one_source(cls, values: dict[str, float] | None, info: Any) -> dict[str, float] | None:
        if (values is None) == (info.data.get("file") is None):
            raise PydanticCustomError("one_source", "must be given where file is not, and only there")
        return values

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return TextTable((self.values or {}) if self.file is None else _read_values(base / self.file), self.default)

    def files(self) -> tuple[str, ...]:
        """Return the file with the numbers."""
        return () if self.file is None else (self.file,)


def _read_values(path: Path) -> Mapping[str, float]:
    document = parse_json(read_text(path), str(path))
    is_table = isinstance(document, dict) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in document.values()
    )
    if not is_table:
        raise InputError(f"{shown(str(path), 200)}: must be a JSON object of texts and their numbers")
    return {text: float(value) for text, value in document.items()}


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
    model: Name = EMBEDDER
    revision: Name | None = None

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Similarity(self.text, self.model, self.revision, base)

    def natural(self) -> Calibration:
        """Return the map of the positive range."""
        return Affine(0.0, 1.0)


@final
class RewardModelSpec(RewardSpec):
    """A transformers sequence-classification model with one logit."""

    kind: Literal["hf"] = "hf"
    model: Name
    revision: Name | None = None

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return RewardModel(self.model, self.revision, base)

    def natural(self) -> Calibration:
        """Return the Bradley-Terry map: a logit's probability of being preferred to a response of logit 0."""
        return Logistic(0.0, 1.0)


@final
class PartSpec(Strict):
    """One reward of a mix."""

    reward: "SomeReward"
    calibration: SomeCalibration | None = None
    weight: Positive = 1.0


@final
class MixSpec(RewardSpec):
    """A weighted mean of calibrated rewards."""

    kind: Literal["mix"] = "mix"
    parts: Annotated[list[PartSpec], Field(min_length=1)]

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Mix(
            tuple(
                Part(part.reward.build(base), calibration_of(part.reward, part.calibration), part.weight)
                for part in self.parts
            )
        )

    def files(self) -> tuple[str, ...]:
        """Return the files of the parts."""
        return tuple(file for part in self.parts for file in part.reward.files())


MAIN = {
    "python": "function", "hf": "model", "similarity": "text", "brevity": "words", "mix": "parts", "table": "file",
}  # fmt: skip
"""What the short form ``name: value`` gives a value to."""
ALONE = ("sentiment", "readability", "brevity", "clean")


def _spelled_out(value: Any) -> Any:
    """Turn the short forms ``sentiment`` and ``{python: f}`` into ``{kind: .., ..}``."""
    if isinstance(value, str) and value in ALONE:
        return {"kind": value}
    if not isinstance(value, dict) or "kind" in value or len(value) != 1:
        return value
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
        | Annotated[SentimentSpec, Tag("<sentiment>")]
        | Annotated[ReadabilitySpec, Tag("<readability>")]
        | Annotated[BrevitySpec, Tag("<brevity>")]
        | Annotated[CleanSpec, Tag("<clean>")]
        | Annotated[SimilaritySpec, Tag("<similarity>")]
        | Annotated[RewardModelSpec, Tag("<hf>")]
        | Annotated[MixSpec, Tag("<mix>")],
        Discriminator(
            tag_of,
            custom_error_type="reward",
            custom_error_message="must name a reward: python, table, sentiment, readability, brevity, clean, "
            "similarity, hf or mix",
        ),
    ],
    BeforeValidator(_spelled_out),
]
PartSpec.model_rebuild()
MixSpec.model_rebuild()


def calibration_of(reward: RewardSpec, declared: CalibrationSpec | None) -> Calibration:
    """Return the declared map, or the reward's own when none is declared."""
    return reward.natural() if declared is None else declared.build()
