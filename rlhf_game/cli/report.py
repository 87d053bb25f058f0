"""``report``: one page of a run, a game, a study, a training or a discovery; and the page that they leave."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf_game.cli.set_option import Settings, settings_of
from rlhf_game.cli.settle import TrustCode

if TYPE_CHECKING:
    from rlhf_game.report.page import Page

SOURCES = ("game.json", "receipt.json", "audit.json", "study.json", "metrics.json", "result.json")
"""The files of a folder that its report is made of."""


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|GAME|ROLLOUTS",
            help="What `run`, `simulate`, `train` or `discover` filled, a game (.yaml, .yml, .json), or, with "
            "--groups, rollouts that a training logged.",
        ),
    ],
    audit: Annotated[
        Path | None,
        typer.Option("--audit", metavar="FILE", help="What `audit --json` printed; default: a short search."),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="What `settle` wrote of the game.")
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="FILE", help="Who the columns of rollouts are of: a run's configuration."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Default: FOLDER/report.html, or GAME.report.html beside it."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="OUT", help="Write its figures and tables there: SVG, PDF, LaTeX, CSV."),
    ] = None,
    trusted: TrustCode = False,
    settings: Settings = None,
) -> None:
    """Write one HTML page that holds all it shows: figures with their data, for screens, paper and screen readers."""
    from rlhf_game.errors import InputError
    from rlhf_game.files.atomic import check_output
    from rlhf_game.files.rows import ENDINGS
    from rlhf_game.files.sampled import space_of
    from rlhf_game.files.schema import TEXTS
    from rlhf_game.files.workspace import files_in
    from rlhf_game.registry import refusing_code
    from rlhf_game.report import REPORT, keep_page
    from rlhf_game.report.folder_pages import folder_page, settled_page
    from rlhf_game.report.page import write_page

    chosen = settings_of(source, settings)
    if groups is not None:
        others = {"--audit": audit, "--receipt": receipt, "--set": settings}
        if given := [name for name, value in others.items() if value]:
            raise InputError(f"--groups: must be with rollouts, found it with {given[0]}")
        page = _of_rollouts(source, groups)
    elif source.name.endswith(ENDINGS):
        raise InputError(f"--groups: must name whose rewards the rows of {source.name} have, found nothing")
    elif source.is_dir():
        with refusing_code(unless=trusted):
            page = _unfinished(source) or folder_page(source, receipt, audit, trusted=trusted)
    elif source.is_file() and space_of(source) not in TEXTS:
        page = settled_page(source, receipt, audit, trusted=trusted, settings=chosen)
    else:
        raise InputError(
            f"{source}: must be a folder that a command filled, a game, or rollouts with --groups, found none"
        )
    if figures is not None:
        from rlhf_game.report.figures import write_figures

        typer.echo(f"figures: {figures} ({len(write_figures(page, figures))} files)")
        return
    if source.is_dir() and groups is None and (out is None or out.resolve() == (source / REPORT).resolve()):
        typer.echo(f"report: {keep_page(source, page)}")
        return
    path = out or source.with_suffix(".report.html")
    check_output(path, "game" if groups is None else "rollouts", *(files_in(source) if source.is_dir() else [source]))
    check_output(path, "groups", groups)
    check_output(path, "receipt", receipt)
    check_output(path, "audit", audit)
    typer.echo(f"report: {write_page(path, page)}")


def _of_rollouts(source: Path, groups: Path) -> "Page":
    """Return the report of rollouts of a training."""
    from rlhf_game.files.documents import shown
    from rlhf_game.outcomes.rollouts import read_rollouts
    from rlhf_game.report.rollouts_page import rollouts_page

    found = read_rollouts(source, groups)
    return rollouts_page(shown(source.name), found.groups, found.policy, found.lacks)


def _unfinished(folder: Path) -> "Page | None":
    """Return the report of what a study has played so far; None of any other folder."""
    from rlhf_game.simulations.simulation_pipeline import is_unfinished, partial_summary

    if not is_unfinished(folder):
        return None
    from rlhf_game.report.studies import parse_study
    from rlhf_game.report.study_pages import study_page

    return study_page(parse_study(partial_summary(folder), str(folder)))


def print_where(what: str, folder: Path, page: Path | None) -> None:
    """Print where the results are. what: the kind of folder; page: its report, if there is one."""
    if page is not None:
        typer.echo(f"report: {page}")
    typer.echo(f"{what} folder: {folder}")


def leave_report(folder: Path, sign: Path | None = None) -> Path | None:
    """Write the report of a finished folder, unless there is one that is newer than what it is made of; return it.

    Where the extra is missing there is none, and one line on stderr says so. sign: the private key that then signs all
    files of the folder.
    """
    from rlhf_game.files.signatures import sign_folder

    page = _kept_report(folder)
    if sign is not None:
        sign_folder(folder, sign)
    return page


def _kept_report(folder: Path) -> Path | None:
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
