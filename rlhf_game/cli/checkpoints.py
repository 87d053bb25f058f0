"""``settle --policy`` and ``settle --draws``: the bill of a checkpoint, whoever trained it."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

if TYPE_CHECKING:
    from rlhf_game.cli.progress import Watch
    from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun

PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", metavar="DIR", help="A checkpoint that anybody trained: a model, or an adapter of one."),
]
ReferenceOption = Annotated[
    str | None, typer.Option("--reference", metavar="DIR|NAME", help="What it was trained from: the untouched model.")
]
GroupsOption = Annotated[
    Path | None,
    typer.Option("--groups", metavar="FILE", help="Who is billed for it: a run's configuration, .yaml or .json."),
]
DrawsOption = Annotated[
    Path | None,
    typer.Option("--draws", metavar="FILE", help="Fresh draws of both models, each with every group's reward."),
]


@final
@dataclass(frozen=True)
class CheckpointOptions:
    """What is asked of a checkpoint, as on the command line."""

    policy: str | None
    reference: str | None
    groups: Path | None
    draws: Path | None
    settings: tuple[str, ...]
    sealed: Path | None
    sign: Path | None


def settle_checkpoint(game: Path | None, asked: CheckpointOptions, out: Path | None, as_json: bool) -> None:
    """Settle a checkpoint into a folder beside the receipt, NAME.run, from which an interrupted settlement goes on."""
    import tempfile

    from rlhf_game.cli.display import show_trained, write_out
    from rlhf_game.cli.processor import share_the_processor
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.errors import InputError
    from rlhf_game.files.atomic import check_output, write_text
    from rlhf_game.files.receipts import Receipt, read_receipts
    from rlhf_game.files.signatures import signed

    if game is not None:
        raise InputError(f"{game}: must not be here with --policy or --draws, which need no game")
    if asked.groups is None:
        raise InputError("--groups: must name the file of the groups with --policy or --draws, found nothing")
    if out is not None:
        for what, file in (("groups", asked.groups), ("draws", asked.draws), ("seal", asked.sealed)):
            check_output(out, what, file)
    share_the_processor()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run" if out is None else _beside(out)
        watch = stack.enter_context(progress_on_stderr())
        done = _settled(folder, asked, asked.groups, watch)
        (receipt,) = read_receipts(folder / "receipt.json")
    text = Receipt.model_validate(signed(receipt.model_dump(), asked.sign)).text()
    if out is not None:
        write_text(out, text)
    if as_json:
        write_out(text)
        return
    show_trained(done.receipt)
    if out is not None:
        typer.echo(f"receipt: {out}\ndraws: {folder}")


def _settled(folder: Path, asked: CheckpointOptions, groups: Path, watch: "Watch") -> "FinetunedRun":
    """Settle given draws, or a checkpoint that is drawn from first, in ``folder``."""
    from rlhf_game.errors import InputError
    from rlhf_game.files.run_folder import open_folder
    from rlhf_game.files.seals import read_seal
    from rlhf_game.outcomes.checkpoint_bill import read_checkpoint
    from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun
    from rlhf_game.outcomes.given_draws import read_given_draws, settle_given
    from rlhf_game.outcomes.run_pipeline import run

    if asked.draws is not None:
        if asked.sealed is not None:
            raise InputError("--seal: must not be here with --draws, whose draws no seal decides, found one")
        given = read_given_draws(asked.draws, groups, asked.policy, asked.reference, asked.settings)
        with open_folder(folder, given.configuration) as opened:
            return settle_given(given, opened, watch)
    assert asked.policy is not None
    configuration = read_checkpoint(groups, asked.policy, asked.reference, asked.settings)
    done = run(configuration, folder, watch, seal=None if asked.sealed is None else read_seal(asked.sealed))
    assert isinstance(done, FinetunedRun)
    return done


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}.run")
