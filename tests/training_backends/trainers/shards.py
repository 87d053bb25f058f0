"""A training that is cut into shards (FSDP2, gloo, no GPU): whole, and stopped and gone on with, end with one loss.

python -m torch.distributed.run --nproc_per_node 2 -m tests.training_backends.trainers.shards MODEL FOLDER
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from rlhf_game.training_backends.trainers.policies import ElasticReset
from rlhf_game.training_backends.trainers.resuming import SafeCheckpoints
from tests import tiny


@final
class Sharded(SafeCheckpoints):
    """What a trainer's checkpoints ask of it, where accelerate would have cut its model; without a GPU it does not."""

    def __init__(self, model: Path) -> None:
        rank, mesh = dist.get_rank(), init_device_mesh("cpu", (dist.get_world_size(),))
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model.model.embed_tokens.weight.requires_grad_(False)
        for part in (*self.model.model.layers, self.model):
            fully_shard(part, mesh=mesh)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW([{"params": trained}, {"params": []}], lr=1e-2)  # as a LoRA's has no biases
        self.lr_scheduler = torch.optim.lr_scheduler.LinearLR(self.optimizer, total_iters=9)
        self.args = SimpleNamespace(process_index=rank, should_save=rank == 0, device=torch.device("cpu"))
        self.is_fsdp_enabled = True
        self.accelerator: Any = SimpleNamespace(gather=self._gather)
        self.reset = ElasticReset(2, decay=0.5)
        self.callback_handler = SimpleNamespace(callbacks=[self.reset])
        self.state = SimpleNamespace(global_step=0, max_steps=9)

    def _gather(self, value: Any) -> Any:
        found = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(found, value)
        return torch.stack(found)

    def begin(self) -> None:
        self.reset.on_train_begin(SimpleNamespace(gradient_accumulation_steps=1), self.state, None, model=self.model)

    def step(self) -> float:
        source = torch.Generator().manual_seed(10 * self.state.global_step + self.args.process_index)
        ids = torch.randint(0, len(tiny.WORDS), (2, 6), generator=source)
        loss = self.model(ids, labels=ids).loss
        loss.backward()
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        self.reset.on_step_end(None, self.state, None)
        return float(loss.detach())


def losses(model: Path, folder: Path) -> tuple[list[float], list[float]]:
    """Of seven steps without a stop; and of three, a checkpoint, and four more by a trainer that reads it."""
    whole = Sharded(model)
    whole.begin()
    expected = [whole.step() for _ in range(7)]
    stopped = Sharded(model)
    stopped.begin()
    before = [stopped.step() for _ in range(3)]
    assert stopped._is_finite()
    stopped._save_optimizer_and_scheduler(str(folder))
    dist.barrier()
    resumed = Sharded(model)
    resumed.state.global_step = 3
    resumed._load_from_checkpoint(str(folder))
    resumed._load_optimizer_and_scheduler(str(folder))
    resumed.begin()
    return expected, before + [resumed.step() for _ in range(4)]


if __name__ == "__main__":
    dist.init_process_group("gloo")
    expected, found = losses(Path(sys.argv[1]), Path(sys.argv[2]))
    assert expected == found, (expected, found)
    dist.destroy_process_group()
