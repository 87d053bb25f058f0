"""``demo``: three groups with real reward models share a small real language model."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from rlhf_game.outcomes.demo import BestExaggeration
    from rlhf_game.outcomes.run_pipeline import FinishedRun

WIDTH: Final = 100
"""Columns of the page where there is no terminal, and at most on one."""
LIAR: Final = 0
"""Marketing."""


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Three groups that disagree settle over responses of SmolLM2-135M, and one of them tries to cheat (a minute)."""
    from rlhf_game.cli.display import show_receipt
    from rlhf_game.cli.processor import share_the_processor
    from rlhf_game.cli.progress import progress_on_stderr
    from rlhf_game.cli.report import leave_report
    from rlhf_game.files.build import settle_without
    from rlhf_game.outcomes.demo import best_exaggeration, demo_config
    from rlhf_game.outcomes.run_pipeline import run_over_texts

    share_the_processor()
    with progress_on_stderr() as watch:
        finished = run_over_texts(demo_config(), out, watch)
    console = _console()
    _show_game(console, finished)
    _, values_without = settle_without(finished.game)
    show_receipt(finished.receipt, values_without)
    _show_moves(console, finished)
    _show_lie(console, finished, best_exaggeration(finished.game, LIAR))
    _show_folder(console, out, leave_report(out))


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False)
    if not sys.stdout.isatty() or console.width > WIDTH:
        console = Console(highlight=False, width=WIDTH)
    return console


def _heading(console: "Console", text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}", align="left", characters="─")


def _show_game(console: "Console", finished: "FinishedRun") -> None:
    fields = finished.game.fields
    counts = [len(row) for row in finished.game.reference]
    _heading(console, "Three groups share one language model")
    console.print(
        f"SmolLM2-135M-Instruct answers {len(counts)} prompts; {sum(counts)} responses were drawn before any group was "
        f"asked. Each group scores them with its own reward model, in [0, 1] by a declared map. One policy is trained "
        f"for all (KL, strength {fields.strength:g}); each group pays what its report costs the others.",
        markup=False,
    )


def _show_moves(console: "Console", finished: "FinishedRun") -> None:
    from rich.padding import Padding
    from rich.text import Text

    _heading(console, "The response to each prompt that moved most")
    table = _columns("prompt and response", "before", "after", "")
    policy: Any = finished.receipt.policy  # a list of lists: a run has several prompts
    texts_of = finished.drawn.by_prompt(finished.drawn.texts)
    for prompt, before, after, texts in zip(finished.prompts, finished.game.reference, policy, texts_of, strict=True):
        moved = [abs(p - q) for p, q in zip(after, before, strict=True)]
        k = moved.index(max(moved))
        table.add_row(Text(prompt, style="bold"), "", "", "")
        response = Padding(Text(" ".join(texts[k].split()), style="dim"), (0, 0, 0, 2))
        table.add_row(response, f"{before[k]:.1%}", f"{after[k]:.1%}", _bar(after[k]))
    console.print(table)


def _bar(share: float, width: int = 12) -> str:
    return "█" * max(1, round(share * width))


def _show_lie(console: "Console", finished: "FinishedRun", lie: "BestExaggeration") -> None:
    from rich.text import Text

    name = finished.receipt.groups[LIAR].name.partition(" (")[0]
    favourites = "its favourite response" if lie.favourites == 1 else f"its {lie.favourites} favourite responses"
    _heading(console, f"What {name} would gain by exaggerating")
    console.print(
        f"It claims that only {favourites} to each prompt is worth anything (the best of {lie.searched} all-or-nothing "
        "lies tried). Its utility, at what it really wants:",
        markup=False,
    )
    table = _columns("", "honest", "lying", "gain")
    free, paid = (lie.honest.worth, lie.lying.worth), (lie.honest.utility, lie.lying.utility)
    for label, (honest, lying) in (("without payments", free), ("with payments", paid)):
        gain = lying - honest
        colour = "green" if gain > 0 else "red"
        table.add_row(label, f"{honest:.3f}", f"{lying:.3f}", Text(f"{gain:+.3f}", style=f"bold {colour}"))
    console.print(table)
    console.print(
        f"The lie would raise {name}'s payment from {lie.honest.payment:.3f} to {lie.lying.payment:.3f}: "
        "more than it is worth. With these payments no lie gains, whatever the others say.",
        markup=False,
    )


def _columns(first: str, *others: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    return table


def _show_folder(console: "Console", folder: Path, page: Path | None) -> None:
    _heading(console, "Everything is on disk")
    receipt, game = (shlex.quote(str(folder / name)) for name in ("receipt.json", "game.json"))
    console.print(f"run folder  {folder}", markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"read it     {page}", markup=False, soft_wrap=True)
    console.print(f"check it    rlhf-game verify {receipt} {game}", markup=False, soft_wrap=True)
    console.print("your own    rlhf-game init run -o run.yaml", markup=False, soft_wrap=True)
