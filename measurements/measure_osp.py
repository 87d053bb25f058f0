"""Measure a small model as OSP's judge on real preferences, before and after it learned to; writes a table of osp.md.

RLHF_GAME_DATA=folder python -m measurements.measure_osp [FOLDER]

Needs gpt4_judge.jsonl.gz of rows {prompt, chosen, rejected, split} and the wheels of models.txt. A few minutes on one
core; the training is kept in FOLDER (the user's cache folder unless named) and gone on with.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from measurements.measured import write_table
from rlhf_game.files.preferences import Preference, read_preferences
from rlhf_game.training.fine_tuning import JudgeTraining
from rlhf_game.training.recipes.osp_rounds import length_bias
from rlhf_game.training.recipes.reward_models import LoraSpec
from rlhf_game.training_backends import load_language_model
from rlhf_game.training_backends.lm.checkpoints import cache_folder
from rlhf_game.training_backends.trainers.policies import load_policy
from rlhf_game.training_backends.trainers.self_training import JudgePrompt, PairJudge, judge_examples, train_supervised

MODEL = "smollm2-135m-instruct"
TRAINING, TEST, LONGEST = 48, 40, 360
"""Pairs to learn from and to judge, and the letters of the texts of a pair together: short ones, for a CPU."""
HOW = JudgeTraining(steps=12, batch_size=4, learning_rate=1e-3, lora=LoraSpec(rank=8, alpha=16))


def short(rows: tuple[Preference, ...], split: str, count: int) -> list[tuple[str, str, str]]:
    """The first short pairs of a split."""
    kept = [r for r in rows if r.split == split and len(r.prompt) + len(r.chosen) + len(r.rejected) <= LONGEST]
    return [(row.prompt, row.chosen, row.rejected) for row in kept[:count]]


def row_of(name: str, judge: PairJudge, pairs: list[tuple[str, str, str]]) -> tuple[str, ...]:
    """One row of the table. The interval of the accuracy is the normal one of a share."""
    verdicts = judge.compare(pairs, batch_size=8)
    strengths = verdicts.strengths
    right = float(np.mean(strengths > 0.5))
    half = 1.96 * np.sqrt(right * (1 - right) / len(pairs))
    longer = length_bias(strengths, np.array([len(a) - len(b) for _, a, b in pairs], dtype=float))["longer_preferred"]
    numbers = (f"{verdicts.position_bias:+.3f}", f"{verdicts.consistency:.2f}", f"{longer:.2f}")
    return (name, str(len(pairs)), f"{right:.2f} ± {half:.2f}", *numbers)


def main() -> None:
    """Measure both judges."""
    torch.set_num_threads(1)
    data = os.environ.get("RLHF_GAME_DATA")
    if data is None:
        sys.exit("needs real preference data: RLHF_GAME_DATA is not set")
    rows = read_preferences(Path(data) / "gpt4_judge.jsonl.gz").rows
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder() / "measured" / "osp-judge"
    test = short(rows, "test", TEST)
    plain = row_of("as it is", PairJudge(load_language_model(MODEL)), test)
    examples = judge_examples(short(rows, "train", TRAINING), JudgePrompt(), np.random.default_rng(0))
    train_supervised(HOW.training(MODEL, seed=0), examples, folder)
    learned = row_of(f"after {TRAINING} human preferences", PairJudge(load_policy(folder)), test)
    heads = ("judge", "pairs", "accuracy", "position bias", "consistent", "longer preferred")
    write_table("osp.md", "judge", heads, [plain, learned])


if __name__ == "__main__":
    main()
