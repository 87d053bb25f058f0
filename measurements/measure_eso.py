"""Measure ESO against SFT on a small real task; writes the tables of eso.md.

python -m measurements.measure_eso FOLDER [SEED]    a minute or two for each seed on one core; reproducible

The task: from the signature of a function of Python's standard library, the first line of its docstring. The model is a
Llama of 0.2 million weights that begins at random. FOLDER keeps what is finished; with SEED only that seed is trained.
"""

import ast
import json
import sys
import sysconfig
from pathlib import Path

import numpy as np

from measurements.measured import write_table
from rlhf_game.training import read_training, train

PAGE = "eso.md"
SEEDS = range(5)
ARMS = {(0.0, 1): "SFT alone", (0.05, 1): "ESO, weight 0.05, last epoch", (0.5, 4): "ESO, weight 0.5, last 4 epochs"}
ROWS = 800
TEST = 200
CHAT = "{% for m in messages %}{{ m['content'] }}<s>{% endfor %}"


def task() -> list[dict[str, str]]:
    """Return rows {prompt, completion, split} in an order of their own; no completion is on both sides."""
    found = {}
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            said = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
            line = "" if not said else said.splitlines()[0].strip()
            if isinstance(node, ast.FunctionDef) and 4 <= len(line.split()) <= 14:
                prompt = f"{node.name.replace('_', ' ')} ( {' , '.join(a.arg for a in node.args.args)} )".strip()
                found.setdefault(line.lower(), prompt.lower())
    rows = [(prompt, line) for line, prompt in found.items()]
    order = np.random.default_rng(0).permutation(len(rows))[: ROWS + TEST]
    prompts = {rows[k][0] for k in order[:TEST]}
    return [
        {"prompt": rows[k][0], "completion": rows[k][1], "split": "test" if n < TEST else "train"}
        for n, k in enumerate(order)
        if n < TEST or rows[k][0] not in prompts
    ]


def save_model(folder: Path, rows: list[dict[str, str]], seed: int) -> None:
    """Write a small Llama of random weights whose tokens were learned from the rows to train on."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token=None))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words.decoder = decoders.ByteLevel()
    texts = [row[field] for row in rows if row["split"] == "train" for field in ("prompt", "completion")]
    marks = ["<pad>", "<s>", "</s>"]
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=1024,
            special_tokens=marks,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = CHAT
    settings = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def measure(work: Path, seed: int) -> None:
    """Train by SFT alone, and with ESO."""
    rows = task()
    work.mkdir(parents=True, exist_ok=True)
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if not (work / f"model{seed}").exists():
        save_model(work / f"model{seed}", rows, seed)
    for weight, epochs in ARMS:
        document = {
            "kind": "eso", "model": f"model{seed}", "data": "rows.jsonl", "weight": weight, "epochs": 8,
            "eso_epochs": epochs, "learning_rate": 2e-3, "batch_size": 32, "max_new_tokens": 16, "judged": TEST,
            "device": "cpu", "seed": seed, "save_steps": 50,
        }  # fmt: skip
        path = work / f"{seed}-{weight:g}-{epochs}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        found = train(read_training(path), path.with_suffix("")).metrics
        print(seed, weight, {k: round(v["estimate"], 4) for k, v in found["policies"]["eso"].items()}, flush=True)


def mean_over_seeds(values: list[float]) -> str:
    """Return a mean over seeds with its 95 % interval (Student's t)."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.4f} ± {half:.4f}"


def tables(work: Path) -> None:
    """Write the tables of all seeds."""
    found = {
        (weight, epochs): [json.loads((work / f"{n}-{weight:g}-{epochs}/metrics.json").read_text()) for n in SEEDS]
        for weight, epochs in ARMS
    }

    def column(arm: tuple[float, int], key: str) -> list[float]:
        return [one["policies"]["eso"][key]["estimate"] for one in found[arm]]

    plain = (0.0, 1)
    rows = []
    for arm, name in ARMS.items():
        row = [name, *(mean_over_seeds(column(arm, key)) for key in ("rougeL", "greedy_rougeL", "nats_per_token"))]
        for key in ("rougeL", "greedy_rougeL"):
            gains = [a - b for a, b in zip(column(arm, key), column(plain, key), strict=True)]
            row.append("" if arm == plain else mean_over_seeds(gains))
        rows.append(row)
    heads = ["training", "ROUGE-L, sampled", "ROUGE-L, greedy", "nats per token", "gain, sampled", "gain, greedy"]
    write_table(PAGE, "eso", heads, rows)
    shape = found[plain][0]
    counts = [[shape["rows"]["training"], shape["rows"]["test"], shape["training"]["steps"], len(SEEDS)]]
    write_table(PAGE, "task", ["rows trained on", "rows judged on", "steps", "seeds"], counts)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for chosen in [int(sys.argv[2])] if len(sys.argv) > 2 else SEEDS:
        measure(folder, chosen)
    if len(sys.argv) == 2:
        tables(folder)
        print("written")
