"""``export``: the reporting game of a game file, for programs that solve games; rewards, for engines that train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_game.cli.set_option import Settings
from rlhf_game.cli.settle import TrustCode

if TYPE_CHECKING:
    from rlhf_game.agents.normal_form import NormalForm
    from rlhf_game.mechanism.regret import Strategy


def export(
    game: Annotated[
        Path,
        typer.Argument(metavar="GAME|trl|verl|openrlhf", help="A game: .yaml, .yml or .json; or an engine."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="FILE|DIR", help="A .nfg file, as Gambit reads it; a folder for an engine's files."
        ),
    ],
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="With an engine: a configuration of run.")
    ] = None,
    strategies: Annotated[
        Path | None,
        typer.Option(
            "--strategies",
            metavar="FILE",
            help="The menu, a list; default truth, polarize, resize, both.",
        ),
    ] = None,
    trusted: TrustCode = False,
    settings: Settings = None,
) -> None:
    """Write the game in which every group chooses what to report from a menu, and print its equilibria.

    With an engine's name and a configuration: the groups' rewards as that engine calls them, its prompts, a launch line
    and what its coefficients must be for lambda to be the mechanism's.
    """
    from rlhf_game.outcomes.exporting import ENGINES

    if str(game) in ENGINES:  # no game is called so: its name has an ending
        _export_rewards(str(game), config, out, settings)
        return
    _export_game(game, config, out, strategies, trusted, settings)


def _export_rewards(engine: str, config: Path | None, out: Path, settings: list[str] | None) -> None:
    from rlhf_game.errors import InputError
    from rlhf_game.files.atomic import check_new, write_bytes
    from rlhf_game.outcomes.exporting import exported

    if config is None:
        raise InputError(f"CONFIG: must be given after {engine}, found nothing")
    if settings:
        raise InputError(
            f"{config}: must say itself what --set does: the exported rewards read it, found {settings[0]!a}"
        )
    check_new(out)
    files = exported(engine, config, out)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(out / name, content)
        typer.echo(f"{out / name}")


def _export_game(
    game: Path,
    config: Path | None,
    out: Path,
    strategies: Path | None,
    trusted: bool,
    settings: list[str] | None,
) -> None:
    from rlhf_game.agents.normal_form import normal_form, standard_menu
    from rlhf_game.errors import InputError
    from rlhf_game.files.atomic import write_text
    from rlhf_game.files.build import build
    from rlhf_game.files.games import read_game

    if config is not None:
        raise InputError(f"GAME: must be trl, verl or openrlhf before a configuration, found {str(game)!a}")
    if out.suffix.lower() != ".nfg":
        raise InputError(f"{out}: must be a file ending in .nfg, found {out.suffix or 'no ending'!r}")
    one = read_game(game, trusted=trusted, settings=settings or ())
    space, mechanism, groups = build(one)
    menu = standard_menu() if strategies is None else _menu(strategies)
    table = space.running
    found = normal_form(mechanism, groups, table, menu, size_limit=one.fields.size_limit)
    write_text(out, found.nfg(f"{game.name}, payment {one.fields.payment}"))
    _show(found)
    typer.echo(f"normal form: {out}")


def _menu(path: Path) -> "list[tuple[str, Strategy]]":
    """Return the strategies of a file: each a mapping with its kind and fields, or a list of such, done in turn."""
    from rlhf_game.agents.misreports import Truthful
    from rlhf_game.agents.normal_form import Composition
    from rlhf_game.errors import InputError
    from rlhf_game.files.build import make
    from rlhf_game.files.documents import parse_json, parse_yaml, read_text, shown

    name = shown(str(path), 200)
    text = read_text(path)
    said = parse_json(text, name) if path.suffix.lower() == ".json" else parse_yaml(text, name)
    if not isinstance(said, list) or not said:
        raise InputError(f"{name}: must be a list of strategies, found another thing")

    def misreport_of(one: Any, place: str) -> Any:
        if isinstance(one, list) and one:
            return Composition(tuple(misreport_of(part, f"{place}[{k}]") for k, part in enumerate(one)))
        if not (isinstance(one, str) or (isinstance(one, dict) and isinstance(one.get("kind"), str))):
            raise InputError(f"{name}: {place}: must be a strategy with a kind, or a list of such")
        fields = {key: value for key, value in one.items() if key != "name"} if isinstance(one, dict) else one
        return make("strategy", fields, path.parent, f"{name}: {place}")

    menu: list[tuple[str, Strategy]] = [("truth", Truthful())]
    for k, one in enumerate(said):
        called = one.get("name") if isinstance(one, dict) else None
        strategy = misreport_of(one, f"[{k}]")
        menu.append((called if isinstance(called, str) else _called(one), strategy))
    return menu


def _called(one: Any) -> str:
    if isinstance(one, list):
        return " + ".join(map(_called, one))
    return one if isinstance(one, str) else str(one["kind"])


def _show(found: "NormalForm") -> None:
    from rlhf_game.cli.display import number, show_table

    rows = []
    for profile in found.pure_equilibria():
        names = [names[k] for names, k in zip(found.strategies, profile, strict=True)]
        rows.append([", ".join(names), number(float(found.affine_welfare[profile]))])
    if rows:
        show_table("", ("pure equilibrium", "affine social welfare"), rows)
    else:
        typer.echo("no profile of the menu is a pure equilibrium")
    truth = (0,) * len(found.groups)
    typer.echo(f"affine social welfare when all choose the first: {number(float(found.affine_welfare[truth]))}")
