"""Measure what practical rules keep of the exact gain on SmolLM2; writes the figure and the table of docs/draws.md.

RLHF_GAME_DATA=folder python -m measurements.measure_draws

Needs helpful and harmless .jsonl.gz of rows {prompt, chosen, rejected, split} and the wheels of models.txt. About six
minutes on one core, nearly all of it responses of the model; the same numbers every time on the same machine.
"""

import argparse
import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from measurements.measured import write_figure, write_table
from rlhf_game.mechanism.arrays import Array
from rlhf_game.mechanism.draws.yardstick import Ratio, best_of, fresh_candidates, kept, optimum
from rlhf_game.rewards import Brevity, Sentiment
from rlhf_game.rewards.bradley_terry import Likelihood, fit_head
from rlhf_game.training_backends import Sampling, load_embedder, load_language_model, sample

PROMPTS = (
    "Write one short sentence about herbal tea.",
    "Write one short sentence to a customer whose parcel is late.",
    "In one sentence, how do I get a stain out of a shirt?",
    "In one sentence, is it safe to mix cleaning products?",
)
TOKENS, SEED, PAIRS = 24, 1, 300
SIZES, STRENGTHS = np.array([2.0, 1.0]), (0.25, 0.5, 1.0)
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256)
SHOWN, BEST = (2, 4, 16, 64), (4, 16)
SPREAD = 0.5
"""The scale of a trained reward's logistic map, in standard deviations on pairs that nobody trained on."""


def rows_of(name: str, split: str) -> list[dict[str, str]]:
    """The first pairs of one split of one file, of conversations that begin with the prompt."""
    path = Path(os.environ.get("RLHF_GAME_DATA", "")) / f"{name}.jsonl.gz"
    if not path.is_file():
        sys.exit(f"needs real preference data: RLHF_GAME_DATA names no folder with {path.name}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row for row in rows if row["split"] == split and not row.get("history")][:PAIRS]


def trained(name: str, pairs: list[tuple[str, str]], embedder: Any) -> Array:
    """A Bradley-Terry head on frozen features, trained on one file, mapped to [0, 1] by the spread on other pairs."""
    train, public = rows_of(name, "train"), rows_of(name, "test")
    chosen, rejected = (
        embedder.features([(row["prompt"], row[side]) for row in train]) for side in ("chosen", "rejected")
    )
    head = fit_head(chosen, rejected, Likelihood(0.01, 1e-2))
    known = embedder.features([(row["prompt"], row[side]) for row in public for side in ("chosen", "rejected")])
    scores = known @ head.weights + head.bias
    found = embedder.features(pairs) @ head.weights + head.bias
    return np.asarray(1 / (1 + np.exp(-(found - scores.mean()) / (SPREAD * scores.std()))))


def pools(draws: int) -> dict[str, list[Array]]:
    """The groups' rewards of reference draws, for each kind of rewards: a list of [2, draws], one for each prompt."""
    model = load_language_model("smollm2-135m-instruct")
    drawn = sample(model, PROMPTS, draws, seed=SEED, sampling=Sampling(TOKENS), batch_size=256)
    pairs = [(prompt, one.text) for prompt, row in zip(PROMPTS, drawn, strict=True) for one in row]
    asked, said = [prompt for prompt, _ in pairs], [text for _, text in pairs]
    embedder = load_embedder("all-minilm-l6-v2", truncate="tail")
    lexical = [(np.array(Sentiment()(asked, said)) + 1) / 2, np.array(Brevity(TOKENS)(asked, said))]
    neural = [trained(name, pairs, embedder) for name in ("helpful", "harmless")]
    return {
        name: list(np.stack(rewards).reshape(2, len(PROMPTS), draws).transpose(1, 0, 2))
        for name, rewards in (("lexical", lexical), ("trained", neural))
    }


def share_kept(rule: Ratio, scores: list[Array], strength: float) -> tuple[float, float, float]:
    """The share kept, in percent, and its interval."""
    share, _ = kept(scores, strength, rule, np.random.default_rng(SEED), resamples=60)
    return 100 * float(share.value), 100 * float(share.low), 100 * float(share.high)


def main() -> None:
    """Measure, write the table, draw the figure."""
    parser = argparse.ArgumentParser(description="Measure what practical rules keep of the exact gain.")
    parser.add_argument("--draws", type=int, default=600, help="reference draws of each prompt")
    draws = parser.parse_args().draws
    rows: list[list[str]] = []
    lines: dict[tuple[str, float], dict[str, list[tuple[float, float, float]]]] = {}
    costs: dict[tuple[str, float], float] = {}
    for name, rewards in pools(draws).items():
        scores = [SIZES @ of for of in rewards]
        for strength in STRENGTHS:
            _, gain = kept(scores, strength, optimum, np.random.default_rng(SEED), resamples=60)
            rates = [float(np.exp((row - SIZES.sum()) / strength).mean()) for row in scores]
            costs[name, strength] = float(np.mean([1 / rate for rate in rates]))
            found = {
                "candidates": [share_kept(fresh_candidates(m), scores, strength) for m in COUNTS],
                "best": [share_kept(best_of(m), scores, strength) for m in COUNTS],
            }
            lines[name, strength] = found
            cells = [found["candidates"][COUNTS.index(m)] for m in SHOWN] + [
                found["best"][COUNTS.index(m)] for m in BEST
            ]
            rows.append(
                [name, f"{strength:g}", f"{float(gain.value):.3f}", f"{costs[name, strength]:.0f}"]
                + [f"{value:.0f} ({low:.0f} to {high:.0f})" for value, low, high in cells]
            )
    heads = ["rewards", "strength", "exact gain", "proposals a draw", *(f"{m} candidates, %" for m in SHOWN)]
    write_table("draws.md", "yardstick", [*heads, *(f"best of {n}, %" for n in BEST)], rows)

    def draw(*axes: Any) -> None:
        for axis, name in zip(axes, ("lexical", "trained"), strict=True):
            for k, strength in enumerate(STRENGTHS):
                for kind, style in (("candidates", "o-"), ("best", "x--")):
                    value, low, high = np.transpose(lines[name, strength][kind])
                    label = f"{'fresh candidates' if kind == 'candidates' else 'best of n'}, strength {strength:g}"
                    axis.plot(COUNTS, value, style, color=f"C{k}", label=label, markersize=4)
                    axis.fill_between(COUNTS, low, high, color=f"C{k}", alpha=0.15, linewidth=0)
                axis.axvline(costs[name, strength], color=f"C{k}", linestyle=":", linewidth=1)
            axis.set(xscale="log", ylim=(-50, 105), title=f"{name} rewards", xlabel="generations a response")
            axis.set_xticks(COUNTS, [str(m) for m in COUNTS], minor=False)
        axes[0].set_ylabel("kept of the exact gain, %")
        axes[0].legend(fontsize=7, loc="lower right")

    write_figure("yardstick", draw)


if __name__ == "__main__":
    main()
