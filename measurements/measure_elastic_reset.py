"""Measure Elastic Reset against a KL penalty alone; writes the table and the figure of elastic_reset.md.

python -m measurements.measure_elastic_reset FOLDER [SEED]    a minute or two for each seed on one core; reproducible

The reference is the small model of measure_eso after supervised fine-tuning: it writes first lines of docstrings.
The reward is the share of a line's words that have an s in them, and nothing else: a proxy that text can be bent to.
FOLDER keeps what is finished; with SEED only that seed is trained.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from measurements.measure_eso import mean_over_seeds, save_model, task
from measurements.measured import write_figure, write_table
from rlhf_game.training import read_training, train

PAGE = "elastic_reset.md"
SEEDS = range(5)
STRENGTHS = (0.001, 0.1)
REWARD = '''"""The proxy."""


def share(prompts, completions, **columns):
    """Return the share of words with an s."""
    words = [text.split() for text in completions]
    return [sum("s" in word for word in row) / len(row) if row else 0.0 for row in words]
'''
LABELS = {
    ("plain", 0.001): "KL penalty 0.001",
    ("plain", 0.1): "KL penalty 0.1",
    ("elastic_reset", 0.001): "Elastic Reset, 0.001",
    ("elastic_reset", 0.1): "Elastic Reset, 0.1",
}


def start(work: Path) -> None:
    """Write the reference, the prompts and the held-out lines."""
    work.mkdir(parents=True, exist_ok=True)
    rows = task()
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "texts.txt").write_text("".join(row["completion"] + "\n" for row in rows if row["split"] == "test"))
    (work / "reward.py").write_text(REWARD)
    prompts = [row["prompt"] for row in rows if row["split"] == "train"][:128]
    (work / "prompts.txt").write_text("".join(prompt + "\n" for prompt in prompts))
    if not (work / "random").exists():
        save_model(work / "random", rows, 0)
    document = {
        "kind": "eso", "model": "random", "data": "rows.jsonl", "weight": 0.0, "epochs": 8, "learning_rate": 2e-3,
        "batch_size": 32, "max_new_tokens": 16, "judged": 20, "device": "cpu",
    }  # fmt: skip
    (work / "reference.json").write_text(json.dumps(document))
    train(read_training(work / "reference.json"), work / "reference")


def measure(work: Path, seed: int) -> None:
    """Train with resets and without, at each strength."""
    for strength in STRENGTHS:
        document = {
            "kind": "elastic_reset", "model": "reference/model", "prompts": "prompts.txt",
            "groups": [{"name": "proxy", "reward": {"python": "reward.py:share"}}], "strength": strength,
            "every": 16, "decay": 0.8, "steps": 48, "learning_rate": 1e-3, "batch_size": 32, "max_new_tokens": 12,
            "save_steps": 8, "judged": {"prompts": 64, "per_prompt": 2, "batch_size": 128}, "texts": "texts.txt",
            "compare": True, "device": "cpu", "seed": seed,
        }  # fmt: skip
        path = work / f"{seed}-{strength:g}.json"
        path.write_text(json.dumps(document))
        metrics = train(read_training(path), work / f"{seed}-{strength:g}").metrics
        for label, run in metrics["runs"].items():
            last = [round(run["points"][-1][key]["estimate"], 3) for key in ("reward", "sequence_kl")]
            print(seed, strength, label, last, flush=True)


def write(work: Path) -> None:
    """Write the table and the figure of all seeds."""
    found: dict[tuple[str, float], Any] = {}
    for label, strength in LABELS:
        runs = [json.loads((work / f"{seed}-{strength:g}" / "metrics.json").read_text())["runs"] for seed in SEEDS]
        found[label, strength] = [run[label]["points"] for run in runs]
    keys = ("reward", "sequence_kl", "perplexity")
    last = {m: {key: [_number(one[-1][key]) for one in found[m]] for key in keys} for m in LABELS}
    rows = [[name, *(mean_over_seeds(last[method][key]) for key in keys)] for method, name in LABELS.items()]
    for strength in STRENGTHS:
        pairs = {key: (last["elastic_reset", strength][key], last["plain", strength][key]) for key in keys}
        gains = [mean_over_seeds([x - y for x, y in zip(*pairs[key], strict=True)]) for key in keys]
        rows.append([f"Elastic Reset less the same without, {strength:g}", *gains])
    first = found["plain", 0.001][0][0]
    rows.insert(0, ["the reference", *(f"{abs(_number(first[key])):.4f}" for key in keys)])
    write_table(PAGE, "last", ["training", "reward", "KL to the reference, nats", "perplexity of held-out lines"], rows)
    write_table(
        PAGE,
        "at",
        ["reward at a KL of", *LABELS.values(), "gain of resets, 0.001"],
        [_at(found, kl) for kl in (2.5, 12.0, 18.0)],
    )

    def draw(left: Any, right: Any) -> None:
        for (label, strength), name in LABELS.items():
            many = found[label, strength]
            reward = np.array([[p["reward"]["estimate"] for p in one] for one in many])
            kl = np.array([[p["sequence_kl"]["estimate"] for p in one] for one in many])
            worse = np.array([[p["perplexity"] for p in one] for one in many])
            style = {"marker": "o" if label == "plain" else "s", "ms": 4, "ls": "-" if strength == 0.001 else "--"}
            left.plot(kl.mean(0), reward.mean(0), label=name, **style)
            right.plot(worse.mean(0), reward.mean(0), label=name, **style)
        left.set(xlabel="KL to the reference, nats", ylabel="reward", title="along the training, mean of seeds")
        right.set(xlabel="perplexity of held-out lines", ylabel="reward", title="the same against perplexity")
        left.legend()

    write_figure("elastic_reset", draw)


def _at(found: dict[tuple[str, float], Any], kl: float) -> list[str]:
    """Return the highest reward of each seed's points that have drifted no further, mean over seeds."""
    best = {
        method: [
            max(p["reward"]["estimate"] for p in points if p["sequence_kl"]["estimate"] <= kl)
            for points in found[method]
        ]
        for method in LABELS
    }
    pairs = zip(best["elastic_reset", 0.001], best["plain", 0.001], strict=True)
    cells = [*(mean_over_seeds(best[method]) for method in LABELS), mean_over_seeds([x - y for x, y in pairs])]
    return [f"at most {kl:g} nats", *cells]


def _number(found: Any) -> float:
    return float(found["estimate"] if isinstance(found, dict) else found)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    start(folder)
    for chosen in [int(sys.argv[2])] if len(sys.argv) > 2 else SEEDS:
        measure(folder, chosen)
    if len(sys.argv) == 2:
        write(folder)
        print("written")
