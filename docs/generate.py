"""Write the generated parts of the pages anew, or with --check say which are out of date.

A page marks a generated part by ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is one of
  commands what the commands since the last output printed, of rlhf-game or `python FILE`; files of the page (a block
           with a title) lie where they run
  output   what the Python examples since the last output printed; the examples of a page share their names
  gallery  every figure of the pages, with a link to where it is explained
  names    the public names of rlhf_game by what they are for, with the first sentence of each
  extras   the optional dependencies, from pyproject.toml
  tables, arrays, documents   what is read and what is refused, from the cases of tests/files/matrix.py
  forgeries  what passes every check but a signature's, from tests/files/forgeries.py
  scoring  what makes a reward model's score, from the cases of tests/training_backends
  demo     what `rlhf-game demo` prints; takes minutes, so it is written only with --demo and never checked
"""

import argparse
import contextlib
import html
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
PART = re.compile(
    r"^```python\n(?P<example>.*?)^```$|^```\w+ title=\"(?P<file>[\w.]+)\"\n(?P<content>.*?)^```$"
    r"|^```console\n(?P<commands>.*?)^```$|^<!-- generated: (?P<name>\w+) -->\n(?P<old>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
FIGURE = re.compile(r"!\[([^\]]*)\]\((figures/[^)]+)\)")
TERMINAL = {"COLUMNS": "110", "NO_COLOR": "1"}
"""Of the terminal in which commands are shown."""
EXTRAS = {
    "conic": "cvxpy, for training rules without a closed form",
    "train": "torch, transformers, trl and peft: language models and reward models",
    "text": "small real reward functions: sentiment, readability, profanity, overlap",
    "report": "report.html, the page to cheat on, and figures",
    "parallel": "joblib: simulations on several processes",
    "ray": "Ray: simulations on several machines",
    "judge": "judges and writers behind an OpenAI-compatible endpoint",
    "sign": "signed receipts (Ed25519)",
    "vllm": "vLLM, for `trl: {use_vllm: true}`; needs a GPU, so it is not in `all`",
    "track": "trackio, for `trl: {report_to: trackio}`",
    "docs": "the site of documentation, and what runs the notebooks",
    "dev": "tests, benchmarks, linters",
    "all": "everything that installs on a machine without a GPU",
}


NAMES = {
    "Settle": "Mechanism settle_many Settlement Settlements Group Report Normalization",
    "Training rules": "TrainingRule AffineRule SocialWelfare AffineWelfare Trained",
    "Payments": "PaymentRule AffinePayments RevenueOptimal NoPayments",
    "Spaces of policies": "PolicySpace Policy Table Menu Chain Trie Candidates Draws",
    "Regularisers": "Regularizer KL SquaredL2 ReverseKL PearsonChi2 JensenShannon Hellinger Alpha",
    "Audits": "audit Regret World BestResponse Polarize Resize",
    "Rewards and parts of one's own": "HF register",
    "Errors": "RlhfGameError InputError CombinationError MissingExtra RunError",
}
"""The public names, by what they are for."""


def pages() -> list[Path]:
    """Return every page that may hold generated parts."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def regenerated(text: str, with_demo: bool = False) -> str:
    """Return a page's text with its generated parts written anew; runs its Python examples in order."""
    with tempfile.TemporaryDirectory() as folder:
        return Regeneration(Path(folder), with_demo).of(text)


class Regeneration:
    """One page that is written anew: the names, files and outputs that its parts share."""

    def __init__(self, folder: Path, with_demo: bool) -> None:
        self._folder = folder
        self._with_demo = with_demo
        self._names: dict[str, object] = {"__name__": "__main__"}
        self._printed = io.StringIO()
        self._commands = ""

    def of(self, text: str) -> str:
        """Return the page's text."""
        return PART.sub(self._written, text)

    def _written(self, part: re.Match[str]) -> str:
        if part["name"] is not None:
            return f"<!-- generated: {part['name']} -->\n{self._new(part['name'], part['old'])}<!-- end -->"
        if part["example"] is not None:
            with contextlib.redirect_stdout(self._printed):
                exec(compile(part["example"], "<example>", "exec"), self._names)
        elif part["file"] is not None:
            (self._folder / part["file"]).write_text(part["content"], encoding="utf-8")
        else:
            self._commands = part["commands"]
        return part[0]

    def _new(self, name: str, old: str) -> str:
        if name == "demo":
            return _block(_demo()) if self._with_demo else old
        if name == "output":
            said, self._printed = self._printed.getvalue(), io.StringIO()
            return _block(said)
        if name == "commands":
            return _block(_printed(self._commands, self._folder))
        if name not in MADE:
            raise SystemExit(f"a generated part must be one of those above, got {name!r}")
        return MADE[name]()


def _printed(commands: str, folder: Path) -> str:
    """Return what the commands of one block print, one after the other in a folder; exit code 3 is an answer, too."""
    from rlhf_game.cli import main as command_line

    printed = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        mock.patch.dict(os.environ, TERMINAL),
    ):
        for line in commands.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[0] == "python":
                runpy.run_path(words[1], run_name="__main__")
            elif words[0] != "rlhf-game" or command_line(words[1:]) not in (0, 3):
                raise SystemExit(f"a command of a page must be one of rlhf-game that succeeds, got {line!r}")
    return printed.getvalue()


