"""Progress on stderr: a bar on a terminal, elsewhere now and then a line; both say how much time is left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

Watch: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""

FIRST: Final = 5.0
"""Seconds until the first line, so that short work says nothing; each further pause is twice as long, up to ..."""
LONGEST: Final = 60.0


@contextmanager
def progress_on_stderr() -> Iterator[Watch]:
    """Yield the function that a long piece of work calls with what it does, how much is done, and of how much."""
    if not sys.stderr.isatty():
        yield _lines(lambda line: print(line, file=sys.stderr, flush=True), monotonic)
        return
    from rich.console import Console

    with _bars(Console(stderr=True)) as watch:
        yield watch


@contextmanager
def _bars(console: "Console") -> Iterator[Watch]:
    """Yield a watch that draws a bar for what is being done, and takes it away again."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    ends = (TimeElapsedColumn(), TextColumn("so far,"), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, *ends, console=console, transient=True) as bars:
        stage, task = "start", bars.add_task("start", total=None)

        def watch(what: str, done: int, total: int) -> None:
            nonlocal stage, task
            if _stage(what) != stage:  # a bar of its own: neither the total nor the pace of the one before
                bars.remove_task(task)
                stage, task = _stage(what), bars.add_task(what, total=None)
            is_long = total > 1
            bars.update(task, description=what, completed=done, total=total if is_long or done else None)

        yield watch


def _lines(write: Callable[[str], None], clock: Callable[[], float]) -> Watch:
    """Return a watch that writes lines, few of them. clock: seconds since some moment."""
    begun: dict[str, tuple[float, int]] = {}
    """When each thing began, and how much of it was done then."""
    due = [clock() + FIRST, 2 * FIRST]

    def watch(what: str, done: int, total: int) -> None:
        now = clock()
        since, before = begun.setdefault(_stage(what), (now, done))
        if now < due[0]:
            return
        due[:] = now + due[1], min(2 * due[1], LONGEST)
        line = f"{what}: {done} of {total}"
        if done > before:
            line += f", about {_time((now - since) / (done - before) * (total - done))} left"
        write(line)

    return watch


def _stage(what: str) -> str:
    """Return what is being done without what changes meanwhile, which is in brackets."""
    before, _, rest = what.partition(" [")
    return before + rest.partition("]")[2]


def _time(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
