"""``simulate``: many games, strategies and seeds, into a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlhf_game.cli.seal import SignKey
from rlhf_game.cli.set_option import Settings

if TYPE_CHECKING:
    from rlhf_game.engines import Engine

SHOWN = {
    "games": ("welfare", "revenue", "gain", "regret"),
    "market": ("truthful", "efficiency", "welfare", "revenue"),
    "equilibrium": ("equilibria", "price_of_anarchy", "price_of_stability", "welfare_price_of_anarchy", "revenue"),
}
"""The measures that are printed, by the kind of study."""
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
EngineName = Literal["serial", "local", "ray"]
Workers = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Processes of the engine; default: as many as processors.")
]
Address = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Of a Ray cluster, with --engine ray; default: start one here.")
]


def simulate(
    scenario: Annotated[
        Path | None, typer.Argument(metavar="SCENARIO", help="What to simulate: .yaml, .yml or .json.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Default: runs/SCENARIO's name. With --replay: the game file."),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Where the games are played; the results are the same.")] = "local",
    workers: Workers = None,
    address: Address = None,
    settings: Settings = None,
    sign: SignKey = None,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="STUDY", help="Write one game of this study (its folder or its file) as a game file."),
    ] = None,
    game: Annotated[int | None, typer.Option(metavar="K", help="With --replay: the game's number.")] = None,
    point: Annotated[int, typer.Option(metavar="J", help="With --replay: the point of the sweep.")] = 0,
    trusted: Annotated[bool, typer.Option("--trust-code", help="With --replay: run code that a folder names.")] = False,
) -> None:
    """Play many games between strategic groups, with and without payments; an interrupted study goes on."""
    from rlhf_game.engines import engine as engine_of
    from rlhf_game.errors import InputError
    from rlhf_game.files.signatures import check_key

    check_key(sign, is_written=replay is None)
    if replay is not None:
        if scenario is not None or game is None or out is None or settings:
            raise InputError("--replay must come with --game K and -o FILE, and without a scenario and --set")
        _replay(replay, game, point, out, trusted)
        return
    if scenario is None or game is not None or trusted:
        raise InputError("SCENARIO must be given, alone, or --replay STUDY --game K -o FILE")
    _play(scenario, settings or (), as_json, out, engine_of(engine, workers, address), sign)


def _replay(study: Path, game: int, point: int, out: Path, trusted: bool) -> None:
    from rlhf_game.files.games import write_game
    from rlhf_game.registry import refusing_code
    from rlhf_game.simulations.study import read_study

    with refusing_code(unless=trusted or not study.is_dir()):  # a study's file is a program, its folder is data
        write_game(out, read_study(study).game_document(game, point, out.parent))
    typer.echo(f"game: {out}")


def _play(
    scenario: Path, settings: Sequence[str], as_json: bool, out: Path | None, engine: "Engine", sign: Path | None
) -> None:
    from rlhf_game.cli.display import write_out
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.report import leave_report, print_where
    from rlhf_game.simulations.simulation_pipeline import SUMMARY
    from rlhf_game.simulations.simulation_pipeline import simulate as simulate_study
    from rlhf_game.simulations.study import read_study

    study = read_study(scenario, settings)
    folder = out or Path("runs") / scenario.stem
    with progress_on_stderr() as watch:
        finished = simulate_study(study, folder, engine, watch)
    page = leave_report(folder, sign)
    if as_json:
        write_out((folder / SUMMARY).read_text(encoding="utf-8"))
        return
    _show(finished.summary)
    print_where("study", folder, page)


def _show(summary: dict[str, Any]) -> None:
    from rlhf_game.cli.display import show_table

    fields = [axis["field"] for axis in summary["axes"]]
    is_market, has_strategies = summary["kind"] == "market", summary["kind"] == "games"
    names = SHOWN[summary["kind"]]
    rows = []
    for one in summary["summaries"]:
        at = [str(summary["points"][one["point"]][field]) for field in fields]
        who = [one["strategy"]] if has_strategies else []
        numbers = [_mean(one["last" if is_market else "measures"][name]) for name in names]
        rows.append((one["payment"], *who, *at, *numbers))
    titles = [f"{name} at the end" if is_market else name for name in names]
    show_table("", ("payment", *(["strategy"] if has_strategies else []), *fields, *titles), rows)
    if summary["failed"]:
        first = summary["errors"][0]
        typer.echo(f"{summary['failed']} of {summary['rows']} rows failed; the first: {first['error']}")


def _mean(measure: dict[str, float] | None) -> str:
    if measure is None:
        return "unknown"
    return f"{measure['estimate']:z.4g} ± {measure['high'] - measure['estimate']:.2g}"
