"""The command line inside the test's own process; an exception that a user would see as a traceback fails the test.

However slow the machine is, no line about progress is among what a command says.
"""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from math import inf
from unittest.mock import patch

from rlhf_game.cli import main, progress


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def run(*arguments: object) -> Result:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(progress, "FIRST", inf):
        code = main([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())
