"""Measure what training keeps of the exact gain on SmolLM2; writes a table and a figure of docs/policies.md.

RLHF_GAME_DATA=folder python -m measurements.measure_training FOLDER    over an hour on one core

Needs helpful and harmless .jsonl.gz of rows {prompt, chosen, rejected, split} and the wheels of models.txt. FOLDER
keeps every finished training and what was drawn of its checkpoints, so that an interrupted measurement goes on.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from measurements.measure_draws import SIZES
from measurements.measured import write_figure, write_table
from measurements.smollm2 import ASKED, MODEL, SEED, SYSTEM, TOKENS, Drawn, Yardstick
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.yardstick import fresh_candidates, kept
from rlhf_game.optimization import Lora, Optimization, Pretrained
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy
from rlhf_game.training_backends.trainers.policies.policy_folders import TrainedFolder
from rlhf_game.training_backends.trainers.self_training import Example, SupervisedTraining, train_supervised

COUNTS, SHOWN, LONG, THREADS = (2, 4, 16), 0.25, 12, 2
"""Of fresh candidates; the figure's strength; steps of a training that is looked at halfway."""
HEADS = (
    "strength", "training", "learning rate", "seeds", "steps", "score gained", "KL to the reference, nats", "true gap",
    "kept of the gain, %", "estimated gap", "certified at 95 %", "tokens", "seconds", "pays after so many responses",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Run:
    """One training. trainer: of policies; None: fine-tuning on draws of the optimum."""

    name: str
    trainer: Any
    strength: float
    steps: int
    learning_rate: float
    batch: int = 32
    seed: int = 0

    @property
    def looked_at(self) -> tuple[int, ...]:
        """After which steps draws are made: of a long training halfway, too."""
        return (self.steps,) if self.steps < LONG else (self.steps // 2, self.steps)

    @property
    def label(self) -> str:
        """The folder that it is kept in."""
        return f"{self.name}-{self.strength:g}-{self.learning_rate:g}-{self.steps}x{self.batch}-{self.seed}"


def done(yardstick: Yardstick, run: Run) -> TrainedFolder:
    """Train, go on with a training, or read a finished one."""
    how = Optimization(
        steps=run.steps, learning_rate=run.learning_rate, batch_size=run.batch, save_steps=run.looked_at[0],
        keeps_checkpoints=True, lora=Lora(), seed=run.seed,
    )  # fmt: skip
    model, out = Pretrained(MODEL, device="cpu"), yardstick.folder / run.label
    if run.trainer is None:
        training = SupervisedTraining(model, how, system=SYSTEM)
        return train_supervised(training, optimal(yardstick, run), out)
    training = PolicyTraining(
        model, run.strength, tuple(SIZES), how, trainer=run.trainer, num_generations=run.batch // len(ASKED),
        max_new_tokens=TOKENS, system=SYSTEM,
    )  # fmt: skip
    return train_policy(training, ASKED, yardstick.rewards, out)


def optimal(yardstick: Yardstick, run: Run) -> list[Example]:
    """Draws of the optimum, as far as the tape knows it: its texts by their weights exp(s / strength)."""
    rng, found = np.random.default_rng(run.seed), []
    for prompt, texts, scores in zip(ASKED, yardstick.tape.texts, yardstick.tape.scores, strict=True):
        weights = np.exp((scores - scores.max()) / run.strength)
        picked = rng.choice(len(texts), size=run.steps * run.batch // len(ASKED), p=weights / weights.sum())
        found += [Example(prompt, texts[k], is_finished=False) for k in picked]
    return found


RUNS: tuple[tuple[Run, ...], ...] = (
    (Run("drawn", None, 0.25, 12, 2e-4),),
    (Run("drawn", None, 0.25, 32, 3e-4),),
    (Run("drawn", None, 0.25, 16, 1e-3),),
    (Run("rloo", "rloo", 0.25, 16, 3e-4), Run("rloo", "rloo", 0.25, 16, 3e-4, seed=1)),
    (Run("ppo", "ppo", 0.25, 8, 3e-4),),
    (Run("grpo", "grpo", 0.25, 8, 3e-4),),
    (Run("rloo", "rloo", 1.0, 8, 3e-4),),
)
"""Each with its seeds."""


@final
@dataclass(frozen=True, eq=False)
class Point:
    """A checkpoint: what it took, and draws of it."""

    run: Run
    steps: int
    tokens: float
    seconds: float
    drawn: Drawn


def points(yardstick: Yardstick, run: Run) -> list[Point]:
    """Draw from the checkpoints of a training that are looked at, and say what they took in all."""
    folder = done(yardstick, run)
    card = json.loads((folder.folder / "policy.json").read_text(encoding="utf-8"))
    seconds = np.cumsum(json.loads((folder.folder / "cost.json").read_text(encoding="utf-8"))["steps"])
    tape, found = yardstick.tape.tokens if run.trainer is None else 0, []
    for steps in run.looked_at:
        place = folder.folder / "checkpoints" / f"checkpoint-{steps}"
        drawn = yardstick.draws(f"{run.label}-at-{steps}", lambda place=place: load_policy(place, device="cpu"))
        found.append(Point(run, steps, tape + card["tokens"] * steps / run.steps, float(seconds[steps - 1]), drawn))
    return found


def gained(yardstick: Yardstick, some: list[Point]) -> tuple[Array, Array]:
    """Return what policies gained, the mean over seeds, and standard errors over draws: [3] both."""
    values, errors = np.swapaxes([yardstick.gained(point.drawn, point.run.strength) for point in some], 0, 1)
    return values.mean(axis=0), np.sqrt((errors**2).sum(axis=0)) / len(some)


def share(yardstick: Yardstick, some: list[Point]) -> tuple[float, float]:
    """Return what they keep of the exact gain, in percent, and its standard error."""
    best, unsure = yardstick.best(some[0].run.strength)
    whole, (value, error) = best - yardstick.untouched(), (one[0] for one in gained(yardstick, some))
    return 100 * value / whole, 100 * float(np.hypot(error, value * unsure / whole)) / whole


def row(yardstick: Yardstick, some: list[Point]) -> list[str]:
    """A row of the table: the same checkpoint of one training, of each seed."""
    run, draws = some[0].run, [point.drawn for point in some]
    best, unsure = yardstick.best(run.strength)
    (value, score, divergence), errors = gained(yardstick, some)
    kept_of, around = share(yardstick, some)
    estimated, certified = np.mean([yardstick.certified(drawn, run.strength) for drawn in draws], axis=0)
    tokens, seconds = np.mean([(point.tokens, point.seconds) for point in some], axis=0)
    return [
        f"{run.strength:g}", run.name, f"{run.learning_rate:g}", str(len(some)), str(some[0].steps),
        f"{score:.3f} ± {errors[1]:.3f}", f"{divergence:.3f}",
        f"{best - yardstick.untouched() - value:.3f} ± {np.hypot(errors[0], unsure):.3f}",
        f"{kept_of:.0f} ± {around:.0f}", f"{estimated:.3f}", f"{certified:.2f}", f"{tokens:,.0f}", f"{seconds:.0f}",
        pays_after(yardstick, run.strength, kept_of, float(tokens)),
    ]  # fmt: skip


def candidates(yardstick: Yardstick, strength: float) -> dict[int, float]:
    """Return what so many fresh candidates a response keep of the exact gain, in percent."""
    scores, rng = list(yardstick.tape.scores), np.random.default_rng(SEED)
    return {
        count: 100 * float(kept(scores, strength, fresh_candidates(count), rng, resamples=2)[0].value)
        for count in COUNTS
    }


def pays_after(yardstick: Yardstick, strength: float, kept_of: float, tokens: float) -> str:
    """Say after how many responses a training has cost fewer tokens than candidates that keep no more than it."""
    replaced = [count for count, value in candidates(yardstick, strength).items() if value <= kept_of]
    return f"{tokens / (max(replaced) - 1) / TOKENS:,.0f}" if replaced else "never"


def untrained(yardstick: Yardstick, strength: float) -> list[list[str]]:
    """Rows of what needs no training: the untouched model, and fresh candidates with the tokens of one response."""
    best, unsure = yardstick.best(strength)
    gain, each = best - yardstick.untouched(), yardstick.tape.tokens / yardstick.tape.scores.size
    rows = [[f"{strength:g}", "none", "", "", "0", "0", "0", f"{gain:.3f} ± {unsure:.3f}", "0", "", "", "0", "0", ""]]
    for count, value in candidates(yardstick, strength).items():
        left, what = f"{(1 - value / 100) * gain:.3f}", f"{count} candidates a response"
        cells = [f"{strength:g}", what, "", "", "0", "", "", left, f"{value:.0f}", "", ""]
        rows.append([*cells, f"{count * each:.0f} a response", "0", "0"])
    return rows


def draw(axis: Any, yardstick: Yardstick, found: list[list[Point]]) -> None:
    """Draw what is kept against the tokens that the training took, and what fresh candidates keep with none."""
    for count, value in candidates(yardstick, SHOWN).items():
        axis.axhline(value, color="0.6", linestyle=":", linewidth=1)
        place, lifted = ("axes fraction", "data"), {"xytext": (0, 2), "textcoords": "offset points"}
        axis.annotate(f"{count} candidates", (0.02, value), xycoords=place, fontsize=7, **lifted)
    for run in dict.fromkeys(some[0].run for some in found if some[0].run.strength == SHOWN):
        line = [some for some in found if some[0].run == run]
        shares = np.array([share(yardstick, some) for some in line])
        tokens = [np.mean([point.tokens for point in some]) for some in line]
        label = f"{run.name}, learning rate {run.learning_rate:g}"
        axis.errorbar(tokens, shares[:, 0], shares[:, 1], fmt="o-", label=label, markersize=4)
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(xlabel="tokens of the training", ylabel="kept of the exact gain, %")
    axis.legend(fontsize=7, loc="center right")


def main(folder: Path) -> None:
    """Train, draw, and write."""
    torch.set_num_threads(THREADS)
    yardstick, found = Yardstick(folder), []
    for seeds in RUNS:
        found += [list(some) for some in zip(*(points(yardstick, run) for run in seeds), strict=True)]
    rows = []
    for strength in dict.fromkeys(some[0].run.strength for some in found):
        rows += untrained(yardstick, strength)
        rows += [row(yardstick, some) for some in found if some[0].run.strength == strength]
    write_table("policies.md", "training", HEADS, rows)
    shown = [0, 1, 2, 3, 4, 8, 11]
    write_table("draws.md", "trained", [HEADS[k] for k in shown], [[one[k] for k in shown] for one in rows])
    write_figure("training", lambda axis: draw(axis, yardstick, found), size=(6.0, 3.4), panels=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
