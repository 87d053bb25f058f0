"""Measure payments and certificates of trained policies where the truth is known; writes the table of finetuned.md.

python -m measurements.measure_finetuned FOLDER    a few minutes on one core; FOLDER keeps what is finished

The model has six tokens and a few thousand weights, so all 43 responses of at most two tokens can be listed.
"""

import json
import os
import sys
from pathlib import Path

import torch

from measurements.measured import write_table
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.trainers.policies import load_policy
from tests.outcomes.listed import GOOD, SIZES, Truth, document, finished
from tests.training_backends.trainers.policies.enumerable import save_model

PAGE = "finetuned.md"
STEPS = (5, 15, 60)
RULES = ("samples", "reference", "leave_one_out", "checkpoints")


def main(folder: Path) -> None:
    """Train for so many steps, charge by every rule, and compare with what listing all responses gives."""
    torch.set_num_threads(1)
    os.environ["RLHF_GAME_CACHE"] = str(folder / "cache")
    if not (folder / "model").exists():
        save_model(folder / "model")
    truth, rows, gaps = Truth(load_language_model(str(folder / "model"))), [], []
    best = truth.payments(truth.optimum(SIZES))
    for steps in STEPS:
        for rule in RULES:
            outcomes = GOOD | {"steps": steps, "payments_from": rule, "save_steps": max(1, steps // 3)}
            config = folder / f"{steps}-{rule}.json"
            config.write_text(json.dumps(document(outcomes)), encoding="utf-8")
            done = finished(config, folder / config.stem)
            p = truth.of(load_policy(done.folder / "policy"))
            exact, groups = truth.payments(p), done.receipt["groups"]
            paid = [group["payment"] for group in groups]
            bounds = [group["regret_bound"] for group in groups]
            rows.append(
                [
                    steps, rule, *(f"{one['estimate']:.3f}" for one in paid),
                    f"{exact[0]:.3f} / {exact[1]:.3f}", f"{best[0]:.3f} / {best[1]:.3f}",
                    f"{max(one['high'] - one['low'] for one in paid):.2f}",
                    "none" if bounds[0] is None else f"{max(bounds):.2f}", f"{done.receipt['cost']['tokens']:,}",
                ]
            )  # fmt: skip
        gap = done.receipt["certificate"]["gap"]
        true = truth.best(SIZES) - truth.welfare(p, SIZES)
        tightness = f"{done.receipt['certificate']['tightness']:.2f}"
        gaps.append([steps, f"{true:.4f}", f"{gap['estimate']:.4f}", f"{gap['high']:.3f}", tightness])
    write_table(
        PAGE, "payments",
        ["steps", "payments_from", "first group pays", "second group pays", "exact for this policy", "at the optimum",
         "widest interval", "no lie gains more than", "tokens of trainings"],
        rows,
    )  # fmt: skip
    write_table(PAGE, "gap", ["steps", "true gap", "estimate", "certified at 95 %", "tightness"], gaps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
