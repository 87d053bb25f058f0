"""Measure how far from the optimum trainings are, where the truth is known; writes table and figure of policies.md.

PYTHONPATH=. python -m measurements.measure_gap_curves FOLDER    two minutes on one core; FOLDER keeps what is finished

The model has six tokens and a few thousand weights, so all 43 responses of at most two tokens can be listed. Each
method is trained once with each seed; its checkpoints are the points of its curve. Estimates and certificates are those
of a settlement with 2,000 draws of each policy.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measurements.measured import write_figure, write_table
from rlhf_game.mechanism.sampled.sampled_settlement import SampledGame, least_cap, welfare_gap
from rlhf_game.optimization import Optimization, Pretrained
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy
from tests.outcomes.listed import LONGEST, SIZES, STRENGTH, Truth
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS, save_model

PAGE = "policies.md"
TRAINERS, SEEDS = ("rloo", "ppo", "grpo"), (0, 1, 2)
EVERY, SHOWN, STEPS, DRAWS = 4, (4, 8, 16, 32, 64), 64, 2000


def trained(trainer: Any, seed: int, model: Path, out: Path) -> tuple[list[Path], list[int], list[float]]:
    """Return the checkpoints of a training, oldest first, with the tokens and the seconds until each."""
    how = Optimization(
        steps=STEPS, learning_rate=1e-2, batch_size=128, save_steps=EVERY, keeps_checkpoints=True, seed=seed,
        trl=(("adam_beta2", 0.95),),
    )  # fmt: skip
    training = PolicyTraining(
        Pretrained(str(model), device="cpu"), STRENGTH, tuple(SIZES), how, trainer=trainer, num_generations=128,
        max_new_tokens=LONGEST,
    )  # fmt: skip
    done = train_policy(training, [PROMPT], dict(REWARDS), out)
    seconds = np.cumsum(json.loads((out / "cost.json").read_text(encoding="utf-8"))["steps"])
    at = [int(folder.name.rpartition("-")[2]) for folder in done.checkpoints]
    return list(done.checkpoints), [done.log[k - 1]["tokens"] for k in at], [float(seconds[k - 1]) for k in at]


def gaps(truth: Truth, p: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return the true gap, its estimate and what is certified, of a policy over all responses: p, [m]."""
    game = SampledGame(SIZES, np.ones(2), STRENGTH, 0.95, least_cap(SIZES, STRENGTH))
    found = welfare_gap(game, truth.samples(p, DRAWS, rng), truth.samples(truth.q, DRAWS, rng))
    return truth.best(SIZES) - truth.welfare(p, SIZES), float(found.value), float(found.high)


def main(folder: Path) -> None:
    """Train, look at every checkpoint, and write."""
    torch.set_num_threads(1)
    if not (folder / "model").exists():
        save_model(folder / "model")
    truth, rng = Truth(load_language_model(str(folder / "model"))), np.random.default_rng(0)
    curves: dict[str, np.ndarray] = {}  # [seeds, points, (true, estimate, certified, tokens, seconds)]
    for trainer in TRAINERS:
        found = []
        for seed in SEEDS:
            places, tokens, seconds = trained(trainer, seed, folder / "model", folder / f"{trainer}-{seed}")
            found.append(
                [
                    [*gaps(truth, truth.of(load_policy(place, device="cpu")), rng), spent, passed]
                    for place, spent, passed in zip(places, tokens, seconds, strict=True)
                ]
            )
        curves[trainer] = np.array(found)
    untrained = truth.best(SIZES) - truth.welfare(truth.q, SIZES)
    rows = [["none", 0, f"{untrained:.4f}", "", "", 0, ""]]
    for trainer, curve in curves.items():
        for step in SHOWN:
            at = curve[:, step // EVERY - 1]
            true, estimate, certified, tokens, seconds = at.mean(axis=0)
            error = at[:, 0].std(ddof=1) / np.sqrt(len(SEEDS))
            rows.append(
                [trainer, step, f"{true:.4f} ± {error:.4f}", f"{estimate:.4f}", f"{certified:.3f}", f"{tokens:,.0f}",
                 f"{seconds:.1f}"]
            )  # fmt: skip
    heads = ["trainer", "steps", "true gap ± standard error", "estimated", "certified at 95 %", "tokens", "seconds"]
    write_table(PAGE, "curves", heads, rows)
    write_figure("gap_curves", lambda *axes: draw(axes, curves, untrained), panels=2)


def draw(axes: Any, curves: dict[str, np.ndarray], untrained: float) -> None:
    """Draw true gaps beside estimates, and what is certified, against tokens."""
    for k, (trainer, curve) in enumerate(curves.items()):
        tokens, mean = curve[:, :, 3].mean(axis=0), curve.mean(axis=0)
        axes[0].plot(tokens, mean[:, 0], color=f"C{k}", label=f"{trainer}, true")
        axes[0].plot(tokens, mean[:, 1], color=f"C{k}", linestyle=":", label=f"{trainer}, estimated")
        axes[1].plot(tokens, mean[:, 2], color=f"C{k}", label=trainer)
    for axis, title in zip(axes, ("gap to the optimum", "certified gap"), strict=True):
        axis.axhline(untrained, color="0.5", linewidth=0.8)
        axis.set(xlabel="tokens of the training", title=title, ylim=(0, None))
        axis.legend()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
