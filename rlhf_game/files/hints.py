"""What JSON Schema is told of forms that are turned into others before they are checked, for editors to complete."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@final
@dataclass(frozen=True)
class OrText:
    """A text stands for the mapping, too."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(core)]}


@final
@dataclass(frozen=True)
class RegisteredPart:
    """A registered name, a place in code, or a mapping with one of them under ``key`` and the part's own fields.

    names: returns the names that are known when a schema is made.
    """

    key: str
    names: Callable[[], list[str]]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        name = {"anyOf": [{"enum": self.names()}, {"type": "string", "pattern": ":"}]}
        told = {**name, "description": "A name, or a place of one's own: file.py:Name or package.module:Name."}
        spelled_out = {"type": "object", "required": [self.key], "properties": {self.key: told}}
        return {"anyOf": [name, spelled_out]}


SHORT: Final = "short forms"
"""Where a schema that is being made says which short forms there are."""


@final
@dataclass(frozen=True, eq=False)
class ShortForms:
    """``name`` for the kinds of ``alone``, ``{name: value, ...}`` for those of ``main``, besides ``{kind: name}``.

    The schema of a file spells the latter out where all kinds are known (``DescribedSchema``).
    """

    main: Mapping[str, str]
    """The field that the value is of."""
    alone: tuple[str, ...]
    tables: tuple[str, ...] = ()
    """Kinds whose value may be a mapping of any texts to numbers."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        short = {"main": dict(self.main), "tables": list(self.tables)}
        return {"anyOf": [{"enum": list(self.alone)}, handler(core)], SHORT: short}
