"""Tokens per second of a training by RLOO against TRL's RLOOTrainer called directly, alternating in the same run.

Both load the model, train ten steps on one prompt with the same rewards and the same random numbers, and write the
policy; the steps are so small that both draw the same tokens, which is checked. What is more here: a log of every step,
rewards on texts as sampling decodes them, checks, and a checkpoint at the end. A Llama of 2.6 million random weights.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import Scoreboard
from tests import tiny

PROMPTS = ["good please"] * 4
STEPS, RESPONSES, LENGTH, ROUNDS, RATE = 10, 32, 16, 3, 1e-9


def brief(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [1 / (1 + len(text.split())) for text in completions]


def varied(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    return [len(set(text.split())) / 12 for text in completions]


def save_model(folder: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = tiny.config().to_dict() | {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 64,
        "num_key_value_heads": 4,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.float32).save_pretrained(folder)
    tiny.tokenizer(chat=None).save_pretrained(folder)
    return folder


def plain(model: Path, out: Path) -> int:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import RLOOConfig, RLOOTrainer

    settings = RLOOConfig(
        output_dir=str(out), max_steps=STEPS, per_device_train_batch_size=RESPONSES, num_generations=8, beta=0.3,
        max_completion_length=LENGTH, learning_rate=RATE, reward_weights=[2.0, 1.0], save_strategy="no", use_cpu=True,
        bf16=False, activation_checkpointing=False, disable_dropout=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        trainer = RLOOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), reward_funcs=[brief, varied],
            args=settings, train_dataset=Dataset.from_dict({"prompt": PROMPTS * STEPS}),
            processing_class=AutoTokenizer.from_pretrained(model),
        )  # fmt: skip
        trainer.train()
        trainer.save_model(str(out / "model"))
    return int(trainer.state.num_input_tokens_seen)


def ours(model: Path, out: Path) -> int:
    from rlhf_game.optimization import Optimization, Pretrained
    from rlhf_game.training_backends.trainers.policies import PolicyTraining, train_policy

    how = Optimization(
        steps=STEPS, batch_size=RESPONSES, learning_rate=RATE, save_steps=STEPS + 1, seed=42
    )  # fmt: skip
    training = PolicyTraining(
        Pretrained(str(model), device="cpu"), 0.3, (2.0, 1.0), how, num_generations=8, max_new_tokens=LENGTH
    )
    return train_policy(training, PROMPTS, {"brief": brief, "varied": varied}, out).tokens


@pytest.mark.slow
@pytest.mark.benchmark(group="policies: training by RLOO", timer=time.process_time)
def test_tokens_per_second_against_plain_trl(benchmark: Any, scoreboard: Scoreboard, tmp_path: Path) -> None:
    import torch

    from rlhf_game.training_backends.lm.quiet import quiet_transformers

    torch.set_num_threads(1)
    model, numbers = save_model(tmp_path / "model"), itertools.count()
    claim = "RLOO training: CPU seconds per 1000 tokens"

    def both() -> None:
        read = set()
        for name, train in {"TRL's RLOOTrainer": plain, "ours": ours}.items():
            start = time.process_time()
            tokens = train(model, tmp_path / str(next(numbers)))
            scoreboard.record(claim, name, 1000 * (time.process_time() - start) / tokens)
            read.add(tokens)
        assert len(read) == 1

    with quiet_transformers():
        benchmark.pedantic(both, rounds=ROUNDS, warmup_rounds=1)
    scoreboard.compare(claim, "TRL's RLOOTrainer", goal=">= 0.95")
