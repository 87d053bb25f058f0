"""Code, files and names of others: whatever they do is one line and an exit code, and --debug shows the traceback."""

import json
from pathlib import Path

import pytest

from rlhf_game import InputError, RunError
from rlhf_game.cli import app
from rlhf_game.errors import boundary
from rlhf_game.rewards.functions import PythonFunction
from rlhf_game.rewards.texts import call_reward
from tests.cli.runner import Result, run

CODE = {
    "sys.exit in the module": ("import sys\nsys.exit(0)", "cannot be run: it called sys.exit: 0"),
    "sys.exit in the function": ("import sys\ndef f(**_): sys.exit(3)", "failed: it called sys.exit: 3"),
    "exit without a number": ("def f(**_): raise SystemExit", "failed: it called sys.exit"),
    "an error of several lines": ("def f(**_): raise ValueError('one\\ntwo\\x1b[31m')", "failed: ValueError: one two"),
    "an error without words": ("def f(**_): assert False", "failed: AssertionError"),
    "no exception at all": ("class Stop(BaseException): pass\ndef f(**_): raise Stop('now')", "failed: Stop: now"),
    "an iterator at its end": ("def f(**_): next(iter([]))", "failed: StopIteration"),
    "no memory": ("def f(**_): raise MemoryError", "failed: MemoryError"),
    "no end": ("def f(**_): return f()", "failed: RecursionError"),
    "no syntax": ("def f(:", "cannot be run: SyntaxError: invalid syntax"),
    "no text": ("x = '\\ud800'.encode()", "cannot be run: UnicodeEncodeError"),
    "an import that is not there": ("import nothing_of_this_name", "cannot be run: ModuleNotFoundError: No module"),
    "an attribute that fails": ("def __getattr__(name): raise OSError('gone')", "cannot be read: OSError: gone"),
    "a pair instead of numbers": ("def f(**_): return 1j, 2", "must return a list of numbers, got a list of 2"),
    "texts instead of numbers": ("def f(**_): return ['1', '2']", "must return a list of numbers, got a list of 2"),
}


@pytest.mark.parametrize("name", CODE)
def test_whatever_a_reward_function_does_is_one_line(tmp_path: Path, name: str) -> None:
    source, said = CODE[name]
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(RunError) as caught:
        call_reward(PythonFunction("mine.py:f", tmp_path), ["p", "p"], ["a", "b"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_errors_of_this_package_and_interruptions_pass_a_boundary() -> None:
    for error in (InputError("mine"), RunError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, boundary("there"):
            raise error
        assert caught.value is error
    with pytest.raises(InputError, match="^there: KeyError: 'x'$") as wrong, boundary("there", InputError):
        {}["x"]
    assert isinstance(wrong.value.__cause__, KeyError)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: object) -> Result:
    """What a user sees when a command raises this error."""

    def fail(arguments: list[str]) -> int:
        assert "--debug" not in arguments
        raise error

    monkeypatch.setattr(app, "_run", fail)
    return run(*arguments)


@pytest.mark.parametrize(
    ("error", "said", "code"),
    [
        (InputError("g.yaml: strength: must be"), "g.yaml: strength: must be", 2),
        (RunError("it\nfailed"), "it failed", 1),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero (--debug shows where)", 1),
        (SystemExit(0), "it called sys.exit: 0 (--debug shows where)", 1),
        (MemoryError(), "there is not enough memory", 1),
        (OSError(36, "File name too long", "aaa"), "[Errno 36] File name too long: 'aaa'", 2),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", 1),
        (RunError("\x1b[2J" + "x" * 5000), "\\x1b[2Jxxx", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)  # fmt: skip
def test_every_error_is_one_line(monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str, code: int) -> None:
    result = failing(monkeypatch, error, "settle", "g.yaml")
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(f"rlhf-game: {said}")
    assert result.err.count("\n") == 1
    assert result.err[:-1].isprintable()
    assert len(result.err) < 2100


def test_debug_shows_the_traceback_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("--debug", "settle", "g.yaml"), ("settle", "g.yaml", "--debug")):
        result = failing(monkeypatch, InputError("wrong"), *arguments)
        assert result.code == 2
        assert "Traceback (most recent call last)" in result.err
        assert result.err.endswith("\nrlhf-game: wrong\n")


def test_a_game_may_be_settled_with_debug(tmp_path: Path) -> None:
    game = {"reference": [0.5, 0.5], "strength": 1, "groups": [{"name": "a", "reward": [1, 0]}]}
    (tmp_path / "g.json").write_text(json.dumps(game))
    assert run("settle", tmp_path / "g.json", "--debug").code == 0
    assert "--debug" in run("--help").out


@pytest.mark.parametrize("name", ["a" * 300 + ".yaml", "a\0.yaml", "g.json/b.yaml"])
@pytest.mark.parametrize("command", ["settle", "audit", "run", "train", "simulate", "discover", "report"])
def test_a_name_that_no_file_can_have_is_one_line(tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "g.json").write_text("{}")
    result = run(command, tmp_path / name)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), result
    assert result.err[:-1].isprintable()
