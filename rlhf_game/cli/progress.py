"""Progress on stderr, and only on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_on_stderr() -> Iterator[Callable[[str, int, int], None]]:
    """Yield the function that a long piece of work calls with what it does, how much is done, and of how much."""
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("start", total=None)

        def watch(what: str, done: int, total: int) -> None:
            is_long = total > 1
            bars.update(task, description=what, completed=done, total=total if is_long or done else None)

        yield watch
