"""``discover``: losses of preferences, searched for into a folder."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf_game.cli.seal import SignKey
from rlhf_game.cli.set_option import DryRun, OutFolder, Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def discover(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to search: .yaml, .yml or .json.")],
    as_json: AsJson = False,
    out: OutFolder = None,
    dry_run: DryRun = False,
    settings: Settings = None,
    sign: SignKey = None,
) -> None:
    """Search for a loss of preferences: propose, check, train, score, archive; an interrupted search goes on."""
    from rlhf_game.cli.display import show_calls, show_table, write_out
    from rlhf_game.cli.processor import share_the_processor
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.report import leave_report, print_where
    from rlhf_game.discovery import count_calls, read_discovery
    from rlhf_game.discovery import discover as discover_pipeline
    from rlhf_game.files.signatures import check_key

    check_key(sign, is_written=not dry_run)
    share_the_processor()
    configuration = read_discovery(config, settings or ())
    folder = out or Path("runs") / config.stem
    if dry_run:
        show_calls(count_calls(configuration, folder), as_json)
        return
    with progress_on_stderr() as watch:
        finished = discover_pipeline(configuration, folder, watch)
    page = leave_report(folder, sign)
    if as_json:
        write_out((folder / "result.json").read_text(encoding="utf-8"))
        return
    heads = ("candidate", "loss", "score", "reward", "KL")
    show_table("The best candidates, and known losses, on the tasks of the search", heads, finished.rows())
    gains = [
        (name, f"{gain['mean']:+.4f}", f"{gain['standard_error']:.4f}")
        for name, gain in finished.result["gain_over"].items()
    ]
    best = finished.result["best"]
    title = f"What {best['name']} scores more on held-out tasks ({best['held_out']['score']:.4f})"
    show_table(title, ("than", "mean", "standard error"), gains)
    print_where("discovery", folder, page)
