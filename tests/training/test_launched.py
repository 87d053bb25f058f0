"""``train`` under a launcher: one process writes, all train; configurations of accelerate that it understands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf_game.training import launched
from tests import tiny

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


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_accelerate_understands_the_examples(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(ROOT / "examples/accelerate" / f"{name}.yaml"))
    assert found.num_processes == 2
    assert (name == "fsdp2") == (found.distributed_type == "FSDP")
