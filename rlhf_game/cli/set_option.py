"""``--set``, which every command that reads a configuration has."""

from typing import Annotated, TypeAlias

import typer

Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Set a field, such as groups[0].size=3; the value is YAML. May be repeated."
    ),
]
