"""``train``: reward models and policies, into a folder."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf_game.cli.seal import SignKey
from rlhf_game.cli.set_option import DryRun, OutFolder, Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")]


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to train: .yaml, .yml or .json.")],
    as_json: AsJson = False,
    out: OutFolder = None,
    dry_run: DryRun = False,
    settings: Settings = None,
    sign: SignKey = None,
) -> None:
    """Train what CONFIG names by its kind: reward models or a policy; an interrupted training goes on."""
    from rlhf_game.cli.display import show_calls, show_table, write_out
    from rlhf_game.cli.processor import share_the_processor
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.report import leave_report, print_where
    from rlhf_game.files.signatures import check_key
    from rlhf_game.training import count_calls, read_training
    from rlhf_game.training import train as train_pipeline

    check_key(sign, is_written=not dry_run)
    share_the_processor()
    configuration = read_training(config, settings or ())
    folder = out or Path("runs") / config.stem
    if dry_run:
        show_calls(count_calls(configuration, folder), as_json)
        return
    with progress_on_stderr() as watch:
        finished = train_pipeline(configuration, folder, watch)
    if not finished.metrics:
        return
    page = leave_report(folder, sign)
    if as_json:
        write_out((folder / "metrics.json").read_text(encoding="utf-8"))
        return
    for table in finished.tables:
        show_table(table.title, table.header, table.rows)
    print_where("training", folder, page)
