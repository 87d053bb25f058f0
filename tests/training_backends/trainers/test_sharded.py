"""Checkpoints of trainings that are cut into shards: no pickle, and the same losses after an interruption."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from tests import tiny
from tests.training_backends.trainers.shards import Sharded, losses

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_sharded_training_goes_on_with_the_same_losses(tmp_path: Path, alone: None) -> None:
    model = tiny.save_language_model(tmp_path / "model")
    expected, found = losses(model, tmp_path / "checkpoint")
    assert expected == found
    assert expected[-1] != expected[0]
    files = sorted(path.relative_to(tmp_path / "checkpoint").as_posix() for path in tmp_path.glob("checkpoint/**/*.*"))
    assert files == [
        "parts-0.safetensors", "shards/numbers.json", "shards/shard-00001-model-00001-of-00001.safetensors",
        "training.json",
    ]  # fmt: skip
    broken = Sharded(model)
    broken.model.lm_head.weight.data.fill_(float("nan"))
    assert not broken._is_finite()


@pytest.mark.slow
def test_two_processes_go_on_with_the_same_losses(tmp_path: Path) -> None:
    model = tiny.save_language_model(tmp_path / "model")
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    script = ("-m", "tests.training_backends.trainers.shards", str(model), str(tmp_path / "checkpoint"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "checkpoint/shards").glob("*.safetensors"))) == 2
