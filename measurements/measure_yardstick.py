"""Measure what trained policies, soups and quasi-rejection keep of the exact gain, where all responses can be listed.

python -m measurements.measure_yardstick          some minutes on one core; the same numbers every time

Writes a table and a figure of docs/draws.md. The model is a Llama of random weights over six tokens, the responses have
at most three; two rewards, sizes 2 and 1. Policies are trained by RLOO, members of soups each for its own group alone.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measurements.measured import write_figure, write_table
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.yardstick import best_of, fresh_candidates, kept, quasi_rejection
from rlhf_game.training_backends.lm.models import load_language_model
from rlhf_game.training_backends.lm.soups import interpolate, simplex_grid
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy
from tests.training_backends.trainers.policies.enumerable import PROMPT, REWARDS, Space, responses, save_model
from tests.trainings import changed, made

SEED, TOKENS, STRENGTH, SIZES, BATCH = 1, 3, 0.4, (2.0, 1.0), 128
STEPS, COUNTS = (2, 8, 32, 96), (2, 4, 16, 64)
DRAWS = 4000
BASE = made(
    PolicyTraining, "", strength=STRENGTH, weights=SIZES, steps=STEPS[-1], learning_rate=5e-3, batch_size=BATCH,
    num_generations=BATCH, max_new_tokens=TOKENS, device="cpu", seed=SEED, trl=(("adam_beta2", 0.95),),
)  # fmt: skip
HEADS = ("rule", "tokens of training", "generations a response", "kept of the exact gain, %", "KL to the optimum, nats")


class Listed:
    """The reference q, the score s and the exact gain, by listing."""

    def __init__(self, model: str) -> None:
        self.space = Space(changed(BASE, model=model))
        reference = load_language_model(model)
        self.q = np.exp(self.space.log_probabilities(reference))
        texts = [reference.decode(list(ids)) for ids in responses(TOKENS)]
        self.s = sum(
            w * np.array([one.worth(t) for t in texts]) for w, one in zip(SIZES, REWARDS.values(), strict=True)
        )
        self.best = np.exp(self.space.optimum())
        self.gain = self.welfare(self.best) - self.welfare(self.q)
        self.length = float(self.q @ [len(ids) for ids in responses(TOKENS)])

    def welfare(self, p: Array) -> float:
        """Return <p, s> - strength * KL(p || q)."""
        return float(p @ (self.s - STRENGTH * np.log(p / self.q)))

    def row(self, name: str, p: Array, steps: int) -> list[str]:
        """A row of the table: a policy's, by listing."""
        share = 100 * (self.welfare(p) - self.welfare(self.q)) / self.gain
        tokens = steps * BATCH * self.length
        return [name, f"{tokens:.0f}", "1", f"{share:.1f}", f"{p @ np.log(p / self.best):.4f}"]


def trained(listed: Listed, folder: Path) -> tuple[list[list[str]], dict[str, Array]]:
    """Train; return the rows, and the policies after the fewest and some more steps."""
    rows, found = [], {}
    for steps in STEPS:
        training = changed(listed.space.training, steps=steps, save_steps=steps)
        policy = load_policy(train_policy(training, [PROMPT], REWARDS, folder / f"{steps}").folder)
        found[f"RLOO, {steps} steps"] = np.exp(listed.space.log_probabilities(policy))
        rows.append(listed.row(f"RLOO, {steps} steps", found[f"RLOO, {steps} steps"], steps))
    members = []
    for i, (name, reward) in enumerate(REWARDS.items()):
        alone = changed(listed.space.training, weights=(SIZES[i],), save_steps=STEPS[-1])
        members.append(load_policy(train_policy(alone, [PROMPT], {name: reward}, folder / name).folder))
    reference = load_language_model(listed.space.training.model.name)
    soups = [
        np.exp(listed.space.log_probabilities(interpolate(reference, members, shares)))
        for shares in ((1.0, 1.0), *simplex_grid(2, 4))
    ]
    rows.append(listed.row("soup: the sum of both changes", soups[0], 2 * STEPS[-1]))
    best = max(soups[1:], key=listed.welfare)
    rows.append(listed.row("the best soup between them", best, 2 * STEPS[-1]))
    return rows, found


def practical(listed: Listed, rng: np.random.Generator) -> list[list[str]]:
    """Fresh candidates and best of n, from draws of the reference."""
    drawn = listed.s[rng.choice(len(listed.q), size=DRAWS, p=listed.q / listed.q.sum())]
    rows = []
    for name, rule in (("fresh candidates", fresh_candidates), ("best of n", best_of)):
        for count in COUNTS:
            share, _ = kept([drawn], STRENGTH, rule(count), rng)
            value, low, high = (100 * float(end) for end in (share.value, share.low, share.high))
            rows.append([f"{count} {name}", "0", str(count), f"{value:.1f} ({low:.1f} to {high:.1f})", ""])
    rate = float(listed.q @ np.exp((listed.s - sum(SIZES)) / STRENGTH))
    return [*rows, ["exact draws", "0", f"{1 / rate:.1f}", "100", "0"]]


def curve(listed: Listed, p: Array, rng: np.random.Generator) -> tuple[Any, Any, Array]:
    """Quasi-rejection from a policy: how many are accepted, what is missed, and by listing what is really missed."""
    excess = listed.s / STRENGTH + np.log(listed.q / p)
    bounds = STRENGTH * np.quantile(excess, np.linspace(0, 1, 9))
    drawn = rng.choice(len(p), size=DRAWS, p=p / p.sum())
    found = quasi_rejection(np.log(p / listed.q)[drawn], listed.s[drawn], STRENGTH, bounds, rng)
    served = p * np.minimum(1.0, np.exp(excess - bounds[:, None] / STRENGTH))
    served /= served.sum(axis=1, keepdims=True)
    return *found, STRENGTH * (served * np.log(served / listed.best)).sum(axis=1)


def main() -> None:
    """Measure, write the table, draw the figure."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        listed = Listed(str(save_model(Path(folder) / "model")))
        rows, policies = trained(listed, Path(folder))
    write_table("draws.md", "policies", HEADS, [*rows, *practical(listed, rng)])
    curves = {name: curve(listed, p, rng) for name, p in {"the reference": listed.q, **policies}.items()}

    def draw(axis: Any) -> None:
        for k, (name, (rates, missed, exact)) in enumerate(curves.items()):
            axis.plot(rates.value, missed.value / listed.gain, "o", color=f"C{k}", label=name, markersize=4)
            axis.plot(rates.value, exact / listed.gain, "-", color=f"C{k}", linewidth=1)
            ends = (missed.value - missed.low, missed.high - missed.value)
            axis.errorbar(
                rates.value, missed.value / listed.gain, np.array(ends) / listed.gain, fmt="none", color=f"C{k}"
            )
        axis.set(xscale="log", xlabel="share of the draws that are accepted", ylabel="missed of the exact gain")
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set_ylim(bottom=0.0)  # nothing is missed below the optimum
        axis.legend(fontsize=8)

    write_figure("quasi_rejection", draw, size=(6.0, 3.4), panels=1)


if __name__ == "__main__":
    main()
