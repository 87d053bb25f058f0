"""A policy's training on accelerate's FSDP2 path (gloo, no GPU): begun, stopped by its reward, gone on with.

python -m torch.distributed.run --nproc_per_node 2 -m tests.training_backends.trainers.accelerated MODEL FOLDER WAY

WAY: full or lora, both by FSDP2, or ddp. STOP_AT in the environment: the step at which the reward fails.
Accelerate leaves FSDP out where there is no GPU (state.py: MULTI_CPU is not among the kinds of processes that it asks
for FSDP), so this says of two processes with gloo that they have GPUs; all else is accelerate's, transformers' and
TRL's own code.
"""

import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState

from rlhf_game.optimization import Lora, Optimization, Pretrained
from rlhf_game.training_backends.trainers.policies import PolicyTraining, train_policy

ENVIRONMENT = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false", "FSDP_OFFLOAD_PARAMS": "false",
}  # fmt: skip


def with_fsdp() -> None:
    """Let accelerate cut models here as it does where there are GPUs."""
    os.environ.update(ENVIRONMENT)
    made = AcceleratorState.__init__

    def init(self: Any, *arguments: Any, **named: Any) -> None:
        if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        made(self, *arguments, **named)

    AcceleratorState.__init__ = init


def brief(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    state = columns.get("trainer_state")
    if "STOP_AT" in os.environ and state is not None and state.global_step >= int(os.environ["STOP_AT"]):
        raise RuntimeError("stopped on purpose")
    return [1 / (1 + len(text)) for text in completions]


if __name__ == "__main__":
    model, folder, way = sys.argv[1:]
    if way != "ddp":
        with_fsdp()
    lora = Lora(rank=4) if way == "lora" else None
    training = PolicyTraining(
        Pretrained(model, device="cpu"),
        0.2,
        (1.0,),
        Optimization(steps=4, learning_rate=1e-2, batch_size=4, save_steps=2, lora=lora),
        num_generations=4,
        max_new_tokens=3,
    )
    train_policy(training, ["good bad", "yes", "no please", "maybe now"], {"brief": brief}, Path(folder))