def _block(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"```text\n{lines}\n```\n"


def _extras() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [f"| `{extra}` | {EXTRAS[extra]} |" for extra in project["optional-dependencies"]]
    return "\n".join(["| extra | brings |", "|---|---|", *rows]) + "\n"


def _names() -> str:
    """Return a table of every public name; the page fails where one is left out of its groups."""
    import rlhf_game

    listed = [name for names in NAMES.values() for name in names.split()]
    if sorted(listed) != sorted(rlhf_game.__all__):
        raise SystemExit(f"NAMES must hold the public names, differs in {set(listed) ^ set(rlhf_game.__all__)}")
    rows = []
    for title, names in NAMES.items():
        rows += [f"| **{title}** | |"]
        for name in names.split():
            parts = (getattr(rlhf_game, name).__doc__ or "").partition("\n")[0].split("``")
            parts[::2] = [html.escape(part, quote=False).replace("*", "\\*").replace("|", "\\|") for part in parts[::2]]
            rows.append(f"| `{name}` | {'`'.join(parts)} |")
    return "\n".join(["| name | what it is |", "|---|---|", *rows]) + "\n"


def _gallery() -> str:
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page.stem not in ("index", "gallery"):
            figures = [f"[![{alt}]({path})]({page.name})\n\n{alt}\n" for alt, path in FIGURE.findall(text)]
            title = text.partition("\n")[0].lstrip("# ")
            found += [f"## {title}\n", *figures] if figures else []
    return "\n".join(found)


def _tests(module: str) -> Any:
    """Return a module of the tests, whose cases a page shows."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module(f"tests.{module}")


def _cases(kind: str) -> str:
    matrix = _tests("files.matrix")
    cases = getattr(matrix, kind)
    rows = [f"| {case[0]} | {'read' if case[-1] == matrix.READ else f'refused: {case[-1]}'} |" for case in cases]
    return "\n".join(["| what | what happens |", "|---|---|", *rows]) + "\n"


def _forgeries() -> str:
    forgeries, rows = _tests("files.forgeries"), []
    for document, places in forgeries.LISTED.items():
        for place, why in places.items():
            rows.append(f"| {document} | {f'`{place}`' if place else 'a key more or less'} | {why} |")
    head = f"{len(forgeries.KINDS)} kinds of games: {', '.join(forgeries.KINDS)}.\n\n| document | what passes | why |"
    return "\n".join([head, "|---|---|---|", *rows]) + "\n"


def _scoring() -> str:
    cases = _tests("training_backends.cases")
    rows = [
        f"| {name} | {' | '.join(cases.scored(kind, pad) for pad in cases.PADS.values())} |"
        for name, kind in cases.ARCHITECTURES.items()
    ]
    head = ["| pad id in the configuration: | " + " | ".join(cases.PADS) + " |", "|---|" + "---|" * len(cases.PADS)]
    forms = ", ".join(f"*{form}*" for form in cases.FORMS)
    return "\n".join([*head, *rows, "", f"Each of these, as: {forms}."]) + "\n"


def _demo() -> str:
    command = Path(sys.executable).with_name("rlhf-game")
    environment = {**os.environ, **TERMINAL}
    return subprocess.run([command, "demo"], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


MADE = {
    "extras": _extras,
    "names": _names,
    "gallery": _gallery,
    "forgeries": _forgeries,
    "scoring": _scoring,
    **{kind: partial(_cases, kind.upper()) for kind in ("tables", "arrays", "documents")},
}
"""The parts that no other part of their page has a say in."""


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the pages anew.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    parser.add_argument("--demo", action="store_true", help="run the demo for its table too (minutes)")
    options = parser.parse_args()
    stale = []
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = regenerated(old, with_demo=options.demo)
        if new != old:
            stale.append(page.relative_to(ROOT).as_posix())
            if not options.check:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'out of date: ' if options.check else 'written: '}{', '.join(stale)}", file=sys.stderr)
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
