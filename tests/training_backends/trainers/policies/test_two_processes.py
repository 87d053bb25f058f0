"""Two processes that train together (gloo) make the same update as one with twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf_game.training_backends.trainers.policies.trainers import Rloo
from tests.training_backends.trainers.policies.two_processes import generate_recorded, main

ROOT = Path(__file__).resolve().parents[4]
TOLERANCE = 1e-6
"""Of a weight, after updates of up to 0.02: sums of float32 in another order. 1e-7 was seen."""


def together(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    script = ("-m", "tests.training_backends.trainers.policies.two_processes")
    done = subprocess.run([*launcher, *script, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_make_the_update_of_one_with_twice_the_batch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together(str(folder), "2", str(tmp_path / "two"))
    monkeypatch.setattr(Rloo, "_generate_single_turn", generate_recorded)
    main(str(folder), 4, tmp_path / "one")
    main(str(folder), 2, tmp_path / "half")  # the control: half the batch, other weights
    first = load_file(folder / "model.safetensors")
    for kind in ("policy", "eso"):
        weights = {run: load_file(tmp_path / run / kind / "model/model.safetensors") for run in ("one", "two", "half")}

        def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
            return max(float((a[name] - b[name]).abs().max()) for name in first)

        assert apart(weights["one"], first) > 0.005
        assert apart(weights["one"], weights["two"]) < TOLERANCE
        assert apart(weights["one"], weights["half"]) > 100 * TOLERANCE
        texts = [(tmp_path / run / kind / "steps.jsonl").read_text().splitlines() for run in ("one", "two")]
        for alone, shared in zip(*texts, strict=True):
            assert json.loads(shared)["loss"] == pytest.approx(json.loads(alone)["loss"], abs=1e-5)
