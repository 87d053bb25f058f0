"""JSON Schemas whose fields say what they are: in the sentences that stand below them in the source."""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue

from rlhf_game.files.hints import SHORT

TELLING: Final = ("kind", "space", "rule")
"""Fields that say which part a mapping is."""


@final
class DescribedSchema(GenerateJsonSchema):
    """A schema whose names are those that files use, never those of classes."""

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        """Return the schema, its short forms spelled out."""
        made = super().generate(schema, mode)
        for place in [one for one in _mappings(made) if SHORT in one]:
            said, parts = place.pop(SHORT), made["$defs"]
            for name in [one["$ref"].rpartition("/")[2] for one in place["anyOf"][1]["oneOf"]]:
                if len(parts[name]["properties"]) > 1:
                    kind = parts[name]["title"]
                    short = _short(name, parts[name], said["main"].get(kind), kind in said["tables"])
                    parts[f"{name}Short"] = short
                    place["anyOf"].append({"$ref": f"#/$defs/{name}Short"})
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return no: a field is called as files call it."""
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a model with what its fields are."""
        return _described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        """Return the schema of a dataclass with what its fields are."""
        return _described(super().dataclass_schema(schema), schema["cls"])


def _mappings(of: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping inside."""
    if isinstance(of, dict):
        yield of
    if isinstance(of, dict | list):
        for one in of.values() if isinstance(of, dict) else of:
            yield from _mappings(one)


def _short(of: str, part: JsonSchemaValue, main: str | None, is_table: bool) -> JsonSchemaValue:
    """Return ``{kind: value, ...}``, the value that of the field ``main`` or a mapping of all fields. of: its name."""
    kind, fields = part["title"], {name: {"$ref": f"#/$defs/{of}/properties/{name}"} for name in part["properties"]}
    del fields["kind"]
    needed = [name for name in part.get("required", ()) if name != "kind"]
    more: JsonSchemaValue | bool = {"type": "number"} if is_table else False
    values: list[JsonSchemaValue] = [
        {"type": "object", "properties": fields, "required": needed, "additionalProperties": more}
    ]
    beside = {} if main is None else {name: field for name, field in fields.items() if name != main}
    values += [] if main is None else [fields[main]]
    return {
        "type": "object",
        "title": kind,
        "description": part["description"],
        "properties": {kind: {"anyOf": values, "description": part["description"]}, **beside},
        "required": [kind],
        "additionalProperties": False,
    }


def _described(found: JsonSchemaValue, of: type) -> JsonSchemaValue:
    about = _plain(inspect.cleandoc(found.get("description", "")).partition("\n\n")[0])
    found |= {"description": about, "title": re.split(r"[:;,(]|\.(?: |$)", about)[0].strip()}
    said = {name: text for one in reversed(of.__mro__) for name, text in _sentences(one).items()}
    for name, field in found.get("properties", {}).items():
        if name in TELLING:
            said.setdefault(name, about)
            found |= {"title": field["const"]} if "const" in field else {}
        if said.get(name):
            field["description"] = _plain(said[name])
    return found


def _plain(text: str) -> str:
    """Return a docstring as one line, as Markdown has it."""
    return " ".join(text.split()).replace("``", "`")


@cache
def _sentences(of: type) -> dict[str, str]:
    """Return the docstrings of the fields that stand in a class itself."""
    bodies = (
        node.body for node in _module(of.__module__).body if isinstance(node, ast.ClassDef) and node.name == of.__name__
    )
    found = {}
    for body in bodies:
        for field, text in zip(body, body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                found[field.target.id] = text.value.value
    return found


@cache
def _module(name: str) -> ast.Module:
    """Return the syntax of a module; empty where it has no source of its own."""
    try:
        return ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError):  # built in, or compiled
        return ast.Module([], [])
