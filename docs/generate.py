"""Write the generated parts of the pages anew, or with --check say which are out of date.

A page marks a generated part by ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is one of
  output   what the Python examples since the last output printed; the examples of a page share their names
  extras   the optional dependencies, from pyproject.toml
  tables, arrays, documents   what is read and what is refused, from the cases of tests/files/matrix.py
  scoring  what makes a reward model's score, from the cases of tests/training_backends
  demo     what `rlhf-game demo` prints; takes minutes, so it is written only with --demo and never checked
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md")
PART = re.compile(
    r"^```python\n(?P<example>.*?)^```$|^<!-- generated: (?P<name>\w+) -->\n(?P<old>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
EXTRAS = {
    "conic": "cvxpy, for training rules without a closed form",
    "train": "torch, transformers, trl and peft: language models and reward models",
    "text": "small real reward functions: sentiment, readability, profanity, overlap",
    "report": "report.html and figures",
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


def pages() -> list[Path]:
    """Return every page that may hold generated parts."""
    return sorted(path for pattern in PAGES for path in ROOT.glob(pattern))


def regenerated(text: str, with_demo: bool = False) -> str:
    """Return a page's text with its generated parts written anew; runs its Python examples in order."""
    names: dict[str, object] = {"__name__": "__main__"}
    printed = io.StringIO()

    def write(part: re.Match[str]) -> str:
        name, old = part["name"], part["old"]
        if name is None:
            with contextlib.redirect_stdout(printed):
                exec(compile(part["example"], "<example>", "exec"), names)
            return part[0]
        if name == "demo":
            new = _block(_demo()) if with_demo else old
        elif name == "output":
            new = _block(printed.getvalue())
            printed.seek(0)
            printed.truncate()
        elif name == "extras":
            new = _extras()
        elif name in ("tables", "arrays", "documents"):
            new = _cases(name)
        elif name == "scoring":
            new = _scoring()
        else:
            raise SystemExit(f"a generated part must be one of those above, got {name!r}")
        return f"<!-- generated: {name} -->\n{new}<!-- end -->"

    return PART.sub(write, text)


def _block(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
    return f"```text\n{lines}\n```\n"


def _extras() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [f"| `{extra}` | {EXTRAS[extra]} |" for extra in project["optional-dependencies"]]
    return "\n".join(["| extra | brings |", "|---|---|", *rows]) + "\n"


def _cases(name: str) -> str:
    sys.path.insert(0, str(ROOT))
    from tests.files import matrix

    cases = {"tables": matrix.TABLES, "arrays": matrix.ARRAYS, "documents": matrix.DOCUMENTS}[name]
    rows = [f"| {case[0]} | {'read' if case[-1] == matrix.READ else f'refused: {case[-1]}'} |" for case in cases]
    return "\n".join(["| what | what happens |", "|---|---|", *rows]) + "\n"


def _scoring() -> str:
    sys.path.insert(0, str(ROOT))
    from tests.training_backends import cases

    rows = [
        f"| {name} | {' | '.join(cases.scored(kind, pad) for pad in cases.PADS.values())} |"
        for name, kind in cases.ARCHITECTURES.items()
    ]
    head = ["| pad id in the configuration: | " + " | ".join(cases.PADS) + " |", "|---|" + "---|" * len(cases.PADS)]
    forms = ", ".join(f"*{form}*" for form in cases.FORMS)
    return "\n".join([*head, *rows, "", f"Each of these, as: {forms}."]) + "\n"


def _demo() -> str:
    command = Path(sys.executable).with_name("rlhf-game")
    environment = {**os.environ, "COLUMNS": "110", "NO_COLOR": "1"}
    return subprocess.run([command, "demo"], check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


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
