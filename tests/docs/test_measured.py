"""The tables that measurements/ wrote are what the scripts measure today."""

import re
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from measurements.measure_profile import REST, watching
from measurements.smollm2 import gains

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


def test_a_profile_counts_each_second_in_one_part() -> None:
    inner = SimpleNamespace(draw=lambda: "drawn")
    outer = SimpleNamespace(step=lambda: (inner.draw(), inner.draw()))
    calls, ticks = [(inner, "draw", "generation"), (outer, "step", "gradients")], count()
    with watching(calls, lambda: float(next(ticks))) as spent:  # a second passes between looks at the clock
        assert outer.step() == ("drawn", "drawn")
    assert dict(spent) == {"generation": 2.0, "gradients": 3.0, REST: 2.0}
    assert inner.draw() == "drawn"
    assert next(ticks) == 8  # nothing is watched afterwards


def test_what_a_policy_gained_is_known_from_its_own_draws() -> None:
    rng, strength = np.random.default_rng(3), 0.4
    q, p, s = rng.dirichlet(np.ones(9)), rng.dirichlet(np.ones(9)), rng.random(9)
    divergence = p @ np.log(p / q)
    exact = [(p - q) @ s - strength * divergence, (p - q) @ s, divergence]
    for constant in (0.0, 5.0):
        np.testing.assert_allclose(gains(s - constant, np.log(p / q), strength) @ p, exact, atol=1e-12)
    near = q * (1 + 0.01 * (s - q @ s))
    listed = gains(s - q @ s, np.log(near / q), strength)
    plain = s - strength * np.log(near / q)
    spread = [np.sqrt(near @ one**2 - (near @ one) ** 2) for one in (listed[0], plain)]
    assert spread[0] < 0.05 * spread[1]
