"""Reports: one HTML file that holds all it shows, of a run, a game, an audit, a study or any training."""

from pathlib import Path

REPORT = "report.html"
"""The report in the folder that it is about."""


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a folder that `run`, `simulate`, `train` or `discover` filled; return it.

    It is written whole or not at all; the same folder gives the same bytes. Raises InputError when it is no such folder
    or a file in it is wrong, MissingExtra where jinja2 is not installed. Code that a game in the folder names runs: it
    is the program of whoever filled the folder.
    """
    from rlhf_game.report.folders import folder_page
    from rlhf_game.report.page import write_page

    return write_page(folder / REPORT, folder_page(folder, trusted=True))


__all__ = ["REPORT", "write_report"]
