"""Options that every command has which reads a configuration and fills a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from rlhf_game.errors import InputError

Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Set a field, such as groups[0].size=3; the value is YAML. May be repeated."
    ),
]


def settings_of(source: Path, settings: list[str] | None) -> Sequence[str]:
    """Return the settings of a file; raises InputError when they are given for a folder, which says what it is."""
    if settings and source.is_dir():
        raise InputError(f"{source}: must be a file with --set, found a folder")
    return settings or ()


DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Count the calls of language models and their tokens; make none.")
]
OutFolder: TypeAlias = Annotated[
    Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: runs/CONFIG's name.")
]
