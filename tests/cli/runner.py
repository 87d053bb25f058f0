"""The command line inside the test's own process; an exception that a user would see as a traceback fails the test."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from rlhf_game.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())
