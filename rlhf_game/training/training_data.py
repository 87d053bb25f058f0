"""The preferences that a training names in its configuration."""

from abc import ABC
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, final

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.files.hints import OrText
from rlhf_game.files.schema import Name, Strict
from rlhf_game.files.training_fields import Seed
from rlhf_game.training.kinds import TrainingFields


@final
class DataSpec(Strict):
    """Where the preferences are, how their fields are called, and the share held out where the file does not say."""

    file: Name | None = None
    """A .jsonl, .jsonl.gz or .parquet file of {prompt, chosen, rejected}."""
    dataset: Annotated[Name | None, Field(validate_default=True)] = None
    """A dataset on the hub, or a folder that ``save_to_disk`` wrote, instead of a file."""
    split: Name = "train"
    """Of the dataset."""
    revision: Name | None = None
    """The commit on the hub."""
    prompt: Name = "prompt"
    """The field with the prompt, or the messages before the response."""
    chosen: Name = "chosen"
    """The field with the better response."""
    rejected: Name = "rejected"
    """The field with the worse response."""
    system: Name | None = None
    """The field with a row's system turn, where it has one beside its prompt."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of prompts that is held out."""

    @field_validator("dataset")
    @classmethod
    def _one_source(cls, dataset: str | None, info: Any) -> str | None:
        if (dataset is None) == (info.data.get("file") is None):
            raise PydanticCustomError("one_source", "must be given where file is not, and only there")
        return dataset


def _file_alone(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


SomeData: TypeAlias = Annotated[DataSpec, BeforeValidator(_file_alone), OrText()]


class PreferenceFields(TrainingFields, ABC):
    """What is trained on, and what is tested on besides."""

    data: SomeData
    """The pairs."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of training labels turned round, for studies."""
    also_test: dict[Name, SomeData] = {}
    """Further pairs that are only tested on, by name."""
    seed: Seed = 0
    """Of everything that is random."""

    def files(self) -> Mapping[str, str]:
        """Return the files of the data."""
        named = {"data": self.data, **{f"also_test.{name}": data for name, data in self.also_test.items()}}
        return {field: data.file for field, data in named.items() if data.file is not None}
