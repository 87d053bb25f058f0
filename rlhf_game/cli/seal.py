"""``seal`` and ``open``: commit to reports before anything is drawn, and check afterwards that none was exchanged."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from rlhf_game.cli.set_option import Settings

if TYPE_CHECKING:
    from rlhf_game.files.seals import SealedReport

DIFFERS: Final = 3
Reports = Annotated[Path, typer.Argument(metavar="CONFIG|GAME", help="A configuration of run, or a game.")]
SealFile = Annotated[
    Path | None, typer.Option("--seal", metavar="SEAL.json", help="Under this seal, which `seal` wrote.")
]
SignKey = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="Sign with this private key (Ed25519, PEM).")
]
PublicKey = Annotated[
    Path | None, typer.Option("--key", metavar="PUB", help="Check that this public key (Ed25519, PEM) signed it.")
]


def seal(
    config: Reports,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="SEAL.json", help="Write the seal there.")],
    beacon: Annotated[
        str | None,
        typer.Option("--beacon", metavar="VALUE", help="A public value drawn after the root was published."),
    ] = None,
    sign: SignKey = None,
    settings: Settings = None,
) -> None:
    """Commit to every report under a salt: the group's own (key `salt`), or made for it, and said so."""
    from rlhf_game.files.atomic import check_output, write_text
    from rlhf_game.files.seals import Seal, make_seal
    from rlhf_game.files.signatures import check_key, signed

    check_output(out, "configuration", config)
    check_output(out, "key", sign)
    check_key(sign)
    made = make_seal(reports_in(config, settings), beacon)
    write_text(out, Seal.model_validate(signed(made.document(), sign)).text())
    typer.echo(f"root: {made.root}")
    for group in made.groups:
        whose = "its own salt" if group.salt_from == "group" else "a salt made for it"
        typer.echo(f"  {group.name}: {group.commitment} under {whose}")


def open_seal(
    sealed: Annotated[Path, typer.Argument(metavar="SEAL.json", help="What `seal` wrote.")],
    config: Reports,
    key: PublicKey = None,
    settings: Settings = None,
) -> int:
    """For an auditor: make every commitment, the root and the seed again from the reports and their salts."""
    from rlhf_game.files.seals import read_seal, revealed_seed, seal_differences

    found, reports = read_seal(sealed), reports_in(config, settings)
    wrong = seal_differences(found, reports) + unsigned(sealed, key)
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
    print_signed(sealed, key)
    return 0


def unsigned(path: Path, key: Path | None, *, lines: bool = False) -> list[str]:
    """Return a line for each document of a file (or for a folder) that the key has not signed; of no key nothing."""
    from rlhf_game.files.signatures import folder_differences, signature_differences

    if key is None:
        return []
    return folder_differences(path, key) if path.is_dir() else signature_differences(path, key, lines=lines)


def print_signed(path: Path, key: Path | None, *, lines: bool = False) -> None:
    """Name the key that signed what was verified; of a signature without a key to check it with, say so."""
    from rlhf_game.files.signatures import is_signed, key_name

    if key is not None:
        typer.echo(f"signed, all that is in it, by the Ed25519 key {key_name(key)}")
    elif is_signed(path, lines=lines):
        typer.echo("it is signed; by whom is not checked without --key PUB")


def reports_in(path: Path, settings: list[str] | None) -> "list[SealedReport]":
    """Return the reports in a configuration of a run, or in a game. settings: fields to set, each ``path=value``."""
    from rlhf_game.files.games import read_game
    from rlhf_game.files.seals import reports_of
    from rlhf_game.outcomes.run_config import is_run, read_config
    from rlhf_game.outcomes.sealing import sealed_reports

    if is_run(path):
        configuration = read_config(path, settings or ())
        return sealed_reports(configuration.fields, configuration.files)
    return reports_of(read_game(path, trusted=True, settings=settings or ()))
