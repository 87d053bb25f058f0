"""What only a GPU can tell, in at most eight minutes on one: writes docs/gpu.md.

python -m benchmarks.gpu_check [--dry-run]

What is marked ``gpu`` in the tests, the torch table (torch_table.py), and a LoRA of SmolLM2 in bfloat16 trained by RLOO
with TRL called directly and with this package, alternating: tokens a second, and the most memory beside what
measurements/measure_memory.py computes for such a training. With --dry-run on the CPU, on a tiny model: nothing is
written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gpu.md"
MARK, END = "<!-- measured: gpu -->", "<!-- until here -->"
PARTS = {
    "tests": (150.0, ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/training_backends")),
    "table": (90.0, ("-m", "benchmarks.torch_table")),
    "training": (210.0, ("-m", "benchmarks.gpu_check", "--train")),
}
"""Each part's limit in seconds, and how it is run; 7.5 minutes together."""
PROMPTS = ["Write one sentence that advertises a herbal sleep tea.", "Name three colours of the sky."]


@dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    model: str
    steps: int
    responses: int
    tokens: int
    dtype: str

    @classmethod
    def of_gpu(cls) -> Sizes:
        """Return what a GPU does in two minutes."""
        return cls("smollm2-135m-instruct", 10, 32, 64, "bfloat16")

    @classmethod
    def of_dry_run(cls, folder: Path) -> Sizes:
        """Return what a CPU does in seconds, with the model in a folder."""
        from tests import tiny

        return cls(str(tiny.save_language_model(folder / "model")), 2, 8, 4, "float32")


def brief(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [1 / (1 + len(text.split())) for text in completions]


def plain(sizes: Sizes, out: Path, device: str) -> int:
    """Train with TRL alone, and return the tokens that were read and generated."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer

    from rlhf_game.training_backends.lm.checkpoints import find_checkpoint

    where = find_checkpoint(sizes.model).location
    settings = RLOOConfig(
        output_dir=str(out), max_steps=sizes.steps, per_device_train_batch_size=sizes.responses, num_generations=8,
        beta=0.3, max_completion_length=sizes.tokens, learning_rate=1e-9, save_strategy="no", use_cpu=device == "cpu",
        bf16=sizes.dtype == "bfloat16", activation_checkpointing=False, disable_dropout=True, report_to="none",
        disable_tqdm=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        trainer = RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(where, dtype=getattr(torch, sizes.dtype)), reward_funcs=[brief],
            args=settings, train_dataset=Dataset.from_dict({"prompt": PROMPTS * sizes.steps * sizes.responses}),
            processing_class=AutoTokenizer.from_pretrained(where, padding_side="left"),
            peft_config=LoraConfig(r=16, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]),
        )  # fmt: skip
        trainer.train()
        trainer.save_model(str(out / "model"))
    return int(trainer.state.num_input_tokens_seen)


def ours(sizes: Sizes, out: Path, device: str) -> int:
    """Train with this package, and return the tokens that were read and generated."""
    from rlhf_game.optimization import Lora, Optimization, Pretrained
    from rlhf_game.training_backends.trainers.policies import PolicyTraining, train_policy

    how = Optimization(
        steps=sizes.steps, batch_size=sizes.responses, learning_rate=1e-9, save_steps=sizes.steps + 1,
        lora=Lora(16, 32, ("q_proj", "v_proj")),
    )  # fmt: skip
    model = Pretrained(sizes.model, dtype=sizes.dtype, device=device)
    training = PolicyTraining(model, 0.3, (1.0,), how, num_generations=8, max_new_tokens=sizes.tokens)
    return train_policy(training, PROMPTS, {"brief": brief}, out).tokens


def compare(is_dry: bool, rounds: int = 2) -> dict[str, Any]:
    """Return tokens a second of both, the best of the rounds, and the most memory that ours took, in bytes."""
    import torch

    from rlhf_game.training_backends.lm.quiet import quiet_transformers

    device, found = "cpu" if is_dry else "cuda", {"TRL's RLOOTrainer": 0.0, "ours": 0.0}
    peak = 0
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        sizes = Sizes.of_dry_run(Path(folder)) if is_dry else Sizes.of_gpu()
        for k in range(rounds):
            for name, train in (("TRL's RLOOTrainer", plain), ("ours", ours)):
                if not is_dry:
                    torch.cuda.reset_peak_memory_stats()
                start = time.perf_counter()
                tokens = train(sizes, Path(folder) / f"{k}{name[0]}", device)
                found[name] = max(found[name], tokens / (time.perf_counter() - start))
                if name == "ours" and not is_dry:
                    peak = max(peak, torch.cuda.max_memory_allocated())
    return {"tokens a second": found, "peak bytes": peak, "device": "CPU" if is_dry else torch.cuda.get_device_name()}


def run(part: str, is_dry: bool) -> tuple[bool, str]:
    """Return whether a part of the check ended well and in time, and the last lines of what it said."""
    limit, command = PARTS[part]
    more = ("--dry-run",) if is_dry and part == "training" else ("1", "2000") if is_dry and part == "table" else ()
    try:
        done = subprocess.run(
            [sys.executable, *command, *more], cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False, f"not done after {limit:g} s"
    said = done.stdout.strip().splitlines()[-1 if part == "training" else -12 :]  # TRL prints its logs before
    is_well = done.returncode == 0 or (is_dry and part == "tests" and done.returncode == 5)
    is_well &= is_dry or part != "tests" or " passed" in done.stdout  # where all are skipped nothing was checked
    return is_well, "\n".join(said if is_well else [*said, *done.stderr.strip().splitlines()[-3:]])


def body(found: dict[str, tuple[bool, str]], seconds: float) -> str:
    """Return what the page says of the parts."""
    lines = [f"Run with `make gpu-check`, {seconds:.0f} s."]
    for part, (is_well, said) in found.items():
        lines += ["", f"**{part}**: {'passed' if is_well else 'FAILED'}", "", "```text", said, "```"]
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """Return the page with another text in its place."""
    before, _, rest = page.partition(MARK)
    return f"{before}{MARK}\n{text}\n{END}{rest.partition(END)[2]}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--train", action="store_true", help="only the training, and print its numbers")
    given = parser.parse_args(arguments)
    if given.train:
        print(json.dumps(compare(given.dry_run, rounds=1 if given.dry_run else 2)))
        return 0
    import torch

    if not (given.dry_run or torch.cuda.is_available()):
        print("make gpu-check needs a GPU that torch can use; GPU_FLAGS=--dry-run tries it out on the CPU")
        return 1
    start = time.perf_counter()
    found = {part: run(part, given.dry_run) for part in PARTS}
    text = body(found, time.perf_counter() - start)
    if given.dry_run:
        print(text)
    else:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
        print(f"written: {PAGE}")
    return 0 if all(is_well for is_well, _ in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
