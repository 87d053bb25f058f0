"""``run``: a real language model and real rewards, settled into a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf_game.cli.seal import SealFile, SignKey
from rlhf_game.cli.set_option import DryRun, OutFolder, Settings
from rlhf_game.cli.simulate import Address, EngineName, Workers

if TYPE_CHECKING:
    from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
    from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun
    from rlhf_game.outcomes.run_config import Configuration
    from rlhf_game.outcomes.run_pipeline import FinishedRun

AsJson = Annotated[bool, typer.Option("--json", help="Print the receipt as JSON.")]
Plan = Annotated[
    bool,
    typer.Option("--plan", help="Draw a few responses and say what each kind of outcome would take; write nothing."),
]
Yardstick = Annotated[
    bool, typer.Option("--yardstick", help="Of candidates: measure what they keep of the gain over all texts.")
]
Calibrate = Annotated[
    Path | None,
    typer.Option("--calibrate", metavar="FILE", help="Say which maps and ceilings the public texts of FILE speak for."),
]
Spread = Annotated[float, typer.Option(help="With --calibrate: the scale of a map, in standard deviations.")]


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="What to run: .yaml, .yml or .json.")],
    as_json: AsJson = False,
    out: OutFolder = None,
    dry_run: DryRun = False,
    settings: Settings = None,
    plan: Plan = False,
    yardstick: Yardstick = False,
    calibrate: Calibrate = None,
    spread: Spread = 0.5,
    sealed: SealFile = None,
    sign: SignKey = None,
    engine: Annotated[
        EngineName | None, typer.Option(help="Where trainings and scorings that do not need each other are done.")
    ] = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Draw responses of a language model, score them by each group's reward, settle; an interrupted run goes on."""
    from rlhf_game.cli.display import write_out
    from rlhf_game.cli.processor import share_the_processor
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.report import leave_report, print_where
    from rlhf_game.engines import engine as engine_of
    from rlhf_game.errors import InputError
    from rlhf_game.files.seals import read_seal
    from rlhf_game.files.signatures import check_key
    from rlhf_game.outcomes.draws.draws_yardstick import check_yardstick, measure
    from rlhf_game.outcomes.run_config import read_config
    from rlhf_game.outcomes.run_pipeline import run as run_pipeline
    from rlhf_game.training.launched import are_several

    if are_several():
        raise InputError(
            "run must be one process, which spreads its work itself (--engine), found several of a launcher"
        )
    check_key(sign, is_written=not (dry_run or plan or calibrate is not None))
    share_the_processor()
    configuration = read_config(config, settings or ())
    chosen = engine_of(engine or "local", workers, address) if engine or workers or address else None
    folder = out or Path("runs") / config.stem
    if dry_run or plan or calibrate is not None:
        _show_before(configuration, folder, dry_run, plan, calibrate, spread, as_json)
        return
    if yardstick:
        check_yardstick(configuration)
    seal = None if sealed is None else read_seal(sealed)
    _warn(configuration, folder)
    with progress_on_stderr() as watch:
        finished = run_pipeline(configuration, folder, watch, engine=chosen, seal=seal)
    page = leave_report(folder, sign)
    measured = measure(configuration) if yardstick else None
    if as_json:
        text = (folder / "receipt.json").read_text(encoding="utf-8")
        write_out(text if measured is None else json.dumps({**json.loads(text), "yardstick": measured}) + "\n")
        return
    _show(finished, measured)
    print_where("run", folder, page)


def _warn(configuration: "Configuration", folder: Path) -> None:
    """Say on stderr, before hours are spent, what will be proved of nothing."""
    from rlhf_game.outcomes.finetuned.finetuned_run import foreseen
    from rlhf_game.outcomes.finetuned.finetuned_spec import FinetunedSpec

    if isinstance(configuration.fields.outcomes, FinetunedSpec) and not (folder / "receipt.json").exists():
        said = foreseen(configuration)
        if said is not None:
            typer.echo(said, err=True)


