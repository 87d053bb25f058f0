"""Which arguments of TRL's configurations a training of this package passes on, under TRL's own names."""

from collections.abc import Collection, Iterable

from rlhf_game.errors import InputError

OPTIMIZATION = frozenset(
    {
        "activation_checkpointing", "activation_checkpointing_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon",
        "dataloader_num_workers", "lr_scheduler_kwargs", "lr_scheduler_type", "max_grad_norm", "optim", "optim_args",
        "project", "report_to", "run_name", "tf32", "torch_compile", "torch_empty_cache_steps", "warmup_steps",
    }
)  # fmt: skip
"""How a loss is minimised, and who is told: of any training."""
REWARD_MODELS = OPTIMIZATION | {
    "activation_offloading", "auto_find_batch_size", "bf16", "fp16", "gradient_accumulation_steps", "logging_steps",
    "use_liger_kernel", "weight_decay",
}  # fmt: skip
"""Of trainings of reward models."""
HUB = frozenset({"push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"})
"""Where a trained model goes besides its folder."""


def check_arguments(given: Iterable[str], known: Collection[str]) -> None:
    """Raise InputError on an argument that is not passed on."""
    for name in given:
        if name not in known:
            raise InputError(f"trl.{name}: must be one of {', '.join(sorted(known))}, found {name}")
