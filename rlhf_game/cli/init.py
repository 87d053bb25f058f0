"""``init``: a commented file to start from, for every command that reads one."""

from pathlib import Path
from typing import Annotated, Final

import typer

from rlhf_game.cli.schema import SchemaKind, schema_text
from rlhf_game.errors import InputError

DATA: Final = "preferences.jsonl"
"""What the training's file names, and is written beside it."""


def init(
    kind: Annotated[
        SchemaKind, typer.Argument(metavar="game|run|train|simulate|discover", help="What the file is for.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="A new file; default: standard output.")
    ] = None,
) -> None:
    """Write a commented file that runs as it is, to be changed into your own; and its schema, for editors."""
    from rlhf_game.files.atomic import write_text
    from rlhf_game.files.documents import read_text

    text = starter(f"{kind.value}.yaml")
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"{out}: must be a file ending in .yaml or .yml, found {out.suffix or 'no ending'!r}")
    schema = out.parent / f"{kind.value}.schema.json"
    wanted = {out: f"# yaml-language-server: $schema={schema.name}\n{text}", schema: schema_text(kind)}
    if kind is SchemaKind.TRAIN:
        wanted[out.parent / DATA] = starter(DATA)
    for path, content in wanted.items():
        if path.exists() and not (path == schema and read_text(path) == content):
            raise InputError(f"{path}: must be a new file, found one that exists")
    for path, content in wanted.items():
        write_text(path, content)
        typer.echo(f"wrote {path}")


def starter(name: str) -> str:
    """Return a file of the folder starters."""
    from importlib.resources import files

    return files("rlhf_game.cli").joinpath("starters", name).read_text(encoding="utf-8")
