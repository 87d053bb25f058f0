"""``train`` under a launcher: one process writes, all train; configurations of accelerate that it understands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import get_args_parser

from rlhf_game.training import launched
from tests import tiny
from tests.cli.runner import run as command

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "eso": {"data": "d.jsonl", "epochs": 2, "batch_size": 4, "save_steps": 2, "judged": 4},
    "elastic_reset": {
        "prompts": ["good bad", "yes", "no please", "maybe now"], "groups": [{"name": "a", "reward": "brevity"}],
        "every": 2, "steps": 4, "batch_size": 4, "num_generations": 4, "save_steps": 2,
        "judged": {"prompts": 2, "per_prompt": 2},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_two_processes_train_and_one_writes(tmp_path: Path, kind: str) -> None:
    tiny.save_language_model(tmp_path / "model")
    rows = [{"prompt": f"yes {word}", "completion": "no"} for word in tiny.WORDS[4:]]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {"kind": kind, "model": "model", "max_new_tokens": 4, "device": "cpu", **CONFIGURATIONS[kind]}
    (tmp_path / "c.json").write_text(json.dumps(document))
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    command = ("-m", "rlhf_game", "train", str(tmp_path / "c.json"), "-o", str(tmp_path / "out"), "--json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launch() -> str:
        done = subprocess.run([*launcher, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    metrics = json.loads(launch())  # one document: the other process printed nothing
    assert metrics == json.loads((tmp_path / "out/metrics.json").read_text())
    steps = [json.loads(line)["step"] for line in (tmp_path / "out/steps.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert json.loads(launch()) == metrics  # finished: only read, by both


def test_a_process_on_its_own_is_the_first_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    launched.wait_for_everyone()
    assert launched.is_first()
    monkeypatch.setenv("RANK", "1")
    assert not launched.is_first()


def test_a_run_is_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = command("run", ROOT / "examples/finetuned.yaml", "-o", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert (
        result.err == "rlhf-game: run must be one process, which spreads its work itself (--engine), found several "
        "of a launcher\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_accelerate_understands_the_examples(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(ROOT / "examples/accelerate" / f"{name}.yaml"))
    assert found.num_processes == 2
    assert (name == "fsdp2") == (found.distributed_type == "FSDP")


@pytest.mark.parametrize(("script", "asked"), [("ray.sh", ("run",)), ("train.sbatch", ("train",))])
def test_the_examples_for_clusters_call_what_there_is(tmp_path: Path, script: str, asked: tuple[str, ...]) -> None:
    """Their syntax, and what they start: programs of the cluster are stand-ins that say what they were given."""
    path = ROOT / "examples/cluster" / script
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    for name, does in (
        ("rlhf-game", 'printf "%s\\n" "$@"'), ("torchrun", 'printf "%s\\n" "$@"'), ("srun", 'exec "$@"'),
        ("scontrol", "echo first; echo second"),
    ):  # fmt: skip
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    given = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip
    missing = str(tmp_path / "no such.yaml")
    said = subprocess.run(["bash", path, missing, str(tmp_path / "out 1")], env=given, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    words = said.stdout.splitlines()
    if script == "train.sbatch":
        known = get_args_parser().parse_args(words)
        assert (known.nnodes, known.nproc_per_node, known.rdzv_endpoint) == ("2", "8", "first:29500")
        assert (known.module, known.training_script) == (True, "rlhf_game")
        words = known.training_script_args
    assert tuple(words[:1]) == asked
    assert str(tmp_path / "out 1") in words
    result = command(*words)  # every option is one of ours: what is missing is the file
    assert result.code == 2
    assert "no such.yaml" in result.err
    assert "option" not in result.err.lower()
