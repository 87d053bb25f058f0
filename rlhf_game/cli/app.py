"""The commands together, and what every one of them does with errors, pipes and Ctrl-C."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from rlhf_game.cli import (
    audit,
    demo,
    discover,
    doctor,
    export,
    init,
    meter,
    play,
    report,
    run,
    schema,
    seal,
    settle,
    simulate,
    train,
)
from rlhf_game.errors import CombinationError, InputError, MissingExtra, RlhfGameError, happened
from rlhf_game.files.documents import shown

SUCCESS: Final = 0
FAILED: Final = 1
WRONG_INPUT: Final = 2
INTERRUPTED: Final = 130
DEBUG: Final = "--debug"
LONGEST: Final = 2000
"""Characters of a message."""
NAMES: Final = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR})
"""What the system says of a file whose name is wrong, whatever it is for."""

COMPLETION: Final = "_RLHF_GAME_COMPLETE"
"""What a shell sets when it asks for completions."""
SHELL_OPTIONS: Final = ("--install-completion", "--show-completion")
"""Of typer; both end the process."""
USAGE: Final[Any] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""The base of typer's usage errors, which typer itself does not export."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 success, 2 wrong input, 1 failed (also: nobody could read the output), 3 a check did not hold, 130 interrupted.

    arguments: default those of the process. Whatever goes wrong is one line on stderr; ``--debug`` anywhere among them
    shows the traceback above it.
    """
    is_heard = sys.stdout is not None  # a stream that was closed before we began is None
    _replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that cannot show a character shows its escape
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run([argument for argument in given if argument != DEBUG])
        if code == INTERRUPTED:  # typer has caught the exception and says nothing
            return _fail("interrupted", INTERRUPTED)
        return code if is_heard or code != SUCCESS else FAILED
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except BaseException as error:  # noqa: BLE001 - the last boundary: one line, whatever it is
        if isinstance(error.__context__, BrokenPipeError):  # typer's way to say it
            return FAILED
        if DEBUG in given:
            traceback.print_exception(error, file=sys.stderr)
        return _fail(*_message_and_code(error))


def _message_and_code(error: BaseException) -> tuple[str, int]:
    """Return the one line that tells of an error, and the exit code."""
    match error:
        case USAGE():
            said = error.format_message().replace("Value error, ", "")  # of the library that reads choices
            return f"{said} (see rlhf-game --help)", WRONG_INPUT
        case InputError() | CombinationError() | MissingExtra():
            return str(error), WRONG_INPUT
        case OSError():
            return str(error), WRONG_INPUT if error.errno in NAMES else FAILED
        case RlhfGameError():
            return str(error), FAILED
        case MemoryError():
            return "there is not enough memory", FAILED
        case _:  # of others' code outside every boundary, or a fault of ours
            return f"{happened(error)} ({DEBUG} shows where)", FAILED


def _replace_closed_streams() -> None:
    """Let output to a closed stream vanish, and let no file of ours be opened in its place."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it stays open to the end
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _run(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(_app()).main(arguments, prog_name="rlhf-game", standalone_mode=False)
    except SystemExit as ended:  # how typer ends when a shell has asked it what may follow, or somebody how to ask
        if COMPLETION not in os.environ and not "".join(arguments[:1]).startswith(SHELL_OPTIONS):
            raise
        code = ended.code
    sys.stdout.flush()
    return code if isinstance(code, int) else SUCCESS


def _app() -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
    app.callback(invoke_without_command=True)(_root)
    app.command("settle")(settle.settle)
    app.command("audit")(audit.audit)
    app.command("run")(run.run)
    app.command("train")(train.train)
    app.command("discover")(discover.discover)
    app.command("simulate")(simulate.simulate)
    app.command("report")(report.report)
    app.command("verify")(settle.verify)
    app.command("seal")(seal.seal)
    app.command("open")(seal.open_seal)
    app.command("receipt")(settle.receipt)
    app.command("meter")(meter.meter)
    app.command("play")(play.play)
    app.command("export")(export.export)
    app.command("init")(init.init)
    app.command("schema")(schema.schema)
    app.command("doctor")(doctor.doctor)
    app.command("demo")(demo.demo)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; anywhere in a command.")] = False,
) -> None:
    """Several groups share one language model: settle what is trained and what each group owes."""
    if version:
        from rlhf_game import __version__

        typer.echo(f"rlhf-game {__version__}")
        raise typer.Exit(SUCCESS)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _fail(message: str, code: int) -> int:
    """Print one line on stderr."""
    print("rlhf-game: " + shown(" ".join(message.split()), LONGEST), file=sys.stderr)
    return code
