"""``meter``: what a log of served responses costs each group."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rlhf_game.cli.set_option import Settings, settings_of

BY_MODELS = (
    "priced by the models: the mean is strength / weight * KL(policy || policy without the group), which is the bill "
    "where both are trained to the optimum; the interval is Student's, from the draws of the policy"
)


def meter(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|GAME", help="The folder of a run, or a game with its prompts.")
    ],
    responses: Annotated[
        Path, typer.Option("--responses", metavar="FILE", help="Rows of prompt and response: .jsonl or .parquet.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="CONFIG", help="Of a trained policy: what the run was made of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    settings: Settings = None,
) -> None:
    """Price every served response for every group; the mean price of a response is the bill.

    A negative price is a rebate, for a response that a group did not want. Responses that are not among the outcomes
    are named and not priced. A trained policy prices any response to its prompts, by the models with and without each
    group, where the run has them (payments_from: leave_one_out).
    """
    from rlhf_game.errors import InputError
    from rlhf_game.files.games import read_game
    from rlhf_game.files.meter import LEVEL, read_served
    from rlhf_game.files.meter import meter as price
    from rlhf_game.files.sampled import space_of

    game = source / "game.json" if source.is_dir() else source
    if not game.is_file():
        raise InputError(f"{source}: must be a game, or the folder of a run with a game.json, found neither")
    is_trained = space_of(game) == "samples"
    if not is_trained and config is not None:
        raise InputError(f"--config: must be given with the run of a trained policy only, found it with {source}")
    chosen = settings_of(game.parent if is_trained else source, settings)
    served = read_served(responses)
    if is_trained:
        from rlhf_game.outcomes.finetuned.finetuned_meter import meter_trained

        found = meter_trained(game.parent, served, config).document()
    else:
        found = price(read_game(game, settings=chosen), served).document()
    count = len(found["groups"][0]["responses"]) - len(found["unknown"])
    if not count:
        raise InputError(
            f"{responses}: must have at least one row whose response is an outcome of its prompt in {game}, found none"
        )
    if as_json:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{count} responses priced; what the total should be, with probability {LEVEL:g}:")
    for group in found["groups"]:
        low, high = group["expected"]["low"], group["expected"]["high"]
        typer.echo(f"  {group['name']}: {group['total']:z.6g} (expected {low:z.6g} to {high:z.6g})")
    if is_trained:
        typer.echo(BY_MODELS)
    if any(price is not None and price < 0 for group in found["groups"] for price in group["responses"]):
        typer.echo("a negative price is a rebate, for a response that the group did not want")
    if found["unknown"]:
        typer.echo(f"not priced, as they are no outcome of the game: rows {', '.join(map(str, found['unknown']))}")
