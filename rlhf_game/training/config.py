"""The configuration of a training, read and checked; each ``kind`` has one model here."""

import os
from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, final

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind
from rlhf_game.files.schema import Name, Nonnegative, Positive, Strict, parse_model
from rlhf_game.runs.config import hash_of, read_document

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000)]


@final
class DataSpec(Strict):
    """Where the preferences are, how their fields are called, and the share held out where the file does not say."""

    file: Name | None = None
    dataset: Annotated[Name | None, Field(validate_default=True)] = None
    """A dataset on the hub, or a folder that ``save_to_disk`` wrote, instead of a file."""
    split: Name = "train"
    revision: Name | None = None
    prompt: Name = "prompt"
    chosen: Name = "chosen"
    rejected: Name = "rejected"
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @field_validator("dataset")
    @classmethod
    def _one_source(cls, dataset: str | None, info: Any) -> str | None:
        if (dataset is None) == (info.data.get("file") is None):
            raise PydanticCustomError("one_source", "must be given where file is not, and only there")
        return dataset


@final
class LoraSpec(Strict):
    """A low-rank adapter."""

    rank: Count = 8
    alpha: Count = 16
    targets: list[Name] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class MemberFields(Strict, ABC):
    """How one reward model is trained."""

    backbone: Name
    method: Literal["embedding", "head", "lora", "full"]
    eta: Nonnegative = 0.01
    smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    resample: bool = False
    """Train on as many pairs drawn with replacement: what makes members of a convex fit differ."""
    ridge: Positive = 1e-3
    probe: bool = False
    """Start lora and full from a head that was fitted to the frozen backbone, as WARM does."""
    lora: LoraSpec = LoraSpec()
    epochs: Positive = 1.0
    max_steps: Count | None = None
    learning_rate: Positive = 5e-5
    batch_size: Count = 8
    max_length: Count = 512
    has_dropout: bool = False
    save_steps: Count = 100


@final
class MemberSpec(MemberFields):
    """One member of several."""


def _file_alone(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class DataFields(MemberFields, ABC):
    """What is trained on, and what is tested on besides."""

    data: Annotated[DataSpec, BeforeValidator(_file_alone)]
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of training labels turned round, for studies."""
    also_test: dict[Name, Annotated[DataSpec, BeforeValidator(_file_alone)]] = {}


@final
class RewardModelConfig(DataFields):
    """One reward model."""

    kind: Literal["reward_model"]


class SeveralFields(DataFields, ABC):
    """Several reward models; each member says how it differs from the fields around it."""

    members: Annotated[list[dict[str, Any]], Field(min_length=2)]
    candidates: Name | None = None
    """A .jsonl file of {prompt, responses} on which members are compared."""


@final
class EnsembleConfig(SeveralFields):
    """Several reward models and what their aggregates are worth."""

    kind: Literal["ensemble"]


@final
class WarmConfig(SeveralFields):
    """Several reward models from one linear-probed head, and the average of their weights."""

    kind: Literal["warm"]
    probe: bool = True
    curve: Annotated[int, Field(ge=2, le=101)] = 5
    """Points on the line between the first two members."""


AnyConfig: TypeAlias = RewardModelConfig | EnsembleConfig | WarmConfig
KINDS: Mapping[str, type[AnyConfig]] = {
    "reward_model": RewardModelConfig,
    "ensemble": EnsembleConfig,
    "warm": WarmConfig,
}


@final
@dataclass(frozen=True)
class TrainingConfiguration:
    """A configuration with what it refers to."""

    fields: AnyConfig
    members: tuple[MemberSpec, ...]
    base: Path
    files: Mapping[str, str]
    """The sha256 of each file that is part of the configuration."""

    def document(self) -> dict[str, Any]:
        """Return the canonical content: what config.json holds and what must not change in a folder."""
        return {**self.fields.model_dump(mode="json", exclude_none=True), "files": dict(self.files)}


def read_training(path: str | os.PathLike[str]) -> TrainingConfiguration:
    """Return the configuration of a .yaml or .json file. Raises InputError that names file and field."""
    document, name = read_document(path, "training")
    wanted = document.get("kind")
    if not isinstance(wanted, str) or wanted not in KINDS:
        raise InputError(f"{name}: kind: must be {', '.join(KINDS)}, found {kind(wanted)}")
    fields = parse_model(KINDS[wanted], document, name)
    base = Path(path).parent
    files = [data.file for data in (fields.data, *fields.also_test.values()) if data.file is not None]
    if not isinstance(fields, RewardModelConfig) and fields.candidates is not None:
        files.append(fields.candidates)
    members = _members(fields, name)
    try:
        return TrainingConfiguration(fields, members, base, {file: hash_of(file, base) for file in files})
    except InputError as error:
        raise InputError(f"{name}: data: {error}") from None


def _members(fields: AnyConfig, name: str) -> tuple[MemberSpec, ...]:
    common = {key: value for key, value in fields.model_dump().items() if key in MemberSpec.model_fields}
    changes = [{}] if isinstance(fields, RewardModelConfig) else fields.members
    members = tuple(
        parse_model(MemberSpec, {**common, **change}, f"{name}: members[{i}]") for i, change in enumerate(changes)
    )
    for i, member in enumerate(members):
        if member in members[:i]:
            raise InputError(f"{name}: members[{i}]: must differ from the others (in its seed, say), found the same")
        is_convex = member.method in ("embedding", "head")
        if isinstance(fields, RewardModelConfig) or member.resample or not is_convex:
            continue
        twin = member.model_copy(update={"seed": members[0].seed})
        if i > 0 and twin == members[0]:
            raise InputError(
                f"{name}: members[{i}].resample: must be true to differ from members[0] by its seed alone (the fit of "
                f"method {member.method} has one solution), found false"
            )
    return members
