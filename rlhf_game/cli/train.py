"""``train``: reward models from preferences, into a folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")]


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to train: .yaml, .yml or .json.")],
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Default: runs/CONFIG's name.")] = None,
) -> None:
    """Train a reward model, an ensemble or a weight average of several; an interrupted training goes on."""
    from rlhf_game.cli.display import write_out
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.run import share_the_processor
    from rlhf_game.training import read_training
    from rlhf_game.training import train as train_pipeline

    share_the_processor()
    configuration = read_training(config)
    folder = out or Path("runs") / config.stem
    with progress_on_stderr() as watch:
        finished = train_pipeline(configuration, folder, watch)
    if as_json:
        write_out((folder / "metrics.json").read_text(encoding="utf-8"))
        return
    _show(finished.metrics)
    typer.echo(f"training folder: {folder}")


def _show(metrics: dict[str, Any]) -> None:
    from rlhf_game.cli.display import show_table

    rows: dict[str, dict[str, dict[str, float]]] = {}
    if "model" in metrics:
        rows["model"] = metrics["model"]
    for i, member in enumerate(metrics.get("members", [])):
        rows[f"member {i}"] = member
    for name, aggregate in metrics.get("ensemble", {}).items():
        rows[f"ensemble, {name}"] = aggregate
    if "average" in metrics:
        rows["weight average"] = metrics["average"]
    on_pairs = ("reward", "on", "pairs", "accuracy", "Brier", "calibration error", "length correlation")
    keys = ("accuracy", "brier", "calibration_error", "length_correlation")
    show_table(
        on_pairs,
        [
            (name, subset, str(judged["pairs"]), *(f"{judged[key]:.3f}" for key in keys))
            for name, subsets in rows.items()
            for subset, judged in subsets.items()
        ],
    )
    if "candidates" in metrics:
        pairs = metrics["candidates"]["pairs"]
        sizes = list(pairs[0]["same_best_of"])
        show_table(
            ("members", "backbone", "Spearman", *(f"same best of {n}" for n in sizes)),
            [
                (
                    " and ".join(map(str, pair["members"])),
                    "same" if pair["same_backbone"] else "other",
                    "unknown" if pair["spearman"] is None else f"{pair['spearman']:.3f}",
                    *(f"{pair['same_best_of'][n]:.3f}" for n in sizes),
                )
                for pair in pairs
            ],
        )
