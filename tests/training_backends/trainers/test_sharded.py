"""Checkpoints of trainings that are cut into shards: no pickle, and the same losses after an interruption."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

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


def launch(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in two processes, with gloo."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    asked = [*launcher, "-m", f"tests.training_backends.trainers.{module}", *arguments]
    return subprocess.run(asked, cwd=ROOT, env=known, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_go_on_with_the_same_losses(tmp_path: Path) -> None:
    model = tiny.save_language_model(tmp_path / "model")
    done = launch("shards", str(model), str(tmp_path / "checkpoint"))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "checkpoint/shards").glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_a_training_on_accelerates_own_path_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Cut into shards by accelerate, all weights or an adapter; stopped and gone on with; and not cut at all."""
    model, weights = tiny.save_language_model(tmp_path / "model"), {}
    for way, name in (("full", "model"), ("lora", "adapter_model")):
        for folder, stops in (("whole", ()), ("resumed", ({"STOP_AT": "3"},))):
            place = tmp_path / f"{way}-{folder}"
            for environment in stops:
                stopped = launch("accelerated", str(model), str(place), way, **environment)
                assert stopped.returncode != 0
                assert "stopped on purpose" in stopped.stderr
                assert len(list(place.glob("checkpoints/checkpoint-2/shards/*.safetensors"))) == 2
            done = launch("accelerated", str(model), str(place), way)
            assert done.returncode == 0, done.stderr
        whole, resumed = (tmp_path / f"{way}-{folder}" for folder in ("whole", "resumed"))
        assert (whole / "steps.jsonl").read_bytes() == (resumed / "steps.jsonl").read_bytes()
        weights[way] = whole / f"model/{name}.safetensors"
        assert weights[way].read_bytes() == (resumed / f"model/{name}.safetensors").read_bytes()
    done = launch("accelerated", str(model), str(tmp_path / "ddp"), "ddp")
    assert done.returncode == 0, done.stderr
    sharded, plain = load_file(weights["full"]), load_file(tmp_path / "ddp/model/model.safetensors")
    untouched = load_file(model / "model.safetensors")
    for name, value in plain.items():
        assert (sharded[name] - value).abs().max() < 1e-5
    assert max(float((untouched[name] - value).abs().max()) for name, value in plain.items()) > 1e-2
