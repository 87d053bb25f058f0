"""The main job on real input: two reward models from real preferences settle a game over conversations.

One is trained by ``rlhf-game train`` and named by a relative path, one is an adapter that TRL's own trainer wrote.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from rlhf_game.training_backends.lm.quiet import quiet_transformers
from tests import tiny
from tests.cli.runner import run as command

PROMPTS: list[list[dict[str, str]]] = [
    [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "maybe yes"},
        {"role": "assistant", "content": "no thanks"},
        {"role": "user", "content": "now please"},
    ],
    [{"role": "system", "content": "be bad"}, {"role": "user", "content": "yes or no"}],
]


def real_rows(folder: Path, name: str, count: int) -> list[dict[str, Any]]:
    """Return the shortest pairs, as conversations."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: len(json.dumps([row["history"], row["chosen"], row["rejected"]])))
    found = []
    for row in rows[:count]:
        turns = [turn for asked, said in row["history"] for turn in (("user", asked), ("assistant", said))]
        prompt = [{"role": role, "content": text} for role, text in [*turns, ("user", row["prompt"])]]
        answers = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        found.append({"prompt": prompt, **answers})
    return found


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def train_with_trl(rows: list[dict[str, Any]]) -> None:
    trainer = RewardTrainer(
        model="lm",
        args=RewardConfig(
            "work", max_steps=2, max_length=64, report_to="none", bf16=False, activation_checkpointing=False,
            disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=2, task_type="SEQ_CLS", init_lora_weights=False),
    )  # fmt: skip
    trainer.train()
    trainer.save_model("runs/harmless")


def test_reward_models_of_real_preferences_settle_a_game_over_conversations(
    preference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save_language_model(Path("lm"))
    Path("helpful.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in real_rows(preference_data, "helpful", 24))
    )
    training = {
        "kind": "reward_model", "data": "helpful.jsonl", "backbone": "lm", "method": "full", "steps": 2,
        "batch_size": 4, "max_length": 64, "truncate": "tail", "trl": {"gradient_accumulation_steps": 2},
    }  # fmt: skip
    write(Path("helpful.json"), training)
    result = command("train", "helpful.json", "-o", "runs/helpful")
    assert (result.code, result.err) == (0, "")
    with quiet_transformers():
        train_with_trl(real_rows(preference_data, "harmless", 12))
    game = {
        "model": "lm", "prompts": [{"prompt": turns} for turns in PROMPTS], "strength": 0.5,
        "outcomes": {"per_prompt": 4, "max_new_tokens": 3},
        "groups": [
            {"name": "helpful", "size": 2, "reward": {"hf": "runs/helpful"}},
            {"name": "harmless", "reward": {"hf": "runs/harmless"}},
        ],
    }  # fmt: skip
    write(Path("game.json"), game)
    result = command("run", "game.json", "-o", "run", "--json")
    assert (result.code, result.err) == (0, "")
    check_scores()
    assert command("verify", "run").code == 0
    files = [path for path in sorted(Path("run").iterdir()) if path.stat().st_size]
    assert len(files) >= 6
    for path in files:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        path.write_bytes(changed)
        assert command("verify", "run").code == 3, path
        path.write_bytes(content)


def check_scores() -> None:
    """Compare every score of the run with transformers' own, of that conversation alone."""
    with quiet_transformers():
        full = AutoModelForSequenceClassification.from_pretrained("runs/helpful/model", dtype=torch.float32).eval()
        base = AutoModelForSequenceClassification.from_pretrained("lm", num_labels=1, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(base, "runs/harmless").eval()
        tokenizer = AutoTokenizer.from_pretrained("lm")
    for row in parquet.read_table("run/scores.parquet").to_pylist():
        turns = [*PROMPTS[row["prompt_index"]], {"role": "assistant", "content": row["response"]}]
        encoded = tokenizer.apply_chat_template(turns, return_dict=True, return_tensors="pt")
        with torch.inference_mode():
            logits = {"helpful": full(**encoded).logits[0, 0], "harmless": adapted(**encoded).logits[0, 0]}
        for group, logit in logits.items():
            np.testing.assert_allclose(row[f"raw:{group}"], float(logit), atol=1e-5)
