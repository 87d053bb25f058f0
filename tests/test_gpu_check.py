"""The check of what only a GPU can tell: its page, its time, and a dry run of it on the CPU."""

import json
import subprocess
import sys

import pytest

from benchmarks import gpu_check
from measurements.measure_memory import MODELS, Architecture


def test_the_page_has_one_place_for_what_is_found() -> None:
    page = gpu_check.PAGE.read_text(encoding="utf-8")
    assert "It has not been run yet" in page or "Run with `make gpu-check`" in page
    text = gpu_check.body({"tests": (True, "3 passed"), "table": (False, "not done after 90 s")}, 12.0)
    after = gpu_check.written(page, text)
    assert "**tests**: passed" in after
    assert "**table**: FAILED" in after
    assert "has not been run" not in after
    assert gpu_check.written(after, "x").count("x\n<!-- until here -->") == 1


@pytest.mark.parametrize(
    ("said", "is_dry", "is_well"), [("61 skipped", False, False), ("61 skipped", True, True), ("3 passed", False, True)]
)
def test_tests_that_are_all_skipped_check_no_gpu(
    monkeypatch: pytest.MonkeyPatch, said: str, is_dry: bool, is_well: bool
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    assert gpu_check.run("tests", is_dry) == (is_well, said)


def test_it_takes_at_most_eight_minutes() -> None:
    assert sum(limit for limit, _ in gpu_check.PARTS.values()) <= 8 * 60


@pytest.mark.slow
def test_a_dry_run_passes_on_the_cpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--dry-run"], cwd=gpu_check.ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "**training**: passed" in done.stdout
    numbers = json.loads(done.stdout.split("**training**")[1].split("```text\n")[1].split("\n```")[0])
    assert set(numbers["tokens a second"]) == {"ours", "TRL's RLOOTrainer"}


def test_memory_is_counted_from_the_architectures() -> None:
    """As the models' cards say: 134.5 million parameters, 7.62 and 8.03 and 70.6 thousand million."""
    found = {name: Architecture(*MODELS[name]).parameters / 1e6 for name in ("SmolLM2-135M", "Llama-3.1-8B")}
    assert found["SmolLM2-135M"] == pytest.approx(134.5, abs=0.05)
    assert found["Llama-3.1-8B"] == pytest.approx(8030, abs=1)
    small = Architecture(*MODELS["SmolLM2-135M"])
    assert small.adapter == 30 * 16 * (2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536))
    assert small.full(2) - small.passes() == pytest.approx((small.full() - small.passes()) / 2)
