"""Every notebook runs from the top and prints what it shows."""

import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITH_WEIGHTS = "400"
"""It needs the weights of a real model."""
NOTEBOOKS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.weights] if path.name.startswith(WITH_WEIGHTS) else ())
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
]
BROUGHT = {"numpy", "IPython"}
"""Comes with the package, or with whatever opens notebooks."""
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def _execute() -> ModuleType:
    spec = spec_from_file_location("execute", ROOT / "notebooks/execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(notebook: Any) -> str:
    return "".join(out["text"] for cell in notebook.cells for out in cell.get("outputs", []) if "text" in out)


def same(new: str, old: str) -> bool:
    """Equal texts; numbers within 1 % (another processor), and below 1e-12 (rounding) as good as 0."""
    if NUMBER.sub("#", new).split() != NUMBER.sub("#", old).split():
        return False
    pairs = zip(NUMBER.findall(new), NUMBER.findall(old), strict=True)
    return all(abs(float(a) - float(b)) <= 0.01 * abs(float(b)) + 1e-12 for a, b in pairs)


def test_a_number_that_changed_is_noticed() -> None:
    assert same("gap 0.1234 at 3e-17", "gap 0.1235 at 5e-17")
    assert not same("gap 0.12", "gap 0.13")
    assert not same("gap 0.12", "welfare 0.12")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_prints_what_it_shows(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, nbclient and ipykernel, of the extra 'docs'")
    shown = nbformat.read(path, as_version=4)
    code = [cell.source for cell in shown.cells[2:] if cell.cell_type == "code"]  # after the installation
    assert sum(len(source.splitlines()) for source in code) <= 110
    assert shown.cells[0].source.startswith(f"# {path.name[:3]} ")
    assert "**Claim.**" in shown.cells[0].source
    first = shown.cells[1].source  # installs what is missing
    assert '%pip install --quiet -c "{clone}/constraints.txt" "{clone}' in first
    needed = (
        set(re.findall(r"^(?:from|import) (\w+)", "\n".join(code), re.MULTILINE)) - sys.stdlib_module_names - BROUGHT
    )
    assert [name for name in needed if f'"{name}"' not in first] == []
    new, old = printed(_execute().executed(path)), printed(shown)
    assert old.strip()
    assert same(new, old), f"prints\n{new}\nand shows\n{old}"
