"""``play``: a page on which a reader tries to cheat."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlhf_game.cli.set_option import Settings


def play(
    game: Annotated[
        Path | None,
        typer.Argument(
            metavar="[GAME]", help="A table game with KL; default: three teams and a kettle.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write the page there and do not open it.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Write a page on which you are one of the groups and try to cheat, with and without payments; open it."""
    from rlhf_game.report.play import write_play_page

    path = write_play_page(out or Path("play.html"), game, settings or ())
    typer.echo(f"page: {path}")
    if out is None and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
