"""What a configuration may say about the map from a reward's own unit to [0, 1]."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import BeforeValidator, Discriminator, Tag
from pydantic_core import PydanticCustomError

from rlhf_game.files.schema import AboveLow, Positive, Strict
from rlhf_game.rewards.calibration import Affine, Calibration, Logistic, Rank, Unit

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
    """The score that becomes 0."""
    high: AboveLow
    """The score that becomes 1."""

    def build(self) -> Calibration:
        """Return the map."""
        return Affine(self.low, self.high)


@final
class LogisticSpec(CalibrationSpec):
    """1 / (1 + exp(-(score - center) / scale))."""

    kind: Literal["logistic"] = "logistic"
    center: float
    """The score that becomes 1/2."""
    scale: Positive
    """How far from it a score has to be to become 0.73, or 0.27."""

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
