"""``seal`` and ``open``: commit to reports before anything is drawn, and check afterwards that none was exchanged."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from rlhf_game.files.seals import SealedReport

DIFFERS: Final = 3
Reports = Annotated[Path, typer.Argument(metavar="CONFIG|GAME", help="A configuration of run, or a game.")]
SealFile = Annotated[
    Path | None, typer.Option("--seal", metavar="SEAL.json", help="Under this seal, which `seal` wrote.")
]


def seal(
    config: Reports,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SEAL.json", help="Write the seal there.")],
    beacon: Annotated[
        str | None,
        typer.Option("--beacon", metavar="VALUE", help="A public value drawn after the root was published."),
    ] = None,
) -> None:
    """Commit to every report under a salt: the group's own (key `salt`), or made for it, and said so."""
    from rlhf_game.files.atomic import check_output, write_text
    from rlhf_game.files.seals import make_seal

    check_output(out, "configuration", config)
    made = make_seal(reports_in(config), beacon)
    write_text(out, made.text())
    typer.echo(f"root: {made.root}")
    for group in made.groups:
        whose = "its own salt" if group.salt_from == "group" else "a salt made for it"
        typer.echo(f"  {group.name}: {group.commitment} under {whose}")


def open_seal(
    sealed: Annotated[Path, typer.Argument(metavar="SEAL.json", help="What `seal` wrote.")], config: Reports
) -> int:
    """For an auditor: make every commitment, the root and the seed again from the reports and their salts."""
    from rlhf_game.files.seals import read_seal, revealed_seed, seal_differences

    found, reports = read_seal(sealed), reports_in(config)
    wrong = seal_differences(found, reports)
    for line in wrong:
        typer.echo(line)
    if wrong:
        return DIFFERS
    names = {report.name for report in reports}
    excluded = [group.name for group in found.groups if group.name not in names]
    typer.echo(f"opened: {len(reports)} reports as they were sealed, root {found.root}")
    typer.echo(f"settlement seed {revealed_seed(found, reports)}, from {found.seed_from}")
    if excluded:
        typer.echo(f"sealed and not revealed: {', '.join(excluded)}")
    return 0


def reports_in(path: Path) -> "list[SealedReport]":
    """Return the reports in a configuration of a run, or in a game."""
    from rlhf_game.files.games import read_game
    from rlhf_game.files.seals import reports_of
    from rlhf_game.runs.config import read_config, read_document
    from rlhf_game.runs.sealing import sealed_reports

    document = {} if path.suffix.lower() == ".jsonl" else read_document(path, "run or a game")[0]
    if isinstance(document.get("outcomes"), dict):  # of a game they are labels
        configuration = read_config(path)
        return sealed_reports(configuration.fields, configuration.files)
    return reports_of(read_game(path, trusted=True))
