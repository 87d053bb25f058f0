"""Progress: bars on a terminal, elsewhere few lines, each with the time that is left."""

from io import StringIO

import pytest
from rich.console import Console

from rlhf_game.cli.progress import _bars, _lines, progress_on_stderr


def test_lines_come_seldom_and_say_what_is_left() -> None:
    now, said = [0.0], list[str]()
    watch = _lines(said.append, lambda: now[0])
    for done in range(1, 1201):
        watch("play", done, 1200)
        now[0] += 0.5
    assert said[:3] == [
        "play: 11 of 1200, about 9 min 54 s left",
        "play: 31 of 1200, about 9 min 44 s left",
        "play: 71 of 1200, about 9 min 24 s left",
    ]
    assert len(said) < 15
    now[0] += 7200
    watch("join", 0, 1)
    assert said[-1] == "join: 0 of 1"


def test_what_was_done_before_does_not_count_as_fast() -> None:
    now, said = [0.0], list[str]()
    watch = _lines(said.append, lambda: now[0])
    watch("play", 9000, 10000)
    now[0] = 100.0
    watch("play", 9010, 10000)
    assert said == ["play: 9010 of 10000, about 2 h 45 min left"]


def test_of_the_same_work_for_another_the_time_is_its_own() -> None:
    """Trainings without each group are told apart by what stands after the numbers that change."""
    now, said = [0.0], list[str]()
    watch = _lines(said.append, lambda: now[0])
    for step in range(101):
        watch(f"train the policy [loss {step}] (without a)", step, 100)
        now[0] += 10
    watch("train the policy [loss 3] (without b)", 0, 100)
    now[0] += 100
    watch("train the policy [loss 2] (without b)", 10, 100)
    assert said[-1] == "train the policy [loss 2] (without b): 10 of 100, about 15 min 0 s left"


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr() as watch:
        watch("play", 1, 2)
        watch("play", 2, 2)
    assert capsys.readouterr().err == ""


def test_a_bar_says_nothing_of_the_work_before() -> None:
    said = StringIO()
    with _bars(Console(file=said, force_terminal=True, width=120, color_system=None)) as watch:
        watch("draw [reward 0.3]", 3, 4)
        watch("draw [reward 0.4]", 4, 4)
        said.truncate(0)
        watch("settle", 0, 1)
    last = [line for line in said.getvalue().splitlines() if "settle" in line][-1]
    assert "0/?" in last  # was 0/4: of the drawing
    assert "so far," in last
    assert last.rstrip().endswith("left")
