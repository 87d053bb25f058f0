"""Which report a folder gets, and what is read for it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_game.errors import InputError
from rlhf_game.files.documents import shown
from rlhf_game.files.games import read_game
from rlhf_game.files.receipts import Receipt, read_receipt_of
from rlhf_game.files.sampled import space_of
from rlhf_game.files.schema import TEXTS
from rlhf_game.files.workspace import changes_of
from rlhf_game.report.discoveries import discovery_page
from rlhf_game.report.draws_page import draws_page
from rlhf_game.report.finetuned_page import finetuned_page
from rlhf_game.report.game_page import SettledGame, game_page
from rlhf_game.report.lies import read_audit
from rlhf_game.report.page import Note, Page, Section
from rlhf_game.report.studies import read_study
from rlhf_game.report.study_pages import study_page
from rlhf_game.report.trainings import training_page


def folder_page(folder: Path, receipt: Path | None = None, audit: Path | None = None, *, trusted: bool = False) -> Page:
    """Return the report of a folder. Raises InputError when it is none of a run, a study, a training or a discovery.

    receipt, audit: default those in the folder. trusted: whether its game may run code that it names. Where files of
    the folder are not as they were written, the page begins with that.
    """
    page = _page(folder, receipt, audit, trusted)
    found = [line for line in changes_of(folder) if not line.startswith("report.html:")]
    if not found:
        return page
    note = Note("bad", f"Files of this folder are not as they were written: {'; '.join(found[:3])}")
    first = Section("seal", "Is it as it was written?", "", (note,))
    return replace(page, sections=(first, *page.sections))


def _page(folder: Path, receipt: Path | None, audit: Path | None, trusted: bool) -> Page:
    game = folder / "game.json"
    space = space_of(game) if game.exists() else None
    there = [folder / name if (folder / name).exists() else None for name in ("receipt.json", "audit.json")]
    if game.exists() and space not in TEXTS:
        return settled_page(game, receipt or there[0], audit or there[1], trusted=trusted)
    if space == "draws" and receipt is None:
        return draws_page(folder, audit or there[1])
    if audit is not None or receipt is not None:
        raise InputError(f"{folder}: must be a game, or a folder with a game.json, to go with an audit or a receipt")
    if space == "samples":
        return finetuned_page(folder)
    if (folder / "study.json").exists():
        return study_page(read_study(folder / "study.json"))
    if (folder / "metrics.json").exists():
        return training_page(folder)
    if (folder / "result.json").exists():
        return discovery_page(folder)
    raise InputError(
        f"{shown(str(folder), 200)}: must be a folder of `run` (with game.json), of `simulate` (study.json), of "
        "`train` (metrics.json) or of `discover` (result.json), found none of these files in it"
    )


def settled_page(
    game: Path,
    receipt: Path | None = None,
    audit: Path | None = None,
    *,
    trusted: bool = False,
    settings: Sequence[str] = (),
) -> Page:
    """Return the report of a game file, with the receipt and the audit where there are such files.

    settings: fields to set in the game, each ``path=value``.

    Raises InputError when one of them is wrong, or of another game.
    """
    one = read_game(game, trusted=trusted, settings=settings)
    said: Receipt | None = None
    if receipt is not None:
        said = read_receipt_of(receipt, one.sha256, shown(str(game), 200))
    found = None if audit is None else read_audit(audit, one)
    return game_page(SettledGame(one, (game if receipt is None else receipt).parent, said, found))
