"""``report``: one page of a run, a game, a study, a training or a discovery; and the page that they leave."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_game.cli.games import TrustCode

if TYPE_CHECKING:
    from rlhf_game.report.page import Page

SOURCES = ("game.json", "receipt.json", "audit.json", "study.json", "metrics.json", "result.json")
"""The files of a folder that its report is made of."""


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|GAME",
            help="What `run`, `simulate`, `train` or `discover` filled, or a game: .yaml, .yml, .json.",
        ),
    ],
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="FILE", help="What `audit --json` printed; default: a short search."),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="What `settle` wrote of the game.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Default: FOLDER/report.html, or GAME.report.html beside it."),
    ] = None,
    trusted: TrustCode = False,
) -> None:
    """Write one HTML page that holds all it shows: figures with their data, for screens, paper and screen readers."""
    from rlhf_game.errors import InputError
    from rlhf_game.files.sampled import space_of
    from rlhf_game.report import REPORT
    from rlhf_game.report.folders import LANGUAGE_MODELS, folder_page, settled_page
    from rlhf_game.report.page import write_page

    inside = source / "game.json" if source.is_dir() else source
    if inside.is_file() and space_of(inside) not in LANGUAGE_MODELS:
        page = settled_page(
            inside,
            receipt or _beside(inside, source, "receipt.json"),
            audit or _beside(inside, source, "audit.json"),
            trusted=trusted,
        )
    elif audit is not None or receipt is not None:
        raise InputError(f"{source}: must be a game, or a folder with a game.json, to go with an audit or a receipt")
    elif not source.is_dir():
        raise InputError(f"{source}: must be a folder that a command filled, or a game, found neither")
    else:
        page = _unfinished(source) or folder_page(source)
    path = out or (source / REPORT if source.is_dir() else source.with_suffix(".report.html"))
    typer.echo(f"report: {write_page(path, page)}")


def _beside(game: Path, source: Path, name: str) -> Path | None:
    """Return the file of a run's folder; of a single game nothing, whatever lies beside it."""
    return game.with_name(name) if source.is_dir() and game.with_name(name).exists() else None


def _unfinished(folder: Path) -> "Page | None":
    """Return the report of what a study has played so far; None of any other folder."""
    from rlhf_game.simulations.pipeline import is_unfinished, partial_summary

    if not is_unfinished(folder):
        return None
    from rlhf_game.report.studies import parse_study
    from rlhf_game.report.study_pages import study_page

    return study_page(parse_study(partial_summary(folder), str(folder)))


def say_where(what: str, folder: Path, page: Path | None) -> None:
    """Print where the results are. what: the kind of folder; page: its report, if there is one."""
    if page is not None:
        typer.echo(f"report: {page}")
    typer.echo(f"{what} folder: {folder}")


def leave_report(folder: Path) -> Path | None:
    """Write the report of a finished folder, unless there is one that is newer than what it is made of; return it.

    Where the extra is missing there is none, and one line on stderr says so.
    """
    from rlhf_game.errors import MissingExtra
    from rlhf_game.report import REPORT, write_report

    path = folder / REPORT
    made_of = [os.stat(folder / name).st_mtime_ns for name in SOURCES if (folder / name).exists()]
    if path.exists() and os.stat(path).st_mtime_ns >= max(made_of, default=0):
        return path
    try:
        return write_report(folder)
    except MissingExtra as error:
        typer.echo(f"no {REPORT}: {error}", err=True)
        return None
