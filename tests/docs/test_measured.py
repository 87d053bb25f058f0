"""The tables that measurements/ wrote are what the scripts measure today."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["approximate", "learned", "simulations"]
TABLE = re.compile(r"<!-- measured: (\w+) -->\n(.*?)<!-- until here -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.(\d+))?)(?: ± (\d+(?:\.\d+)?))?")
DRIFT = 0.05
"""What another machine's last digits may change where a search ends, of a number without an interval, relatively."""


def _tables(page: Path) -> dict[str, list[tuple[float, float]]]:
    """Return the numbers of each table, and how far each may be from what it is today.

    That is the interval that the page states, or DRIFT; at least a unit of the last digit that is printed, and never as
    much as would let a number change its sign.
    """
    text = page.read_text(encoding="utf-8").replace(",", "")
    return {name: [_slack(*found) for found in NUMBER.findall(table)] for name, table in TABLE.findall(text)}


def _slack(number: str, decimals: str, interval: str) -> tuple[float, float]:
    value, unit = float(number), 10.0 ** -len(decimals)
    slack = float(interval) if interval else DRIFT * abs(value)
    return value, max(unit, min(slack, abs(value)))


@pytest.mark.parametrize("name", PAGES)
def test_no_published_number_may_change_its_sign(name: str) -> None:
    numbers = [pair for table in _tables(ROOT / "docs" / f"{name}.md").values() for pair in table]
    assert len(numbers) > 50
    assert [value for value, slack in numbers if value and slack >= 2 * abs(value)] == []
    assert all(slack <= max(1.0, abs(value)) for value, slack in numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_measured_tables_are_reproduced(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra 'report'")
    copy = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", copy)
    page = copy / f"{name}.md"
    page.write_text(TABLE.sub(r"<!-- measured: \1 -->\n<!-- until here -->", page.read_text(encoding="utf-8")))
    shutil.copytree(ROOT / "measurements", tmp_path / "measurements")  # it writes into the docs/ beside itself
    command = [sys.executable, "-m", f"measurements.measure_{name}"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    written, kept = _tables(page), _tables(ROOT / "docs" / f"{name}.md")
    assert written.keys() == kept.keys()
    for table, pairs in kept.items():
        assert len(pairs) > 10, table
        today, published = np.array(written[table]), np.array(pairs)
        assert len(today) == len(published), table
        apart = np.abs(today[:, 0] - published[:, 0]) > published[:, 1] * (1 + 1e-9)
        assert not apart.any(), (table, published[apart].tolist(), today[apart].tolist())