def _show_before(
    configuration: "Configuration",
    folder: Path,
    dry_run: bool,
    plan: bool,
    calibrate: Path | None,
    spread: float,
    as_json: bool,
) -> None:
    """Print what is known before anything is spent; nothing is written."""
    from rlhf_game.cli.display import show_calibrations, show_calls, show_plan
    from rlhf_game.outcomes.draws.calibrating import calibrate as calibrate_on
    from rlhf_game.outcomes.draws.plan import plan as plan_run
    from rlhf_game.outcomes.dry_run import count_calls

    if dry_run:
        show_calls(count_calls(configuration, folder), as_json)
    elif plan:
        show_plan(plan_run(configuration), as_json)
    elif calibrate is not None:
        show_calibrations(calibrate_on(configuration, calibrate, spread), as_json)


def _show(finished: "FinishedRun | FinetunedRun | DrawsRun", measured: Mapping[str, Any] | None) -> None:
    """Print a finished run. measured: what its candidates keep, where that was asked for."""
    from rlhf_game.cli.display import show_drawn, show_flat, show_receipt, show_table, show_trained, show_yardstick
    from rlhf_game.files.build import settle_without
    from rlhf_game.outcomes.draws.calibrating import flat_groups
    from rlhf_game.outcomes.draws.draws_pipeline import DrawsRun
    from rlhf_game.outcomes.finetuned.finetuned_run import FinetunedRun

    if isinstance(finished, FinetunedRun):
        show_trained(finished.receipt)
        return
    if isinstance(finished, DrawsRun):
        show_drawn(finished.receipt)
    else:
        show_receipt(finished.receipt, settle_without(finished.game)[1])
        if finished.system_prompts:
            rows = [(one.text, f"{one.judge_score:.3f}", f"{one.probability:.4f}") for one in finished.system_prompts]
            show_table("The system prompts", ("system prompt", "judge's score", "probability"), rows)
            _show_over_questions(finished.receipt.provenance.get("over_questions"))
        _show_over_members(finished.receipt.provenance.get("over_members"))
    show_flat(flat_groups(finished))
    if measured is not None:
        show_yardstick(measured)


def _show_over_questions(found: dict[str, Any] | None) -> None:
    """Print how far the money depends on the questions and answers that there were."""
    from rlhf_game.cli.display import show_table

    if found is None:
        typer.echo("one question alone: nothing says how far these numbers depend on it")
        return
    rows = [
        (
            one["name"],
            *(f"{one[key]['low']:z.4g} to {one[key]['high']:z.4g}" for key in ("value", "payment", "utility")),
        )
        for one in found["groups"]
    ]
    title = f"With other questions and answers than these {found['questions']} (bootstrap, 95 %, approximate)"
    show_table(title, ("group", "value", "payment", "utility"), rows)


def _show_over_members(found: dict[str, Any] | None) -> None:
    """Print how far the bills depend on which member of an ensemble is right; of no ensemble, nothing."""
    from rlhf_game.cli.display import show_table

    if found is None:
        return
    if "unknown" in found:
        typer.echo(f"no spread of the bills over the members of ensembles: {found['unknown']}")
        return

    def written(one: dict[str, Any]) -> str:
        least, middle, most = (one["payment"][key] for key in ("min", "median", "max"))
        return f"{middle:z.4g} ({least:z.4g} to {most:z.4g})"

    own = {one["name"]: one for one in found["groups"]}
    rows = []
    for one in found["joint"]["groups"]:
        alone = own.get(one["name"])
        said = ("", "", "") if alone is None else (written(alone), f"{alone['error']:.4g}", _bound(alone))
        rows.append((one["name"], said[0], written(one), *said[1:]))
    joint = found["joint"]
    several = "all" if joint["combinations"] == joint["of"] else f"{joint['combinations']} of {joint['of']}"
    title = f"The bill under each member of an ensemble, median (least to largest): {found['what']}"
    heads = ("group", "own member", f"all groups' members ({several} combinations)", "error", "2 size error")
    show_table(title, heads, rows)


def _bound(one: dict[str, Any]) -> str:
    return "unknown" if one["regret_bound"] is None else f"{one['regret_bound']:.4g}"
