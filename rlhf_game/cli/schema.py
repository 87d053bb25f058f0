"""``schema``: the JSON Schema of every file that a command reads, for editors that complete and check it."""

import json
from enum import StrEnum
from typing import Annotated, Any, Final, final

import typer

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@final
class SchemaKind(StrEnum):
    """What a schema is of."""

    GAME = "game"
    RUN = "run"
    TRAIN = "train"
    SIMULATE = "simulate"
    DISCOVER = "discover"


def schema(
    of: Annotated[
        SchemaKind, typer.Argument(metavar="game|run|train|simulate|discover", help="The file that is described.")
    ],
) -> None:
    """Print the JSON Schema of a file. What needs numbers to be read (shapes, sums) only the command checks."""
    typer.echo(schema_text(of), nl=False)


def schema_text(of: SchemaKind) -> str:
    """Return the JSON Schema of a file as ``schema`` prints it."""
    return json.dumps(schema_of(of), indent=1) + "\n"


def schema_of(of: SchemaKind) -> dict[str, Any]:
    """Return the JSON Schema of a file."""
    from pydantic import TypeAdapter

    from rlhf_game.files.described import DescribedSchema

    made = TypeAdapter(_type_of(of)).json_schema(schema_generator=DescribedSchema)
    made.pop("title", None)
    inside = made.get("$defs", {})
    for top in [made, *(inside[one["$ref"].rpartition("/")[2]] for one in made.get("anyOf", ()))]:
        if "properties" in top:
            top["properties"]["$schema"] = {"type": "string", "description": "Read by editors only."}
            if of is SchemaKind.SIMULATE:  # what is swept is taken out before a point of the study is checked
                top["properties"]["sweep"] = {
                    "type": "object",
                    "description": "Values of fields, by their path: the study has a point for each combination.",
                    "additionalProperties": {"type": "array", "minItems": 1},
                }
    known = sorted({one["properties"]["kind"]["const"] for one in inside.values() if "const" in _kind(one)})
    for own in (one for one in inside.values() if one.get("additionalProperties") is True and _kind(one)):
        own["properties"]["kind"] |= {"type": "string", "not": {"enum": known}}  # a part of someone's own
    return {"$schema": DIALECT, "title": f"rlhf-game {of.value}", **made}


def _kind(definition: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = definition.get("properties", {}).get("kind", {})
    return found


def _any_of(kinds: list[Any]) -> Any:
    from functools import reduce
    from operator import or_

    return reduce(or_, kinds)


def _type_of(of: SchemaKind) -> Any:
    match of:
        case SchemaKind.GAME:
            from rlhf_game.files.schema import Fields

            return Fields
        case SchemaKind.RUN:
            from rlhf_game.outcomes.run_config import RunConfig

            return RunConfig
        case SchemaKind.TRAIN:
            from rlhf_game.registry import find, names

            return _any_of([find("train", name) for name in names("train")])
        case SchemaKind.SIMULATE:
            from rlhf_game.simulations.study import KINDS as STUDIES

            return _any_of([*STUDIES.values()])
        case SchemaKind.DISCOVER:
            from rlhf_game.discovery.discovery_config import DiscoveryConfig

            return DiscoveryConfig
