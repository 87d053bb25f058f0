"""``init``: a commented file to start from, for every command that reads one."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, final

import typer

from rlhf_game.errors import InputError

DATA: Final = "preferences.jsonl"
"""What the training's file names, and is written beside it."""


@final
class StarterKind(StrEnum):
    """What a file may be for."""

    GAME = "game"
    RUN = "run"
    TRAIN = "train"
    SIMULATE = "simulate"
    DISCOVER = "discover"


def init(
    kind: Annotated[
        StarterKind, typer.Argument(metavar="game|run|train|simulate|discover", help="What the file is for.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="A new file; default: standard output.")
    ] = None,
) -> None:
    """Write a commented file that runs as it is, to be changed into your own."""
    from rlhf_game.files.atomic import write_text

    text = starter(f"{kind.value}.yaml")
    if out is None:
        typer.echo(text, nl=False)
        return
    wanted = {out: text}
    if kind is StarterKind.TRAIN:
        wanted[out.parent / DATA] = starter(DATA)
    for path in wanted:
        if path.exists():
            raise InputError(f"{path}: must be a new file, found one that exists")
    for path, content in wanted.items():
        write_text(path, content)
        typer.echo(f"wrote {path}")


def starter(name: str) -> str:
    """Return a file of the folder starters."""
    from importlib.resources import files

    return files("rlhf_game.cli").joinpath("starters", name).read_text(encoding="utf-8")
