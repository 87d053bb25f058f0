"""What TRL's trainers are told: the one place where settings become arguments."""

from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from rlhf_game.optimization import Lora, Optimization, Pretrained


def trl_arguments(how: Optimization, model: Pretrained, work: Path, *, steps: int) -> dict[str, Any]:
    """Return what every trainer is told. work: the folder of the checkpoints. steps: that the training takes."""
    return {
        "output_dir": str(work),
        "max_steps": steps,
        "learning_rate": how.learning_rate,
        "lr_scheduler_type": how.schedule,
        "warmup_steps": ceil(how.warmup * steps),
        "weight_decay": how.weight_decay,
        "max_grad_norm": how.max_grad_norm,
        "per_device_train_batch_size": how.batch_size,
        "gradient_accumulation_steps": how.accumulation_steps,
        "activation_checkpointing": how.gradient_checkpointing,
        "seed": how.seed,
        "data_seed": how.seed,
        "save_strategy": "steps",
        "save_steps": how.save_steps,
        "save_total_limit": None if how.keeps_checkpoints else 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "use_cpu": model.device == "cpu" or not torch.cuda.is_available(),
        "bf16": model.dtype == "bfloat16",
        "report_to": how.report_to,
        "disable_tqdm": True,
        **dict(how.trl),
    }


def lora_config(lora: Lora | None, task: str = "CAUSAL_LM", new: Iterable[str] = ()) -> LoraConfig | None:
    """Return peft's configuration of an adapter. new: modules that an adapter must hold whole."""
    if lora is None:
        return None
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=None if lora.targets is None else list(lora.targets),
        lora_dropout=lora.dropout,
        modules_to_save=sorted(new) or None,
        task_type=task,
    )
