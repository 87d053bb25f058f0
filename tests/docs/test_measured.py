"""The tables that docs/measure_*.py wrote are what the scripts measure today."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = re.compile(r"<!-- measured: (\w+) -->\n(.*?)<!-- until here -->", re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?")


def _tables(page: Path) -> dict[str, list[float]]:
    text = page.read_text(encoding="utf-8").replace(",", "")
    return {name: [float(number) for number in NUMBER.findall(table)] for name, table in TABLE.findall(text)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["approximate", "learned", "simulations"])
def test_the_measured_tables_are_reproduced(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra 'report'")
    copy = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", copy)
    page = copy / f"{name}.md"
    page.write_text(TABLE.sub(r"<!-- measured: \1 -->\n<!-- until here -->", page.read_text(encoding="utf-8")))
    subprocess.run([sys.executable, copy / f"measure_{name}.py"], check=True, capture_output=True)
    written, kept = _tables(page), _tables(ROOT / "docs" / f"{name}.md")
    assert written.keys() == kept.keys()
    for table, numbers in kept.items():
        assert len(numbers) > 10, table
        # another machine's last digits may change where a search ends, not what it finds
        np.testing.assert_allclose(written[table], numbers, rtol=0.05, atol=0.05, err_msg=table)
