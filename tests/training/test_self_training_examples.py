"""The examples of OSP and SEFT run as they are, on a real small model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import run as command

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def metrics(name: str, out: Path) -> dict[str, Any]:
    result = command("train", EXAMPLES / f"{name}.yaml", "-o", out)
    assert (result.code, result.err) == (0, "")
    return dict(json.loads((out / "metrics.json").read_text()))


@pytest.mark.slow
@pytest.mark.weights
def test_osp_runs_as_it_is(tmp_path: Path) -> None:
    found = metrics("osp", tmp_path / "out")
    assert [one["pairs"] + one["identical_pairs"] for one in found["rounds"]] == [4, 4]
    assert 0.3 < found["final"]["preferred"] < 0.7
    assert found["final"]["sequence_kl"]["estimate"] > 0
    assert (tmp_path / "out/model/adapter_model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.weights
def test_seft_runs_as_it_is(tmp_path: Path) -> None:
    found = metrics("seft", tmp_path / "out")
    assert list(found["policies"]) == ["before", "0: internal"]
    assert sum(row["responses"] for row in found["revisers"]["adaptive"]["test"]) > 0
    assert (tmp_path / "out/model/adapter_model.safetensors").exists()
