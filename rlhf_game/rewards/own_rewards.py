"""Rewards of the user's own in a configuration: a function, numbers written down for texts, a column of given rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, final

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from rlhf_game.errors import InputError
from rlhf_game.files.documents import kind, parse_json, read_text, shown
from rlhf_game.files.rows import is_number
from rlhf_game.files.schema import Name
from rlhf_game.rewards.functions import Column, PythonFunction, TextTable
from rlhf_game.rewards.nested import RewardSpec
from rlhf_game.rewards.texts import TextReward


@final
class PythonSpec(RewardSpec):
    """A function with TRL's signature: ``package.module:function`` or ``path/to/file.py:function``."""

    kind: Literal["python"] = "python"
    function: Annotated[str, Field(pattern=r"^[^:]+(:\\[^:]+)?:[A-Za-z_][A-Za-z0-9_]*$")]
    """The module or file, a colon, and the function's name."""
    abstain: float | None = None
    """What a None of the function stands for, in its own unit; without it None is an error."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return PythonFunction(self.function, base, self.abstain)

    def own_code(self) -> tuple[str, ...]:
        """Return the function."""
        return (self.function,)


@final
class TableSpec(RewardSpec):
    """Numbers for texts: {text: number}, here or in a .json file."""

    kind: Literal["table"] = "table"
    file: Name | None = None
    """A .json file of {text: number}."""
    values: Annotated[dict[str, float] | None, Field(validate_default=True)] = None
    """The numbers themselves: {text: number}."""
    default: float | None = None
    """Of texts that are not named; without it such a text is an error."""

    @field_validator("values")
    @classmethod
    def _one_source(cls, values: dict[str, float] | None, info: Any) -> dict[str, float] | None:
        if (values is None) == (info.data.get("file") is None):
            raise PydanticCustomError("one_source", "must be given where file is not, and only there")
        return values

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return TextTable((self.values or {}) if self.file is None else _read_values(base / self.file), self.default)

    def own_files(self) -> tuple[str, ...]:
        """Return the file with the numbers."""
        return () if self.file is None else (self.file,)


def _read_values(path: Path) -> Mapping[str, float]:
    name = shown(str(path), 200)
    document = parse_json(read_text(path), name)
    if not isinstance(document, dict):
        raise InputError(f"{name}: must be a JSON object of texts and their numbers, found {kind(document)}")
    for text, value in document.items():
        if not is_number(value):
            raise InputError(
                f"{name}: must have a finite number for each text, found {kind(value)} for {shown(text)!r}"
            )
    return {text: float(value) for text, value in document.items()}


@final
class ColumnSpec(RewardSpec):
    """Numbers that the rows of outcomes given have in a column."""

    kind: Literal["column"] = "column"
    column: Name
    """The name of the column."""

    def build(self, base: Path) -> TextReward:
        """Return the reward."""
        return Column(self.column)
