"""Reports: one HTML file that holds all it shows, of a run, a game, an audit, a study or any training."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_game.report.page import Page

REPORT = "report.html"
"""The report in the folder that it is about."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a folder that `run`, `simulate`, `train` or `discover` filled; return it.

    It is written whole or not at all; the same folder gives the same bytes. Raises InputError when it is no such folder
    or a file in it is wrong, MissingExtra where jinja2 is not installed. Code that a game in the folder names runs: it
    is the program of whoever filled the folder.
    """
    from rlhf_game.report.folder_pages import folder_page

    return keep_page(folder, folder_page(folder, trusted=True))


def keep_page(folder: Path, page: "Page") -> Path:
    """Write a page about a folder into it, as a file of its own where it is sealed; return it."""
    from rlhf_game.files.workspace import Workspace
    from rlhf_game.report.page import html_of, write_page

    if not Workspace(folder).is_sealed:
        return write_page(folder / REPORT, page)
    Workspace(folder).write(folder / REPORT, html_of(page).encode("utf-8", "replace"))
    return folder / REPORT


__all__ = ["REPORT", "keep_page", "write_report"]
